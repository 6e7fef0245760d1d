//! `lb status`: whether everything is in order, from the agent's own words and
//! from the kernel.

mod tables;

use crate::agent::{
    AgentInfo, AgentStatus, CheckInfo, HookInfo, ProblemInfo, SocketInfo, SourceInfo, SyncInfo,
    ask, unix_now,
};
use crate::cli::{Format, StatusArgs, Table, print, print_json};
use crate::dataplane::maps::{MapFill, Maps, MapsError, fill};
use crate::desired::printable;
use crate::flows::{FlowCount, census};
use crate::view::{Verdicts, service_cidrs, services, verdicts};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tables::{NoPort, flow_table, hooks, maps, nearly_full, packets, ports};

/// How often `--wait` asks.
const POLL: Duration = Duration::from_millis(50);

/// All that `lb status` tells. Without an agent, what it would say is empty.
#[derive(Debug, Serialize)]
struct Status {
    healthy: bool,
    /// Why not.
    reasons: Vec<String>,
    pin_dir: PathBuf,
    agent: Option<AgentInfo>,
    source: SourceInfo,
    hooks: Vec<HookInfo>,
    sockets: SocketInfo,
    last_sync: Option<SyncInfo>,
    last_check: Option<CheckInfo>,
    problems: Vec<ProblemInfo>,
    warnings: Vec<String>,
    #[serde(flatten)]
    kernel: Kernel,
}

/// What the kernel holds, agent or not.
#[derive(Debug, Default, Serialize)]
struct Kernel {
    services: usize,
    backends: usize,
    /// Where addresses that no Service has are dropped.
    service_cidrs: Vec<String>,
    maps: Vec<MapFill>,
    flows: Vec<FlowCount>,
    /// Services with packets that were dropped for want of a source port.
    no_port: Vec<NoPort>,
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
    let (agent, status) = match ask(socket) {
        Ok(mut status) => {
            reasons = unhealthy(&status);
            (Some(std::mem::take(&mut status.agent)), status)
        }
        Err(error) => {
            reasons.push(error.to_string());
            (None, AgentStatus::default())
        }
    };
    let kernel = read_kernel(pin_dir).unwrap_or_else(|error| {
        reasons.push(error.to_string());
        Kernel::default()
    });
    let AgentStatus {
        source, hooks, sockets, last_sync, last_check, problems, mut warnings, ..
    } = status;
    warnings.extend(kernel.maps.iter().filter_map(nearly_full));
    Status {
        healthy: reasons.is_empty(),
        reasons,
        pin_dir: pin_dir.to_path_buf(),
        agent,
        source,
        hooks,
        sockets,
        last_sync,
        last_check,
        problems,
        warnings,
        kernel,
    }
}

fn read_kernel(pin_dir: &Path) -> Result<Kernel, MapsError> {
    let maps = Maps::open(pin_dir)?;
    let services = services(&maps)?;
    Ok(Kernel {
        services: services.len(),
        backends: services.iter().map(|service| service.backends.len()).sum(),
        service_cidrs: service_cidrs(&maps)?.iter().map(ToString::to_string).collect(),
        maps: fill(pin_dir, &maps)?,
        flows: census(pin_dir)?,
        no_port: services.iter().filter_map(NoPort::of).collect(),
        verdicts: verdicts(&maps)?,
    })
}

fn text(status: &Status) -> String {
    let mut lines = vec![format!("Healthy    {}", if status.healthy { "yes" } else { "no" })];
    lines.extend(status.reasons.iter().map(|reason| format!("           {reason}")));
    if let Some(agent) = &status.agent {
        lines.extend(agent_lines(agent, &status.source));
        lines.push(format!("Sockets    {}", sockets(&status.sockets)));
    }
    if let Some(sync) = &status.last_sync {
        let took = sync.duration_seconds * 1e3;
        lines.push(format!(
            "Last sync  {} ago, took {took:.1} ms: Service ports changed: {}, rows written: {}",
            age(sync.at),
            sync.changed,
            sync.writes
        ));
    }
    lines.extend(status.last_check.as_ref().map(check));
    lines.extend(status.warnings.iter().map(|warning| format!("Warning    {warning}")));
    let Kernel { services, backends, service_cidrs, maps: fill, flows, no_port, verdicts } =
        &status.kernel;
    lines.push(format!("Pins       {}", status.pin_dir.display()));
    if !fill.is_empty() {
        lines.push(format!("Serving    {services} Service ports, {backends} backends"));
    }
    if !service_cidrs.is_empty() {
        lines.push(format!("CIDRs      {}", service_cidrs.join(", ")));
    }
    let mut text = lines.join("\n") + "\n";
    if status.agent.is_some() {
        text += &section("Hooks", &hooks(&status.hooks));
    }
    text += &problems("Refused", status.problems.iter().filter(|p| p.is_error()));
    text += &problems("Warnings", status.problems.iter().filter(|p| !p.is_error()));
    if !fill.is_empty() {
        text += &section("Maps", &maps(fill));
        text += &section("Flows", &flow_table(flows));
        text += &section("Packets", &packets(verdicts));
    }
    if !no_port.is_empty() {
        text +=
            &section("Dropped, as no source port was free towards the backend", &ports(no_port));
    }
    text
}

