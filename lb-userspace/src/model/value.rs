//! Checks of single values, which the API types leave to the API server.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::desired::Protocol;

/// Why a value is not what its field needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadValue {
    /// Not a port number.
    #[error("must be a port from 1 to 65535, not {0}")]
    Port(i64),
    /// Not an address at all.
    #[error("{0:?} is not an IP address")]
    Address(String),
    /// An IPv4 address in an IPv6 one.
    #[error("{0} must be written as the IPv4 address that it means")]
    MappedAddress(IpAddr),
    /// Not a range of addresses.
    #[error("{0:?} is not a range of addresses such as 10.96.0.0/16")]
    Range(String),
    /// A range of IPv4 addresses in IPv6 ones.
    #[error("{0:?} must be written as the IPv4 range that it means")]
    MappedRange(String),
    /// A range that begins in its middle.
    #[error("{0:?} has bits beyond its length: write {1}")]
    LooseRange(String, IpNet),
    /// An address that no packet can be sent to from elsewhere.
    #[error("{0} is {1}, which no Service can use")]
    SpecialAddress(IpAddr, &'static str),
    /// Not a DNS label.
    #[error(
        "{0:?} must be 1 to 63 lower-case letters, digits and hyphens, with a letter or digit at \
         both ends"
    )]
    Label(String),
    /// Not a DNS subdomain.
    #[error(
        "{0:?} must be 1 to 253 lower-case letters, digits, hyphens and dots, with a letter or \
         digit at both ends of each part"
    )]
    Subdomain(String),
    /// Not an IANA service name.
    #[error(
        "{0:?} must be 1 to 15 lower-case letters, digits and hyphens, with at least one letter"
    )]
    ServiceName(String),
    /// Not one of the protocols of the API.
    #[error("{0:?} is not one of \"TCP\", \"UDP\" and \"SCTP\"")]
    Protocol(String),
    /// Not one of a field's values.
    #[error("{0:?} is not one of {1}")]
    Choice(String, String),
}

/// A port number.
pub(super) fn port(number: i32) -> Result<u16, BadValue> {
    u16::try_from(number)
        .ok()
        .filter(|&port| port != 0)
        .ok_or_else(|| BadValue::Port(number.into()))
}

/// An address in its only form: with an IPv4 address inside an IPv6 one, map
/// rows and packets would disagree.
pub(super) fn address(text: &str) -> Result<IpAddr, BadValue> {
    let addr: IpAddr = text.parse().map_err(|_not_an_address| BadValue::Address(text.into()))?;
    match addr {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Err(BadValue::MappedAddress(addr)),
        IpAddr::V4(_) | IpAddr::V6(_) => Ok(addr),
    }
}

/// A range in its only form.
pub(super) fn range(text: &str) -> Result<IpNet, BadValue> {
    // The parser of ranges takes zeros before a number, which others read as octal.
    let addr = text.split_once('/').and_then(|(addr, _)| addr.parse::<IpAddr>().ok());
    let range: Option<IpNet> = addr.and_then(|_| text.parse().ok());
    let range = range.ok_or_else(|| BadValue::Range(text.into()))?;
    match range {
        IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => {
            Err(BadValue::MappedRange(text.into()))
        }
        _ if range != range.trunc() => Err(BadValue::LooseRange(text.into(), range.trunc())),
        IpNet::V4(_) | IpNet::V6(_) => Ok(range),
    }
}

