//! Capabilities: what the agent can't do without, what else it keeps, and the
//! rest, which it gives up for good.

use super::PrivilegeError;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

/// A capability of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Its name, as the kernel's headers have it.
    pub name: &'static str,
    bit: CapabilitySet,
}

const BPF: Capability = Capability { name: "CAP_BPF", bit: CapabilitySet::BPF };
const NET_ADMIN: Capability = Capability { name: "CAP_NET_ADMIN", bit: CapabilitySet::NET_ADMIN };
const PERFMON: Capability = Capability { name: "CAP_PERFMON", bit: CapabilitySet::PERFMON };
const BIND: Capability =
    Capability { name: "CAP_NET_BIND_SERVICE", bit: CapabilitySet::NET_BIND_SERVICE };
const LEASE: Capability = Capability { name: "CAP_LEASE", bit: CapabilitySet::LEASE };

/// What nothing works without: maps and programs; attaching them, and telling
/// sockets; and the verifier, which believes pointers of programs that ask for
/// it only with the third.
pub const NEEDED: [Capability; 3] = [BPF, NET_ADMIN, PERFMON];

/// What the agent keeps, if it has it: beside the above for health ports below
/// 1024, and to see whether a manifest of another user is still being written.
pub const KEPT: [Capability; 5] = [BPF, NET_ADMIN, PERFMON, BIND, LEASE];

/// Numbers of capabilities end here; the kernel has fewer so far.
const NUMBERS: u32 = 64;

/// Whether this thread has what nothing works without.
pub fn check() -> Result<(), PrivilegeError> {
    let has = own()?.effective;
    let missing = NEEDED.iter().filter(|one| !has.contains(one.bit)).map(|one| one.name);
    let missing: Vec<&str> = missing.collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(PrivilegeError::Missing { missing: missing.join(", ") })
}

/// Gives up all but [`KEPT`], also for whatever this process may execute.
pub fn shed() -> Result<(), PrivilegeError> {
    let refused = |operation| {
        move |source: rustix::io::Errno| PrivilegeError::Refused {
            operation,
            source: source.into(),
        }
    };
    let kept = KEPT.iter().fold(CapabilitySet::empty(), |set, one| set | one.bit);
    let had = own()?;
    // Who may not narrow the bound has come by few capabilities as it is.
    if had.effective.contains(CapabilitySet::SETPCAP) {
        for bit in (0..NUMBERS).map(|number| CapabilitySet::from_bits_retain(1 << number)) {
            // The kernel knows no further ones.
            let Ok(bounded) = capability_is_in_bounding_set(bit) else { break };
            if bounded && !kept.contains(bit) {
                remove_capability_from_bounding_set(bit)
                    .map_err(refused("narrow the bound of capabilities"))?;
            }
        }
    }
    clear_ambient_capability_set().map_err(refused("clear the ambient capabilities"))?;
    let permitted = had.permitted & kept;
    let sets = CapabilitySets {
        effective: had.effective & kept,
        permitted,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(refused("give up capabilities"))?;
    set_no_new_privs(true).map_err(refused("rule out new privileges"))
}

fn own() -> Result<CapabilitySets, PrivilegeError> {
    capabilities(None).map_err(|source| PrivilegeError::Refused {
        operation: "tell the capabilities of this process",
        source: source.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lists of capabilities of a systemd unit, by key.
    fn unit(key: &str) -> Vec<&'static str> {
        let text = include_str!("../../../packaging/lb.service");
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("{key} is missing")).split(' ').collect()
    }

    #[test]
    fn the_unit_has_the_same_capabilities() {
        let names = KEPT.map(|one| one.name);
        assert_eq!(unit("CapabilityBoundingSet"), names);
        assert_eq!(unit("NoNewPrivileges"), ["yes"]);
    }

    #[test]
    fn what_is_needed_is_kept() {
        assert!(NEEDED.iter().all(|one| KEPT.contains(one)));
    }

    #[test]
    fn a_thread_gives_up_what_it_has_for_good() {
        // A thread of its own: the others keep theirs.
        let thread = std::thread::spawn(|| {
            let had = own().unwrap().permitted;
            shed().unwrap();
            (had, own().unwrap(), rustix::thread::no_new_privs().unwrap())
        });
        let (had, has, no_new_privileges) = thread.join().unwrap();
        let kept = KEPT.iter().fold(CapabilitySet::empty(), |set, one| set | one.bit);
        assert_eq!(has.permitted, had & kept);
        assert_eq!(has.inheritable, CapabilitySet::empty());
        assert!(no_new_privileges);
    }
}
