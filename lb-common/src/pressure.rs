//! What becomes of flows' rows under pressure, as it is counted.

/// Flows that gave way to newer ones, before they had proven themselves or
/// after they were closed.
pub const GAVE_WAY: u32 = 0;
/// Rows that the kernel evicted while their flow lived, and that were made
/// again by its other direction.
pub const RENEWED: u32 = 1;
/// Source ports that newer flows were given before they had rested, or that were
/// taken from flows that had not proven themselves.
pub const PORT: u32 = 2;
/// How many counters there are.
pub const COUNTERS: u32 = 3;
