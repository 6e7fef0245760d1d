//! How fast the agent follows an API server with many Services, as root. For figures
//! that mean something, build it and `lb` for release.

use anyhow::{Context as _, Result};
use lb_tests::scale::{APART, ApiField, Size};
use std::thread;
use std::time::{Duration, Instant};

/// Changes that are measured.
const ROUNDS: usize = 50;
/// With the real one, 10,000 Services and 20,000 endpoints, then 250,000.
const SMALL: Size = Size { services: 9_999, endpoints: 2, rich: false };
const LARGE: Size = Size { services: 9_999, endpoints: 25, rich: false };

fn main() -> Result<()> {
    [SMALL, LARGE].into_iter().try_for_each(follow)
}

/// With an API server as the source.
#[expect(clippy::print_stdout, reason = "what this program is for")]
fn follow(size: Size) -> Result<()> {
    let (field, cold) = ApiField::start(size)?;
    let pid = field.agent.pid().context("no process id")?.into();
    let Size { services, endpoints, .. } = size;
    println!(
        "{services} Services with {endpoints} endpoints each, by the API: in force after {cold:.0?}; {}",
        memory(pid)?
    );
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        thread::sleep(APART);
        times.push(field.change(true)?);
        thread::sleep(APART);
        field.change(false)?;
    }
    times.sort_unstable();
    let [median, max] = [times[ROUNDS / 2], times[ROUNDS - 1]];
    println!("  an endpoint more: median {median:.1?}, slowest of {ROUNDS} {max:.1?}");
    let ((), again) = timed(|| field.list_again())?;
    println!("  listed again within {again:.0?}; {}", memory(pid)?);
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
