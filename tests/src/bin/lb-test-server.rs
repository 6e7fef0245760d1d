//! A pod's program: `lb-test-server NAME [http:PORT | udp:PORT | udp:ADDRESS:PORT]...`.
//! It says `ready` when every port is open.

use anyhow::{Context as _, Result, bail};
use lb_tests::server;

#[expect(clippy::print_stdout, reason = "who started it waits for this line")]
fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().context("usage: lb-test-server NAME [http:PORT|udp:PORT]...")?;
    for argument in arguments {
        let (kind, port) = argument.split_once(':').context("expected http:PORT or udp:PORT")?;
        // A datagram's answer comes from the address that the socket is bound to:
        // with several addresses, a server binds each.
        let address = match port.parse() {
            Ok(address) => address,
            Err(_port_alone) => {
                server::any(port.parse().with_context(|| format!("{port} is not a port"))?)
            }
        };
        match kind {
            "http" => server::http(&name, address),
            "udp" => server::udp(&name, address),
            other => bail!("{other} is no kind of server"),
        }
        .with_context(|| format!("listen on {argument}"))?;
    }
    println!("ready");
    loop {
        std::thread::park();
    }
}
