//! `lb status`: whether everything is in order, from the agent's own words and
//! from the kernel.

use crate::agent::{AgentStatus, HookInfo, ProblemInfo, ask, unix_now};
use crate::cli::{Format, StatusArgs, Table, print, print_json};
use crate::dataplane::maps::{MapFill, Maps, MapsError, fill};
use crate::view::{Verdicts, services, verdicts};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How often `--wait` asks.
const POLL: Duration = Duration::from_millis(50);

/// All that `lb status` tells.
#[derive(Debug, Serialize)]
struct Status {
    healthy: bool,
    /// Why not.
    reasons: Vec<String>,
    pin_dir: PathBuf,
    /// Nothing if no agent runs.
    #[serde(flatten)]
    agent: Option<AgentStatus>,
    /// Nothing if nothing is loaded.
    #[serde(flatten)]
    kernel: Option<Kernel>,
}

/// What the kernel holds, agent or not.
#[derive(Debug, Serialize)]
struct Kernel {
    services: usize,
    backends: usize,
    maps: Vec<MapFill>,
    verdicts: Verdicts,
}

/// Prints the status; the exit status says whether all is well.
pub fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let socket = args.socket.socket();
    wait(&socket, args.wait.unwrap_or_default());
    let status = read(&socket, &args.socket.pins.pin_dir);
    match args.output {
        Format::Json => print_json(&status)?,
        Format::Text => print(&text(&status))?,
    }
    Ok(if status.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns when the agent says that all is well, or after `patience`.
fn wait(socket: &Path, patience: Duration) {
    let deadline = Instant::now() + patience;
    while !ask(socket).is_ok_and(|status| unhealthy(&status).is_empty()) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(POLL.min(left));
    }
}

fn unhealthy(status: &AgentStatus) -> Vec<String> {
    let mut reasons = status.reasons.clone();
    if status.last_sync.is_none() && reasons.is_empty() {
        reasons.push("the agent has not brought the kernel up to date yet".to_owned());
    }
    reasons
}

fn read(socket: &Path, pin_dir: &Path) -> Status {
    let mut reasons = Vec::new();
    let mut agent = match ask(socket) {
        Ok(status) => {
            reasons.extend(unhealthy(&status));
            Some(status)
        }
        Err(error) => {
            reasons.push(error.to_string());
            None
        }
    };
    let kernel = match read_kernel(pin_dir) {
        Ok(kernel) => Some(kernel),
        Err(error) => {
            reasons.push(error.to_string());
            None
        }
    };
    if let Some(agent) = &mut agent {
        // They stand at the top, with those from here.
        agent.reasons.clear();
    }
    Status { healthy: reasons.is_empty(), reasons, pin_dir: pin_dir.to_path_buf(), agent, kernel }
}

fn read_kernel(pin_dir: &Path) -> Result<Kernel, MapsError> {
    let maps = Maps::open(pin_dir)?;
    let services = services(&maps)?;
    Ok(Kernel {
        services: services.len(),
        backends: services.iter().map(|service| service.backends.len()).sum(),
        maps: fill(pin_dir, &maps)?,
        verdicts: verdicts(&maps)?,
    })
}

fn text(status: &Status) -> String {
    let mut lines = Vec::new();
    lines.push(format!("Healthy    {}", if status.healthy { "yes" } else { "no" }));
    lines.extend(status.reasons.iter().map(|reason| format!("           {reason}")));
    if let Some(agent) = &status.agent {
        lines.extend(agent_lines(agent));
    }
    lines.push(format!("Pins       {}", status.pin_dir.display()));
    if let Some(kernel) = &status.kernel {
        let Kernel { services, backends, .. } = kernel;
        lines.push(format!("Serving    {services} Service ports, {backends} backends"));
    }
    let mut text = lines.join("\n") + "\n";
    if let Some(agent) = &status.agent {
        text += &section("Hooks", &hooks(&agent.hooks));
        text += &problems("Refused", agent.problems.iter().filter(|p| p.is_error()));
        text += &problems("Warnings", agent.problems.iter().filter(|p| !p.is_error()));
    }
    if let Some(kernel) = &status.kernel {
        text += &section("Maps", &maps(&kernel.maps));
        text += &section("Packets", &packets(&kernel.verdicts));
    }
    text
}

fn agent_lines(status: &AgentStatus) -> Vec<String> {
    let agent = &status.agent;
    let node = agent.node_name.as_ref().map_or(String::new(), |name| format!(", node {name}"));
    let since = age(agent.started);
    let mut lines = vec![
        format!("Agent      {}, process {}, for {since}{node}", agent.version, agent.pid),
        format!("Manifests  {}", agent.manifests.display()),
    ];
    if let Some(sync) = &status.last_sync {
        let took = sync.duration_seconds * 1e3;
        lines.push(format!("Last sync  {} ago, took {took:.1} ms", age(sync.at)));
    }
    if let Some(metrics) = &agent.metrics {
        lines.push(format!("Metrics    http://{metrics}/metrics"));
    }
    lines.extend(status.warnings.iter().map(|warning| format!("Warning    {warning}")));
    lines
}

/// How long ago, in the largest unit that says something.
fn age(since: f64) -> String {
    let seconds = (unix_now() - since).max(0.0);
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3_600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}

fn section(title: &str, table: &Table) -> String {
    format!("\n{title}\n{}", table.render())
}

fn problems<'a>(title: &str, problems: impl Iterator<Item = &'a ProblemInfo>) -> String {
    let lines: Vec<String> = problems.map(|problem| format!("  {}\n", problem.text)).collect();
    if lines.is_empty() { String::new() } else { format!("\n{title}\n{}", lines.concat()) }
}

fn hooks(hooks: &[HookInfo]) -> Table {
    let mut table = Table::new(&[]);
    table.row(["  Interface", "Role", "Hook", "Mode", "Note"]);
    for hook in hooks {
        let HookInfo { interface, index: _, role, hook, mode, note, failed } = hook;
        let missing = if *failed { "FAILED" } else { "-" };
        let mode = mode.as_deref().unwrap_or(missing);
        let note = note.as_deref().unwrap_or_default();
        table.row([&format!("  {interface}"), role, hook, mode, note]);
    }
    table
}

fn maps(fill: &[MapFill]) -> Table {
    let mut table = Table::new(&[false, true, true, true]);
    table.row(["  Map", "Used", "Max", "Memory"]);
    for MapFill { map, used, max, bytes } in fill {
        let used = used.map_or("-".to_owned(), |used| used.to_string());
        let memory = format!("{} KiB", bytes.div_ceil(1024));
        table.row([format!("  {map}"), used, max.to_string(), memory]);
    }
    table
}

/// Verdicts that occurred, a column for each hook.
fn packets(verdicts: &Verdicts) -> Table {
    let mut table = Table::new(&[false, true, true, true]);
    let hooks: Vec<&str> = verdicts.keys().copied().collect();
    table.row(["  Verdict"].into_iter().chain(hooks));
    let rows = verdicts.values().next().into_iter().flat_map(|counts| counts.keys());
    for verdict in rows {
        let counts: Vec<u64> =
            verdicts.values().map(|counts| counts.get(verdict).copied().unwrap_or(0)).collect();
        if counts.iter().any(|count| *count != 0) {
            let counts = counts.iter().map(ToString::to_string);
            table.row([format!("  {verdict}")].into_iter().chain(counts));
        }
    }
    table
}
