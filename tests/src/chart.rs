//! The Helm chart: what helm makes of it, and whether the API would take that.

use crate::process::tool;
use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Lines that are of use to Helm alone.
const HELMS: [&str; 3] = ["app.kubernetes.io/managed-by:", "helm.sh/chart:", "# Source:"];

/// A file below the repository's `packaging/`.
pub fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(name)
}

/// Runs helm with the chart.
pub fn helm(verb: &[&str], more: &[&str]) -> Result<Output> {
    let mut command = Command::new(tool("helm")?);
    command.args(verb).arg(file("helm/lb")).args(["--namespace", "kube-system"]).args(more);
    command.output().context("start helm")
}

/// The manifests as helm makes them of the chart with these settings (`a.b=c`).
pub fn render(settings: &[&str]) -> Result<String> {
    let mut arguments = vec!["--include-crds"];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let output = helm(&["template", "lb"], &arguments)?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The same manifests for those who don't use Helm.
pub fn plain(rendered: &str) -> String {
    let wanted = |line: &&str| !HELMS.iter().any(|helms| line.trim_start().starts_with(helms));
    let lines: Vec<&str> = rendered.lines().filter(wanted).map(str::trim_end).collect();
    let documents = lines.split(|line| *line == "---").map(|lines| lines.join("\n"));
    let documents: Vec<String> =
        documents.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect();
    documents.join("\n---\n") + "\n"
}

/// The objects of manifests.
pub fn objects(manifests: &str) -> Result<Vec<Value>> {
    serde_saphyr::from_multiple(manifests).context("read manifests")
}

/// The object of a kind.
pub fn object<'a>(objects: &'a [Value], kind: &str) -> Result<&'a Value> {
    let found = objects.iter().find(|object| object["kind"] == kind);
    found.with_context(|| format!("there is no {kind}"))
}

/// Fails if an object has a field that its kind does not have, or one of another type.
pub fn check(object: &Value) -> Result<()> {
    let kind = object["kind"].as_str().context("an object without a kind")?;
    match kind {
        "DaemonSet" => strict::<DaemonSet>(object),
        "Service" => strict::<Service>(object),
        "ServiceAccount" => strict::<ServiceAccount>(object),
        "ClusterRole" => strict::<ClusterRole>(object),
        "ClusterRoleBinding" => strict::<ClusterRoleBinding>(object),
        // It is the Prometheus operator's, not Kubernetes'.
        "ServiceMonitor" => Ok(()),
        _ => bail!("nobody expects a {kind}"),
    }
    .with_context(|| format!("{kind} {}", object["metadata"]["name"]))
}

fn strict<T: DeserializeOwned>(object: &Value) -> Result<()> {
    let mut unknown = Vec::new();
    let mut note = |path: serde_ignored::Path<'_>| unknown.push(path.to_string());
    let _: T =
        serde_path_to_error::deserialize(serde_ignored::Deserializer::new(object, &mut note))?;
    ensure!(unknown.is_empty(), "no such fields: {}", unknown.join(", "));
    Ok(())
}
