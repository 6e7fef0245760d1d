//! `cargo xtask bench`: what a packet costs in each program, as a multiple of one
//! look-up in the flow table, measured side by side in one run.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it prints a report")]

mod measure;

use lb_tests::prog::Rig;
use lb_tests::prog::paths::Scene;
use measure::Table;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(mut rig) = Rig::take_vast() else {
        eprintln!("error: this loads BPF programs, so it needs root");
        return ExitCode::FAILURE;
    };
    let mut table = Table::default();
    for scene in Scene::all() {
        table.add(&mut rig, scene);
    }
    print!("{table}");
    println!("\n{} of the targets missed", table.missed());
    ExitCode::SUCCESS
}
