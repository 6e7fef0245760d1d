//! A pod's program: `lb-test-server NAME [http:PORT | udp:PORT]...`. It says
//! `ready` when every port is open.

use anyhow::{Context as _, Result, bail};
use lb_tests::server;

#[expect(clippy::print_stdout, reason = "who started it waits for this line")]
fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().context("usage: lb-test-server NAME [http:PORT|udp:PORT]...")?;
    for argument in arguments {
        let (kind, port) = argument.split_once(':').context("expected http:PORT or udp:PORT")?;
        let port = port.parse().with_context(|| format!("{port} is not a port"))?;
        match kind {
            "http" => server::http(&name, port),
            "udp" => server::udp(&name, port),
            other => bail!("{other} is no kind of server"),
        }
        .with_context(|| format!("listen on {argument}"))?;
    }
    println!("ready");
    loop {
        std::thread::park();
    }
}
