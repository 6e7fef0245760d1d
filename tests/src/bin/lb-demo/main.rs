//! `cargo xtask demo`: a small cluster out of network namespaces, an agent on
//! every node, and real traffic through its Services, told line by line.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a show")]

mod report;
mod scenarios;

use anyhow::{Context as _, Result, bail};
use lb_tests::agent::Options;
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::interrupt;
use lb_tests::netns::{self, Naming};
use lb_tests::topology::{Plan, Wiring};
use report::Report;
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// What the namespaces are called.
const PREFIX: &str = "lb-demo";
const NAMING: Naming = Naming::After(PREFIX);

fn main() -> ExitCode {
    let asked = |option: &str| std::env::args().any(|argument| argument == option);
    interrupt::install();
    let result = if asked("--remove") { remove() } else { run(asked("--keep")) };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(keep: bool) -> Result<bool> {
    let begin = Instant::now();
    let _only = only_one()?;
    netns::remove_all(NAMING);
    println!("cluster: two nodes with two pods each, a router, a client outside");
    let setup = Setup {
        plan: Plan { wiring: Wiring::Routed, nodes: 2, pods: 2, offload: false, naming: NAMING },
        agent: Options { xdp: "native", tc: "auto", more: &[] },
    };
    let mut cluster = Cluster::new(setup, |topology| scenarios::services(topology).into())?;
    picture(&cluster)?;
    let mut report = Report::default();
    let result = scenarios::run(&mut cluster, &mut report);
    let keep = keep && !interrupt::seen();
    if keep {
        cluster.keep()?;
    }
    result?;
    let hints = if keep {
        how_to_look_around(&cluster)
    } else {
        scenarios::cleanup(cluster, &mut report)?;
        String::new()
    };
    println!(
        "\n{} of {} scenarios held, {:.1} s\n{hints}",
        report.held(),
        report.all(),
        begin.elapsed().as_secs_f64()
    );
    Ok(report.held() == report.all())
}

/// Removes a cluster that was kept.
fn remove() -> Result<bool> {
    let _only = only_one()?;
    netns::remove_all(NAMING);
    Ok(true)
}

/// One demo at a time: a second one would remove the first one's namespaces.
fn only_one() -> Result<File> {
    let path = Path::new("/run/lb-demo.lock");
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    if file.try_lock().is_err() {
        bail!("another demo is running: it holds {}", path.display());
    }
    Ok(file)
}

fn picture(cluster: &Cluster) -> Result<()> {
    println!("  client  {}", cluster.topology.client_addresses);
    for node in &cluster.topology.nodes {
        println!("  {:<7} {}", node.name, node.addresses);
        for pod in &node.pods {
            println!("    {}  {}", pod.name, pod.addresses);
        }
    }
    println!("  manifests in {}", cluster.manifests.path().display());
    if let Some(agent) = cluster.agents.first() {
        println!("\n$ lb status    (on {})", agent.node());
        print!("{}", agent.text("status")?);
    }
    println!();
    Ok(())
}

fn how_to_look_around(cluster: &Cluster) -> String {
    let lb = lb_tests::process::binary("lb").unwrap_or_default();
    let manifests = cluster.manifests.path().display();
    let mut lines = vec!["\nleft standing; to look around, for example:".to_owned()];
    for agent in &cluster.agents {
        let (pins, node) = (agent.pin_dir().display(), agent.node());
        lines.push(format!("  {} services --pin-dir {pins}    # {node}", lb.display()));
    }
    lines.push(format!("  nsenter --net=/run/netns/{PREFIX}-pod-1a curl http://10.96.0.10/"));
    lines.push(format!("  nsenter --net=/run/netns/{PREFIX}-client curl http://192.0.2.1:30080/"));
    lines.push(format!("  edit {manifests}/cluster.yaml, or put other manifests beside it"));
    lines.push("to remove it: cargo xtask demo --remove".to_owned());
    lines.join("\n")
}