/// An address that packets can be sent to from another host.
pub(super) fn unicast_address(text: &str) -> Result<IpAddr, BadValue> {
    let addr = address(text)?;
    let link_local = match addr {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let why = if addr.is_unspecified() {
        "the unspecified address"
    } else if addr.is_loopback() {
        "a loopback address"
    } else if link_local {
        "a link-local address"
    } else if addr.is_multicast() {
        "a multicast address"
    } else if addr == IpAddr::V4(std::net::Ipv4Addr::BROADCAST) {
        "the broadcast address"
    } else {
        return Ok(addr);
    };
    Err(BadValue::SpecialAddress(addr, why))
}

/// As [`unicast_address`], but octets may have leading zeros and are decimal all
/// the same: the API server lets these pass where it always did
/// (`ParseIPSloppy` of k8s.io/utils/net).
pub(super) fn sloppy_unicast_address(text: &str) -> Result<IpAddr, BadValue> {
    unicast_address(&without_leading_zeros(text))
}

/// A range of addresses, likewise.
pub(super) fn sloppy_range(text: &str) -> Option<IpNet> {
    let (address, length) = text.trim().split_once('/')?;
    format!("{}/{length}", without_leading_zeros(address)).parse().ok()
}

fn without_leading_zeros(text: &str) -> String {
    if text.contains(':') || !text.contains('.') {
        return text.to_owned();
    }
    let octets = text.split('.').map(|octet| match octet.trim_start_matches('0') {
        "" if !octet.is_empty() => "0",
        digits => digits,
    });
    octets.collect::<Vec<_>>().join(".")
}

/// RFC 1123 label: namespaces, Services and their ports. The map of names has
/// room for exactly this.
pub(super) fn label(text: &str) -> Result<(), BadValue> {
    if is_label(text) { Ok(()) } else { Err(BadValue::Label(text.into())) }
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.len() <= lb_common::value::NAME_LEN
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
}

/// RFC 1123 subdomain: names of all other objects.
pub(super) fn subdomain(text: &str) -> Result<(), BadValue> {
    if text.len() <= 253 && text.split('.').all(is_subdomain_part) {
        Ok(())
    } else {
        Err(BadValue::Subdomain(text.into()))
    }
}

/// As a label, but the API does not limit the length of the parts.
fn is_subdomain_part(part: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
}

/// Name of a container's port.
pub(super) fn service_name(text: &str) -> Result<(), BadValue> {
    let good = is_label(text) && text.len() <= 15 && text.bytes().any(|b| b.is_ascii_lowercase());
    if good { Ok(()) } else { Err(BadValue::ServiceName(text.into())) }
}

/// A protocol of a port.
pub(super) fn protocol(text: Option<&str>) -> Result<Protocol, BadValue> {
    match text {
        None | Some("TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(BadValue::Protocol(other.into())),
    }
}

/// One of a few words.
pub(super) fn choice<'a>(text: &str, words: &[&'a str]) -> Result<&'a str, BadValue> {
    words.iter().find(|word| **word == text).copied().ok_or_else(|| {
        let words: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
        BadValue::Choice(text.into(), words.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_end_at_65535() {
        assert_eq!(port(1), Ok(1));
        assert_eq!(port(65_535), Ok(65_535));
        for bad in [0, -1, 65_536, i32::MIN, i32::MAX] {
            assert_eq!(port(bad), Err(BadValue::Port(bad.into())));
        }
    }

    #[test]
    fn special_addresses_are_refused() {
        for bad in [
            "0.0.0.0",
            "127.0.0.1",
            "169.254.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "010.0.0.1",
            "10.0.0.1/32",
            "10.0.0",
            "fe80::1%eth0",
            "",
            "None",
        ] {
            assert!(unicast_address(bad).is_err(), "{bad}");
        }
        for good in ["10.0.0.1", "192.0.2.255", "fd00::1", "2001:db8::"] {
            assert_eq!(unicast_address(good).map(|addr| addr.to_string()), Ok(good.into()));
        }
    }

    #[test]
    fn leading_zeros_are_read_as_decimal_where_the_api_server_lets_them_pass() {
        let address = |text| sloppy_unicast_address(text).map(|addr| addr.to_string());
        assert_eq!(address("010.0.00.1"), Ok("10.0.0.1".into()));
        assert_eq!(address("fd00::01"), Ok("fd00::1".into()));
        for bad in ["", "1..2.3", "10.0.0.0300", "10.0.0", "0.0.0.0"] {
            assert!(sloppy_unicast_address(bad).is_err(), "{bad}");
        }
        let range = |text| sloppy_range(text).map(|range| range.to_string());
        assert_eq!(range(" 010.1.0.0/16 ").as_deref(), Some("10.1.0.0/16"));
        assert_eq!(range("10.0.0.0"), None);
    }

    #[test]
    fn names_follow_rfc_1123() {
        let longest = "a".repeat(63);
        for good in ["a", "0web", "web-1", &longest] {
            assert_eq!(label(good), Ok(()), "{good}");
        }
        let too_long = "a".repeat(64);
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", "a\0", &too_long] {
            assert!(label(bad).is_err(), "{bad:?}");
        }
        assert_eq!(subdomain("node-1.example"), Ok(()));
        assert!(subdomain("node..example").is_err());
        assert!(subdomain(&format!("{}.b", "a".repeat(252))).is_err());
        assert_eq!(service_name("http-alt"), Ok(()));
        assert!(service_name("8080").is_err());
        assert!(service_name("a-very-long-name").is_err());
    }
}
