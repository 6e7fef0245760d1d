//! The subcommands of `lb`, one module each.

pub mod agent;
pub mod check;
pub mod cleanup;
pub mod completions;
pub mod connections;
mod explain;
pub mod services;
pub mod status;
pub mod verify;
