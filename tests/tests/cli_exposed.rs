//! Directories that everybody may write to are refused, at the start and later:
//! whoever can write a manifest says where this machine's traffic goes, and
//! whoever can replace a pin has the packets themselves.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use lb_tests::agent::{Agent, BPF_FS, Options};
use lb_tests::netns::{Namespace, Naming};
use lb_tests::{deadline, privilege, process};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

fn service(name: &str, number: u8) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: \
         {{clusterIP: 10.96.0.{number}, ports: [{{port: 80}}]}}\n"
    )
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn lb(args: &[&str]) -> Output {
    Command::new(process::binary("lb").unwrap()).args(args).output().unwrap()
}

/// One sentence on standard error, and exit status 1.
#[track_caller]
fn refused(output: &Output, part: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("lb: ") && text.lines().count() == 1, "{text}");
    assert!(text.contains(part), "{part:?} is missing in {text}");
}

/// A path for pins that no other test has.
fn pins(purpose: &str) -> PathBuf {
    Path::new(BPF_FS).join(format!("{}{purpose}", Naming::Unique.prefix()))
}

#[test]
fn a_manifest_directory_for_everybody_is_refused() {
    if !privilege::root_or_skip() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let manifests = home.path().join("upper/manifests");
    fs::create_dir_all(&manifests).unwrap();
    let pins = pins("exposed");
    let start = || {
        let paths = [&pins, &manifests].map(|path| path.to_str().unwrap());
        lb(&["agent", "--pin-dir", paths[0], "--manifests", paths[1]])
    };
    for mode in [0o777, 0o1777] {
        chmod(&manifests, mode);
        let culprit = manifests.display();
        refused(&start(), &format!("can be written to by everybody: `chmod o-w {culprit}`"));
    }
    chmod(&manifests, 0o755);
    let upper = manifests.parent().unwrap();
    chmod(upper, 0o777);
    refused(&start(), &format!("who may write to {0}: `chmod o-w {0}`", upper.display()));
    assert!(!pins.exists());
}

#[test]
fn a_pin_directory_for_everybody_or_somebody_else_is_refused() {
    if !privilege::root_or_skip() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let pins = pins("exposed-pins");
    fs::create_dir(&pins).unwrap();
    let start = || {
        let paths = [&*pins, home.path()].map(|path| path.to_str().unwrap());
        lb(&["agent", "--pin-dir", paths[0], "--manifests", paths[1]])
    };
    chmod(&pins, 0o777);
    let output = start();
    chmod(&pins, 0o700);
    chown(&pins, Some(54_321), None).unwrap();
    let other = start();
    fs::remove_dir_all(&pins).unwrap();
    refused(&output, &format!("can be written to by everybody: `chmod o-w {}`", pins.display()));
    refused(&other, "belongs to the user with id 54321");
}

#[test]
fn what_becomes_everybodys_while_the_agent_runs_changes_nothing() {
    if !privilege::root_or_skip() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("web.yaml"), service("web", 1)).unwrap();
    let netns = Namespace::new(Naming::Unique, "exposed").unwrap();
    let options = Options { xdp: "auto", tc: "auto", more: &[] };
    let mut agent = Agent::start(&netns, "node-a", home.path(), options).unwrap();

    // Nobody else can look at what the agent made.
    let socket = Path::new("/run/lb").join(format!("{}.sock", netns.name()));
    let mut made = vec![agent.pin_dir().to_path_buf(), socket];
    for directory in ["maps", "links"].map(|name| agent.pin_dir().join(name)) {
        made.extend(fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()));
        made.push(directory);
    }
    assert!(made.len() > 25, "{made:?}");
    for path in made {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "{path:?}");
    }

    let names = || {
        let services = agent.services().unwrap();
        services.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let reasons = || agent_reasons(agent.pin_dir());
    chmod(home.path(), 0o777);
    fs::write(home.path().join("more.yaml"), service("more", 2)).unwrap();
    deadline::until("the agent to notice", LIMIT, || {
        reasons()
            .iter()
            .any(|reason| reason.contains("can be written to by everybody"))
            .then_some(())
    })
    .unwrap();
    assert_eq!(names(), ["web"]);
    chmod(home.path(), 0o755);
    deadline::until("the change", LIMIT, || (names() == ["more", "web"]).then_some(())).unwrap();
    deadline::until("the agent to be content", LIMIT, || reasons().is_empty().then_some(()))
        .unwrap();

    // A file for everybody keeps what it had.
    let file = home.path().join("more.yaml");
    chmod(&file, 0o666);
    fs::write(&file, service("evil", 3)).unwrap();
    let told = || agent.status().unwrap()["problems"].to_string();
    deadline::until("the file to be told", LIMIT, || told().contains("more.yaml").then_some(()))
        .unwrap();
    assert!(told().contains("can be written to by everybody and is not read"), "{}", told());
    assert_eq!(names(), ["more", "web"]);
    agent.terminate().unwrap();
}

fn agent_reasons(pins: &Path) -> Vec<String> {
    let output = lb(&["status", "-o", "json", "--pin-dir", pins.to_str().unwrap()]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let reasons = status["reasons"].as_array().unwrap();
    reasons.iter().map(|reason| reason.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_link_is_as_safe_as_where_it_leads() {
    let home = tempfile::tempdir().unwrap();
    let (manifests, elsewhere) = (home.path().join("manifests"), home.path().join("elsewhere"));
    fs::create_dir(&manifests).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("web"), service("web", 1)).unwrap();
    symlink(elsewhere.join("web"), manifests.join("web.yaml")).unwrap();
    let check = || lb(&["check", manifests.to_str().unwrap()]);
    assert_eq!(check().status.code(), Some(0));
    chmod(&elsewhere, 0o1777);
    let output = check();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("web.yaml: refused: leads to the directory"), "{text}");
    assert!(text.contains("is not read, since that can be written to by everybody"), "{text}");
}

#[test]
fn volumes_of_config_maps_have_a_mode_for_everybody_and_nobody_can_write() {
    if !privilege::root_or_skip() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let path = home.path().to_str().unwrap();
    let file = home.path().join("web.yaml");
    for (mode, code) in [("rw", 1), ("ro", 0)] {
        let script = format!(
            "mount -t tmpfs -o mode=777 none {path} && printf '%s' \"$1\" > {} && mount -o \
             remount,{mode} {path} && exec \"$0\" check {path}",
            file.display()
        );
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script]).arg(process::binary("lb").unwrap());
        let output = command.arg(service("web", 1)).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{mode}: {output:?}");
    }
}
