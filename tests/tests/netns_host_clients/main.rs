//! Processes of the node itself as clients: their calls are translated, since
//! no interface sees their packets come in.
#![expect(
    clippy::expect_used,
    reason = "a test fails by ending; clippy knows only those in the functions marked as tests"
)]

mod calls;
mod life;
mod moves;
mod others;
mod reach;
