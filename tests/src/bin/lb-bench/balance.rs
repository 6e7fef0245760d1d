//! How well each policy keeps what it promises: 100,000 connections through the BPF
//! programs to ten backends with weights from 1 to 5, what each of them got, and what
//! moves when one goes or comes.

use crate::chart::{Bar, Chart, Series};
use crate::part::Outcome;
use crate::target::Target;
use anyhow::{Context as _, Result, ensure};
use lb_tests::balance::{Disruption, Scene, Shares, WEIGHTS};
use lb_tests::prog::Rig;
use lb_tests::{interrupt, process};
use lb_userspace::desired::Policy;
use serde_json::json;

const CONNECTIONS: u32 = 100_000;
/// Of which one backend goes or comes.
const DISRUPTED: u32 = 20_000;
/// The backends that go and come, of weights 1 and 5.
const CHANGED: [usize; 2] = [0, 4];

/// How far from its promise a backend may be, as a part of all connections.
const OFF: f64 = 0.02;
/// The same for least-connections.
const OFF_LEAST: f64 = 0.002;
/// What part of the flows may move needlessly when a backend goes or comes.
const NEEDLESS: f64 = 0.015;

const POLICIES: [Policy; 5] = [
    Policy::RoundRobin,
    Policy::Random,
    Policy::LeastConnections,
    Policy::SourceHash,
    Policy::Maglev,
];

/// A backend that goes and comes back.
#[derive(Debug)]
struct Change {
    backend: usize,
    /// Of new connections of the same clients.
    goes: Disruption,
    comes: Disruption,
    /// What part of the connections that are open goes to another backend.
    open_moved: f64,
}

/// Measures all policies.
pub(crate) fn run() -> Result<Outcome> {
    let mut rig = Rig::take_roomy().context("this loads BPF programs, so it needs root")?;
    println!("{CONNECTIONS} connections, ten backends with weights from 1 to 5");
    let mut targets = Vec::new();
    let mut figures = Vec::new();
    let mut moves = Vec::new();
    for policy in POLICIES {
        interrupt::check()?;
        rig.reset();
        let mut scene = Scene::new(&mut rig, policy, &WEIGHTS);
        let picked = scene.open(0..CONNECTIONS);
        let shares = scene.shares(&picked);
        print(policy.name(), &shares);
        targets.push(off(policy, &shares));
        if policy == Policy::LeastConnections {
            targets.push(uneven(&mut scene, picked)?);
        }
        scene.forget();
        let changes = CHANGED.map(|backend| change(&mut scene, backend));
        println!(
            "  goes or comes    moved, of new connections: its own     others'   of open ones"
        );
        for change in &changes {
            change.print();
            targets.extend(change.targets(policy));
        }
        moves.push((policy.name().to_owned(), changes.iter().flat_map(Change::bars).collect()));
        figures.push(json!({
            "policy": policy.name(),
            "off_of_all": shares.off_of_all(),
            "off_of_own": shares.off_of_own(),
            "connections_off": shares.most_off(),
            "changes": changes.iter().map(Change::json).collect::<Vec<_>>(),
        }));
    }
    targets.push(on_two_processors(&mut rig));
    let title = "New connections that go elsewhere when one of ten backends goes or comes, \
                 beside its own; percent";
    let charts = vec![Chart { title: title.to_owned(), groups: moves, mark: None }];
    Ok(Outcome { figures: figures.into(), targets, charts })
}

/// How far the worst backend is from its promise.
fn off(policy: Policy, shares: &Shares) -> Target {
    let name = policy.name();
    let most = match policy {
        Policy::RoundRobin => {
            let name = format!("{name}: connections off the exact share, one processor");
            return Target::at_most(1.0, name, shares.most_off(), 0.0);
        }
        Policy::LeastConnections => OFF_LEAST,
        Policy::Random | Policy::SourceHash | Policy::Maglev => OFF,
    };
    let name = format!("{name}: off its share, part of all connections");
    Target::at_most(most, name, shares.off_of_all(), 0.0)
}

/// Each processor counts its own turns.
fn on_two_processors(rig: &mut Rig) -> Target {
    rig.reset();
    let mut scene = Scene::new(rig, Policy::RoundRobin, &WEIGHTS);
    let mut picked = scene.open(0..CONNECTIONS / 2);
    let processors = 1 + u32::from(process::stay_on(1));
    picked.extend(scene.open(CONNECTIONS / 2..CONNECTIONS));
    process::stay_on(0);
    let most_off = scene.shares(&picked).most_off();
    let name = format!("round-robin: connections off the exact share, {processors} processors");
    Target::at_most(processors.into(), name, most_off, 0.0)
}

