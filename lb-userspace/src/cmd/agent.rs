//! `lb agent`.

use crate::agent::{self, Config};
use crate::cli::AgentArgs;
use crate::dataplane::{HookOptions, MapSizes};
use crate::desired::CompileOptions;
use crate::netlink::WatchOptions;
use anyhow::Context as _;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Runs the agent until it is told to end.
pub fn run(args: AgentArgs) -> anyhow::Result<ExitCode> {
    log_to_stderr();
    if let Some(warning) = &args.config_warning {
        tracing::warn!("{warning}");
    }
    let config = config(args);
    agent::prepare(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the agent's threads")?;
    runtime.block_on(agent::run(config))?;
    Ok(ExitCode::SUCCESS)
}

/// What is logged unless `LB_LOG` says otherwise: of what happens to the
/// Kubernetes API's watches, the agent tells itself.
const LOGGED: &str = "info,kube_client=off,kube_runtime=off";

/// One line for each event; `LB_LOG` sets the level (`debug`, `lb_userspace=trace`).
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("LB_LOG").unwrap_or_else(|_| EnvFilter::new(LOGGED));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

fn config(args: AgentArgs) -> Config {
    let socket = args.socket.socket();
    let mut hooks = HookOptions::new(&args.socket.pins.pin_dir);
    hooks.xdp = args.xdp;
    hooks.tc = args.tc;
    hooks.behaviour = args.behaviour.programs();
    hooks.socket_clients = args.socket_clients;
    hooks.replace_layout = args.replace_layout;
    let snat_ports_given = args.snat_ports.is_some();
    if let Some(ports) = args.snat_ports {
        hooks.snat_ports = ports;
    }
    let flows_given = [args.flows_v4.is_some(), args.flows_v6.is_some()];
    let sizes = MapSizes::for_this_machine();
    hooks.sizes = MapSizes {
        flows_v4: args.flows_v4.unwrap_or(sizes.flows_v4),
        flows_v6: args.flows_v6.unwrap_or(sizes.flows_v6),
        ..sizes
    };
    let source = args.source.source(args.node_name.as_deref(), &args.socket.pins.pin_dir);
    Config {
        source,
        compile: CompileOptions {
            node_name: args.node_name,
            default_policy: args.policy,
            external_ips: args.behaviour.external_ips.is_on(),
        },
        slow_start: args.slow_start,
        min_sync_period: args.min_sync_period,
        network: WatchOptions {
            interfaces: args.interfaces,
            uplinks: args.uplinks,
            local_clients: args.behaviour.local_clients(),
            ..WatchOptions::default()
        },
        hooks,
        snat_ports_given,
        flows_given,
        behaviour: args.behaviour,
        socket,
        takeover: args.takeover,
        metrics: args.metrics_addr,
        healthz: args.healthz_addr,
    }
}
