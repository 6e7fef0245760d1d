//! Memory that was needed for a moment: parsing all manifests and copying all
//! maps at the start takes several times the memory of what remains of it, and
//! glibc keeps it for later.

/// Gives free memory back to the system, where the allocator has a call for it.
pub(super) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the call takes a number, looks at the allocator's own lists under
    // the allocator's own locks, and touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
