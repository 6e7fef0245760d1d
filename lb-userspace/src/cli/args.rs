//! What can be typed. The texts here are the manual that `--help` prints.

use super::behaviour::BehaviourArgs;
use super::connections::ConnectionsArgs;
use super::source::SourceArgs;
use super::verify::VerifyArgs;
use crate::cmd::check::CheckArgs;
use crate::cmd::cleanup::CleanupArgs;
use crate::dataplane::{DEFAULT_PIN_DIR, SocketClients, TcPreference, XdpPreference};
use crate::desired::Policy;
use crate::netlink::Pattern;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Balances the load of Kubernetes Services with eBPF.
#[derive(Debug, Parser)]
#[command(name = "lb", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Run `lb COMMAND --help` for what a command does and takes.\n\n\
    Exit status: 0 success, 1 failure or unhealthy, 2 wrong usage.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `lb` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the Services of a Kubernetes cluster, or those that a directory of manifests describes
    ///
    /// Loads the BPF programs, attaches them to the interfaces of this network namespace, and follows
    /// every change of the Services and of the network.
    ///
    /// From the Kubernetes API it reads Services, EndpointSlices, its own Node and ServiceCIDRs; from
    /// a directory every .yaml, .yml and .json file (those objects and Pods, as `kubectl get
    /// svc,endpointslices,pods,nodes,servicecidrs -A -o yaml` prints them).
    ///
    /// Ending the agent (SIGTERM, SIGINT) leaves the Services in force; `lb cleanup` removes
    /// everything. Needs root. The environment variable LB_LOG sets what is logged (`warn`,
    /// `debug`; `info` unless set).
    Agent(Box<AgentArgs>),
    /// List the Service ports in force, with their backends and counters
    ///
    /// Reads the kernel, not the agent: it works without one.
    Services(ServicesArgs),
    /// List the connections and exchanges of datagrams that are followed: client, frontend, backend
    ///
    /// Reads the kernel, not the agent: it works without one. STATE is SYN until the client has
    /// gone on from the backend's answer, OPEN, CLOSING once one side has closed, CLOSED, and ACTIVE for UDP; they are
    /// forgotten after 2 minutes, 24 hours, 1 hour, 1 minute, and 2 minutes without a packet.
    /// Connections of this node's own processes are translated in their calls and not listed.
    #[command(visible_alias = "conn")]
    Connections(Box<ConnectionsArgs>),
    /// Tell per object of a directory of manifests whether it is accepted, and why not
    ///
    /// Needs neither root nor BPF. The exit status is 1 if anything is refused.
    Check(CheckArgs),
    /// Remove everything that was loaded, attached or pinned: Services are served no more
    ///
    /// Run it in the network namespace that the agent ran in. Needs root.
    Cleanup(CleanupArgs),
    /// Tell whether everything is in order: hooks, maps, refused objects, last sync
    ///
    /// The exit status is 1 if no agent runs or it can't do its work. Objects that are refused are
    /// listed, and are no reason.
    Status(StatusArgs),
    /// Compare what the kernel holds with what it should: map rows, hooks, pins
    ///
    /// One line for each difference; the exit status is 1 if there is any. The agent is asked, which
    /// puts right what it finds within seconds. With --manifests it is told without one, from the
    /// directory and the network as they are now: give the flags that the agent was given.
    Verify(Box<VerifyArgs>),
    /// Print the completions of a shell: bash, zsh, fish and others
    ///
    /// The Debian package has them in place. Else, for bash: `lb completions bash >
    /// /etc/bash_completion.d/lb`.
    Completions(CompletionsArgs),
}

/// Where everything is pinned.
#[derive(Clone, Debug, Args)]
pub struct PinArgs {
    /// Directory on a BPF file system where programs and maps are pinned
    ///
    /// Each network namespace needs its own.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_DIR)]
    pub pin_dir: PathBuf,
}

/// Where the agent answers.
#[derive(Clone, Debug, Args)]
pub struct SocketArgs {
    /// Where the pins are.
    #[command(flatten)]
    pub pins: PinArgs,
    /// Unix socket on which the agent answers `lb status` [default: /run/lb/NAME.sock, NAME being
    /// the last part of --pin-dir]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl SocketArgs {
    /// The socket that was named, or the one that belongs to the pin directory.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| default_socket(&self.pins.pin_dir))
    }
}

