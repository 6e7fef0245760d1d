//! The command `ip`, many lines at a time.

use anyhow::{Context as _, Result, bail};
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Runs lines of `ip` commands, in a namespace or in the caller's own.
pub fn batch(namespace: Option<&str>, lines: &[String]) -> Result<()> {
    let mut ip = Command::new("ip");
    if let Some(name) = namespace {
        ip.args(["-n", name]);
    }
    let mut child = ip
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start `ip`")?;
    let mut stdin = child.stdin.take().context("`ip` has no input")?;
    stdin.write_all((lines.join("\n") + "\n").as_bytes()).context("write to `ip`")?;
    drop(stdin);
    let output = child.wait_with_output().context("wait for `ip`")?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`ip -batch` in {}: {}:\n{}",
            namespace.unwrap_or("-"),
            stderr.trim(),
            lines.join("\n")
        );
    }
    Ok(())
}

/// Runs one `ip` command; what it prints.
pub fn output(arguments: &[&str]) -> Result<String> {
    command("ip", arguments)
}

/// Runs a program to its end; what it prints, or an error with what it says.
pub fn command(program: &str, arguments: &[&str]) -> Result<String> {
    let line = || format!("`{program} {}`", arguments.join(" "));
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {}", line()))?;
    if !output.status.success() {
        bail!("{}: {}", line(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
