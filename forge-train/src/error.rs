//! One error type for the library: what went wrong, where, and how to mend it.

use std::path::PathBuf;

/// Result of every fallible operation in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong. `Display` names what and where; [`Error::hint`] says how to mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried: "read", "write", "create".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A line of a data file is not what it should be.
    #[error("{}:{line}: {what}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// 1-based line.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// The configuration is invalid or cannot work with the data.
    #[error("{0}")]
    Config(String),
    /// The configuration is invalid, with a way to mend it.
    #[error("{what}")]
    Usage {
        /// What is wrong.
        what: String,
        /// What to do instead.
        hint: String,
    },
    /// A model file is damaged or of another kind.
    #[error("`{}` is not a usable model: {source}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        source: forge_formats::error::Error,
    },
    /// A model in memory is invalid; a bug or a damaged artifact.
    #[error("invalid model: {0}")]
    Format(#[from] forge_formats::error::Error),
    /// The runtime refused a model or ran out of room.
    #[error("runtime: {0}")]
    Runtime(#[from] forge_runtime::Error),
    /// A tensor operation failed.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
    /// The registry database failed.
    #[error("registry: {0}")]
    Registry(#[from] rusqlite::Error),
    /// A stored artifact is missing or its hash does not match its content.
    #[error("artifact: {0}")]
    Artifact(String),
    /// A quality gate or handoff contract was not met.
    #[error("gate failed: {0}")]
    Gate(String),
    /// The user asked to stop; state was saved.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// Wraps an I/O error with what was tried on which path.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Error::Io { action, path, source }
    }

    /// How to mend it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Usage { hint, .. } => Some(hint.clone()),
            Error::Model { .. } => {
                Some("copy the file again, or make it again with `forge-train pipeline`".into())
            }
            Error::Io { action: "read", .. } => Some("check the path and its permissions".into()),
            Error::Io { .. } => {
                Some("check that the directory exists, is writable and has free space".into())
            }
            Error::Data { .. } => Some("mend or delete that line; formats are listed in docs/data.md".into()),
            Error::Artifact(_) => Some("run the session again without `--resume`".into()),
            _ => None,
        }
    }

    /// Process exit code: 1 for a failed gate, 130 for an interrupt, 2 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Gate(_) => 1,
            Error::Interrupted => 130,
            _ => 2,
        }
    }
}