/// The socket that belongs to a pin directory.
pub(super) fn default_socket(pin_dir: &Path) -> PathBuf {
    let mut file = pin_dir.file_name().unwrap_or("lb".as_ref()).to_os_string();
    file.push(".sock");
    Path::new("/run/lb").join(file)
}

/// Arguments of `lb agent`.
#[derive(Clone, Debug, Args)]
pub struct AgentArgs {
    /// Where the Services come from.
    #[command(flatten)]
    pub source: SourceArgs,
    /// A KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1), as kube-proxy's --config takes it
    ///
    /// What it says becomes flags of this command; those that are given here win. What has no effect
    /// is named in a warning. Fields that are unknown are refused. docs/kube-proxy.md has each.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What of that file has no effect.
    #[arg(skip)]
    pub config_warning: Option<String>,
    /// Name of this machine's Node object
    ///
    /// Tells which interfaces lead to the other nodes, and which endpoints are local.
    #[arg(long, value_name = "NAME", env = "NODE_NAME", alias = "hostname-override")]
    pub node_name: Option<String>,
    /// Least time from the end of one update of the kernel to the next that Services ask for; what
    /// changes meanwhile is put in force together. 0: at once, bursts merged
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "0",
        aliases = ["iptables-min-sync-period", "ipvs-min-sync-period"])]
    pub min_sync_period: Duration,
    /// Attach only to interfaces whose name matches, `*` and `?` as in file names; repeatable
    /// [default: every interface that packets of Services may pass]
    #[arg(long = "interface", value_name = "PATTERN")]
    pub interfaces: Vec<Pattern>,
    /// Interfaces that lead to other hosts, in addition to those found; repeatable
    #[arg(long = "uplink", value_name = "PATTERN")]
    pub uplinks: Vec<Pattern>,
    /// How XDP is used on interfaces that lead to other hosts
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    pub xdp: XdpPreference,
    /// How the TC programs are attached
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    pub tc: TcPreference,
    /// Whose sockets reach Services by their own calls (connect, sendmsg) instead of by packets
    ///
    /// Packets of the node's own processes come in by no interface, so this is their only way.
    /// Node ports answer them on loopback addresses too.
    #[arg(long, value_name = "WHOSE", value_enum, default_value_t)]
    pub socket_clients: SocketClients,
    /// How Services without the annotation lb.network/policy pick a backend
    #[arg(long, value_name = "POLICY", value_enum, default_value_t)]
    pub policy: Policy,
    /// How long a backend that joins others takes from a tenth to all of its weight, with the
    /// policies round-robin, random and least-connections; 0 for none
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "0")]
    pub slow_start: Duration,
    /// Source ports for connections that get this node's address [default: the larger range beside
    /// the one of the system's own sockets, net.ipv4.ip_local_port_range, and beside node ports]
    #[arg(long, value_name = "FIRST-LAST", value_parser = port_range)]
    pub snat_ports: Option<RangeInclusive<u16>>,
    /// Rows of the IPv4 flow table; a connection takes two, or three if its source is translated. A
    /// row takes 136 bytes [default: 65536 for each processor, at least 131072 (17 MiB), at most
    /// 1048576; more where more are in use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1024..=16_777_216))]
    pub flows_v4: Option<u32>,
    /// Rows of the IPv6 flow table. A row takes 208 bytes [default: half as many as of the IPv4
    /// flow table]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1024..=16_777_216))]
    pub flows_v6: Option<u32>,
    /// Replace the agent that uses the pin directory, if one does
    ///
    /// It is asked to end only once this one has read its manifests and loaded its programs; if
    /// that fails, it goes on. The programs are exchanged in place, and no packet meets none.
    #[arg(long)]
    pub takeover: bool,
    /// Replace the pins of another release whose layout does not fit, although flows in force are
    /// lost with them
    ///
    /// Services stay in force meanwhile. Without it the agent does not start and says what would
    /// be lost. A change of --flows-v4 or --flows-v6 alone loses nothing, unless the rows in use
    /// don't fit any more.
    #[arg(long)]
    pub replace_layout: bool,
    /// How Services behave.
    #[command(flatten)]
    pub behaviour: BehaviourArgs,
    /// Where the pins are and where the agent answers.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Address for Prometheus and for who looks at this node (/metrics, /healthz, /livez, /proxyMode,
    /// /configz), or `off` [default: 127.0.0.1:10249]
    #[arg(long, value_name = "ADDRESS:PORT", alias = "metrics-bind-address",
        value_parser = |text: &str| listen_address(text, 10_249))]
    pub metrics_addr: Option<ListenAddress>,
    /// Address for load balancers and the kubelet (/healthz, /livez), or `off`; an unspecified
    /// address means both families [default: 0.0.0.0:10256]
    #[arg(long, value_name = "ADDRESS:PORT", alias = "healthz-bind-address",
        value_parser = |text: &str| listen_address(text, 10_256))]
    pub healthz_addr: Option<ListenAddress>,
}

