//! How fast the agent is with many Services: `lb-scale [yaml|json|compact|documents|files]...`,
//! as root. For figures that mean something, build it and `lb` for release.

use anyhow::{Context as _, Result, bail};
use lb_tests::scale::{Field, LARGE, Shape};
use std::time::{Duration, Instant};

/// Changes that are measured.
const ROUNDS: usize = 50;

fn main() -> Result<()> {
    let named: Vec<Shape> =
        std::env::args().skip(1).map(|name| shape(&name)).collect::<Result<_>>()?;
    for shape in if named.is_empty() { Shape::ALL.to_vec() } else { named } {
        measure(shape)?;
    }
    Ok(())
}

fn shape(name: &str) -> Result<Shape> {
    let found =
        Shape::ALL.into_iter().find(|shape| format!("{shape:?}").eq_ignore_ascii_case(name));
    found.with_context(|| {
        format!("usage: lb-scale [yaml|json|compact|documents|files]..., not {name:?}")
    })
}

#[expect(clippy::print_stdout, reason = "what this program is for")]
fn measure(shape: Shape) -> Result<()> {
    let (field, cold) = Field::start(LARGE, shape)?;
    let status = field.agent.status()?;
    let pid = status["agent"]["pid"].as_u64().context("no process id")?;
    println!("{shape:?}: in force after {cold:.0?}; {}", memory(pid)?);
    let mut times = Vec::new();
    let mut most = [0; 2];
    for round in 0..ROUNDS {
        let took = field.change(true)?;
        let sync = field.last_sync()?;
        most = [most[0].max(sync[0]), most[1].max(sync[1])];
        times.push(took);
        field.change(false)?;
        if round == 0 && sync[0] != 1 {
            bail!("an endpoint changed {} Service ports", sync[0]);
        }
    }
    times.sort_unstable();
    let [median, max] = [times[ROUNDS / 2], times[ROUNDS - 1]];
    println!("  an endpoint more: median {median:.1?}, slowest of {ROUNDS} {max:.1?}");
    println!("  at most {} Service ports and {} writes each", most[0], most[1]);
    let commands = ["services", "status"].map(|name| timed(|| field.agent.text(name)));
    let [services, status] = commands;
    println!("  lb services {:.0?}, lb status {:.0?}; {}", services?.1, status?.1, memory(pid)?);
    Ok(())
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let begin = Instant::now();
    Ok((work()?, begin.elapsed()))
}

/// Memory of a process, and the most that it had.
fn memory(pid: u64) -> Result<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).context("read its memory")?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.map_or_else(|| "?".to_owned(), |kib| format!("{} MiB", kib / 1024))
    };
    Ok(format!(
        "memory {} (own {}), at most {}",
        field("VmRSS:"),
        field("RssAnon:"),
        field("VmHWM:")
    ))
}
