//! What `lb verify` takes.

use super::args::{Format, SocketArgs};
use super::behaviour::BehaviourArgs;
use crate::dataplane::SocketClients;
use crate::desired::Policy;
use crate::netlink::Pattern;
use clap::Args;
use std::path::PathBuf;

/// Arguments of `lb verify`.
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// Where the pins are and where the agent answers.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Directory with the manifests: tell it from them, without an agent
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// Name of this machine's Node object, as the agent was told
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// The agent's --interface; repeatable
    #[arg(long = "interface", value_name = "PATTERN")]
    pub interfaces: Vec<Pattern>,
    /// The agent's --uplink; repeatable
    #[arg(long = "uplink", value_name = "PATTERN")]
    pub uplinks: Vec<Pattern>,
    /// The agent's --socket-clients
    #[arg(long, value_name = "WHOSE", value_enum, default_value_t)]
    pub socket_clients: SocketClients,
    /// The agent's --policy
    #[arg(long, value_name = "POLICY", value_enum, default_value_t)]
    pub policy: Policy,
    /// How Services behave.
    #[command(flatten)]
    pub behaviour: BehaviourArgs,
}
