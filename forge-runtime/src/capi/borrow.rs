//! Pointers from C as references, as far as they can be checked.

use super::status::ForgeStatus;

type Checked<T> = core::result::Result<T, ForgeStatus>;

/// Whether a pointer may be that of `len` values; what it points to, nobody can check.
fn check<T>(pointer: *const T, len: usize) -> Checked<()> {
    if pointer.is_null() {
        return Err(ForgeStatus::Null);
    }
    if !pointer.is_aligned() {
        return Err(ForgeStatus::Unaligned);
    }
    // `from_raw_parts` wants no more bytes than `isize` holds, and no wrap at the end of the address space.
    match size_of::<T>().checked_mul(len) {
        Some(bytes) if isize::try_from(bytes).is_ok() && pointer.addr().checked_add(bytes).is_some() => {
            Ok(())
        }
        _ => Err(ForgeStatus::Length),
    }
}

/// `len` values to read; none at all when `len` is 0, whatever the pointer.
///
/// # Safety
/// The caller's first promise (see the module above), for as long as `'c`. Every bit pattern must be a `T`.
pub(super) unsafe fn slice<'c, T>(pointer: *const T, len: usize) -> Checked<&'c [T]> {
    if len == 0 {
        return Ok(&[]);
    }
    check(pointer, len)?;
    // SAFETY: not null, aligned and of a possible length, as just checked; the rest is this function's contract.
    Ok(unsafe { core::slice::from_raw_parts(pointer, len) })
}

/// `len` values to read and write; none at all when `len` is 0, whatever the pointer.
///
/// # Safety
/// As [`slice`].
pub(super) unsafe fn slice_mut<'c, T>(pointer: *mut T, len: usize) -> Checked<&'c mut [T]> {
    if len == 0 {
        return Ok(&mut []);
    }
    check(pointer, len)?;
    // SAFETY: as in `slice`; nobody else uses the values, by this function's contract.
    Ok(unsafe { core::slice::from_raw_parts_mut(pointer, len) })
}

/// One value to read.
///
/// # Safety
/// As [`slice`].
pub(super) unsafe fn one<'c, T>(pointer: *const T) -> Checked<&'c T> {
    check(pointer, 1)?;
    // SAFETY: as in `slice`.
    Ok(unsafe { &*pointer })
}

/// One value to read and write.
///
/// # Safety
/// As [`slice`].
pub(super) unsafe fn one_mut<'c, T>(pointer: *mut T) -> Checked<&'c mut T> {
    check(pointer, 1)?;
    // SAFETY: as in `slice_mut`.
    Ok(unsafe { &mut *pointer })
}

/// A place for one result, not read.
///
/// # Safety
/// As [`slice_mut`]; what was there need not be a `T`.
pub(super) unsafe fn give<T>(place: *mut T, value: T) -> Checked<()> {
    check(place, 1)?;
    // SAFETY: not null and aligned, as just checked; writable by this function's contract.
    unsafe { place.write(value) };
    Ok(())
}
