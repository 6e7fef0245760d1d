//! Set-up, demo and tests: `cargo xtask help`.

fn main() {}
