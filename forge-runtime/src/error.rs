//! The one error type of this crate.
#![forbid(unsafe_code)]

use core::fmt;

/// Result of every fallible operation in this crate.
pub type Result<T> = core::result::Result<T, Error>;

/// Why a model cannot be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not a valid `.forge` file.
    Format(forge_formats::Error),
    /// A buffer of the caller is too small or not aligned to 4 bytes.
    Buffer,
    /// A token id outside the vocabulary.
    Token(u16),
    /// A sequence the batch does not have.
    Sequence(usize),
    /// The bytes are no snapshot of a session of this model.
    Snapshot,
    /// The session has seen [`crate::session::MAX_POSITION`] tokens.
    Length,
    /// The tokenizer has no control token of this name.
    Control(&'static str),
    /// A constrained completion needs room for at least this many tokens; `u32::MAX` when there are no tools to call.
    Budget(u32),
    /// A token that may not come next in a constrained completion.
    Refused(u16),
}

impl Error {
    /// What the caller can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Error::Format(_) => "check that the file is complete and made for this version of forge",
            Error::Buffer => {
                "a session needs Model::workspace() bytes aligned to 4; encoded text at most one id a byte"
            }
            Error::Token(_) => "use the ids of the model's own tokenizer",
            Error::Sequence(_) => "make the batch with more sequences, and list each at most once a step",
            Error::Snapshot => "restore a snapshot with the model it was taken with",
            Error::Length => "call Session::reset",
            Error::Control(_) => "build the tokenizer with all control tokens",
            Error::Budget(u32::MAX) => "use a model whose file lists tools, or do not ask for a call",
            Error::Budget(_) => "allow more tokens",
            Error::Refused(_) => "advance by tokens that Constraint::allows",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Format(e) => e.fmt(f),
            Error::Buffer => f.write_str("buffer too small or misaligned"),
            Error::Token(id) => write!(f, "token {id} is outside the vocabulary"),
            Error::Sequence(s) => write!(f, "sequence {s} is not in the batch, or listed twice"),
            Error::Snapshot => f.write_str("not a snapshot of a session of this model"),
            Error::Length => f.write_str("the session is at its last position"),
            Error::Control(name) => write!(f, "the tokenizer has no control token {name}"),
            Error::Budget(u32::MAX) => f.write_str("the file lists no tools, so no call can be made"),
            Error::Budget(least) => write!(f, "a completion may need {least} tokens to come to its end"),
            Error::Refused(id) => write!(f, "token {id} may not come next"),
        }
    }
}

impl core::error::Error for Error {}

impl From<forge_formats::Error> for Error {
    fn from(e: forge_formats::Error) -> Self {
        Error::Format(e)
    }
}
