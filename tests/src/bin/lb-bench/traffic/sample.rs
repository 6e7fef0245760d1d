//! What is measured, and the figures of one way in one round.

/// A figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Metric {
    /// Connections with a request and its answer, a second.
    Connections,
    /// Microseconds from the call of `connect` until the server's end is seen.
    ConnectP50,
    ConnectP99,
    /// Requests on open connections, a second.
    Requests,
    /// Microseconds from a request to its answer.
    RequestP50,
    RequestP99,
    /// Gigabits a second of one stream.
    Throughput,
    /// Datagrams that were echoed, a second.
    Datagrams,
}

impl Metric {
    /// All of them, in the order of their figures.
    pub(crate) const ALL: [Self; 8] = [
        Self::Connections,
        Self::ConnectP50,
        Self::ConnectP99,
        Self::Requests,
        Self::RequestP50,
        Self::RequestP99,
        Self::Throughput,
        Self::Datagrams,
    ];

    /// What it is called where programs read it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections_per_second",
            Self::ConnectP50 => "connection_p50_microseconds",
            Self::ConnectP99 => "connection_p99_microseconds",
            Self::Requests => "requests_per_second",
            Self::RequestP50 => "request_p50_microseconds",
            Self::RequestP99 => "request_p99_microseconds",
            Self::Throughput => "stream_gigabits_per_second",
            Self::Datagrams => "datagrams_per_second",
        }
    }
}

/// A figure for each.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sample([f64; Metric::ALL.len()]);

impl Sample {
    /// Notes a figure.
    pub(crate) const fn set(&mut self, metric: Metric, figure: f64) {
        self.0[metric as usize] = figure;
    }

    /// A figure.
    pub(crate) const fn get(&self, metric: Metric) -> f64 {
        self.0[metric as usize]
    }
}
