//! What every exporter tells of its process, from /proc/self.

use procfs::ProcResult;
use procfs::process::{LimitValue, Process as Proc};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;

/// Read at each scrape.
#[derive(Debug)]
pub(super) struct Process;

struct Read {
    cpu_seconds: f64,
    start: f64,
    resident: u64,
    virtual_: u64,
    open_fds: u64,
    max_fds: Option<u64>,
}

#[expect(clippy::cast_precision_loss, reason = "seconds, for people")]
fn read() -> ProcResult<Read> {
    let process = Proc::myself()?;
    let stat = process.stat()?;
    let ticks = procfs::ticks_per_second() as f64;
    let limit = process.limits()?.max_open_files.soft_limit;
    let boot = procfs::boot_time_secs()? as f64;
    Ok(Read {
        cpu_seconds: (stat.utime + stat.stime) as f64 / ticks,
        start: boot + stat.starttime as f64 / ticks,
        resident: stat.rss * procfs::page_size(),
        virtual_: stat.vsize,
        open_fds: process.fd_count()? as u64,
        max_fds: match limit {
            LimitValue::Value(most) => Some(most),
            LimitValue::Unlimited => None,
        },
    })
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // Without /proc the other metrics are worth having all the same.
        let Ok(read) = read() else { return Ok(()) };
        let help = "Total user and system CPU time spent in seconds";
        let metric =
            encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
        ConstCounter::new(read.cpu_seconds).encode(metric)?;
        let mut gauge = |name: &str, help: &str, value: f64| {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)
        };
        let help = "Start time of the process since unix epoch in seconds";
        gauge("process_start_time_seconds", help, read.start)?;
        let mut gauge = |name: &str, help: &str, value: u64| {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)
        };
        gauge("process_resident_memory_bytes", "Resident memory size in bytes", read.resident)?;
        gauge("process_virtual_memory_bytes", "Virtual memory size in bytes", read.virtual_)?;
        gauge("process_open_fds", "Number of open file descriptors", read.open_fds)?;
        if let Some(most) = read.max_fds {
            gauge("process_max_fds", "Maximum number of open file descriptors", most)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_run_and_holds_memory() {
        let read = read().unwrap();
        let now = crate::agent::unix_now();
        assert!(read.start > 1e9 && read.start < now + 2.0, "{}", read.start);
        assert!(read.resident > 1 << 20 && read.virtual_ >= read.resident);
        assert!(read.open_fds >= 3);
    }
}
