//! As many Services, told by an API server.

use super::{LIMIT, Size, objects, until_changed, web};
use crate::agent::{Agent, Options};
use crate::api_server::ApiServer;
use crate::cluster::{Cluster, Setup};
use crate::deadline;
use crate::manifest::items;
use crate::topology::Wiring;
use anyhow::{Result, ensure};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// Where the API server listens, in the node's own namespace.
const ADDRESS: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 6443);

/// One node with an agent that follows an API server with all of them.
#[derive(Debug)]
pub struct ApiField {
    /// The agent.
    pub agent: Agent,
    server: ApiServer,
    cluster: Cluster,
}

impl ApiField {
    /// Starts the server, then the agent; how long that took until all of the
    /// Services are in force.
    pub fn start(size: Size) -> Result<(Self, Duration)> {
        let cluster = Cluster::without_agents(Setup::tc(Wiring::Routed))?;
        let server = ApiServer::new()?;
        let many = (0..size.services).flat_map(|n| objects(n, size.endpoints, size.rich));
        let pods = |item: &serde_json::Value| item["kind"] != "Pod";
        let own = items(&cluster.topology, &[web(&cluster, false)]);
        server.publish(many.chain(own).filter(pods).collect());
        let node = &cluster.topology.nodes[0];
        server.listen(&node.netns, ADDRESS.into())?;
        let source = server.source(ADDRESS.into())?;
        let options = Options { xdp: "off", tc: "auto", more: &[] };
        let mut agent = Agent::launch(&node.netns, &node.name, source, options)?;
        agent.ready_within(LIMIT * 6)?;
        agent.terminate()?;
        agent.cleanup()?;
        // Now that the server has its answers ready.
        let begin = Instant::now();
        agent.run()?;
        agent.ready_within(LIMIT * 6)?;
        let took = begin.elapsed();
        Ok((Self { agent, server, cluster }, took))
    }

    /// Adds an endpoint to the real Service, or takes it away; how long it took
    /// from when the server has it until a connection reaches it, or none does.
    pub fn change(&self, second: bool) -> Result<Duration> {
        let service = web(&self.cluster, second);
        let changed = items(&self.cluster.topology, std::slice::from_ref(&service));
        let slices = changed.into_iter().filter(|item| item["kind"] == "EndpointSlice");
        until_changed(&self.cluster, &service, second, || {
            slices.for_each(|slice| self.server.put(slice));
        })
    }

    /// Lets the server forget, and waits until everything was listed again.
    pub fn list_again(&self) -> Result<()> {
        let lists = || {
            let requests = self.server.requests();
            requests
                .iter()
                .filter(|one| one.contains("endpointslices?") && !one.contains("watch="))
                .count()
        };
        let before = lists();
        self.server.compact();
        deadline::until("another list", LIMIT, || (lists() > before).then_some(()))?;
        deadline::until("another watch", LIMIT * 6, || {
            (self.server.watches("endpointslices") == 1).then_some(())
        })?;
        ensure!(self.agent.verify(&[])?.is_empty());
        Ok(())
    }
}
