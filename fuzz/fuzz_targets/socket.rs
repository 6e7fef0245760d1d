//! Any bytes from a client of the status socket: the agent answers what it
//! knows, in JSON that can be read, and nothing else.
#![no_main]

use lb_userspace::agent::AgentStatus;
use lb_userspace::drift::Verification;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let said = lb_userspace::agent::fuzzing::status_socket(bytes);
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    match line.trim_ascii() {
        b"" | b"status" if line.len() < 16 => {
            serde_json::from_slice::<AgentStatus>(&said).expect("a status");
        }
        b"verify" if line.len() < 16 => {
            let _: Result<Verification, String> =
                serde_json::from_slice(&said).expect("a verdict");
        }
        _ if said.is_empty() => {}
        // Cut to its length, or with other white space, a line may mean something.
        _ => {
            let known = std::str::from_utf8(&line[..line.len().min(16)]).expect("text");
            assert!(["", "status", "verify"].contains(&known.trim()), "{known:?}");
        }
    }
});
