//! The runtime for C and whatever speaks C: `include/forge.h`, made from these files by cbindgen.
//!
//! Nothing is allocated: handles are structs of fixed size that the caller puts where it likes, and a session works in
//! memory the caller lends. Every function that can fail returns a [`ForgeStatus`], and has then changed nothing but
//! what its text says. Nothing panics: the linked firmware is looked at for that (`tests/device`).
//!
//! # What the caller promises
//! Every function checks what can be checked: null pointers, alignment, lengths, whether a handle was opened, whether
//! it has been moved since. What cannot be checked is the caller's part, and each function relies on it:
//!
//! 1. A pointer with a length points to that many elements, which nobody else writes during the call, and nobody else
//!    reads if the function writes them. Null is allowed where the length is 0.
//! 2. What a handle was opened with stays where it is, unchanged, until the handle is used for the last time: the file
//!    under a [`ForgeModel`]; the model, the [`ForgePrepared`] and the memory under a [`ForgeSession`]. Lent memory
//!    belongs to one handle at a time. There is nothing to close: a handle that is no longer used may be overwritten.
//! 3. A handle that was not opened is zeroed, or at least never was opened at this place. It is not moved after opening.
//! 4. A session and a sampler are used by one thread at a time. A model may be shared by threads.
#![allow(unsafe_code, reason = "pointers come from C; each block says what it relies on")]
#![allow(clippy::missing_safety_doc, reason = "the promises above are those of every function")]

mod borrow;
mod handle;
mod model;
mod sample;
mod session;
mod status;
mod text;

pub use handle::{ForgeModel, ForgePrepared, ForgeSession};
pub use model::{
    ForgeInfo, ForgeOptions, forge_model_info, forge_model_open, forge_prepare, forge_prepared_size,
    forge_workspace_size,
};
pub use sample::{ForgeSampler, forge_sample, forge_sampler_init};
pub use session::{
    forge_feed, forge_position, forge_prefill, forge_reset, forge_restore, forge_session_open,
    forge_snapshot, forge_snapshot_size, forge_step,
};
pub use status::{ForgeStatus, forge_status_message, forge_version};
pub use text::{
    forge_call, forge_control, forge_decode, forge_encode, forge_prompt, forge_render, forge_reply,
    forge_think,
};

/// What a fallible function of this module works with; [`done`] makes the status of it.
type Outcome = core::result::Result<(), ForgeStatus>;

/// The status of an outcome.
fn done(outcome: Outcome) -> ForgeStatus {
    outcome.err().unwrap_or(ForgeStatus::Ok)
}
