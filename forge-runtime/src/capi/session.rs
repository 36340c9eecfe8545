//! Sessions.

use core::ffi::c_void;

use super::handle::{ForgeModel, ForgeSession, get, get_mut, open};
use super::model::{ForgeOptions, options};
use super::status::ForgeStatus;
use super::{borrow, done};
use crate::session::Session;

/// Begins a sequence of tokens in lent memory of at least forge_workspace_size bytes, aligned to 4; what is beyond them
/// is not touched. Model, options' prepared weights and memory must stay while the session is used. `options` may be
/// null.
// SAFETY: the name is this library's; so for every function of this file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forge_session_open(
    session: *mut ForgeSession,
    model: *const ForgeModel,
    options: *const ForgeOptions,
    memory: *mut c_void,
    len: usize,
) -> ForgeStatus {
    let begin = || {
        // SAFETY: the module's promises; the second lets model and memory live as long as the session.
        let (model, options, memory) = unsafe {
            (
                get::<'static, _>(model)?,
                self::options(options)?,
                borrow::slice_mut::<'static, u8>(memory.cast(), len)?,
            )
        };
        Ok(Session::with(model, &options, memory)?)
    };
    // SAFETY: the first promise.
    done(unsafe { open(session, begin) })
}

/// Forgets all tokens.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forge_reset(session: *mut ForgeSession) -> ForgeStatus {
    // SAFETY: the module's promises.
    done(unsafe { get_mut(session) }.map(|session| session.reset()))
}

/// Number of tokens read.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forge_position(session: *const ForgeSession, position: *mut u32) -> ForgeStatus {
    // SAFETY: the module's promises, for both pointers.
    done(unsafe { get(session) }.and_then(|session| unsafe { borrow::give(position, session.position()) }))
}

/// Reads a token without computing logits.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forge_feed(session: *mut ForgeSession, token: u16) -> ForgeStatus {
    // SAFETY: the module's promises.
    done(unsafe { get_mut(session) }.and_then(|session| Ok(session.feed(token)?)))
}

/// Reads tokens without computing logits, the options' block at a time: all but the last token of a prompt. None is
/// read if any is outside the vocabulary.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forge_prefill(
    session: *mut ForgeSession,
    tokens: *const u16,
    len: usize,
) -> ForgeStatus {
    let prefill = || {
        // SAFETY: the module's promises, for both pointers.
        let (session, tokens) = unsafe { (get_mut(session)?, borrow::slice(tokens, len)?) };
        Ok(session.prefill(tokens)?)
    };
    done(prefill())
}

/// Reads a token and gives the logits of the next, one for every id. They lie in the session's memory until the session
/// is used again, and may be changed there.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forge_step(
    session: *mut ForgeSession,
    token: u16,
    logits: *mut *mut f32,
) -> ForgeStatus {
    let step = || {
        // Before the token is read, so that nothing is when the place is wrong.
        // SAFETY: the first promise.
        unsafe { borrow::give(logits, core::ptr::null_mut()) }?;
        // SAFETY: the module's promises.
        let found = unsafe { get_mut(session) }?.step_mut(token)?;
        // SAFETY: the first promise.
        unsafe { borrow::give(logits, found.as_mut_ptr()) }
    };
    done(step())
}

/// Bytes forge_snapshot writes now.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forge_snapshot_size(session: *const ForgeSession, bytes: *mut usize) -> ForgeStatus {
    // SAFETY: the module's promises, for both pointers.
    done(unsafe { get(session) }.and_then(|s| unsafe { borrow::give(bytes, s.snapshot_len()) }))
}

/// Writes what the session remembers to `out`, forge_snapshot_size bytes: the same on every machine.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forge_snapshot(
    session: *const ForgeSession,
    out: *mut c_void,
    capacity: usize,
) -> ForgeStatus {
    let snapshot = || {
        // SAFETY: the module's promises, for both pointers.
        let (session, out) = unsafe { (get(session)?, borrow::slice_mut(out.cast(), capacity)?) };
        session.snapshot(out)?;
        Ok(())
    };
    done(snapshot())
}

/// Goes on from a snapshot of a session of the same model, taken on any machine with any options. When that fails, the
/// session is reset.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forge_restore(
    session: *mut ForgeSession,
    snapshot: *const c_void,
    len: usize,
) -> ForgeStatus {
    let restore = || {
        // SAFETY: the module's promises, for both pointers.
        let (session, snapshot) = unsafe { (get_mut(session)?, borrow::slice(snapshot.cast(), len)?) };
        Ok(session.restore(snapshot)?)
    };
    done(restore())
}
