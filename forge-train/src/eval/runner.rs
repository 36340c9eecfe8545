//! What the memory and the errors of the runtime are to the trainer.

use forge_runtime::{Model, Options, Workspace};

use crate::error::{Error, Result};

/// Turns a runtime error into this crate's.
pub(super) fn failed(error: forge_runtime::Error) -> Error {
    match error {
        forge_runtime::Error::Format(e) => Error::Format(e),
        other => {
            Error::Usage { what: format!("the model cannot be run: {other}"), hint: other.hint().into() }
        }
    }
}

/// Most memory of a session in bytes. A file of a few megabytes can state sizes that need a thousand times as much,
/// and an operating system that lends memory it has not would let it.
pub(super) const MOST_MEMORY: usize = 1 << 30;

/// Memory for a session of a model, which may come from anywhere.
///
/// # Errors
/// [`Error::Usage`] when the session would need more than 1 GiB, or this machine has not what it needs.
pub fn workspace(model: &Model<'_>) -> Result<Workspace> {
    let need = model.workspace();
    if need > MOST_MEMORY {
        return Err(Error::Usage {
            what: format!("a session of this model needs {need} bytes of memory, the most is {MOST_MEMORY}"),
            hint: "make a model of a shorter window, fewer heads or fewer blocks".into(),
        });
    }
    Workspace::try_with(model, &Options::default()).map_err(failed)
}
