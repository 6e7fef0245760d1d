//! Metrics that are read from the kernel, and from the status, at each scrape.

use crate::agent::status::{SharedStatus, unix_now};
use crate::dataplane::maps::{MapFill, Maps, MapsError, Pressure, fill};
use crate::flows::{FlowCount, census};
use crate::view::{Counters, ServiceView, Verdicts, services, verdicts};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

type Labels = Vec<(&'static str, String)>;

/// Reads the maps at each scrape.
pub(super) struct Kernel {
    pub(super) pin_dir: PathBuf,
    pub(super) status: Arc<SharedStatus>,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("pin_dir", &self.pin_dir).finish_non_exhaustive()
    }
}

struct Read {
    services: Vec<ServiceView>,
    verdicts: Verdicts,
    fill: Vec<MapFill>,
    flows: Vec<FlowCount>,
    pressure: Pressure,
}

impl Kernel {
    fn read(&self) -> Result<Read, MapsError> {
        // Those that are pinned now: they may have grown.
        let maps = Maps::open(&self.pin_dir)?;
        Ok(Read {
            services: services(&maps)?,
            verdicts: verdicts(&maps)?,
            fill: fill(&self.pin_dir, &maps)?,
            flows: census(&self.pin_dir)?,
            pressure: maps.pressure.read()?,
        })
    }
}

impl Collector for Kernel {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Read { services, verdicts, fill, flows, pressure } = self.read().map_err(|error| {
            tracing::warn!("metrics: {error}");
            fmt::Error
        })?;
        encode_traffic(&mut encoder, "lb_service", &service_traffic(&services))?;
        encode_traffic(&mut encoder, "lb_backend", &backend_traffic(&services))?;
        counter(
            &mut encoder,
            "lb_service_packets_refused",
            "Packets of clients that were refused",
            services.iter().map(|view| (service_labels(view), view.packets_refused)),
        )?;
        counter(
            &mut encoder,
            "lb_service_packets_dropped",
            "Packets of clients that were dropped, by why",
            services.iter().flat_map(dropped),
        )?;
        let packets = verdicts.iter().flat_map(|(hook, counts)| {
            counts.iter().map(move |(verdict, packets)| {
                let labels = vec![("hook", (*hook).to_owned()), ("verdict", (*verdict).to_owned())];
                (labels, *packets)
            })
        });
        counter(&mut encoder, "lb_packets", "Packets by hook and what became of them", packets)?;
        let what = "Flows that gave way to newer ones, not proven yet or closed";
        total(&mut encoder, "lb_flows_gave_way", what, pressure.gave_way)?;
        let what = "Rows of flows that were evicted while in use, and made again";
        total(&mut encoder, "lb_flow_rows_renewed", what, pressure.renewed)?;
        let what = "Source ports given to newer flows, not rested yet or of flows not proven";
        total(&mut encoder, "lb_snat_ports_gave_way", what, pressure.ports)?;
        let map = |fill: &MapFill| vec![("map", fill.map.to_owned())];
        let used = |fill: &MapFill| fill.used.map(|used| (map(fill), used.into()));
        let entries = fill.iter().filter_map(used);
        gauges(&mut encoder, "lb_map_entries", "Entries in use", entries)?;
        let most = fill.iter().map(|fill| (map(fill), fill.max.into()));
        gauges(&mut encoder, "lb_map_max_entries", "Most entries", most)?;
        let bytes = fill.iter().map(|fill| (map(fill), fill.bytes));
        gauges(&mut encoder, "lb_map_memory_bytes", "Memory of the map", bytes)?;
        encode_flows(&mut encoder, &flows)?;
        self.encode_status(&mut encoder)
    }
}

