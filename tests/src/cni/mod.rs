//! The nodes that CNIs make: links, routes and rules as their sources and their
//! documentation have them, on the addresses of [`crate::topology`]. Nothing of
//! a CNI runs: packets meet what it leaves in the kernel.

mod calico;
mod flannel;
mod kindnet;
mod vpc;

pub use calico::CALICO;
pub use flannel::FLANNEL;
pub use kindnet::KINDNET;
pub use vpc::VPC;
