//! The file system that a kernel starts from: our programs with the libraries
//! that they load, the tools that they call, and the kernel's modules.

use super::Files;
use super::archive::Archive;
use super::programs::Programs;
use crate::shell;
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What the tests call.
const TOOLS: [&str; 4] = ["ip", "nsenter", "ethtool", "tc"];

/// Where the programs are in it.
const HOME: &str = "/lb";

/// A kernel, and what it starts from.
pub(super) struct Image {
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
}

/// Writes it.
pub(super) fn write(path: &Path, files: &Files, programs: &Programs) -> Result<Image> {
    let mut archive = Archive::create(path)?;
    let mut libraries = BTreeSet::new();
    for program in &programs.all {
        let name = program.strip_prefix(&programs.directory).context("a program elsewhere")?;
        archive.file(&Path::new(HOME).join(name), &read(program)?)?;
        libraries.extend(libraries_of(program)?);
    }
    for tool in TOOLS {
        let found = shell::which(tool).with_context(|| format!("{tool} is not installed"))?;
        archive.file(&Path::new("/usr/bin").join(tool), &read(&found)?)?;
        libraries.extend(libraries_of(&found)?);
    }
    for library in &libraries {
        archive.file(library, &read(library)?)?;
    }
    let mut list = Vec::new();
    for module in &files.modules {
        let name = module.file_stem().context("a module without a name")?.to_string_lossy();
        // Packages may have them compressed: `name.ko.xz`.
        let inside = format!("{HOME}/{}.ko", name.trim_end_matches(".ko"));
        archive.file(Path::new(&inside), &unpacked(module)?)?;
        list.push(inside);
    }
    archive.file(&Path::new(HOME).join("modules"), list.join("\n").as_bytes())?;
    archive.link(Path::new("/init"), &format!("{HOME}/lb-kernel-check"))?;
    archive.finish()?;
    Ok(Image { kernel: files.kernel.clone(), initramfs: path.to_owned() })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// A module as the kernel takes it.
pub(super) fn unpacked(module: &Path) -> Result<Vec<u8>> {
    let program = match module.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return read(module),
    };
    let mut unpack = shell::command(program);
    let output = unpack.args(["-dc"]).arg(module).output();
    let output = output.with_context(|| format!("start {program}"))?;
    if !output.status.success() {
        bail!("{program} can't unpack {}", module.display());
    }
    Ok(output.stdout)
}

/// What the dynamic linker loads for a program, itself included.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let mut ldd = shell::command("ldd");
    let Some(text) = shell::output(ldd.arg(program)) else {
        bail!("`ldd {}` failed", program.display());
    };
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}
