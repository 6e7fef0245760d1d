//! The kernel side: everything that knows aya.

pub mod maps;
