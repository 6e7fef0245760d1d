//! `cargo xtask balance`: 100,000 connections through the BPF programs, by each
//! policy, to ten backends with weights from 1 to 5; what each got, and what
//! moves when one leaves. Fails if a policy misses what it promises.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it prints a report")]

use lb_tests::balance::{Disruption, Scene, Shares, WEIGHTS};
use lb_tests::process;
use lb_tests::prog::Rig;
use lb_userspace::desired::Policy;
use std::process::ExitCode;

const CONNECTIONS: u32 = 100_000;

/// How far from its promise a backend may be, as a part of all connections.
const OFF: f64 = 0.02;
/// The same for least-connections.
const OFF_LEAST: f64 = 0.002;
/// What part of the flows may move needlessly when a backend leaves.
const NEEDLESS: f64 = 0.015;

fn main() -> ExitCode {
    let Some(mut rig) = Rig::take_roomy() else {
        eprintln!("error: this loads BPF programs, so it needs root");
        return ExitCode::FAILURE;
    };
    println!("{CONNECTIONS} connections, ten backends with weights from 1 to 5");
    let mut missed = Missed::default();
    round_robin(&mut rig, &mut missed);
    let shares = spread(&mut rig, Policy::Random);
    missed.at_most("off its share", shares.off_of_all(), OFF);
    hashed(&mut rig, Policy::SourceHash, &mut missed);
    hashed(&mut rig, Policy::Maglev, &mut missed);
    least_connections(&mut rig, &mut missed);
    if missed.0 == 0 {
        println!("\nall policies keep what they promise");
        ExitCode::SUCCESS
    } else {
        println!("\n{} of the bounds missed", missed.0);
        ExitCode::FAILURE
    }
}

/// Counts the bounds that were missed.
#[derive(Default)]
struct Missed(u32);

impl Missed {
    fn at_most(&mut self, what: &str, part: f64, bound: f64) {
        self.check(
            part <= bound,
            &format!("{:.3} % {what}, at most {:.1} %", part * 100.0, bound * 100.0),
        );
    }

    fn check(&mut self, holds: bool, line: &str) {
        println!("  {:6}  {line}", if holds { "ok" } else { "MISSED" });
        self.0 += u32::from(!holds);
    }
}

fn spread(rig: &mut Rig, policy: Policy) -> Shares {
    rig.reset();
    let mut scene = Scene::new(rig, policy, &WEIGHTS);
    let picked = scene.open(0..CONNECTIONS);
    let shares = scene.shares(&picked);
    print(policy.name(), &shares);
    shares
}

fn round_robin(rig: &mut Rig, missed: &mut Missed) {
    let shares = spread(rig, Policy::RoundRobin);
    missed.check(
        shares.most_off() < 1.0,
        &format!("one CPU: {:.2} connections off the exact share, less than 1", shares.most_off()),
    );
    rig.reset();
    // The second half on another CPU, if there is one.
    let mut cpus = 1_u32;
    let mut scene = Scene::new(rig, Policy::RoundRobin, &WEIGHTS);
    let mut picked = scene.open(0..CONNECTIONS / 2);
    cpus += u32::from(process::stay_on(1));
    picked.extend(scene.open(CONNECTIONS / 2..CONNECTIONS));
    process::stay_on(0);
    let shares = scene.shares(&picked);
    missed.check(
        shares.most_off() <= f64::from(cpus),
        &format!("{cpus} CPUs: {:.2} connections off, at most one a CPU", shares.most_off()),
    );
}

fn hashed(rig: &mut Rig, policy: Policy, missed: &mut Missed) {
    rig.reset();
    let mut scene = Scene::new(rig, policy, &WEIGHTS);
    let picked = scene.open(0..CONNECTIONS);
    let shares = scene.shares(&picked);
    print(policy.name(), &shares);
    missed.at_most("off its share", shares.off_of_all(), OFF);
    for leaves in [0, 4] {
        let Disruption { unavoidable, needless } = scene.leave(leaves, &picked);
        let weight = WEIGHTS[leaves];
        let what = format!(
            "moved needlessly when a backend of weight {weight} left with its {:.2} %",
            unavoidable * 100.0
        );
        missed.at_most(&what, needless, NEEDLESS);
    }
}

fn least_connections(rig: &mut Rig, missed: &mut Missed) {
    rig.reset();
    let mut scene = Scene::new(rig, Policy::LeastConnections, &WEIGHTS);
    let mut picked = scene.open(0..CONNECTIONS);
    print("least-connections, all kept open", &scene.shares(&picked));
    missed.at_most("off its share", scene.shares(&picked).off_of_all(), OFF_LEAST);
    let counted = scene.open_shares() == scene.shares(&picked);
    missed.check(counted, "the programs count what is open");

    // One half goes: every second connection, but all of the first backend and
    // none of the second.
    let mut open = Vec::new();
    for (n, &backend) in (0..).zip(&picked) {
        if backend == 0 || (backend != 1 && n % 2 == 0) {
            scene.close(n, backend);
        } else {
            open.push(backend);
        }
    }
    let halved = scene.shares(&open);
    print("half of them closed, unevenly", &halved);
    missed.check(scene.open_shares() == halved, "the programs count what is open");
    picked = scene.open(CONNECTIONS..2 * CONNECTIONS);
    open.extend(picked);
    let refilled = scene.shares(&open);
    print("and as many opened again", &refilled);
    missed.at_most("of the open ones off its share", refilled.off_of_all(), OFF_LEAST);
    missed.check(scene.open_shares() == refilled, "the programs count what is open");
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
