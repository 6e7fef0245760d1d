//! iptables mode: `KUBE-SERVICES` has a rule for each Service port, whose chain
//! picks the chain of an endpoint at random, which has the DNAT.
//!
//! Without comments, as kube-proxy leaves them out where there are more than a
//! thousand endpoints.

use super::{PODS, Service, hash};
use std::fmt::{self, Write as _};

/// The filter table: where kube-proxy refuses and drops. No Service here gives
/// it a reason, but each new connection passes these chains.
const FILTER: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A INPUT -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL -d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
";

const NAT: &str = "*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
";

const HOOKS: &str = "-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
";

/// All rules, as `iptables-restore` reads them.
pub(super) fn text(services: &[Service]) -> String {
    let mut chains = String::new();
    let mut rules = String::new();
    for service in services {
        // Writing to a string can't fail.
        let _ = service_rules(&mut chains, &mut rules, service);
    }
    // kube-proxy keeps this one behind all others.
    rules.push_str("-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n");
    [FILTER, NAT, &chains, HOOKS, &rules, "COMMIT\n"].concat()
}

fn service_rules(chains: &mut String, rules: &mut String, service: &Service) -> fmt::Result {
    for port in &service.ports {
        let (protocol, target) = (port.protocol, port.target);
        let name = format!("default/{}:{}", service.name, port.name);
        let chain = format!("KUBE-SVC-{}", hash(&name, 16));
        let to =
            format!("-p {protocol} -m {protocol} -d {} --dport {}", service.address, port.port);
        writeln!(chains, ":{chain} - [0:0]")?;
        writeln!(rules, "-A KUBE-SERVICES {to} -j {chain}")?;
        writeln!(rules, "-A {chain} {to} ! -s {PODS} -j KUBE-MARK-MASQ")?;
        if let Some(node_port) = port.node_port {
            let external = format!("KUBE-EXT-{}", hash(&name, 16));
            writeln!(chains, ":{external} - [0:0]")?;
            writeln!(
                rules,
                "-A KUBE-NODEPORTS -p {protocol} -m {protocol} --dport {node_port} -j {external}\n\
                 -A {external} -j KUBE-MARK-MASQ\n-A {external} -j {chain}"
            )?;
        }
        for (left, endpoint) in (1..=service.endpoints.len()).rev().zip(&service.endpoints) {
            let end = format!("KUBE-SEP-{}", hash(&format!("{name}{endpoint}"), 16));
            let chance = match u32::try_from(left) {
                Ok(1) | Err(_) => String::new(),
                Ok(left) => format!(
                    "-m statistic --mode random --probability {:.10} ",
                    1.0 / f64::from(left)
                ),
            };
            writeln!(chains, ":{end} - [0:0]")?;
            writeln!(rules, "-A {chain} {chance}-j {end}")?;
            writeln!(rules, "-A {end} -s {endpoint} -j KUBE-MARK-MASQ")?;
            writeln!(
                rules,
                "-A {end} -p {protocol} -m {protocol} -j DNAT --to-destination {endpoint}:{target}"
            )?;
        }
    }
    Ok(())
}
