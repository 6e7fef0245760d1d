//! The agents' pods, found and entered by kubectl, which has all that it takes: the
//! credentials, the protocol of `exec`.

use anyhow::{Context as _, Result, bail};
use std::ffi::OsString;
use std::process::{Command, Stdio};

/// What the chart's pods are known by.
const SELECTOR: &str = "app.kubernetes.io/name=lb,app.kubernetes.io/component=agent";
/// One line for each: its name and its node's.
const COLUMNS: &str =
    r#"jsonpath={range .items[*]}{.metadata.name}{"\t"}{.spec.nodeName}{"\n"}{end}"#;

/// How the agents are reached.
pub(super) struct Agents {
    kubeconfig: Option<OsString>,
    context: Option<String>,
    namespace: String,
}

/// An agent's pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Agent {
    pod: String,
    /// The node that it is on.
    pub(super) node: String,
}

impl Agents {
    pub(super) fn new(
        kubeconfig: Option<OsString>,
        context: Option<String>,
        namespace: String,
    ) -> Self {
        Self { kubeconfig, context, namespace }
    }

    /// Those that run, by their nodes' names.
    pub(super) fn list(&self, node: Option<&str>) -> Result<Vec<Agent>> {
        let mut fields = "status.phase=Running".to_owned();
        if let Some(node) = node {
            fields.push_str(",spec.nodeName=");
            fields.push_str(node);
        }
        let mut kubectl = self.kubectl();
        kubectl.args(["get", "pods", "--selector", SELECTOR, "--field-selector", &fields]);
        let output = kubectl.args(["--output", COLUMNS]).stderr(Stdio::inherit()).output();
        let output = output.context("start kubectl")?;
        if !output.status.success() {
            bail!("kubectl can't list the agents' pods");
        }
        let agents = parse(&String::from_utf8_lossy(&output.stdout));
        if agents.is_empty() {
            let on = node.map_or_else(String::new, |node| format!(" on node {node}"));
            bail!(
                "no agent's pod runs in namespace {}{on}: name another with --agents-namespace",
                self.namespace
            );
        }
        Ok(agents)
    }

    /// Runs `lb` in an agent's pod; its exit status.
    pub(super) fn ask(&self, agent: &Agent, arguments: &[OsString]) -> Result<u8> {
        let mut kubectl = self.kubectl();
        kubectl.args(["exec", &agent.pod, "--container", "agent", "--", "lb"]).args(arguments);
        let status = kubectl.status().context("start kubectl")?;
        // Who was ended by a signal has none.
        Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
    }

    fn kubectl(&self) -> Command {
        let mut kubectl = Command::new("kubectl");
        if let Some(path) = &self.kubeconfig {
            kubectl.arg("--kubeconfig").arg(path);
        }
        if let Some(context) = &self.context {
            kubectl.args(["--context", context]);
        }
        kubectl.args(["--namespace", &self.namespace]);
        kubectl
    }
}

fn parse(text: &str) -> Vec<Agent> {
    let pair = |line: &str| {
        let (pod, node) = line.split_once('\t')?;
        Some(Agent { pod: pod.to_owned(), node: node.to_owned() })
    };
    let mut agents: Vec<Agent> = text.lines().filter_map(pair).collect();
    agents.sort_by(|one, other| one.node.cmp(&other.node));
    agents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_asked_by_the_names_of_their_nodes() {
        let agents = parse("lb-x7\tnode-2\nlb-a1\tnode-1\n");
        let nodes: Vec<&str> = agents.iter().map(|agent| agent.node.as_str()).collect();
        assert_eq!(nodes, ["node-1", "node-2"]);
        assert_eq!(agents[1].pod, "lb-x7");
        assert_eq!(parse(""), []);
    }
}