fn agent_lines(agent: &AgentInfo, from: &SourceInfo) -> Vec<String> {
    let node = agent.node_name.as_ref().map_or(String::new(), |name| format!(", node {name}"));
    let since = age(agent.started);
    let mut lines = vec![
        format!("Agent      {}, process {}, for {since}{node}", agent.version, agent.pid),
        format!("Source     {}", source(from)),
    ];
    if let Some(metrics) = &agent.metrics {
        lines.push(format!("Metrics    http://{metrics}/metrics"));
    }
    if let Some(healthz) = &agent.healthz {
        lines.push(format!("Healthz    http://{healthz}/healthz"));
    }
    lines
}

/// Where the Services come from, and whether that works.
fn source(info: &SourceInfo) -> String {
    let SourceInfo { kind, place, complete, no_contact_since } = info;
    let contact = no_contact_since.map(|since| format!(", no contact for {}", age(since)));
    let waiting = (!complete).then_some(", has not told yet what there is");
    format!("{kind}, {place}{}{}", waiting.unwrap_or_default(), contact.unwrap_or_default())
}

/// When the kernel was compared last, and what had to be put right.
fn check(info: &CheckInfo) -> String {
    let CheckInfo { at, duration_seconds, repairs, last_repair } = info;
    let took = duration_seconds * 1e3;
    let last = last_repair.as_ref().map_or_else(String::new, |last| {
        let count: u64 = repairs.values().sum();
        format!("; put right: {count}, the last {} ago: {}", age(last.at), printable(&last.text))
    });
    format!("Last check {} ago, took {took:.1} ms{last}", age(*at))
}

/// Whose sockets are served. Why they are not is among the warnings.
fn sockets(info: &SocketInfo) -> String {
    let SocketInfo { clients, cgroup, note: _ } = info;
    match cgroup {
        Some(cgroup) => format!("{clients}, by {}", cgroup.display()),
        None if clients == "off" => clients.clone(),
        None => format!("{clients}, but not attached"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::RepairInfo;

    fn status() -> Status {
        let hook = |hook: &str, mode: Option<&str>, note: Option<&str>| HookInfo {
            interface: "eth0".into(),
            index: 2,
            role: "uplink".into(),
            hook: hook.into(),
            mode: mode.map(Into::into),
            note: note.map(Into::into),
            failed: mode.is_none(),
        };
        let verdict = |count| [("forwarded", count), ("passed", 0)].into_iter().collect();
        Status {
            healthy: false,
            reasons: vec!["interface eth0: xdp: the driver has none".into()],
            pin_dir: "/sys/fs/bpf/lb".into(),
            agent: None,
            source: SourceInfo::default(),
            hooks: vec![
                hook("ingress", Some("tcx"), None),
                hook("xdp", None, Some("the driver has none")),
            ],
            sockets: SocketInfo::default(),
            last_sync: None,
            last_check: None,
            problems: vec![ProblemInfo::refused("shop/web:http (TCP)", "the slot map is full")],
            warnings: vec![],
            kernel: Kernel {
                services: 1,
                backends: 2,
                service_cidrs: vec!["10.96.0.0/16".into()],
                maps: vec![MapFill { map: "LB_SERVICES", used: Some(1), max: 64, bytes: 4097 }],
                flows: vec![FlowCount { family: "ipv4", protocol: "TCP", state: "open", flows: 3 }],
                no_port: vec![NoPort {
                    service: "shop/web:http".into(),
                    protocol: "TCP".into(),
                    packets: 5,
                }],
                verdicts: [("tc_ingress", verdict(7)), ("xdp", verdict(0))].into_iter().collect(),
            },
        }
    }

    #[test]
    fn people_see_what_is_wrong_first() {
        let mut status = status();
        status.agent = Some(AgentInfo { started: unix_now(), ..AgentInfo::default() });
        status.last_check = Some(CheckInfo {
            at: unix_now(),
            duration_seconds: 0.0021,
            repairs: [("hooks".to_owned(), 2), ("pins".to_owned(), 1)].into(),
            last_repair: Some(RepairInfo {
                at: unix_now(),
                text: "interface eth0: ingress: the link is detached".into(),
            }),
        });
        let text = text(&status);
        let expected_start = "\
Healthy    no
           interface eth0: xdp: the driver has none
Agent      ";
        assert!(text.starts_with(expected_start), "{text}");
        for part in [
            "\nLast check 0.0 s ago, took 2.1 ms; put right: 3, the last 0.0 s ago: interface eth0: \
             ingress: the link is detached\n",
            "\nServing    1 Service ports, 2 backends\nCIDRs      10.96.0.0/16\n",
            "\n  eth0      uplink xdp     FAILED the driver has none\n",
            "\nRefused\n  Service shop/web:http (TCP): the slot map is full\n",
            "\n  LB_SERVICES    1  64  5 KiB\n  total                 5 KiB\n",
            "\n  ipv4   TCP    -    3       -      -      -      -\n",
            "\n  shop/web:http TCP        5\n",
            "\n  forwarded          7   0\n",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        assert!(!text.contains("passed"), "{text}");
    }

    #[test]
    fn programs_find_the_same_fields_with_and_without_an_agent() {
        let json = serde_json::to_value(status()).unwrap();
        assert_eq!(json["healthy"], false);
        assert_eq!(json["agent"], serde_json::Value::Null);
        assert_eq!(json["hooks"][0]["mode"], "tcx");
        assert_eq!(json["maps"][0]["used"], 1);
        assert_eq!(json["problems"][0]["severity"], "error");
        assert_eq!(json["verdicts"]["tc_ingress"]["forwarded"], 7);
        assert_eq!(json["reasons"].as_array().unwrap().len(), 1);
    }
}
