//! Handles: room of fixed size for the runtime's own types, with a mark that tells whether they are there.

use super::status::ForgeStatus;
use crate::model::Model;
use crate::prepared::Prepared;
use crate::session::Session;

type Checked<T> = core::result::Result<T, ForgeStatus>;

/// An opened file: see forge_model_open.
#[derive(Debug)]
#[repr(C)]
pub struct ForgeModel {
    opaque: [u64; 48],
}

/// Weights laid out for this machine: see forge_prepare.
#[derive(Debug)]
#[repr(C)]
pub struct ForgePrepared {
    opaque: [u64; 4],
}

/// A sequence of tokens: see forge_session_open.
#[derive(Debug)]
#[repr(C)]
pub struct ForgeSession {
    opaque: [u64; 104],
}

/// A handle and what it holds. `'static` stands for what the caller promises to keep (the second promise).
pub(super) trait Handle: Sized {
    /// What it holds.
    type Content: 'static;
    /// Which kind of handle it is.
    const MARK: u64;
    /// The content fits.
    const FITS: () = {
        assert!(size_of::<Stored<Self::Content>>() <= size_of::<Self>(), "the handle is too small");
        assert!(align_of::<Stored<Self::Content>>() <= align_of::<Self>(), "the handle is not aligned");
        assert!(!core::mem::needs_drop::<Self::Content>(), "nobody drops it");
    };
}

impl Handle for ForgeModel {
    type Content = Model<'static>;
    const MARK: u64 = u64::from_le_bytes(*b"FgModel\x01");
}

impl Handle for ForgePrepared {
    type Content = Prepared<'static>;
    const MARK: u64 = u64::from_le_bytes(*b"FgPrepa\x01");
}

impl Handle for ForgeSession {
    type Content = Session<'static>;
    const MARK: u64 = u64::from_le_bytes(*b"FgSessi\x01");
}

/// What lies in a handle.
#[repr(C)]
pub(super) struct Stored<T> {
    /// The kind's mark, mixed with the place so that a copy is not taken for the handle.
    mark: u64,
    content: T,
}

/// The mark of an opened handle at this place.
fn mark<H: Handle>(handle: *const H) -> u64 {
    H::MARK ^ (handle.addr() as u64).rotate_left(17)
}

/// Whether a pointer may be that of a handle.
fn check<H: Handle>(handle: *const H) -> Checked<()> {
    const { H::FITS };
    match () {
        () if handle.is_null() => Err(ForgeStatus::Null),
        () if !handle.is_aligned() => Err(ForgeStatus::Unaligned),
        () => Ok(()),
    }
}

/// Puts what `open` returns into a handle; if it fails, the handle is not opened.
///
/// # Safety
/// `handle`, if it is neither null nor misaligned, points to a handle nobody uses during the call.
pub(super) unsafe fn open<H: Handle>(
    handle: *mut H,
    open: impl FnOnce() -> Checked<H::Content>,
) -> Checked<()> {
    check(handle)?;
    let stored = handle.cast::<Stored<H::Content>>();
    // SAFETY: `Stored` fits into the handle in size and alignment (`Handle::FITS`), which is writable by this
    // function's contract. Nothing is read or dropped.
    unsafe { (&raw mut (*stored).mark).write(0) };
    let content = open()?;
    // SAFETY: as above.
    unsafe { stored.write(Stored { mark: mark(handle), content }) };
    Ok(())
}

/// The content of an opened handle.
///
/// # Safety
/// `handle`, if it is neither null nor misaligned, points to a handle that keeps the second and third promise (see the
/// module above), and that nobody writes while `'h` lasts.
pub(super) unsafe fn get<'h, H: Handle>(handle: *const H) -> Checked<&'h H::Content> {
    check(handle)?;
    let stored = handle.cast::<Stored<H::Content>>();
    // SAFETY: the handle is readable by this function's contract, and any bits are a number.
    if unsafe { (&raw const (*stored).mark).read() } != mark(handle) {
        return Err(ForgeStatus::Handle);
    }
    // SAFETY: only `open` writes this mark, at this place, together with the content.
    Ok(unsafe { &(*stored).content })
}

/// The content of an opened handle, to change.
///
/// # Safety
/// As [`get`], and nobody else uses the handle while `'h` lasts.
pub(super) unsafe fn get_mut<'h, H: Handle>(handle: *mut H) -> Checked<&'h mut H::Content> {
    // SAFETY: as this function's contract says.
    unsafe { get(handle) }?;
    let stored = handle.cast::<Stored<H::Content>>();
    // SAFETY: `get` has found the content; nobody else uses it by this function's contract.
    Ok(unsafe { &mut (*stored).content })
}
