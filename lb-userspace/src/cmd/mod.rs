//! The subcommands of `lb`, one module each.

pub mod cleanup;
