//! The rig that the tests share.
