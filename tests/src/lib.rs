//! The rig that the tests share.

pub mod privilege;
