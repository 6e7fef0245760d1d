//! The subcommands of `lb`, one module each.

pub mod check;
pub mod cleanup;
