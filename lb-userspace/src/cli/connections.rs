//! What `lb connections` takes.

use super::args::{Format, PinArgs};
use crate::desired::Protocol;
use crate::flows::{FlowFilter, STAGES, ServiceFilter, SocketFilter, stage_name};
use clap::Args;
use ipnet::IpNet;
use lb_common::flow::Stage;
use std::net::{IpAddr, SocketAddr};

/// Arguments of `lb connections`.
#[derive(Clone, Debug, Args)]
pub struct ConnectionsArgs {
    /// Only those of this Service, or of one of its ports by name or number
    #[arg(short, long, value_name = "[NAMESPACE/]NAME[:PORT]", value_parser = service)]
    service: Option<ServiceFilter>,
    /// Only those of Services of this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Only those to this backend
    #[arg(short, long, value_name = "ADDRESS[:PORT]", value_parser = socket)]
    backend: Option<SocketFilter>,
    /// Only those from these clients
    #[arg(short, long, value_name = "ADDRESS|CIDR", value_parser = range)]
    client: Option<IpNet>,
    /// Only those that stand there: syn (not answered), open, closing (by one side), closed, active
    /// (UDP)
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Option<Stage>,
    /// Only those of this protocol: tcp, udp
    #[arg(short, long, value_name = "PROTOCOL", value_parser = protocol)]
    protocol: Option<u8>,
    /// Also connections straight to backends, past any Service
    #[arg(long)]
    all: bool,
    /// Print how many each Service has instead
    #[arg(long, conflicts_with = "limit")]
    pub count: bool,
    /// Print this many at most
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// Where the pins are.
    #[command(flatten)]
    pub pins: PinArgs,
}

impl ConnectionsArgs {
    /// Which flows are asked for.
    pub fn filter(&self) -> FlowFilter {
        FlowFilter {
            namespace: self.namespace.clone(),
            service: self.service.clone(),
            backend: self.backend,
            client: self.client,
            state: self.state,
            protocol: self.protocol,
            direct: self.all,
        }
    }
}

fn service(text: &str) -> Result<ServiceFilter, String> {
    let (namespace, rest) =
        text.split_once('/').map_or((None, text), |(namespace, rest)| (Some(namespace), rest));
    let (name, port) = rest.split_once(':').map_or((rest, None), |(name, port)| (name, Some(port)));
    if name.is_empty() || namespace.is_some_and(str::is_empty) || port.is_some_and(str::is_empty) {
        return Err("expected a Service as in web, default/web or default/web:http".to_owned());
    }
    let owned = |text: Option<&str>| text.map(str::to_owned);
    Ok(ServiceFilter { namespace: owned(namespace), name: name.to_owned(), port: owned(port) })
}

fn socket(text: &str) -> Result<SocketFilter, String> {
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SocketFilter { address, port: None });
    }
    text.parse::<SocketAddr>()
        .map(|socket| SocketFilter { address: socket.ip(), port: Some(socket.port()) })
        .map_err(|_not| "expected 10.0.0.1, 10.0.0.1:80, fd00::1 or [fd00::1]:80".to_owned())
}

fn range(text: &str) -> Result<IpNet, String> {
    text.parse::<IpAddr>()
        .map(IpNet::from)
        .or_else(|_not| text.parse())
        .map_err(|_not| "expected an address or a range as in 10.0.0.0/24".to_owned())
}

fn state(text: &str) -> Result<Stage, String> {
    let wanted = text.to_ascii_lowercase();
    STAGES
        .into_iter()
        .find(|stage| stage_name(*stage) == wanted)
        .ok_or_else(|| format!("expected one of {}", STAGES.map(stage_name).join(", ")))
}

fn protocol(text: &str) -> Result<u8, String> {
    let named = |protocol: &Protocol| protocol.to_string().eq_ignore_ascii_case(text);
    let numbers = 0..=u8::MAX;
    numbers
        .filter_map(Protocol::from_number)
        .find(named)
        .map(Protocol::number)
        .ok_or_else(|| "expected a protocol of Services, as in tcp, udp or sctp".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_as_people_write_them() {
        let web = |namespace: Option<&str>, port: Option<&str>| ServiceFilter {
            namespace: namespace.map(Into::into),
            name: "web".into(),
            port: port.map(Into::into),
        };
        assert_eq!(service("web"), Ok(web(None, None)));
        assert_eq!(service("shop/web"), Ok(web(Some("shop"), None)));
        assert_eq!(service("shop/web:http"), Ok(web(Some("shop"), Some("http"))));
        assert_eq!(service("web:80"), Ok(web(None, Some("80"))));
        for wrong in ["", "/web", "shop/", "web:"] {
            assert!(service(wrong).is_err(), "{wrong}");
        }
        let to = |address: &str, port| SocketFilter { address: address.parse().unwrap(), port };
        assert_eq!(socket("10.0.0.1"), Ok(to("10.0.0.1", None)));
        assert_eq!(socket("10.0.0.1:80"), Ok(to("10.0.0.1", Some(80))));
        assert_eq!(socket("fd00::1"), Ok(to("fd00::1", None)));
        assert_eq!(socket("[fd00::1]:80"), Ok(to("fd00::1", Some(80))));
        assert!(socket("web").is_err());
        assert_eq!(range("10.0.0.1"), Ok("10.0.0.1/32".parse().unwrap()));
        assert_eq!(range("fd00::/8"), Ok("fd00::/8".parse().unwrap()));
        assert!(range("10.0.0.0/33").is_err());
        assert_eq!(state("CLOSED"), Ok(Stage::Closed));
        assert!(state("done").is_err());
        assert_eq!((protocol("tcp"), protocol("UDP")), (Ok(6), Ok(17)));
        assert!(protocol("icmp").is_err());
    }
}
