//! Running other programs: found on PATH or in cargo's own directory, failures
//! named by their command line.

use anyhow::{Context as _, Result, bail};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The top directory of the repository.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// PATH with the places that a user's PATH may lack: cargo's own directory,
/// where `cargo install` puts programs, and root's system directories.
pub(crate) fn search_path() -> OsString {
    let current = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&current).collect();
    let extra = cargo_bin().into_iter().chain(["/usr/sbin".into(), "/sbin".into()]);
    for dir in extra {
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    std::env::join_paths(dirs).unwrap_or(current)
}

fn cargo_bin() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))?;
    Some(home.join("bin"))
}

/// Where a program is, if it is installed.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path()).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// A command that runs at the top of the repository with the full PATH.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root()).env("PATH", search_path());
    // What cargo set for this very program must not leak into another build.
    command.env_remove("CARGO_MANIFEST_DIR").env_remove("CARGO_PKG_NAME");
    command
}

/// The same cargo that runs us.
pub(crate) fn cargo() -> Command {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    command(&cargo)
}

/// Cargo of a rustup toolchain. Rustup hands its choice down in the
/// environment, where it would win over the one named here.
pub(crate) fn cargo_of(toolchain: &str) -> Command {
    let mut cargo = command("rustup");
    cargo.args(["run", toolchain, "cargo"]);
    for name in ["RUSTUP_TOOLCHAIN", "RUSTC", "RUSTDOC", "CARGO"] {
        cargo.env_remove(name);
    }
    cargo
}

/// Runs to the end with the terminal's input and output.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = shown(command);
    let status = command.status().with_context(|| format!("can't start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// Runs to the end; its output is only shown if it fails.
pub(crate) fn quiet(command: &mut Command) -> Result<()> {
    let line = shown(command);
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("can't start `{line}`"))?;
    if !output.status.success() {
        print!("{}", String::from_utf8_lossy(&output.stdout));
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        bail!("`{line}` failed ({})", output.status);
    }
    Ok(())
}

/// Runs without output; what it wrote to stdout if it succeeded.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command line as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    if let Some(name) = Path::new(&line).file_name() {
        line = name.to_string_lossy().into_owned();
    }
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

/// Where cargo puts what it builds: beside this very program.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    let target = own.parent().and_then(Path::parent).context("find the target directory")?;
    Ok(target.to_owned())
}
