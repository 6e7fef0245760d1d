//! The agent and command line of the eBPF Service load balancer, as a library:
//! the binary `lb` is a thin layer over it, and the tests use its parts.

pub mod agent;
pub mod cli;
pub mod cmd;
pub mod dataplane;
pub mod desired;
pub mod drift;
pub mod flows;
pub mod kube_proxy;
pub mod model;
pub mod netlink;
pub mod object;
mod plugin;
pub mod privilege;
pub mod reconcile;
pub mod source;
pub mod view;