/// Where something is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// Nowhere.
    Off,
    /// On this address.
    On(SocketAddr),
}

/// Arguments of `lb services`.
#[derive(Clone, Debug, Args)]
pub struct ServicesArgs {
    /// Only this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// Where the pins are.
    #[command(flatten)]
    pub pins: PinArgs,
}

/// Arguments of `lb status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// Wait until everything is in order, at most this long (`30s`, `500ms`, `2m`)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub wait: Option<Duration>,
    /// Where the pins are and where the agent answers.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Arguments of `lb completions`.
#[derive(Clone, Debug, Args)]
pub struct CompletionsArgs {
    /// Whose
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: clap_complete::Shell,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port != 0);
    let (first, last) = text
        .split_once('-')
        .and_then(|(first, last)| Some((port(first)?, port(last)?)))
        .ok_or("expected two ports as in 10000-29999")?;
    if first > last {
        return Err(format!("the first port, {first}, is above the last, {last}"));
    }
    Ok(first..=last)
}

/// An empty one means what it means to kube-proxy.
fn listen_address(text: &str, port: u16) -> Result<ListenAddress, String> {
    if text == "off" || text.is_empty() {
        return Ok(ListenAddress::Off);
    }
    socket_address(text, port)
        .map(ListenAddress::On)
        .map_err(|expected| format!("{expected}, or off"))
}

/// An address with a port, or one by itself, which then gets this port.
pub(crate) fn socket_address(text: &str, port: u16) -> Result<SocketAddr, String> {
    text.parse()
        .or_else(|_not_both| text.parse().map(|addr: IpAddr| SocketAddr::new(addr, port)))
        .map_err(|_neither| format!("expected an address with a port as in 127.0.0.1:{port}"))
}

fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" => 60_000,
        _ => 0,
    };
    number
        .parse::<u64>()
        .ok()
        .filter(|_| scale != 0)
        .and_then(|number| number.checked_mul(scale))
        .map(Duration::from_millis)
        .ok_or_else(|| "expected a duration as in 30s, 500ms or 2m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_socket_follows_the_pin_directory() {
        let parse = |args: &[&str]| {
            let Command::Status(args) = Cli::parse_from(args).command else { panic!("{args:?}") };
            args.socket.socket()
        };
        assert_eq!(parse(&["lb", "status"]), Path::new("/run/lb/lb.sock"));
        let other = ["lb", "status", "--pin-dir", "/sys/fs/bpf/node-a"];
        assert_eq!(parse(&other), Path::new("/run/lb/node-a.sock"));
        let named = ["lb", "status", "--socket", "/tmp/x.sock"];
        assert_eq!(parse(&named), Path::new("/tmp/x.sock"));
    }

    #[test]
    fn ranges_durations_and_addresses_are_read_as_people_write_them() {
        assert_eq!(port_range("10000-29999"), Ok(10000..=29999));
        assert!(port_range("29999-10000").is_err() && port_range("0-5").is_err());
        assert!(port_range("1-70000").is_err() && port_range("80").is_err());
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        assert!(duration("s").is_err() && duration("5 days").is_err());
        for (text, address) in [("192.0.2.1:9", "192.0.2.1:9"), ("::1", "[::1]:10249")] {
            let address = ListenAddress::On(address.parse().unwrap());
            assert_eq!(listen_address(text, 10_249), Ok(address), "{text}");
        }
        assert_eq!(listen_address("off", 1), Ok(ListenAddress::Off));
        assert_eq!(listen_address("", 1), Ok(ListenAddress::Off));
        assert!(listen_address("localhost", 1).is_err());
    }
}
