//! The rig that the tests and the demo share: single packets through single
//! programs; network namespaces with nodes and pods, real servers and clients
//! in them, manifests, and the agent as a process.

pub mod agent;
pub mod api_server;
pub mod balance;
pub mod bpf;
pub mod budget;
pub mod chart;
pub mod client;
pub mod cluster;
pub mod cni;
pub mod container;
pub mod count;
pub mod deadline;
pub mod exposition;
pub mod faults;
pub mod flood;
pub mod fragments;
pub mod http;
pub mod interrupt;
pub mod ip;
pub mod kube_proxy;
pub mod link;
pub mod live;
pub mod manifest;
pub mod model;
pub mod netfilter;
pub mod netns;
pub mod packet;
pub mod path;
pub mod privilege;
pub mod process;
pub mod prog;
pub mod scale;
pub mod sctp;
pub mod server;
pub mod stack;
pub mod streams;
pub mod topology;
pub mod traffic;
pub mod tunnel;
pub mod xdp_pass;
