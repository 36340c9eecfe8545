//! A file mapped into memory.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// Maps a whole file, to be read.
///
/// The file must be one that nobody changes in place: those of the token cache are written under another name and renamed
/// when they are whole.
///
/// # Errors
/// [`Error::Io`] when it cannot be opened or mapped.
pub(super) fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    // SAFETY: the bytes are only read, as integers, for which any value is valid. They must not change or vanish while
    // they are mapped: the caller vouches that the file is never written to or cut in place, only replaced by renaming,
    // which leaves the mapped one as it is.
    unsafe { Mmap::map(&file) }.map_err(Error::io("read", path))
}

/// Maps a whole temporary file that has no name, to be read; `directory` is where it lies, for the error.
///
/// # Errors
/// [`Error::Io`] when it cannot be mapped.
pub(super) fn unnamed(file: &File, directory: &Path) -> Result<Mmap> {
    // SAFETY: the bytes are only read, as integers and checked text. They must not change or vanish while they are mapped:
    // the file has no name, so no other process can open it, and the only handle in this one is dropped after this call.
    unsafe { Mmap::map(file) }.map_err(Error::io("read a temporary file in", directory))
}
