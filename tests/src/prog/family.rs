//! What differs between the maps of the two address families.

use std::net::IpAddr;

use aya::Pod;
use lb_common::{Address, Flow, FlowKey, FrontendKey, V4, V6, names};

/// A family of addresses and its maps.
pub trait Family: Address + Into<IpAddr> {
    /// Key of the frontend map.
    type FrontendKey: Pod + From<FrontendKey<Self>>;
    /// The frontend map.
    const FRONTENDS: &'static str;
    /// The flow map.
    const FLOWS: &'static str;
    /// The key as aya takes it.
    type FlowKey: Pod + From<FlowKey<Self>> + Into<FlowKey<Self>>;
    /// The row as aya takes it.
    type Flow: Pod + From<Flow<Self>> + Into<Flow<Self>>;
}

impl Family for V4 {
    type FrontendKey = FrontendKey<Self>;
    const FRONTENDS: &'static str = names::MAP_FRONTENDS_V4;
    const FLOWS: &'static str = names::MAP_FLOWS_V4;
    type FlowKey = FlowKey<Self>;
    type Flow = Flow<Self>;
}

impl Family for V6 {
    type FrontendKey = FrontendKey<Self>;
    const FRONTENDS: &'static str = names::MAP_FRONTENDS_V6;
    const FLOWS: &'static str = names::MAP_FLOWS_V6;
    type FlowKey = FlowKey<Self>;
    type Flow = Flow<Self>;
}
