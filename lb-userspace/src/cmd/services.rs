//! `lb services`: the Service ports in force, as `ipvsadm -Ln --stats` would
//! list them.

use crate::cli::{Format, ServicesArgs, Table, print, print_json};
use crate::dataplane::maps::Maps;
use crate::view::{Counters, ServiceView, services};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

/// Lists the Service ports.
pub fn run(args: &ServicesArgs) -> anyhow::Result<ExitCode> {
    let maps = Maps::open(&args.pins.pin_dir)?;
    let mut views = services(&maps)?;
    if let Some(namespace) = &args.namespace {
        views.retain(|view| view.namespace == *namespace);
    }
    match args.output {
        Format::Json => print_json(&views)?,
        Format::Text => print(&table(&views))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// One line for each address of a Service port, then one for each backend. The
/// counters are the Service port's, so they stand on its first line alone.
fn table(views: &[ServiceView]) -> String {
    let mut table = Table::new(&[false, false, false, false, false, true, true, true, true, true]);
    let header = ["Prot", "LocalAddress:Port", "Policy", "Scope", "Affinity"];
    let counters = ["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"];
    table.row(header.into_iter().chain(counters).chain(["Service"]));
    table.row(["  ->", "RemoteAddress:Port", "State", "Scope", "Weight"]);
    for view in views {
        let affinity = view.affinity_seconds.map_or_else(|| "-".to_owned(), |s| format!("{s}s"));
        for (line, (address, scope)) in addresses(view).into_iter().enumerate() {
            let cells = [view.protocol.clone(), address, view.policy.to_owned()];
            let cells = cells.into_iter().chain([scope.to_owned(), affinity.clone()]);
            let counters = if line == 0 { numbers(view.counters) } else { blanks() };
            table.row(cells.chain(counters).chain([view.full_name()]));
        }
        for backend in &view.backends {
            let address = SocketAddr::new(backend.address, backend.port).to_string();
            let cells = ["  ->".to_owned(), address, backend.state.to_owned()];
            let choice = [backend.scope.to_owned(), backend.weight.to_string()];
            table.row(cells.into_iter().chain(choice).chain(numbers(backend.counters)));
        }
    }
    table.render()
}

/// Where a Service port answers, each with the scope of its clients.
fn addresses(view: &ServiceView) -> Vec<(String, &'static str)> {
    let with_port = |addr: &IpAddr| SocketAddr::new(*addr, view.port).to_string();
    let internal = view.cluster_ips.iter().map(|addr| (with_port(addr), view.internal_scope));
    let others = view.load_balancer_ips.iter().chain(&view.external_ips);
    let external = others.map(|addr| (with_port(addr), view.external_scope));
    let node = view.node_port.map(|port| (format!("*:{port}"), view.external_scope));
    let mut addresses: Vec<_> = internal.chain(external).chain(node).collect();
    if addresses.is_empty() {
        addresses.push((format!("-:{}", view.port), view.internal_scope));
    }
    addresses
}

fn numbers(counters: Counters) -> [String; 5] {
    let Counters { connections, packets_in, packets_out, bytes_in, bytes_out } = counters;
    [connections, packets_in, packets_out, bytes_in, bytes_out].map(|number| number.to_string())
}

fn blanks() -> [String; 5] {
    std::array::from_fn(|_| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::BackendView;

    fn web() -> ServiceView {
        let counters = Counters { connections: 3, packets_in: 12, packets_out: 9, ..zero() };
        let backend = |address: &str, state, counters| BackendView {
            address: address.parse().unwrap(),
            port: 8080,
            state,
            scope: if state == "active" { "both" } else { "none" },
            weight: 1,
            counters,
        };
        ServiceView {
            namespace: "default".into(),
            name: "web".into(),
            port_name: "http".into(),
            protocol: "TCP".into(),
            port: 80,
            cluster_ips: vec!["10.96.0.10".parse().unwrap(), "fd00:10:96::a".parse().unwrap()],
            load_balancer_ips: vec!["203.0.113.9".parse().unwrap()],
            external_ips: vec![],
            node_port: Some(30080),
            internal_scope: "cluster",
            external_scope: "local",
            affinity_seconds: Some(10_800),
            policy: "round-robin",
            counters,
            packets_refused: 0,
            packets_dropped_no_local: 0,
            packets_dropped_source_range: 0,
            packets_dropped_no_port: 0,
            backends: vec![
                backend("10.1.0.1", "active", counters),
                backend("fd00:1::1", "terminating", zero()),
            ],
        }
    }

    fn zero() -> Counters {
        Counters::default()
    }

    #[test]
    fn the_table_has_the_shape_that_ipvsadm_users_know() {
        let expected = "\
Prot LocalAddress:Port  Policy      Scope   Affinity Conns InPkts OutPkts InBytes OutBytes Service
  -> RemoteAddress:Port State       Scope   Weight
TCP  10.96.0.10:80      round-robin cluster 10800s       3     12       9       0        0 default/web:http
TCP  [fd00:10:96::a]:80 round-robin cluster 10800s       -      -       -       -        - default/web:http
TCP  203.0.113.9:80     round-robin local   10800s       -      -       -       -        - default/web:http
TCP  *:30080            round-robin local   10800s       -      -       -       -        - default/web:http
  -> 10.1.0.1:8080      active      both    1            3     12       9       0        0
  -> [fd00:1::1]:8080   terminating none    1            0      0       0       0        0
";
        assert_eq!(table(&[web()]), expected);
    }

    #[test]
    fn the_json_has_the_promised_fields() {
        let mut view = web();
        view.node_port = None;
        let json = serde_json::to_value([view]).unwrap();
        let service = &json[0];
        assert_eq!(service["node_port"], serde_json::Value::Null);
        assert_eq!(service["cluster_ips"][1], "fd00:10:96::a");
        for owner in [service, &service["backends"][0]] {
            assert_eq!(owner["connections"], 3);
            assert_eq!(owner["packets_in"], 12);
            assert_eq!(owner["packets_out"], 9);
            assert_eq!(owner["bytes_in"], 0);
            assert_eq!(owner["bytes_out"], 0);
        }
        for (field, value) in [
            ("namespace", "default"),
            ("name", "web"),
            ("port_name", "http"),
            ("protocol", "TCP"),
            ("policy", "round-robin"),
            ("internal_scope", "cluster"),
            ("external_scope", "local"),
        ] {
            assert_eq!(service[field], value);
        }
        assert_eq!(service["port"], 80);
        let backend = &service["backends"][1];
        assert_eq!(backend["address"], "fd00:1::1");
        assert_eq!(backend["port"], 8080);
        assert_eq!(backend["state"], "terminating");
    }
}
