//! Clients of the agent that stall, ask for more than they take, or send more
//! than a question, in whatever number, keep nobody else from an answer and take
//! neither the agent's memory nor its file descriptors.

use anyhow::{Context as _, Result, ensure};
use lb_tests::agent::{Agent, Options, SOCKETS};
use lb_tests::client::Connection;
use lb_tests::netns::{Namespace, Naming};
use lb_tests::privilege::root_or_skip;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10_249);
const HEALTHZ: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10_256);
/// More of a kind than the agent has room for.
const MANY: usize = 300;
/// How long an answer may take beside all of them.
const SOON: Duration = Duration::from_secs(5);
/// What the agent may hold open and take in memory for them, as it may with
/// none.
const DESCRIPTORS: usize = 560;
const KIBIBYTES: u64 = 48 * 1024;

/// One that says something and then nothing, and takes no answer.
fn stall<S: Write>(mut stream: S, what: &[u8]) -> S {
    // The agent may end it meanwhile, and takes no more than it has room for.
    let _ = stream.write_all(what);
    stream
}

fn tcp(to: SocketAddr, what: &[u8]) -> Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_write_timeout(Some(Duration::from_millis(20)))?;
    Ok(stall(stream, what))
}

fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let text = line.context("a process has a size")?.trim_end_matches("kB").trim();
    Ok(text.parse()?)
}

fn check_answers(netns: &Namespace, agent: &Agent) -> Result<()> {
    let begin = Instant::now();
    netns.run(|| -> Result<()> {
        for (to, path) in [(METRICS, "/metrics"), (METRICS, "/healthz"), (HEALTHZ, "/livez")] {
            let page = Connection::open(to)?.request("GET", path, &[])?;
            ensure!(page.start == "HTTP/1.1 200 OK", "{path}: {page:?}");
        }
        Ok(())
    })??;
    agent.status()?;
    ensure!(agent.verify(&[])?.is_empty(), "something was changed");
    ensure!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    Ok(())
}

#[test]
fn whoever_stalls_or_floods_keeps_nobody_from_an_answer() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let home = tempfile::tempdir()?;
    let netns = Namespace::new(Naming::Unique, "clients")?;
    netns.ip(&["link set lo up".to_owned()])?;
    let options = Options { xdp: "auto", tc: "auto", more: &[] };
    let agent = Agent::start(&netns, "node-a", home.path(), options)?;
    let pid = agent.pid().context("it runs")?;
    check_answers(&netns, &agent)?;
    let before = resident(pid)?;

    let socket = Path::new(SOCKETS).join(format!("{}.sock", netns.name()));
    let huge = vec![b'x'; 1 << 20];
    let questions = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2_000);
    let stalled = netns.run(|| -> Result<_> {
        let mut stalled = Vec::new();
        for to in [METRICS, HEALTHZ] {
            for what in [&huge, questions.as_slice(), b"GET /metr"] {
                // Those of before were given up by the agent, or are now.
                stalled.retain(|stream: &TcpStream| {
                    stream.peer_addr().is_ok_and(|address| address != to)
                });
                let mut scraper = Connection::open(METRICS)?;
                scraper.request("GET", "/metrics", &[])?;
                for _ in 0..MANY {
                    stalled.push(tcp(to, what)?);
                }
                // While they hold on, and none of them gets away with it.
                check_answers(&netns, &agent)?;
                // Who has asked before they came stays beside those who don't ask.
                if what != questions {
                    scraper.request("GET", "/metrics", &[])?;
                }
            }
        }
        Ok(stalled)
    })??;
    let mut asking = Vec::new();
    for what in [&b""[..], b"verify\n", &huge] {
        for _ in 0..MANY {
            let stream = UnixStream::connect(&socket)?;
            stream.set_write_timeout(Some(Duration::from_millis(20)))?;
            asking.push(stall(stream, what));
        }
    }
    check_answers(&netns, &agent)?;
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    let more = resident(pid)?.saturating_sub(before);
    println!(
        "{} clients: {descriptors} descriptors, {more} KiB more",
        stalled.len() + asking.len()
    );
    ensure!(descriptors <= DESCRIPTORS, "{descriptors} descriptors");
    ensure!(more <= KIBIBYTES, "{more} KiB more");
    Ok(())
}
