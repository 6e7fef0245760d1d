//! nftables mode: one map leads from address and port to the Service's chain,
//! which picks the chain of an endpoint by a random number.

use super::{PODS, SERVICES, Service, hash};
use std::fmt::{self, Write as _};
use std::net::Ipv4Addr;

/// The table without Services.
const BASE: &str = "add table ip kube-proxy
add set ip kube-proxy cluster-ips { type ipv4_addr ; }
add set ip kube-proxy nodeport-ips { type ipv4_addr ; }
add map ip kube-proxy firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy no-endpoint-nodeports { type inet_proto . inet_service : verdict ; }
add map ip kube-proxy no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy service-nodeports { type inet_proto . inet_service : verdict ; }
add chain ip kube-proxy cluster-ips-check
add chain ip kube-proxy filter-prerouting-pre-dnat { type filter hook prerouting priority -110 ; }
add chain ip kube-proxy filter-output-pre-dnat { type filter hook output priority -110 ; }
add chain ip kube-proxy filter-forward { type filter hook forward priority 0 ; }
add chain ip kube-proxy filter-input { type filter hook input priority 0 ; }
add chain ip kube-proxy filter-output { type filter hook output priority 0 ; }
add chain ip kube-proxy firewall-check
add chain ip kube-proxy mark-for-masquerade
add chain ip kube-proxy masquerading
add chain ip kube-proxy nat-output { type nat hook output priority -100 ; }
add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority 100 ; }
add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority -100 ; }
add chain ip kube-proxy nodeport-endpoints-check
add chain ip kube-proxy reject-chain
add chain ip kube-proxy services
add chain ip kube-proxy service-endpoints-check
add rule ip kube-proxy cluster-ips-check ip daddr @cluster-ips reject
add rule ip kube-proxy filter-prerouting-pre-dnat ct state new jump firewall-check
add rule ip kube-proxy filter-forward ct state new jump service-endpoints-check
add rule ip kube-proxy filter-forward ct state new jump cluster-ips-check
add rule ip kube-proxy filter-input ct state new jump nodeport-endpoints-check
add rule ip kube-proxy filter-input ct state new jump service-endpoints-check
add rule ip kube-proxy filter-output ct state new jump service-endpoints-check
add rule ip kube-proxy filter-output ct state new jump cluster-ips-check
add rule ip kube-proxy filter-output-pre-dnat ct state new jump firewall-check
add rule ip kube-proxy firewall-check ip daddr . meta l4proto . th dport vmap @firewall-ips
add rule ip kube-proxy mark-for-masquerade mark set mark or 0x4000
add rule ip kube-proxy masquerading mark and 0x4000 == 0 return
add rule ip kube-proxy masquerading mark set mark xor 0x4000
add rule ip kube-proxy masquerading masquerade fully-random
add rule ip kube-proxy nat-output jump services
add rule ip kube-proxy nat-postrouting jump masquerading
add rule ip kube-proxy nat-prerouting jump services
add rule ip kube-proxy nodeport-endpoints-check ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
add rule ip kube-proxy reject-chain reject
add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips
add rule ip kube-proxy services ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
add rule ip kube-proxy service-endpoints-check ip daddr . meta l4proto . th dport vmap @no-endpoint-services
";

/// All rules, as `nft -f` reads them.
pub(super) fn text(node: Ipv4Addr, services: &[Service]) -> String {
    let mut text = BASE.to_owned();
    // Writing to a string can't fail.
    let _ = writeln!(
        text,
        "add rule ip kube-proxy cluster-ips-check ip daddr {{ {SERVICES} }} drop\n\
         add element ip kube-proxy nodeport-ips {{ {node} }}"
    );
    for service in services {
        let _ = service_rules(&mut text, service);
    }
    text
}

fn service_rules(text: &mut String, service: &Service) -> fmt::Result {
    let address = service.address;
    writeln!(text, "add element ip kube-proxy cluster-ips {{ {address} }}")?;
    for port in &service.ports {
        let protocol = port.protocol;
        let name = format!("default/{}/{protocol}/{}", service.name, port.name);
        let chain = format!("service-{}-{name}", hash(&name, 8));
        writeln!(text, "add chain ip kube-proxy {chain}")?;
        let mut goto = Vec::new();
        for (turn, endpoint) in service.endpoints.iter().enumerate() {
            let name = format!("{name}__{endpoint}/{}", port.target);
            let end = format!("endpoint-{}-{name}", hash(&name, 8));
            goto.push(format!("{turn} : goto {end}"));
            writeln!(text, "add chain ip kube-proxy {end}")?;
            writeln!(
                text,
                "add rule ip kube-proxy {end} ip saddr {endpoint} jump mark-for-masquerade\n\
                 add rule ip kube-proxy {end} meta l4proto {protocol} dnat to {endpoint}:{}",
                port.target
            )?;
        }
        writeln!(
            text,
            "add rule ip kube-proxy {chain} ip daddr {address} {protocol} dport {} \
             ip saddr != {PODS} jump mark-for-masquerade\n\
             add rule ip kube-proxy {chain} numgen random mod {} vmap {{ {} }}\n\
             add element ip kube-proxy service-ips {{ {address} . {protocol} . {} : goto {chain} }}",
            port.port,
            goto.len(),
            goto.join(" , "),
            port.port,
        )?;
        if let Some(node_port) = port.node_port {
            let external = format!("external-{}-{name}", hash(&name, 8));
            writeln!(
                text,
                "add chain ip kube-proxy {external}\n\
                 add rule ip kube-proxy {external} jump mark-for-masquerade\n\
                 add rule ip kube-proxy {external} goto {chain}\n\
                 add element ip kube-proxy service-nodeports {{ {protocol} . {node_port} : goto {external} }}"
            )?;
        }
    }
    Ok(())
}
