//! The agent as a container runtime starts it from the DaemonSet's own text: namespaces
//! of mounts, processes and cgroups, a root with nothing in it but the program, the
//! node's directories where the manifest wants them, its capabilities and no others.

use crate::chart::{file, object, objects};
use crate::netns::Namespace;
use crate::process::{Process, binary};
use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Where the image has the program: packaging/Dockerfile.
pub const PROGRAM: &str = "/usr/bin/lb";

/// How long a program may take to end.
const LIMIT: Duration = Duration::from_secs(20);

/// The machine that containers run on, as far as they see it: a BPF file system of
/// its own, and directories that outlive them. All of it goes with this value.
#[derive(Debug)]
pub struct Host {
    holder: Option<Process>,
    home: TempDir,
    /// The part of the cgroups that its containers are in.
    cgroup: PathBuf,
}

impl Host {
    /// One with a BPF file system, or without.
    pub fn new(has_bpffs: bool) -> Result<Self> {
        let home = tempfile::tempdir().context("make a directory for a node")?;
        for directory in ["bpf", "run", "state", "root"] {
            fs::create_dir(home.path().join(directory))?;
        }
        let mount = if has_bpffs { "mount -t bpf -o mode=0700 bpf bpf && " } else { "" };
        // Nobody else sees these mounts, and they go with the process.
        let script = format!("{mount}touch ready && exec sleep infinity");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", &script]).current_dir(home.path());
        let holder = Process::start(command.stdin(Stdio::null()))?;
        let ready = home.path().join("ready");
        crate::deadline::until("a node's mounts", LIMIT, || ready.exists().then_some(()))?;
        let cgroup = cgroups()?.join(format!("lbt-{}", holder.id()));
        fs::create_dir(&cgroup).with_context(|| format!("make {}", cgroup.display()))?;
        Ok(Self { holder: Some(holder), home, cgroup })
    }

    /// Where a directory of the node is that the manifest names.
    fn place(&self, path: &str) -> Result<PathBuf> {
        Ok(match path {
            "/sys/fs/bpf" => self.home.path().join("bpf"),
            "/run/lb" => self.home.path().join("run"),
            "/var/lib/lb" => self.home.path().join("state"),
            // The whole machine has but one.
            "/sys/fs/cgroup" => PathBuf::from(path),
            _ => bail!("the DaemonSet wants {path} of the node"),
        })
    }

    /// What a command prints that runs on the node.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command();
        command.arg(program).args(arguments).current_dir(self.home.path());
        command.output().with_context(|| format!("start {program}"))
    }

    fn command(&self) -> Command {
        let holder = self.holder.as_ref().map_or(0, Process::id);
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{holder}/ns/mnt")).arg("--");
        command
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.holder = None;
        // Who was in it ends by itself, a moment after it was told.
        let removed = || fs::remove_dir(&self.cgroup).ok();
        let _ = crate::deadline::until("a cgroup to be left", LIMIT, removed);
    }
}

/// Where the cgroups of version 2 are.
fn cgroups() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let of_version_2 = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let path = words.next()?;
        (words.next()? == "cgroup2").then(|| PathBuf::from(path))
    };
    mounts.lines().find_map(of_version_2).context("no cgroups of version 2 are mounted")
}

/// What the cluster gives to the pod.
#[derive(Debug)]
pub struct Pod<'a> {
    /// The node's network.
    pub netns: &'a Namespace,
    /// Name of the Node object.
    pub node: &'a str,
    /// Port on loopback where the API is.
    pub api_port: u16,
    /// Directory with `ca.pem` and `token`.
    pub account: &'a Path,
}

/// A container that runs.
#[derive(Debug)]
pub struct Container {
    process: Process,
    log: PathBuf,
}

impl Container {
    /// Starts the DaemonSet's container, with the arguments that it names, or with these.
    pub fn start(host: &Host, pod: &Pod<'_>, arguments: Option<&[&str]>) -> Result<Self> {
        let manifests = objects(&fs::read_to_string(file("kubernetes/lb.yaml"))?)?;
        let spec = &object(&manifests, "DaemonSet")?["spec"]["template"]["spec"];
        ensure!(spec["hostNetwork"] == true, "the agent needs the node's network");
        let container = &spec["containers"][0];
        let own: Vec<&str> = list(&container["args"]);
        let log = host.home.path().join("log");
        let output = File::create(&log)?;
        let mut command = host.command();
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", host.cgroup.display());
        command.args(["sh", "-ec", &enter, "sh"]);
        command.arg("nsenter").arg(format!("--net={}", pod.netns.path().display()));
        command.args(["unshare", "--mount", "--pid", "--fork", "--kill-child", "--cgroup"]);
        command.args(["sh", "-ec", &script(host, pod, spec, container)?, "sh"]);
        command.args(arguments.unwrap_or(&own)).current_dir(host.home.path());
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        for (name, value) in environment(pod, container)? {
            command.env(name, value);
        }
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        Ok(Self { process: Process::start(&mut command)?, log })
    }

    /// What it has written.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The process of the program, as the node sees it: the only child.
    pub fn pid(&self) -> Result<u32> {
        let own = self.process.id();
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children"))?;
        let pid = children.split_whitespace().next().context("the container has ended")?;
        Ok(pid.parse()?)
    }

