//! `kubectl lb`: the same program under the name `kubectl-lb`, on a machine that need not
//! be a node. It asks the agents of a cluster, each in its own pod.

mod agents;

use crate::cli::{Cli, Command, Format};
use agents::{Agent, Agents};
use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

/// What kubectl's plugins are called by.
const NAME: &str = "kubectl-lb";

/// Asks the agents of a cluster: `lb` in the pod of every node
#[derive(Debug, Parser)]
#[command(name = NAME, bin_name = "kubectl lb", version, max_term_width = 100)]
#[command(after_help = "Commands: services, connections, status, verify (asked of the agents), \
    check, completions (answered here).\nRun `kubectl lb COMMAND --help` for what a command \
    does and takes.\n\nExit status: that of `lb`; with several nodes, the worst.")]
struct Plugin {
    /// Only the agent of this node [default: of every node]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Namespace that the agents run in
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-system")]
    agents_namespace: String,
    /// The context of the kubeconfig, as kubectl takes it
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The kubeconfig, as kubectl takes it
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<OsString>,
    /// A command of `lb`, and what it takes
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Whether the program was called by the plugin's name.
pub(crate) fn is_called() -> bool {
    let name = std::env::args_os().next().unwrap_or_default();
    Path::new(&name).file_name().is_some_and(|name| name == NAME)
}

/// Parses the command line and does what it says. Wrong usage is exit status 2,
/// which clap sees to.
pub(crate) fn run(
    here: impl FnOnce(Command) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    let plugin = Plugin::parse();
    let command = parse(&plugin.command).unwrap_or_else(|error| error.exit());
    let format = match &command {
        Command::Check(_) | Command::Completions(_) => return here(command),
        Command::Agent(_) | Command::Cleanup(_) => anyhow::bail!(
            "it works on the machine where it is called: run it on a node, or see the chart's values"
        ),
        Command::Services(args) => args.output,
        Command::Connections(args) => args.output,
        Command::Status(args) => args.output,
        Command::Verify(args) => args.output,
    };
    let agents = Agents::new(plugin.kubeconfig, plugin.context, plugin.agents_namespace);
    let found = agents.list(plugin.node.as_deref())?;
    let mut worst = 0;
    for agent in &found {
        if found.len() > 1 && format == Format::Text {
            heading(agent)?;
        }
        worst = worst.max(agents.ask(agent, &plugin.command)?);
    }
    Ok(ExitCode::from(worst))
}

/// What `lb` would make of it; texts have the plugin's name.
fn parse(arguments: &[OsString]) -> Result<Command, clap::Error> {
    let all = std::iter::once(OsString::from(NAME)).chain(arguments.iter().cloned());
    let mut command = Cli::command().bin_name("kubectl lb");
    let matches = command.try_get_matches_from_mut(all)?;
    Cli::from_arg_matches(&matches).map(|cli| cli.command)
}

fn heading(agent: &Agent) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "=== {}", agent.node)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(arguments: &[&str]) -> Plugin {
        Plugin::parse_from([&[NAME], arguments].concat())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Plugin::command().debug_assert();
    }

    #[test]
    fn what_follows_the_command_is_the_commands() {
        let plugin = plugin(&["--node", "n1", "services", "-n", "shop", "--output", "json"]);
        assert_eq!(plugin.node.as_deref(), Some("n1"));
        assert_eq!(plugin.command, ["services", "-n", "shop", "--output", "json"]);
        let Ok(Command::Services(args)) = parse(&plugin.command) else { panic!("not services") };
        assert_eq!((args.namespace.as_deref(), args.output), (Some("shop"), Format::Json));
    }

    #[test]
    fn texts_have_the_plugins_name() {
        for arguments in [&["services", "--help"][..], &["services", "--nothing"]] {
            let arguments: Vec<OsString> = arguments.iter().map(Into::into).collect();
            let text = parse(&arguments).unwrap_err().to_string();
            assert!(text.contains("Usage: kubectl lb services"), "{text}");
        }
    }
}
