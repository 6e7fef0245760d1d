//! Names of Service ports as the kernel keeps them, and back.

use crate::desired::{DesiredService, Protocol, ServicePortKey};
use lb_common::value::NAME_LEN;
use lb_common::{BePort, ServiceName};

/// The row that names a Service port, or which part of its name is too long.
pub(super) fn name_of(service: &DesiredService) -> Result<ServiceName, &'static str> {
    let key = &service.key;
    Ok(ServiceName {
        namespace: padded(&key.namespace).ok_or("namespace")?,
        name: padded(&key.name).ok_or("name")?,
        port_name: padded(&key.port_name).ok_or("port name")?,
        proto: key.protocol.number(),
        port: BePort::new(service.port),
        node_port: service.node_port.map_or(BePort::NONE, BePort::new),
    })
}

/// The key of a named Service port; `None` if the row makes no sense.
pub fn key_of(name: &ServiceName) -> Option<ServicePortKey> {
    Some(ServicePortKey {
        namespace: text(&name.namespace)?,
        name: text(&name.name)?,
        port_name: text(&name.port_name)?,
        protocol: Protocol::from_number(name.proto)?,
    })
}

fn padded(text: &str) -> Option<[u8; NAME_LEN]> {
    let mut bytes = [0; NAME_LEN];
    bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
    Some(bytes)
}

fn text(bytes: &[u8; NAME_LEN]) -> Option<String> {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(NAME_LEN);
    std::str::from_utf8(&bytes[..end]).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> DesiredService {
        let key = ServicePortKey {
            namespace: "default".into(),
            name: name.into(),
            port_name: String::new(),
            protocol: Protocol::Udp,
        };
        DesiredService::bare(key, 53)
    }

    #[test]
    fn a_name_comes_back_as_it_was() {
        for name in ["dns", &"x".repeat(NAME_LEN)] {
            let service = service(name);
            assert_eq!(key_of(&name_of(&service).unwrap()), Some(service.key));
        }
        assert_eq!(name_of(&service(&"x".repeat(NAME_LEN + 1))).err(), Some("name"));
    }
}
