//! Settings of this network namespace that matter: which ports the system
//! hands out itself, and whether it forwards packets at all.

use std::fs;
use std::ops::RangeInclusive;

/// Node ports begin here (the API server's default range).
const FIRST_NODE_PORT: u16 = 30_000;
/// Below are well-known and registered ports that servers like to use.
const FIRST_CANDIDATE: u16 = 10_000;
/// Fewer ports than this are not worth having.
const ENOUGH: usize = 1_000;
/// What Linux uses unless told otherwise.
const LOCAL_PORTS: (u16, u16) = (32_768, 60_999);

/// Source ports for translation that neither the system's own sockets nor node
/// ports use, or what comes nearest to it, with the reason why it is not more.
pub(super) fn snat_ports() -> (RangeInclusive<u16>, Option<String>) {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().map(str::parse);
    let (low, high) = match (numbers.next(), numbers.next()) {
        (Some(Ok(low)), Some(Ok(high))) => (low, high),
        _ => LOCAL_PORTS,
    };
    choose(low, high)
}

fn choose(low: u16, high: u16) -> (RangeInclusive<u16>, Option<String>) {
    let below = FIRST_CANDIDATE..=low.saturating_sub(1).min(FIRST_NODE_PORT - 1);
    let above = high.saturating_add(1)..=u16::MAX;
    // 65535 + 1 stays 65535, which is not above.
    let above_len = if high == u16::MAX { 0 } else { above.len() };
    let (range, len) =
        if below.len() >= above_len { (below.clone(), below.len()) } else { (above, above_len) };
    if len >= ENOUGH {
        return (range, None);
    }
    let reason = format!(
        "net.ipv4.ip_local_port_range ({low}-{high}) leaves no room for source translation, which \
         now shares its ports: narrow it or choose others with --snat-ports"
    );
    (FIRST_CANDIDATE..=FIRST_NODE_PORT - 1, Some(reason))
}

/// Says which of the families that are used (IPv4, IPv6) the system does not forward.
pub(super) fn forwarding_warnings(families: [bool; 2]) -> Vec<String> {
    let settings = [("IPv4", "net.ipv4.ip_forward"), ("IPv6", "net.ipv6.conf.all.forwarding")];
    let off = |name: &str| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        // Without the setting there is no such family here.
        fs::read_to_string(path).is_ok_and(|value| value.trim() == "0")
    };
    families
        .into_iter()
        .zip(settings)
        .filter(|(used, (_, name))| *used && off(name))
        .map(|(_, (family, name))| {
            format!(
                "{family} forwarding is off, so packets to backends beyond this node go nowhere: \
                 sysctl -w {name}=1"
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn translation_stays_off_the_ports_of_others() {
        assert_eq!(choose(32_768, 60_999).0, 10_000..=29_999);
        assert_eq!(choose(10_500, 30_000).0, 30_001..=65_535);
        assert_eq!(choose(20_000, 65_535).0, 10_000..=19_999);
        let (range, reason) = choose(1_024, 65_535);
        assert_eq!(range, 10_000..=29_999);
        assert!(reason.unwrap().contains("1024-65535"));
    }
}
