//! Declares the map types plain old data, for aya.

use crate::addr::{V4, V6};
use crate::flow::Flow;
use crate::key::{AffinityKey, FlowKey, FrontendKey, PrefixKey};
use crate::socket::{SocketKey, SocketName, SocketPeer};
use crate::value::{Affinity, Backend, Frontend, Interface, Service, ServiceName, Traffic};

macro_rules! pod {
    ($($t:ty),* $(,)?) => {
        // SAFETY: `repr(C)`, integers only, no implicit padding (every type's
        // size is asserted where it is defined), so any bytes are valid.
        $(unsafe impl aya::Pod for $t {})*
    };
}

pod!(
    Affinity,
    AffinityKey<V4>,
    AffinityKey<V6>,
    Backend,
    Flow<V4>,
    Flow<V6>,
    FlowKey<V4>,
    FlowKey<V6>,
    Frontend,
    FrontendKey<V4>,
    FrontendKey<V6>,
    Interface,
    PrefixKey<V4>,
    PrefixKey<V6>,
    Service,
    ServiceName,
    SocketKey,
    SocketName,
    SocketPeer,
    Traffic,
);
