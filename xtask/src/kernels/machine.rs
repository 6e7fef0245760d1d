//! One virtual machine at a time, from its start to its end.

use super::image::Image;
use super::report::Report;
use crate::shell;
use anyhow::{Context as _, Result, bail};
use std::fs::File;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Memory, in MiB: most of it for the maps of two agents.
const MEMORY: &str = "3072";

/// How often the machine's end is looked for.
const POLL: Duration = Duration::from_millis(200);

/// Boots a kernel, and reads what it reports at the end.
pub(super) fn boot(image: &Image, place: &Path, limit: Duration, all: bool) -> Result<Report> {
    let (console, path) = (place.join("console.log"), place.join("report"));
    let errors = place.join("qemu.log");
    println!("kernels: {}, console in {}", image.kernel.display(), console.display());
    let accelerator = if accelerated() { "kvm" } else { "tcg,thread=multi" };
    // What stands behind the dashes is for the first process.
    let words = if all { " -- all" } else { "" };
    let mut qemu = shell::command("qemu-system-x86_64");
    qemu.args(["-accel", accelerator, "-cpu", "max", "-smp", "2", "-m", MEMORY])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.initramfs)
        .arg("-append")
        .arg(format!("console=ttyS0 loglevel=4 panic=-1{words}"))
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-serial")
        .arg(format!("file:{}", path.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&errors).with_context(|| format!("write {}", errors.display()))?);
    let begin = Instant::now();
    let mut machine = Machine(qemu.spawn().context("start the virtual machine")?);
    loop {
        if let Some(status) = machine.0.try_wait().context("wait for the virtual machine")? {
            if !status.success() {
                let said = std::fs::read_to_string(&errors).unwrap_or_default();
                bail!("the virtual machine ended with {status}: {}", said.trim());
            }
            return Report::read(&path, begin.elapsed());
        }
        if begin.elapsed() > limit {
            drop(machine);
            return Report::read(&path, begin.elapsed());
        }
        std::thread::sleep(POLL);
    }
}

/// Whether the processor helps. A device alone says little: it may be one that
/// only boots kernels made for it.
fn accelerated() -> bool {
    let capable = std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| {
        text.lines()
            .filter(|line| line.starts_with("flags"))
            .any(|line| line.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
    });
    capable && File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

/// Ends with this value.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
