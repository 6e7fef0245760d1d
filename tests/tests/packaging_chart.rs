//! The Helm chart and the plain manifests: helm takes them, the API would, and the agent
//! understands what it is started with. The Dockerfile of the image in them.

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use lb_tests::chart::{check, file, helm, object, objects, plain, render};
use lb_tests::process::tool;
use lb_userspace::cli::{Cli, Command};
use lb_userspace::privilege::KEPT;
use lb_userspace::source::SourceConfig;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// What is set in each case, and what it is about.
const CASES: [&[&str]; 7] = [
    &[],
    &["apiServer=https://192.0.2.1:6443", "healthz.port=11256", "logLevel=debug"],
    &["extraArgs={--policy,maglev,--masquerade,kube-proxy}", "extraEnv[0].name=A"],
    &["metrics.service.enabled=true", "metrics.serviceMonitor.enabled=true"],
    &["metrics.address=[::]:9000", "metrics.service.enabled=true"],
    &["privileged=true", "serviceAccount.create=false", "rbac.create=false"],
    &[
        "cleanup=true",
        "image.digest=sha256:0000000000000000000000000000000000000000000000000000000000000000",
    ],
];

/// The container of the DaemonSet that runs the agent.
fn agent(settings: &[&str]) -> Result<Value> {
    let objects = objects(&render(settings)?)?;
    let pod = &object(&objects, "DaemonSet")?["spec"]["template"]["spec"];
    let containers = pod["containers"].as_array().context("containers")?;
    containers.iter().find(|one| one["name"] == "agent").cloned().context("the agent")
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn helm_has_nothing_against_the_chart() -> Result<()> {
    let output = helm(&["lint", "--strict"], &[])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

#[test]
fn the_api_knows_every_field() -> Result<()> {
    for case in CASES {
        let all = objects(&render(case)?)?;
        ensure!(!all.is_empty(), "{case:?}");
        for one in &all {
            check(one).with_context(|| format!("{case:?}"))?;
        }
    }
    let mut wrong = agent(&[])?;
    wrong["kind"] = "Service".into();
    ensure!(check(&wrong).is_err(), "a container is taken for a Service");
    Ok(())
}

#[test]
fn the_agent_understands_what_it_is_started_with() -> Result<()> {
    for case in &CASES[..5] {
        let agent = agent(case)?;
        // What the fieldRef of NODE_NAME would add.
        let arguments = [&["lb"], &strings(&agent["args"])[..], &["--node-name", "n1"]].concat();
        let cli = Cli::try_parse_from(arguments).with_context(|| format!("{case:?}"))?;
        let Command::Agent(args) = cli.command else { panic!("{case:?}: {:?}", cli.command) };
        let pins = args.socket.pins.pin_dir.clone();
        let source = args.source.source(args.node_name.as_deref(), &pins);
        ensure!(matches!(source, SourceConfig::Kubernetes(_)), "{case:?}: {source:?}");
        // The rest of the pod is for these places.
        ensure!(pins == Path::new("/sys/fs/bpf/lb"), "{pins:?}");
    }
    ensure!(agent(&[])?["env"][0]["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName");
    Ok(())
}

#[test]
fn the_agent_has_the_rights_that_it_keeps_and_no_others() -> Result<()> {
    let agent = agent(&[])?;
    let context = &agent["securityContext"];
    let added: Vec<String> =
        strings(&context["capabilities"]["add"]).iter().map(|name| format!("CAP_{name}")).collect();
    // Manifests of other users are the only use of CAP_LEASE, and here are none.
    let mut kept: Vec<&str> =
        KEPT.iter().map(|one| one.name).filter(|n| *n != "CAP_LEASE").collect();
    kept.sort_unstable();
    let mut sorted: Vec<&str> = added.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    ensure!(sorted == kept, "{sorted:?}, not {kept:?}");
    ensure!(context["capabilities"]["drop"] == json!(["ALL"]));
    for (field, value) in [
        ("readOnlyRootFilesystem", json!(true)),
        ("allowPrivilegeEscalation", json!(false)),
        ("runAsUser", json!(0)),
        ("seccompProfile", json!({ "type": "RuntimeDefault" })),
        ("privileged", Value::Null),
    ] {
        ensure!(context[field] == value, "{field} is {}", context[field]);
    }
    Ok(())
}

#[test]
fn the_cluster_role_has_what_the_agent_asks_for() -> Result<()> {
    let objects = objects(&render(&[])?)?;
    let watched = json!(["list", "watch"]);
    let expected = json!([
        { "apiGroups": [""], "resources": ["services", "nodes"], "verbs": watched },
        { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": watched },
        { "apiGroups": ["networking.k8s.io"], "resources": ["servicecidrs"], "verbs": watched },
        { "apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"] },
    ]);
    let rules = &object(&objects, "ClusterRole")?["rules"];
    ensure!(*rules == expected, "{rules:#}");
    let account = &object(&objects, "ServiceAccount")?["metadata"];
    let subject = &object(&objects, "ClusterRoleBinding")?["subjects"][0];
    ensure!(subject["name"] == account["name"] && subject["namespace"] == account["namespace"]);
    Ok(())
}

#[test]
fn probes_ask_where_the_agent_answers() -> Result<()> {
    let probe = |agent: &Value, name: &str| agent[name]["httpGet"].clone();
    let default = agent(&[])?;
    let live = json!({ "path": "/livez", "port": 10256 });
    ensure!(probe(&default, "startupProbe") == live && probe(&default, "livenessProbe") == live);
    for (settings, host, port) in [
        (&[][..], "127.0.0.1", 10249),
        (&["metrics.service.enabled=true"], "127.0.0.1", 10249),
        (&["metrics.address=[::]:9000"], "127.0.0.1", 9000),
        (&["metrics.address=[2001:db8::1]:9000"], "2001:db8::1", 9000),
        (&["metrics.address=192.0.2.1:10249"], "192.0.2.1", 10249),
    ] {
        let ready = json!({ "host": host, "path": "/healthz", "port": port });
        let found = probe(&agent(settings)?, "readinessProbe");
        ensure!(found == ready, "{settings:?}: {found}");
    }
    ensure!(probe(&agent(&["healthz.port=11256"])?, "livenessProbe")["port"] == 11256);
    Ok(())
}

#[test]
fn a_mistake_in_the_values_is_refused() -> Result<()> {
    for (setting, told) in [
        ("image.pullpolicy=Always", "pullpolicy"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("apiServer=192.0.2.1:6443", "apiServer"),
        ("healthz.port=99999", "port"),
        ("metrics.serviceMonitor.enabled=true", "metrics.service.enabled"),
    ] {
        let error = render(&[setting]).err().with_context(|| format!("{setting} is taken"))?;
        ensure!(error.to_string().contains(told), "{setting}: {error}");
    }
    Ok(())
}

#[test]
fn a_config_map_of_kube_proxy_reaches_the_agent() -> Result<()> {
    let objects = objects(&render(&["kubeProxyConfig.configMap=kube-proxy"])?)?;
    let pod = &object(&objects, "DaemonSet")?["spec"]["template"]["spec"];
    let agent = &pod["containers"][0];
    let arguments = strings(&agent["args"]);
    ensure!(arguments.ends_with(&["--config", "/etc/kube-proxy/config.conf"]), "{arguments:?}");
    let mount =
        json!({ "name": "kube-proxy-config", "mountPath": "/etc/kube-proxy", "readOnly": true });
    ensure!(agent["volumeMounts"].as_array().context("mounts")?.contains(&mount));
    let volume = json!({ "name": "kube-proxy-config", "configMap": { "name": "kube-proxy" } });
    ensure!(pod["volumes"].as_array().context("volumes")?.contains(&volume));
    Ok(())
}

/// `LB_RECORD=1` writes the manifests anew.
#[test]
fn the_plain_manifests_are_what_the_chart_makes() -> Result<()> {
    let path = file("kubernetes/lb.yaml");
    let expected = plain(&render(&[])?);
    if std::env::var_os("LB_RECORD").is_some() {
        fs::write(&path, &expected)?;
    }
    let found = fs::read_to_string(&path).context("packaging/kubernetes/lb.yaml")?;
    ensure!(
        found == expected,
        "differs: LB_RECORD=1 cargo test -p lb-tests --test packaging_chart"
    );
    let kustomized = std::process::Command::new(tool("kubectl")?)
        .arg("kustomize")
        .arg(file("kubernetes"))
        .output()?;
    ensure!(kustomized.status.success(), "{}", String::from_utf8_lossy(&kustomized.stderr));
    let names = |text: &str| -> Result<Vec<String>> {
        let mut names: Vec<String> = objects(text)?
            .iter()
            .map(|one| format!("{} {}", one["kind"], one["metadata"]))
            .collect();
        names.sort();
        Ok(names)
    };
    ensure!(names(std::str::from_utf8(&kustomized.stdout)?)? == names(&found)?);
    Ok(())
}

#[test]
fn hadolint_has_nothing_against_the_dockerfile() -> Result<()> {
    let output = std::process::Command::new(tool("hadolint")?).arg(file("Dockerfile")).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

#[test]
fn the_chart_has_the_version_of_the_agent() -> Result<()> {
    let chart: Value = serde_saphyr::from_str(&fs::read_to_string(file("helm/lb/Chart.yaml"))?)?;
    ensure!(chart["appVersion"] == env!("CARGO_PKG_VERSION"), "{}", chart["appVersion"]);
    Ok(())
}

/// For helm-docs, and whoever reads the file.
#[test]
fn every_value_says_what_it_is_for() -> Result<()> {
    let text = fs::read_to_string(file("helm/lb/values.yaml"))?;
    let lines: Vec<&str> = text.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let groups =
            ["image:", "kubeProxyConfig:", "healthz:", "metrics:", "rbac:", "serviceAccount:"];
        let starts = line.starts_with(|c: char| c.is_ascii_lowercase());
        if !starts || groups.contains(line) {
            continue;
        }
        let comments = lines[..index].iter().rev().take_while(|line| line.starts_with('#'));
        ensure!(comments.last().is_some_and(|first| first.starts_with("# -- ")), "{line}");
    }
    Ok(())
}
