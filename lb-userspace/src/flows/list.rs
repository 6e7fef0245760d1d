//! The flows one by one, for `lb connections`.

use super::names::Names;
use super::{RowKind, monotonic_now, names};
use crate::dataplane::maps::{FlowFamily, FlowRows, FlowTable, Maps, MapsError};
use ipnet::IpNet;
use lb_common::flow::{Stage, flag};
use lb_common::{Flow, V4, V6};
use serde::{Serialize, Serializer};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// A flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowView {
    /// `TCP` or `UDP`.
    pub protocol: &'static str,
    /// Where it stands.
    #[serde(serialize_with = "by_name")]
    pub state: Stage,
    /// In how many seconds it is forgotten unless a packet comes.
    pub expires_seconds: u64,
    /// Since when no packet came.
    pub idle_seconds: u64,
    /// Who began it.
    pub client: SocketAddr,
    /// What the client dialled.
    pub frontend: SocketAddr,
    /// Who serves it.
    pub backend: SocketAddr,
    /// As whom the backend sees the client, if not as itself: this node, or
    /// the client with another port.
    pub source: Option<SocketAddr>,
    /// Whether the client dialled the backend itself, past any Service.
    pub direct: bool,
    /// Namespace of the Service; none if it is gone.
    pub namespace: Option<String>,
    /// Name of the Service.
    pub service: Option<String>,
    /// Name of the Service's port; empty if it has none.
    pub port_name: Option<String>,
    /// The Service's port.
    pub port: Option<u16>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn by_name<S: Serializer>(stage: &Stage, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(super::stage_name(*stage))
}

/// A Service: by name, by namespace and name, or one of its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFilter {
    /// Namespace.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Name or number of the port.
    pub port: Option<String>,
}

/// An address, perhaps with a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketFilter {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: Option<u16>,
}

/// Which flows are listed; those that pass all filters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// Of this namespace.
    pub namespace: Option<String>,
    /// Of this Service.
    pub service: Option<ServiceFilter>,
    /// To this backend.
    pub backend: Option<SocketFilter>,
    /// From one of these addresses.
    pub client: Option<IpNet>,
    /// Standing there.
    pub state: Option<Stage>,
    /// Of this IP protocol number.
    pub protocol: Option<u8>,
    /// Those past any Service too.
    pub direct: bool,
}

impl FlowFilter {
    /// What can be told without the Service's name.
    fn admits<A: FlowFamily>(&self, flow: &Flow<A>) -> bool {
        let client: IpAddr = flow.client.into();
        let backend: IpAddr = flow.backend_addr.into();
        let same_backend = |wanted: SocketFilter| {
            wanted.address == backend
                && wanted.port.is_none_or(|port| port == flow.backend_port.get())
        };
        (self.direct || flow.flags & flag::DIRECT == 0)
            && self.protocol.is_none_or(|proto| proto == flow.proto)
            && self.state.is_none_or(|stage| stage == flow.stage())
            && self.client.is_none_or(|range| range.contains(&client))
            && self.backend.is_none_or(same_backend)
    }

    fn names(&self, view: &FlowView) -> bool {
        let is =
            |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        let Some(service) = &self.service else { return is(&self.namespace, &view.namespace) };
        let port = service.port.as_ref().is_none_or(|port| {
            view.port_name.as_ref() == Some(port)
                || view.port.is_some_and(|number| number.to_string() == *port)
        });
        is(&self.namespace, &view.namespace)
            && is(&service.namespace, &view.namespace)
            && view.service.as_ref() == Some(&service.name)
            && port
    }
}

/// The flows that pass the filter, each once: by Service, then by client.
pub fn list(pin_dir: &Path, filter: &FlowFilter) -> Result<Vec<FlowView>, MapsError> {
    let maps = Maps::open(pin_dir)?;
    let names = Names::read(&maps)?;
    let mut views = Vec::new();
    family::<V4>(pin_dir, &names, filter, &mut views)?;
    family::<V6>(pin_dir, &names, filter, &mut views)?;
    views.sort_by(|a, b| order(a).cmp(&order(b)));
    Ok(views)
}

fn order(view: &FlowView) -> impl Ord + '_ {
    let FlowView { namespace, service, port_name, protocol, client, frontend, backend, .. } = view;
    // Flows without a Service come last.
    (service.is_none(), namespace, service, port_name, protocol, frontend, client, backend)
}

fn family<A: FlowFamily>(
    pin_dir: &Path,
    names: &Names<'_>,
    filter: &FlowFilter,
    views: &mut Vec<FlowView>,
) -> Result<(), MapsError> {
    let table = FlowTable::<A>::open(pin_dir)?;
    let now = monotonic_now();
    let mut walk = FlowRows::new();
    while table.read(&mut walk)? {
        for (key, flow) in walk.rows().filter(|(_, flow)| filter.admits(flow)) {
            let tells = match RowKind::of(key, flow) {
                RowKind::Forward => true,
                // Only where the forward row is not there to tell of the flow.
                RowKind::Reverse => {
                    !table.get(&flow.forward_key())?.is_some_and(|row| row.is_same_run(flow))
                }
                RowKind::Restore => false,
            };
            if tells {
                let view = view(flow, names, now);
                if filter.names(&view) {
                    views.push(view);
                }
            }
        }
    }
    Ok(())
}

fn view<A: FlowFamily>(flow: &Flow<A>, names: &Names<'_>, now: u64) -> FlowView {
    const SECOND: u64 = 1_000_000_000;
    let socket = |addr: A, port: lb_common::BePort| SocketAddr::new(addr.into(), port.get());
    let source = if flow.has_snat() {
        Some(socket(flow.snat, flow.snat_port))
    } else {
        (flow.source_port != flow.client_port).then(|| socket(flow.client, flow.source_port))
    };
    let idle = now.saturating_sub(flow.last_used);
    let name = names.of(flow);
    FlowView {
        protocol: names::protocol(flow.proto),
        state: flow.stage(),
        expires_seconds: flow.kept_for().saturating_sub(idle).div_ceil(SECOND),
        idle_seconds: idle / SECOND,
        client: socket(flow.client, flow.client_port),
        frontend: socket(flow.frontend, flow.frontend_port),
        backend: socket(flow.backend_addr, flow.backend_port),
        source,
        direct: flow.flags & flag::DIRECT != 0,
        namespace: name.map(|name| name.namespace.clone()),
        service: name.map(|name| name.service.clone()),
        port_name: name.map(|name| name.port_name.clone()),
        port: name.map(|name| name.port),
    }
}
