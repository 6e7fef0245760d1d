//! `cargo xtask bench`: what a packet costs in each program, as a multiple of one
//! look-up in the flow table, measured side by side in one run.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it prints a report")]

mod measure;
mod paths;

use lb_tests::prog::{Case, Rig};
use lb_userspace::desired::Protocol;
use measure::Table;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(mut rig) = Rig::take_vast() else {
        eprintln!("error: this loads BPF programs, so it needs root");
        return ExitCode::FAILURE;
    };
    let mut table = Table::default();
    for v6 in [false, true] {
        let case = Case { v6, protocol: Protocol::Tcp, l3: false };
        for xdp in [false, true] {
            let scene = paths::Scene { case, xdp };
            table.add(&mut rig, scene);
        }
    }
    print!("{table}");
    println!("\n{} of the targets missed", table.missed());
    ExitCode::SUCCESS
}
