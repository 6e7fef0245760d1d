//! Waiting for something: asked for again and again until it is so, or until a
//! deadline, never by sleeping a guessed time.

use crate::privilege::is_set;
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Between two looks. Short, since most of what is waited for takes a few
/// milliseconds.
const PAUSE: Duration = Duration::from_millis(2);

/// A limit, or a multiple of it where the processor is emulated, as `LB_SLOW=1`
/// says.
pub fn patient(limit: Duration) -> Duration {
    if is_set("LB_SLOW") { limit * 6 } else { limit }
}

/// Asks until there is an answer.
pub fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if begin.elapsed() > limit {
            bail!("{what}: not so after {limit:?}");
        }
        std::thread::sleep(PAUSE);
    }
}

/// Asks until it works; the last failure is the error.
pub fn until_ok<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if begin.elapsed() > limit => {
                return Err(error.context(format!("{what}: still failing after {limit:?}")));
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}
