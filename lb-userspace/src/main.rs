//! The command `lb`.

fn main() {}
