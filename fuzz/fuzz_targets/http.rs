//! Any bytes from a client of `/metrics`, `/healthz` and the health-check node
//! ports: the server ends when the client does, and what it says is HTTP, one
//! answer after the other, that names no path which was not asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let said = lb_userspace::agent::fuzzing::http(bytes);
    let mut rest = said.as_slice();
    while !rest.is_empty() {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response
            .parse(rest)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&said)));
        // Who ends in the middle of another question may lose the rest.
        let httparse::Status::Complete(head) = parsed else { return };
        let code = response.code.expect("a status");
        assert!([100, 200, 400, 408, 414, 431, 505].contains(&code), "{code}");
        rest = &rest[head..];
        // A question with HEAD is answered without a body, the next answer follows.
        let length = response.headers.iter().find(|header| header.name == "Content-Length");
        let length: usize = length.map_or(0, |header| {
            std::str::from_utf8(header.value).expect("digits").parse().expect("a number")
        });
        if code == 200 && !rest.starts_with(b"HTTP/1.") && length > 0 {
            let Some(path) = rest.get(..length) else { return };
            assert!(bytes.windows(length).any(|window| window == path) || path == b"/");
            rest = &rest[length..];
        }
    }
});
