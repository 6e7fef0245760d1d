//! What a test may do: loading programs and making namespaces needs root.

/// Whether the calling test can run. If it can't, it says so and is skipped;
/// with `LB_REQUIRE_ROOT=1`, as CI has it, it fails.
///
/// # Panics
/// Without root, if `LB_REQUIRE_ROOT` is set.
#[must_use]
pub fn root_or_skip() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(
        !is_set("LB_REQUIRE_ROOT"),
        "this test needs root, and LB_REQUIRE_ROOT says that it must run"
    );
    #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
    {
        eprintln!("SKIPPED: this test needs root");
    }
    false
}

/// Whether long tests should be cut short (`cargo xtask test --quick`).
#[must_use]
pub fn quick() -> bool {
    is_set("LB_QUICK")
}

/// Whether the environment says yes to something.
pub(crate) fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0")
}
