//! `lb connections`: the flows that the kernel follows, as `ipvsadm -Lnc` or
//! `conntrack -L` would list them.

use crate::cli::{ConnectionsArgs, Format, Table, print, print_json};
use crate::flows::{FlowView, STAGES, list, stage_name};
use serde::Serialize;
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Lists the flows, or counts them by Service.
pub fn run(args: &ConnectionsArgs) -> anyhow::Result<ExitCode> {
    let mut flows = list(&args.pins.pin_dir, &args.filter())?;
    if args.count {
        let counts = counts(&flows);
        match args.output {
            Format::Json => print_json(&counts)?,
            Format::Text => print(&count_table(&counts))?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let found = flows.len();
    flows.truncate(args.limit.unwrap_or(found));
    match args.output {
        Format::Json => print_json(&flows)?,
        Format::Text => print(&(table(&flows) + &rest(found - flows.len())))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn rest(count: usize) -> String {
    if count == 0 { String::new() } else { format!("and {count} more\n") }
}

fn table(flows: &[FlowView]) -> String {
    let mut table = Table::new(&[false, false, true, true]);
    let sockets = ["Client", "Frontend", "Backend", "Source"];
    table.row(["Prot", "State", "Expires", "Idle"].into_iter().chain(sockets).chain(["Service"]));
    for flow in flows {
        let source = flow.source.map_or_else(|| "-".to_owned(), |source| source.to_string());
        table.row([
            flow.protocol.to_owned(),
            stage_name(flow.state).to_uppercase(),
            clock(flow.expires_seconds),
            clock(flow.idle_seconds),
            flow.client.to_string(),
            flow.frontend.to_string(),
            flow.backend.to_string(),
            source,
            service(flow),
        ]);
    }
    table.render()
}

/// As `ipvsadm` writes it: minutes and seconds, with hours where there are any.
fn clock(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours == 0 {
        format!("{minutes:02}:{seconds:02}")
    } else {
        format!("{hours}:{minutes:02}:{seconds:02}")
    }
}

fn service(flow: &FlowView) -> String {
    let FlowView { namespace, service, port_name, direct, .. } = flow;
    match (namespace, service, port_name.as_deref()) {
        (Some(namespace), Some(service), None | Some("")) => format!("{namespace}/{service}"),
        (Some(namespace), Some(service), Some(port)) => format!("{namespace}/{service}:{port}"),
        _ if *direct => "(direct)".to_owned(),
        _ => "-".to_owned(),
    }
}

/// How many flows a Service port has.
#[derive(Debug, Serialize)]
struct ServiceCount {
    protocol: &'static str,
    service: String,
    #[serde(flatten)]
    states: BTreeMap<&'static str, u64>,
    total: u64,
}

fn counts(flows: &[FlowView]) -> Vec<ServiceCount> {
    let mut counts: BTreeMap<(String, &str), ServiceCount> = BTreeMap::new();
    for flow in flows {
        let (name, protocol) = (service(flow), flow.protocol);
        let count = counts.entry((name.clone(), protocol)).or_insert_with(|| ServiceCount {
            protocol,
            service: name,
            states: STAGES.into_iter().map(|stage| (stage_name(stage), 0)).collect(),
            total: 0,
        });
        *count.states.entry(stage_name(flow.state)).or_default() += 1;
        count.total += 1;
    }
    counts.into_values().collect()
}

fn count_table(counts: &[ServiceCount]) -> String {
    let mut table = Table::new(&[false, true, true, true, true, true, true]);
    let states = STAGES.map(|stage| stage_name(stage).to_uppercase());
    let header = ["Prot".to_owned()].into_iter().chain(states);
    table.row(header.chain(["Total".to_owned(), "Service".to_owned()]));
    for count in counts {
        let of = |stage| count.states.get(stage_name(stage)).copied().unwrap_or(0).to_string();
        let cells = [count.protocol.to_owned()].into_iter().chain(STAGES.map(of));
        table.row(cells.chain([count.total.to_string(), count.service.clone()]));
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::flow::Stage;

    fn flow(state: Stage, service: Option<&str>) -> FlowView {
        FlowView {
            protocol: if state == Stage::Active { "UDP" } else { "TCP" },
            state,
            expires_seconds: 86_399,
            idle_seconds: 75,
            client: "198.51.100.10:40000".parse().unwrap(),
            frontend: "192.0.2.1:30080".parse().unwrap(),
            backend: "10.244.2.11:8080".parse().unwrap(),
            source: Some("192.0.2.1:61000".parse().unwrap()),
            direct: false,
            namespace: service.map(|_| "default".to_owned()),
            service: service.map(Into::into),
            port_name: service.map(|_| "http".to_owned()),
            port: service.map(|_| 80),
        }
    }

    #[test]
    fn each_flow_is_a_line() {
        let mut gone = flow(Stage::Closed, None);
        (gone.source, gone.expires_seconds) = (None, 0);
        let expected = "\
Prot State   Expires  Idle Client              Frontend        Backend          Source          Service
TCP  OPEN   23:59:59 01:15 198.51.100.10:40000 192.0.2.1:30080 10.244.2.11:8080 192.0.2.1:61000 default/web:http
TCP  CLOSED    00:00 01:15 198.51.100.10:40000 192.0.2.1:30080 10.244.2.11:8080 -               -
";
        assert_eq!(table(&[flow(Stage::Open, Some("web")), gone]), expected);
        assert_eq!((rest(0), rest(3)), (String::new(), "and 3 more\n".to_owned()));
    }

    #[test]
    fn counts_are_by_service_and_state() {
        let flows = [
            flow(Stage::Open, Some("web")),
            flow(Stage::Open, Some("web")),
            flow(Stage::Syn, Some("web")),
            flow(Stage::Active, Some("dns")),
        ];
        let counts = counts(&flows);
        let expected = "\
Prot SYN OPEN CLOSING CLOSED ACTIVE Total Service
UDP    0    0       0      0      1     1 default/dns:http
TCP    1    2       0      0      0     3 default/web:http
";
        assert_eq!(count_table(&counts), expected);
        let json = serde_json::to_value(&counts).unwrap();
        assert_eq!((&json[1]["open"], &json[1]["total"]), (&2.into(), &3.into()));
    }

    #[test]
    fn programs_find_the_same_fields_whether_a_service_is_known() {
        let json = serde_json::to_value(flow(Stage::Open, None)).unwrap();
        assert_eq!(
            (&json["state"], &json["client"]),
            (&"open".into(), &"198.51.100.10:40000".into())
        );
        assert_eq!(json["service"], serde_json::Value::Null);
    }
}
