//! The rig that the tests share.

pub mod packet;
pub mod privilege;
pub mod prog;
