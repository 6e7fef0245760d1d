//! The checks, and their report.

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::budget;
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline;
use lb_tests::manifest::Service;
use lb_tests::topology::Wiring;
use lb_tests::traffic::{Kind, Tally};
use nix::time::{ClockId, clock_gettime};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Test binaries, with those of their tests that are run.
const TESTS: [(&str, &str, &[&str]); 3] = [
    ("node ports", "netns_node_port", &["through_native_xdp_to_routed_pods"]),
    ("node's sockets", "netns_host_clients", &["the_node_reaches_every_backend"]),
    (TABLES, "prog_tables", &SOME_TABLES),
];

const TABLES: &str = "packet tables";

/// Enough of them to meet most helpers on an emulated processor, where all of
/// them take many minutes. None of these loads the programs a second time.
const SOME_TABLES: [&str; 7] = [
    "forward::",
    "fragments::",
    "refuse::",
    "sctp::",
    "xdp::",
    "--skip",
    "ports_of_closed_flows_serve_again",
];

/// How long a machine must have been up for tests that make rows as old as it.
const UP: Duration = Duration::from_secs(125);

/// Runs all of them.
pub(crate) fn run(path: &str, all_tables: bool) -> Result<()> {
    let file = File::options().create(true).append(true).open(path);
    let mut report = Report(file.with_context(|| format!("open {path}"))?);
    let release = nix::sys::utsname::uname().context("ask for the kernel's version")?;
    let release = release.release().to_string_lossy().into_owned();
    report.line(&["kernel", &release])?;
    if programs(&release, &mut report)? {
        report.check("attached", || attached(&release))?;
        for (name, binary, filters) in TESTS {
            let whole = all_tables && name == TABLES;
            if whole {
                deadline::until("the machine's age", UP, || (up()? > UP).then_some(()))?;
            }
            report.check(name, || test(binary, if whole { &[] } else { filters }))?;
        }
    }
    report.line(&["end"])
}

struct Report(File);

impl Report {
    fn line(&mut self, words: &[&str]) -> Result<()> {
        println!("{}", words.join(" "));
        writeln!(self.0, "{}", words.join("\t")).context("write the report")
    }

    fn check(&mut self, name: &str, check: impl FnOnce() -> Result<String>) -> Result<()> {
        println!("\n== {name}");
        let begin = Instant::now();
        let result = check();
        let seconds = begin.elapsed().as_secs();
        match result {
            Ok(remark) => self.line(&["check", name, "ok", &format!("{remark}, {seconds} s")]),
            Err(error) => {
                let remark = format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ");
                self.line(&["check", name, "FAILED", &remark])
            }
        }
    }
}

/// How long the machine has been up.
fn up() -> Option<Duration> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?;
    Some(now.into())
}

/// Loads every program; whether the kernel takes all of them.
fn programs(release: &str, report: &mut Report) -> Result<bool> {
    let probes = match budget::load() {
        Ok(probes) => probes,
        Err(error) => {
            report.line(&["program", "maps", "-", &error.to_string()])?;
            return Ok(false);
        }
    };
    let mut all = true;
    for probe in probes {
        let (count, verdict) = match &probe.verified {
            Ok(Some(count)) => {
                let verdict = budget::excess(release, probe.program, *count);
                (count.to_string(), verdict.unwrap_or_else(|| "ok".to_owned()))
            }
            Ok(None) => ("-".to_owned(), "ok".to_owned()),
            Err(error) => {
                all = false;
                println!("{}:\n{error:#?}", probe.program);
                ("-".to_owned(), error.to_string())
            }
        };
        report.line(&["program", probe.program, &count, &verdict])?;
    }
    Ok(all)
}

/// The mode of TC programs on a kernel of this release: tcx came with Linux 6.6.
fn tc_mode(release: &str) -> Result<&'static str> {
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => {
            Ok(if (major, minor) < (6, 6) { "clsact" } else { "tcx" })
        }
        _ => bail!("the kernel's release is {release}, which is no version"),
    }
}

/// How an agent attaches on this kernel, by its own word, and that it serves.
fn attached(release: &str) -> Result<String> {
    let cluster = Cluster::new(Setup::tc(Wiring::Routed), |topology| {
        vec![Service::new("web", 1).http(0).udp(0).endpoints(topology.pods())]
    })?;
    for kind in Kind::ALL {
        for address in Service::new("web", 1).addresses.both() {
            let to = (address, kind.port()).into();
            let tally = Tally::of(&cluster.pod(0, 0).netns, kind, to, 40)?;
            tally.expect(&["pod-1a", "pod-1b", "pod-2a", "pod-2b"])?;
        }
    }
    let agent = &cluster.agents[0];
    let text = agent.text("status")?;
    println!("{text}");
    let status = agent.status()?;
    let modes: BTreeSet<&str> = status["hooks"]
        .as_array()
        .context("the status has hooks")?
        .iter()
        .filter_map(|hook| hook["mode"].as_str())
        .collect();
    // A fallback is named where it is one, and to who reads as to programs.
    let mode = tc_mode(release)?;
    ensure!(modes == BTreeSet::from([mode]), "the modes are {modes:?}, not {mode} alone");
    let lines = text.lines().filter(|line| line.contains(" egress ")).collect::<Vec<_>>();
    let named = |line: &&str| line.split_whitespace().any(|word| word == mode);
    ensure!(!lines.is_empty() && lines.iter().all(named), "`lb status` names no {mode}: {text}");
    let sockets = status["sockets"]["note"].as_str().unwrap_or("sockets");
    Ok(format!("{}, {sockets}", modes.into_iter().collect::<Vec<_>>().join(", ")))
}

/// Runs tests of a binary beside this one, in its `deps` as cargo has it.
fn test(binary: &str, filters: &[&str]) -> Result<String> {
    let own = std::env::current_exe().context("find this program")?;
    let path = own.parent().unwrap_or(Path::new("/")).join("deps").join(binary);
    let mut child = Command::new(&path)
        .args(filters)
        .env("LB_REQUIRE_ROOT", "1")
        .env("LB_QUICK", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", path.display()))?;
    let stdout = child.stdout.take().context("the tests have no output")?;
    let (mut result, mut failed) = (None, Vec::new());
    for line in BufReader::new(stdout).lines() {
        let line = line.context("read the tests' output")?;
        println!("{line}");
        if let Some(counts) = line.strip_prefix("test result: ") {
            result = Some(counts.to_owned());
        } else if let Some(name) = line.strip_suffix(" ... FAILED") {
            failed.push(name.trim_start_matches("test ").to_owned());
        }
    }
    let status = child.wait().context("wait for the tests")?;
    let counts = result.with_context(|| format!("{binary} ended with {status}"))?;
    let passed = counts.trim_start_matches("ok. ").split_once(" passed").map(|(count, _)| count);
    match passed {
        Some(count) if status.success() && count != "0" => Ok(format!("{count} passed")),
        _ => bail!("{counts}: {}", failed.join(", ")),
    }
}
