//! Prometheus' text format, read as a stranger reads it.

use crate::client::Connection;
use crate::http::Message;
use crate::netns::Namespace;
use anyhow::{Context as _, Result, ensure};
use prometheus_parse::Scrape;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

pub use prometheus_parse::{Sample, Value as Measured};

/// kube-proxy's port for metrics.
pub const METRICS: u16 = 10_249;

/// What is answered on a port of a namespace.
pub fn ask(netns: &Namespace, port: u16, path: &str) -> Result<Message> {
    let to: SocketAddr = (Ipv4Addr::LOCALHOST, port).into();
    Ok(netns.run(|| Connection::open(to)?.exchange("GET", path, &[]))??)
}

/// What is answered with status 200.
pub fn text(netns: &Namespace, port: u16, path: &str) -> Result<String> {
    let page = ask(netns, port, path)?;
    ensure!(page.start.starts_with("HTTP/1.1 200 "), "{path}: {}", page.start);
    Ok(String::from_utf8(page.body)?)
}

/// The metrics of an agent, as a stranger's parser reads it, with all that a strict one minds.
pub fn scrape(netns: &Namespace) -> Result<(Vec<Sample>, BTreeMap<String, String>)> {
    let page = ask(netns, METRICS, "/metrics")?;
    let kind = page.header("content-type").unwrap_or_default();
    ensure!(kind == "text/plain; version=0.0.4; charset=utf-8", "{kind}");
    let text = String::from_utf8(page.body)?;
    let families = families(&text)?;
    let scrape = Scrape::parse(text.lines().map(|line| Ok(line.to_owned())))?;
    Ok((scrape.samples, families))
}

/// Types by family. Each is announced once, before its samples, which are all of it
/// and follow each other; no series is there twice.
fn families(text: &str) -> Result<BTreeMap<String, String>> {
    let mut types = BTreeMap::new();
    let mut series = BTreeSet::new();
    let mut current = (String::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').context("a type")?;
            ensure!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            ensure!(kind != "counter" || name.ends_with("_total"), "{line}");
            ensure!(!name.ends_with("_total_total"), "{line}");
            current = (name.to_owned(), kind.to_owned());
            ensure!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
        } else if !line.starts_with("# HELP ") {
            let (id, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
            value.parse::<f64>().with_context(|| line.to_owned())?;
            ensure!(series.insert(id.to_owned()), "twice: {line}");
            let name = id.split('{').next().unwrap_or_default();
            let suffix = name.strip_prefix(current.0.as_str());
            let fits = match current.1.as_str() {
                "histogram" => matches!(suffix, Some("_bucket" | "_sum" | "_count")),
                _ => suffix == Some(""),
            };
            ensure!(fits, "{line} is no sample of {}", current.0);
        }
    }
    Ok(types)
}

/// What one line of the exposition says; the parser takes histograms as a whole.
pub fn line(netns: &Namespace, name: &str, labels: &[(&str, &str)]) -> Result<Option<f64>> {
    let text = text(netns, METRICS, "/metrics")?;
    let is = |id: &str| {
        let (own, rest) = id.split_once('{').unwrap_or((id, ""));
        own == name
            && labels.iter().all(|(label, value)| {
                let pair = format!("{label}=\"{value}\"");
                rest.trim_end_matches('}').split(',').any(|part| part == pair)
            })
    };
    let found = text.lines().filter_map(|line| line.rsplit_once(' ')).find(|(id, _)| is(id));
    Ok(found.map(|(_, value)| value.parse()).transpose()?)
}