/// Half of the connections end, but all of the first backend's and none of the second's,
/// and as many begin.
fn uneven(scene: &mut Scene<'_>, picked: Vec<usize>) -> Result<Target> {
    ensure!(
        scene.open_shares() == scene.shares(&picked),
        "the programs count other connections than are open"
    );
    let mut open = Vec::new();
    for (n, backend) in (0..).zip(picked) {
        if backend == 0 || (backend != 1 && n % 2 == 0) {
            scene.close(n, backend);
        } else {
            open.push(backend);
        }
    }
    open.extend(scene.open(CONNECTIONS..2 * CONNECTIONS));
    let shares = scene.shares(&open);
    print("half of them closed, unevenly, and as many opened again", &shares);
    ensure!(scene.open_shares() == shares, "the programs count other connections than are open");
    let name = "least-connections: open ones off their share after that".to_owned();
    Ok(Target::at_most(OFF_LEAST, name, shares.off_of_all(), 0.0))
}

/// Lets a backend go, and come back.
fn change(scene: &mut Scene<'_>, backend: usize) -> Change {
    let all = 0..DISRUPTED;
    let before = scene.open(all.clone());
    scene.serve_without(Some(backend));
    let open_then = scene.go_on(all.clone());
    scene.forget();
    let without = scene.open(all.clone());
    scene.serve_without(None);
    let open_now = scene.go_on(all.clone());
    scene.forget();
    let after = scene.open(all);
    scene.forget();
    let [then, now] = [(&before, &open_then), (&without, &open_now)].map(|(before, after)| {
        // No backend is excused.
        let Disruption { unavoidable: _, needless } =
            Disruption::between(WEIGHTS.len(), before, after);
        needless
    });
    Change {
        backend,
        goes: Disruption::between(backend, &before, &without),
        comes: Disruption::between(backend, &without, &after),
        open_moved: then.max(now),
    }
}

impl Change {
    fn print(&self) {
        let weight = WEIGHTS[self.backend];
        for (what, moved) in [("goes", self.goes), ("comes", self.comes)] {
            println!(
                "  weight {weight} {what:<6} {:>43.2} % {:>9.2} % {:>12.2} %",
                moved.unavoidable * 100.0,
                moved.needless * 100.0,
                self.open_moved * 100.0,
            );
        }
    }

    /// That open connections stay, and of policies that look at who comes, others too.
    fn targets(&self, policy: Policy) -> Vec<Target> {
        let name =
            |what: &str| format!("{}, weight {} {what}", policy.name(), WEIGHTS[self.backend]);
        let open = name("goes and comes: open ones that move");
        let mut targets = vec![Target::at_most(0.0, open, self.open_moved, 0.0)];
        if matches!(policy, Policy::SourceHash | Policy::Maglev) {
            for (what, moved) in [("goes", self.goes), ("comes", self.comes)] {
                let name = name(&format!("{what}: others' new ones that move"));
                targets.push(Target::at_most(NEEDLESS, name, moved.needless, 0.0));
            }
        }
        targets
    }

    fn bars(&self) -> [Bar; 2] {
        [("goes", self.goes), ("comes", self.comes)].map(|(what, moved)| Bar {
            label: format!("weight {} {what}", WEIGHTS[self.backend]),
            series: Series::Ours,
            value: moved.needless * 100.0,
            error: 0.0,
        })
    }

    fn json(&self) -> serde_json::Value {
        let moved = |Disruption { unavoidable, needless }| json!({ "its_own": unavoidable, "others": needless });
        json!({
            "weight": WEIGHTS[self.backend],
            "goes": moved(self.goes),
            "comes": moved(self.comes),
            "open_moved": self.open_moved,
        })
    }
}

fn print(title: &str, shares: &Shares) {
    println!("\n{title}");
    println!("  weight  promised       got    off of all  off of own");
    for ((promised, got), weight) in shares.backends.iter().zip(WEIGHTS) {
        let off = f64::from(*got) - promised;
        let (all, own) = (off / f64::from(shares.total) * 100.0, off / promised * 100.0);
        println!("  {weight:6}  {promised:8.1}  {got:8}  {all:+10.3} %  {own:+8.2} %");
    }
    println!("  most{:36.3} %  {:8.2} %", shares.off_of_all() * 100.0, shares.off_of_own() * 100.0);
}
