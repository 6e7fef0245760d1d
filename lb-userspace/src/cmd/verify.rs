//! `lb verify`: what the kernel holds otherwise than it should.

use crate::agent::{VerifyConfig, ask_to_verify, verify};
use crate::cli::{Format, VerifyArgs, print, print_json};
use crate::desired::{CompileOptions, printable};
use crate::drift::Verification;
use crate::netlink::WatchOptions;
use anyhow::anyhow;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// What is printed for programs.
#[derive(Debug, Serialize)]
struct Report<'a> {
    exact: bool,
    #[serde(flatten)]
    verification: &'a Verification,
}

/// Prints every difference; the exit status is 1 if there is any.
pub fn run(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let format = args.output;
    let verification = match args.manifests.clone() {
        Some(manifests) => verify(&config(args, manifests))?,
        None => ask_to_verify(&args.socket.socket())
            .map_err(|error| anyhow!("{error}; --manifests DIR tells it without an agent"))?
            .map_err(anyhow::Error::msg)?,
    };
    let exact = verification.differences.is_empty();
    match format {
        Format::Json => print_json(&Report { exact, verification: &verification })?,
        Format::Text => print(&text(&verification))?,
    }
    Ok(if exact { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn config(args: VerifyArgs, manifests: PathBuf) -> VerifyConfig {
    VerifyConfig {
        manifests,
        compile: CompileOptions {
            node_name: args.node_name,
            default_policy: args.policy,
            external_ips: args.behaviour.external_ips.is_on(),
        },
        network: WatchOptions {
            interfaces: args.interfaces,
            uplinks: args.uplinks,
            local_clients: args.behaviour.local_clients(),
            ..WatchOptions::default()
        },
        behaviour: args.behaviour,
        socket_clients: args.socket_clients,
        pin_dir: args.socket.pins.pin_dir,
    }
}

fn text(verification: &Verification) -> String {
    let Verification { service_ports, backends, hooks, pins, differences } = verification;
    let lines = differences.iter().map(|drift| format!("{}\n", printable(&drift.to_string())));
    let text: String = lines.collect();
    let looked = format!(
        "{service_ports} Service ports with {backends} backends, {hooks} hooks, {pins} pins"
    );
    match differences.len() {
        0 => text + &format!("exact: {looked}\n"),
        1 => text + &format!("1 difference: {looked}\n"),
        count => text + &format!("{count} differences: {looked}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drift::{Drift, Part};

    fn verification() -> Verification {
        let row = Drift::new(Part::Frontends, "LB_FRONTENDS_V4", "10.96.0.1:80 TCP is missing");
        let differences = vec![
            row.of("Service default/web:http (TCP)"),
            Drift::new(Part::Pins, "pin maps/LB_SERVICES", "the pin is missing"),
        ];
        Verification { service_ports: 1, backends: 2, hooks: 4, pins: 27, differences }
    }

    #[test]
    fn each_difference_is_a_line() {
        let expected = "\
Service default/web:http (TCP): LB_FRONTENDS_V4: 10.96.0.1:80 TCP is missing
pin maps/LB_SERVICES: the pin is missing
2 differences: 1 Service ports with 2 backends, 4 hooks, 27 pins
";
        assert_eq!(text(&verification()), expected);
        let exact = Verification { differences: vec![], ..verification() };
        assert_eq!(text(&exact), "exact: 1 Service ports with 2 backends, 4 hooks, 27 pins\n");
    }

    #[test]
    fn programs_find_whose_and_where() {
        let verification = verification();
        let report = Report { exact: false, verification: &verification };
        let json = serde_json::to_value(report).unwrap();
        assert_eq!(json["exact"], false);
        let first = &json["differences"][0];
        assert_eq!(first["part"], "frontends");
        assert_eq!(first["object"], "Service default/web:http (TCP)");
        assert_eq!(first["place"], "LB_FRONTENDS_V4");
        assert_eq!(json["differences"][1]["object"], serde_json::Value::Null);
    }
}
