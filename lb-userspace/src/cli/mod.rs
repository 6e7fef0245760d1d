//! The command line: what can be typed, and what becomes of errors.

mod args;
mod behaviour;
mod config;
mod connections;
mod output;
mod source;
mod verify;

pub(crate) use args::socket_address;
pub use args::{
    AgentArgs, Cli, Command, CompletionsArgs, Format, ListenAddress, PinArgs, ServicesArgs,
    SocketArgs, StatusArgs,
};
pub use behaviour::{BehaviourArgs, DetectLocal, NoLocalEndpoint, NodePortAddress, Switch};
pub use connections::ConnectionsArgs;
pub(crate) use output::print_json;
pub use output::{Table, print};
pub use source::SourceArgs;
pub use verify::VerifyArgs;

use crate::{agent, cmd, plugin};
use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

/// Parses the command line, does what it says, and reports an error in one
/// sentence. Wrong usage is exit status 2, which clap sees to.
pub fn main() -> ExitCode {
    let (name, result) = if plugin::is_called() {
        ("kubectl lb", plugin::run(run))
    } else {
        let typed = config::parse(std::env::args_os().collect());
        ("lb", typed.and_then(|cli| run(cli.command)))
    };
    match result {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // With standard error closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "{name}: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Agent(args) => cmd::agent::run(*args),
        Command::Services(args) => cmd::services::run(&args),
        Command::Connections(args) => cmd::connections::run(&args),
        Command::Check(args) => cmd::check::run(&args),
        Command::Cleanup(args) => cmd::cleanup::run(&args).map(|()| {
            // A killed agent leaves its socket.
            agent::remove_stale_socket(&args::default_socket(&args.pin_dir));
            ExitCode::SUCCESS
        }),
        Command::Status(args) => cmd::status::run(&args),
        Command::Verify(args) => cmd::verify::run(*args),
        Command::Completions(args) => cmd::completions::run(&args),
    }
}

/// Whether the reader of our output has seen enough (`lb services | head`).
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == ErrorKind::BrokenPipe)
}

/// The error and its causes, without those that it tells of itself.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |text, cause| {
        let cause = cause.to_string();
        match text.as_str() {
            "" => cause,
            told if told.contains(&cause) => text,
            _ => format!("{text}: {cause}"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;
    use std::io;

    #[test]
    fn a_cause_that_is_told_already_is_not_told_again() {
        let cause = || io::Error::from_raw_os_error(2);
        let plain = Err::<(), _>(cause()).context("open a").unwrap_err();
        assert_eq!(sentence(&plain), "open a: No such file or directory (os error 2)");
        let told = Err::<(), _>(cause()).context(format!("open a: {}", cause())).unwrap_err();
        assert_eq!(sentence(&told), "open a: No such file or directory (os error 2)");
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let left = Err::<(), _>(io::Error::from(ErrorKind::BrokenPipe)).context("print");
        assert!(is_broken_pipe(&left.unwrap_err()));
    }
}