    /// Runs `lb` in it, as `kubectl exec` does.
    pub fn exec(&self, arguments: &[&str]) -> Result<Output> {
        let pid = self.pid()?.to_string();
        let mut command = Command::new("nsenter");
        command.args(["--target", &pid, "--mount", "--net", "--pid", "--cgroup", "--root", "--wd"]);
        command.arg("--").arg(PROGRAM).args(arguments).output().context("start `lb` in a container")
    }

    /// Ends it as the kubelet does.
    pub fn terminate(&mut self) -> Result<()> {
        let pid = i32::try_from(self.pid()?).context("process id")?;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTERM)?;
        self.succeed()
    }

    /// Waits for its end, which has to be a good one.
    pub fn succeed(&mut self) -> Result<()> {
        let status = self.process.wait(crate::deadline::patient(LIMIT))?;
        ensure!(status.success(), "ended with {status}: {}", self.log());
        Ok(())
    }

    /// Waits for its end, which must not be a good one.
    pub fn fail(&mut self) -> Result<()> {
        let status = self.process.wait(crate::deadline::patient(LIMIT))?;
        ensure!(!status.success(), "it works: {}", self.log());
        Ok(())
    }
}

fn list(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What the kubelet sets, and what the manifest does.
fn environment(pod: &Pod<'_>, container: &Value) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::from([
        ("KUBERNETES_SERVICE_HOST".to_owned(), "127.0.0.1".to_owned()),
        ("KUBERNETES_SERVICE_PORT".to_owned(), pod.api_port.to_string()),
    ]);
    for one in container["env"].as_array().into_iter().flatten() {
        let value = match one["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some("spec.nodeName") => pod.node,
            Some(other) => bail!("nobody expects the field {other}"),
            None => one["value"].as_str().context("a variable without a value")?,
        };
        all.insert(one["name"].as_str().context("a name")?.to_owned(), value.to_owned());
    }
    Ok(all)
}

/// Makes the root and what is mounted in it, and starts the program there: what
/// `cargo build` made, or the one that `LB_CONTAINER_PROGRAM` names.
fn script(host: &Host, pod: &Pod<'_>, spec: &Value, container: &Value) -> Result<String> {
    let program = match std::env::var_os("LB_CONTAINER_PROGRAM") {
        Some(path) => fs::canonicalize(&path).with_context(|| format!("{}", path.display()))?,
        None => binary("lb")?,
    };
    let root = "root";
    let mut script = String::from("mount --make-rprivate /\nmount -t tmpfs tmpfs root\n");
    let mut bind = |from: &Path, to: &str| {
        let parent = Path::new(to).parent().unwrap_or(Path::new("/")).display();
        writeln!(
            script,
            "mkdir -p {root}{parent} && touch {root}{to} && mount --bind {} {root}{to}",
            from.display()
        )
    };
    bind(&program, PROGRAM)?;
    // A program that is not linked statically needs these besides; the image's is.
    for library in libraries(&program)? {
        bind(&fs::canonicalize(&library)?, &library)?;
    }
    let secrets = "/var/run/secrets/kubernetes.io/serviceaccount";
    bind(&pod.account.join("ca.pem"), &format!("{secrets}/ca.crt"))?;
    bind(&pod.account.join("token"), &format!("{secrets}/token"))?;
    writeln!(script, "printf kube-system > {root}{secrets}/namespace")?;
    // What every runtime mounts: of the cgroups, the container's own part.
    script.push_str(
        "mkdir -p root/proc root/sys root/dev root/host\nmount -t proc proc root/proc\n\
         mount -t sysfs -o ro sysfs root/sys\nmount -t cgroup2 -o ro cgroup2 root/sys/fs/cgroup\n",
    );
    let volumes = spec["volumes"].as_array().context("volumes")?;
    for mount in container["volumeMounts"].as_array().context("volumeMounts")? {
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]);
        let path = volume.and_then(|volume| volume["hostPath"]["path"].as_str());
        let from = host.place(path.with_context(|| format!("no volume for {mount}"))?)?;
        let to = mount["mountPath"].as_str().context("mountPath")?;
        writeln!(
            script,
            "mkdir -p {root}{to}\nmount --rbind {} {root}{to}\nmount --make-rslave {root}{to}",
            from.display()
        )?;
        if mount["readOnly"] == true {
            writeln!(script, "mount -o remount,bind,ro {root}{to}")?;
        }
    }
    let context = &container["securityContext"];
    if context["readOnlyRootFilesystem"] == true {
        writeln!(script, "mount -o remount,bind,ro {root}")?;
    }
    let added = list(&context["capabilities"]["add"]);
    let kept: Vec<String> =
        added.iter().map(|name| format!("cap_{}", name.to_lowercase())).collect();
    ensure!(list(&context["capabilities"]["drop"]) == ["ALL"], "not all is dropped");
    ensure!(context["allowPrivilegeEscalation"] == false && context["runAsUser"] == 0);
    writeln!(
        script,
        "drop=$(capsh --print | sed -n 's/^Bounding set =//p' | tr , '\\n' | grep -vxE '{}' | paste -sd,)\n\
         exec capsh --chroot={root} --no-new-privs --drop=\"$drop\" --shell={PROGRAM} -- \"$@\"",
        kept.join("|"),
    )?;
    Ok(script)
}

/// The shared libraries that a program needs, the loader among them.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let output = Command::new("ldd").arg(program).output().context("start ldd")?;
    let text = String::from_utf8(output.stdout)?;
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(str::to_owned).collect())
}
