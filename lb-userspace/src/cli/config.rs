//! `--config`: what kube-proxy's configuration says stands before what is typed,
//! as flags of `lb agent`, but for those that are typed.

use super::args::{Cli, Command};
use crate::kube_proxy::{self, Flag, Loaded};
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _, Parser as _};
use std::ffi::OsString;
use std::path::PathBuf;

/// Flags of which one at most may be there.
const SOURCES: [&str; 3] = ["manifests", "kubeconfig", "in_cluster"];

/// What was typed, with what a configuration file adds. Wrong usage ends the
/// process, as clap has it.
pub(super) fn parse(typed: Vec<OsString>) -> anyhow::Result<Cli> {
    let Some(loaded) = loaded(&typed)? else { return Ok(Cli::parse_from(typed)) };
    let (flags, warning) = loaded;
    let at = typed.len().min(2);
    let mut all = typed;
    all.splice(at..at, flags.into_iter().map(argument));
    let mut cli = Cli::parse_from(all);
    if let Command::Agent(args) = &mut cli.command {
        args.config_warning = warning;
    }
    Ok(cli)
}

/// The flags of the file that is named, if one is, and what of it has no effect.
fn loaded(typed: &[OsString]) -> anyhow::Result<Option<(Vec<Flag>, Option<String>)>> {
    // What is wrong with the rest is told when all of it is there.
    let Ok(matches) = Cli::command().ignore_errors(true).try_get_matches_from(typed) else {
        return Ok(None);
    };
    let Some(("agent", agent)) = matches.subcommand() else { return Ok(None) };
    let Some(path) = agent.get_one::<PathBuf>("config") else { return Ok(None) };
    let machine = || rustix::system::uname().nodename().to_str().ok().map(str::to_owned);
    let Loaded { flags, warning } = kube_proxy::read(path, machine)?;
    let flags = flags.into_iter().filter(|flag| !is_given(agent, flag)).collect();
    Ok(Some((flags, warning)))
}

/// Whether a flag was typed, or another that it excludes.
fn is_given(agent: &ArgMatches, flag: &Flag) -> bool {
    let typed = |id: &str| {
        matches!(agent.value_source(id), Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    };
    let id = flag.name.replace('-', "_");
    typed(&id) || (SOURCES.contains(&id.as_str()) && SOURCES.into_iter().any(typed))
}

fn argument(Flag { name, value }: Flag) -> OsString {
    match value {
        Some(value) => format!("--{name}={value}").into(),
        None => format!("--{name}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{AgentArgs, DetectLocal};
    use crate::desired::Policy;
    use std::fs;
    use std::time::Duration;

    const FILE: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                        clientConnection: {kubeconfig: /etc/kubeconfig}\nhostnameOverride: node-1\n\
                        mode: ipvs\nipvs: {scheduler: lc, minSyncPeriod: 2s}\n\
                        clusterCIDR: 10.244.0.0/16\nconntrack: {min: 7}\n";

    fn agent(typed: &[&str]) -> AgentArgs {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("config.conf");
        fs::write(&path, FILE).unwrap();
        let typed = ["lb", "agent"].iter().chain(typed).map(OsString::from);
        let cli = parse(typed.chain(["--config".into(), path.into()]).collect()).unwrap();
        let Command::Agent(args) = cli.command else { panic!("no agent") };
        *args
    }

    #[test]
    fn the_file_says_what_nobody_has_typed() {
        let args = agent(&[]);
        assert_eq!(args.node_name.as_deref(), Some("node-1"));
        assert_eq!(args.policy, Policy::LeastConnections);
        assert_eq!(args.min_sync_period, Duration::from_secs(2));
        assert_eq!(args.behaviour.detect_local, DetectLocal::ClusterCidr);
        assert!(args.config_warning.unwrap().contains("conntrack.min"));
    }

    #[test]
    fn what_is_typed_wins() {
        let args = agent(&[
            "--manifests",
            "/etc/lb/manifests.d",
            "--policy",
            "maglev",
            "--hostname-override=other",
            "--detect-local-mode",
            "NodeCIDR",
        ]);
        assert_eq!(args.node_name.as_deref(), Some("other"));
        assert_eq!(args.policy, Policy::Maglev);
        assert_eq!(args.behaviour.detect_local, DetectLocal::NodeCidr);
        assert_eq!(args.min_sync_period, Duration::from_secs(2));
        let source = args.source.source(None, "/sys/fs/bpf/lb".as_ref());
        assert!(matches!(source, crate::source::SourceConfig::Manifests(_)), "{source:?}");
    }
}