impl Kernel {
    fn encode_status(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let status = self.status.get();
        let count = |error| status.problems.iter().filter(|p| p.is_error() == error).count() as u64;
        gauge(encoder, "lb_objects_refused", "Objects that are refused", count(true))?;
        gauge(encoder, "lb_objects_warned", "Warnings about objects in force", count(false))?;
        let healthy = u64::from(status.reasons.is_empty());
        gauge(encoder, "lb_healthy", "1 if everything is in order", healthy)?;
        let since = status.source.no_contact_since;
        let help = "1 if the source of Services answers";
        gauge(encoder, "lb_source_in_contact", help, u64::from(since.is_none()))?;
        let help = "For how long the source of Services has not answered";
        let silent = since.map_or(0.0, |since| (unix_now() - since).max(0.0));
        gauge(encoder, "lb_source_no_contact_seconds", help, silent)?;
        let Some(sync) = status.last_sync else { return Ok(()) };
        let help = "When the kernel was last brought up to date";
        gauge(encoder, "lb_sync_last_timestamp_seconds", help, sync.at)
    }
}

/// A counter without labels.
fn total(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    ConstCounter::new(value).encode(metric)
}

/// The flows by kind.
fn encode_flows(encoder: &mut DescriptorEncoder<'_>, flows: &[FlowCount]) -> fmt::Result {
    let samples = flows.iter().map(|count| {
        let labels = [("family", count.family), ("proto", count.protocol), ("state", count.state)];
        (labels.map(|(name, value)| (name, value.to_owned())).to_vec(), count.flows)
    });
    gauges(encoder, "lb_flows", "Flows that are followed", samples)
}

fn dropped(view: &ServiceView) -> [(Labels, u64); 3] {
    let with = |reason: &str, packets| {
        let mut labels = service_labels(view);
        labels.push(("reason", reason.to_owned()));
        (labels, packets)
    };
    [
        with("no_local", view.packets_dropped_no_local),
        with("no_port", view.packets_dropped_no_port),
        with("source_range", view.packets_dropped_source_range),
    ]
}

fn service_traffic(services: &[ServiceView]) -> Vec<(Labels, Counters)> {
    services.iter().map(|view| (service_labels(view), view.counters)).collect()
}

fn backend_traffic(services: &[ServiceView]) -> Vec<(Labels, Counters)> {
    let backends = services.iter().flat_map(|view| {
        view.backends.iter().map(move |backend| {
            let mut labels = service_labels(view);
            labels.push(("address", SocketAddr::new(backend.address, backend.port).to_string()));
            (labels, backend.counters)
        })
    });
    backends.collect()
}

fn service_labels(view: &ServiceView) -> Labels {
    vec![
        ("namespace", view.namespace.clone()),
        ("service", view.name.clone()),
        ("port_name", view.port_name.clone()),
        ("protocol", view.protocol.clone()),
    ]
}

/// Connections, packets and bytes of Service ports or of backends.
fn encode_traffic(
    encoder: &mut DescriptorEncoder<'_>,
    prefix: &str,
    rows: &[(Labels, Counters)],
) -> fmt::Result {
    let connections = rows.iter().map(|(labels, c)| (labels.clone(), c.connections));
    let name = format!("{prefix}_connections");
    counter(encoder, &name, "TCP connections and UDP flows that got a backend", connections)?;
    let directed = |labels: &Labels, direction: &str, value| {
        let mut labels = labels.clone();
        labels.push(("direction", direction.to_owned()));
        (labels, value)
    };
    let packets = rows.iter().flat_map(|(labels, c)| {
        [directed(labels, "in", c.packets_in), directed(labels, "out", c.packets_out)]
    });
    counter(
        encoder,
        &format!("{prefix}_packets"),
        "Packets from (in) and to (out) clients",
        packets,
    )?;
    let bytes = rows.iter().flat_map(|(labels, c)| {
        [directed(labels, "in", c.bytes_in), directed(labels, "out", c.bytes_out)]
    });
    counter(encoder, &format!("{prefix}_bytes"), "Bytes from (in) and to (out) clients", bytes)
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl Iterator<Item = (Labels, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in samples {
        ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl Iterator<Item = (Labels, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in samples {
        ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauge<V: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: V,
) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(metric)
}
