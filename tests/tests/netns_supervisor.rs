//! What systemd is told by an agent that it started with `Type=notify`: sd_notify(3).

use anyhow::{Context as _, Result, ensure};
use lb_tests::agent::BPF_FS;
use lb_tests::deadline::patient;
use lb_tests::netns::{Namespace, Naming};
use lb_tests::privilege::root_or_skip;
use lb_tests::process::{Process, binary};
use nix::sys::signal::Signal;
use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn the_supervisor_is_told_of_the_agents_life() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let netns = Namespace::new(Naming::Unique, "notify")?;
    let home = tempfile::tempdir()?;
    let manifests = home.path().join("manifests");
    fs::create_dir(&manifests)?;
    let (socket, log) = (home.path().join("notify"), home.path().join("log"));
    let supervisor = UnixDatagram::bind(&socket)?;
    supervisor.set_read_timeout(Some(patient(LIMIT)))?;
    let pins = Path::new(BPF_FS).join(netns.name());
    let output = File::create(&log)?;
    let mut command = netns.command(&binary("lb")?);
    command.args(["agent", "--metrics-addr", "off", "--healthz-addr", "off"]);
    command.arg("--manifests").arg(&manifests).arg("--pin-dir").arg(&pins);
    command.arg("--socket").arg(home.path().join("lb.sock")).env("NOTIFY_SOCKET", &socket);
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let mut agent = Process::start(&mut command)?;
    let hear = |wanted: &str| -> Result<()> {
        let mut text = [0; 256];
        loop {
            let len = supervisor.recv(&mut text).with_context(|| {
                let log = fs::read_to_string(&log).unwrap_or_default();
                format!("{wanted} is not told: {log}")
            })?;
            let told = std::str::from_utf8(&text[..len])?.trim();
            if told == wanted {
                return Ok(());
            }
            ensure!(told == "WATCHDOG=1", "{told} before {wanted}");
        }
    };
    hear("READY=1")?;
    let pinned = pins.join("maps").exists();
    ensure!(pinned, "ready before anything is in force");
    hear("WATCHDOG=1")?;
    hear("WATCHDOG=1")?;
    agent.signal(Signal::SIGTERM)?;
    hear("STOPPING=1")?;
    ensure!(agent.wait(patient(LIMIT))?.success(), "{}", fs::read_to_string(&log)?);
    let cleaned =
        Command::new(binary("lb")?).arg("cleanup").arg("--pin-dir").arg(&pins).output()?;
    ensure!(cleaned.status.success(), "{}", String::from_utf8_lossy(&cleaned.stderr));
    Ok(())
}
