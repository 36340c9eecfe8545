//! Printing: data on stdout, errors on stderr with their causes and a hint.

use std::error::Error as _;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use forge_train::error::Error;
use serde::Serialize;

/// What a command comes to.
pub(crate) type Outcome = Result<(), Failure>;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something went wrong.
    Error(Error),
    /// Something went wrong in a session that is kept; the command that goes on with it.
    Session(Error, String),
    /// Whoever read our output has seen enough.
    BrokenPipe,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Error(error)
    }
}

impl Failure {
    /// Says on stderr what happened and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let (error, resume) = match self {
            Failure::BrokenPipe => return ExitCode::SUCCESS,
            Failure::Error(error) => (error, None),
            Failure::Session(error, resume) => (error, Some(resume)),
        };
        if matches!(error, Error::Interrupted) {
            let command = resume.map_or("the same command", String::as_str);
            say(&format!("interrupted; everything done so far is kept\n\nresume with: {command}"));
            return ExitCode::from(130);
        }
        say(&describe(error));
        let go_on = |command: &String| match error {
            // The same settings would give the same result.
            Error::Gate(_) => {
                format!("change a setting and run its phase again: `{command} --from PHASE --set KEY=VALUE`")
            }
            _ => format!("try again with `{command}`"),
        };
        if let Some(hint) = error.hint().or_else(|| resume.map(go_on)) {
            say(&format!("\nhint: {hint}"));
        }
        ExitCode::from(error.exit_code())
    }
}

/// `error: ...` and a line for each cause that the message does not already tell.
fn describe(error: &Error) -> String {
    let mut text = format!("error: {error}");
    let mut cause = error.source();
    while let Some(reason) = cause {
        let reason_text = reason.to_string();
        if !text.contains(&reason_text) {
            text.push_str(&format!("\n  caused by: {reason_text}"));
        }
        cause = reason.source();
    }
    text
}

/// A line on stderr; a closed stderr changes nothing.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Writes data to stdout.
pub(crate) fn print(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|reason| match reason.kind() {
        ErrorKind::BrokenPipe => Failure::BrokenPipe,
        _ => Failure::Error(Error::io("write", "stdout")(reason)),
    })
}

/// Writes one JSON document to stdout.
pub(crate) fn print_json(value: &impl Serialize) -> Outcome {
    let json =
        serde_json::to_string_pretty(value).map_err(|e| Error::Config(format!("cannot write JSON: {e}")))?;
    print(&format!("{json}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let inside = Error::io("read", "a.txt")(std::io::Error::other("the disk is on fire"));
        assert_eq!(describe(&inside), "error: cannot read `a.txt`: the disk is on fire");
    }
}
