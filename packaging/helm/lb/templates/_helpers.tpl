{{- define "lb.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "lb.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: agent
{{- end -}}

{{- define "lb.labels" -}}
{{ include "lb.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "lb.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "lb.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "lb.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Where metrics are served; empty where the agent's own default is right. */}}
{{- define "lb.metricsAddress" -}}
{{- if .Values.metrics.address -}}
{{- .Values.metrics.address -}}
{{- else if .Values.metrics.service.enabled -}}
0.0.0.0:10249
{{- end -}}
{{- end -}}

{{- define "lb.metricsPort" -}}
{{- include "lb.metricsAddress" . | default "127.0.0.1:10249" | splitList ":" | last -}}
{{- end -}}

{{/* Where the kubelet of the node finds them. */}}
{{- define "lb.metricsHost" -}}
{{- $address := include "lb.metricsAddress" . | default "127.0.0.1:10249" -}}
{{- $host := regexReplaceAll ":[0-9]+$" $address "" | trimPrefix "[" | trimSuffix "]" -}}
{{- has $host (list "0.0.0.0" "::") | ternary "127.0.0.1" $host -}}
{{- end -}}

{{- define "lb.securityContext" -}}
{{- if .Values.privileged -}}
privileged: true
runAsUser: 0
readOnlyRootFilesystem: true
{{- else -}}
{{- toYaml .Values.securityContext -}}
{{- end -}}
{{- end -}}

{{/* What an agent sees of its node. */}}
{{- define "lb.volumeMounts" -}}
- name: bpf
  mountPath: /sys/fs/bpf
  # Also if the node mounts the file system after the pod has started.
  mountPropagation: HostToContainer
# A container has only its own part of the cgroups, where programs would see nobody
# else's calls.
- name: cgroup
  mountPath: /host/sys/fs/cgroup
  mountPropagation: HostToContainer
  readOnly: true
- name: run
  mountPath: /run/lb
- name: state
  mountPath: /var/lib/lb
{{- end -}}
