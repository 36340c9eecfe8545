//! What went wrong, as numbers.

use core::ffi::{CStr, c_char};

use crate::error::Error;

/// How a call ended. Numbers never change; new ones may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum ForgeStatus {
    /// All went well.
    Ok = 0,
    /// A pointer is null that must not be.
    Null = 1,
    /// A pointer is not aligned for what it points to.
    Unaligned = 2,
    /// A length is larger than any memory.
    Length = 3,
    /// A handle was never opened, or has been moved since.
    Handle = 4,
    /// Memory or room for results is too small.
    Buffer = 5,
    /// A token id is outside the vocabulary.
    Token = 6,
    /// The session has read as many tokens as it can; reset it.
    Position = 7,
    /// The bytes are no snapshot of a session of this model.
    Snapshot = 8,
    /// The tokenizer has no such control token.
    Control = 9,
    /// Text that must be UTF-8 is not.
    Utf8 = 10,
    /// The file lists no tools, or a call may take more tokens than are allowed.
    Budget = 12,
    /// An error of a newer runtime than this header.
    Other = 11,
    /// The bytes are not a .forge file.
    FileMagic = 100,
    /// The file was written by a newer version.
    FileVersion = 101,
    /// The file ends too early.
    FileTruncated = 102,
    /// The file has bytes where none may be.
    FileTrailing = 103,
    /// The file is damaged: a checksum does not match.
    FileChecksum = 104,
    /// The file's manifest is malformed.
    FileManifest = 105,
    /// A size of the model is out of range.
    FileConfig = 106,
    /// A section lies outside the file, misaligned, or on another.
    FileLayout = 107,
    /// A tensor is missing, repeated or of the wrong shape.
    FileTensor = 108,
    /// A tensor's payload is invalid.
    FileCodec = 109,
    /// The tokenizer table is invalid.
    FileTokenizer = 110,
    /// The tool table is invalid.
    FileTools = 111,
    /// The model card is not UTF-8.
    FileCard = 112,
    /// The library was built without a codec that the file uses.
    FileFeature = 113,
}

/// Every status with what it says.
const MESSAGES: [(ForgeStatus, &CStr); 27] = {
    use ForgeStatus::*;
    [
        (Ok, c"success"),
        (Null, c"a pointer is null"),
        (Unaligned, c"a pointer is not aligned for what it points to"),
        (Length, c"a length is larger than any memory"),
        (Handle, c"a handle was never opened, or has been moved since"),
        (Buffer, c"memory or room for results is too small"),
        (Token, c"a token id is outside the vocabulary"),
        (Position, c"the session is at its last position; reset it"),
        (Snapshot, c"not a snapshot of a session of this model"),
        (Control, c"the tokenizer has no such control token"),
        (Utf8, c"text is not UTF-8"),
        (Budget, c"the file lists no tools, or a call may take more tokens than are allowed"),
        (Other, c"an error this version has no number for"),
        (FileMagic, c"not a .forge file"),
        (FileVersion, c"the file was written by a newer version of forge"),
        (FileTruncated, c"the file ends too early"),
        (FileTrailing, c"the file has unexpected bytes between or after sections"),
        (FileChecksum, c"the file is damaged: a checksum does not match"),
        (FileManifest, c"the file's manifest is malformed"),
        (FileConfig, c"a size of the model is out of range"),
        (FileLayout, c"a section lies outside the file, misaligned or on another"),
        (FileTensor, c"a tensor is missing, repeated or of the wrong shape"),
        (FileCodec, c"a tensor's payload is invalid"),
        (FileTokenizer, c"the tokenizer table is invalid"),
        (FileTools, c"the tool table is invalid"),
        (FileCard, c"the model card is not UTF-8"),
        (FileFeature, c"the library was built without a codec that the file uses"),
    ]
};

impl From<Error> for ForgeStatus {
    fn from(error: Error) -> Self {
        match error {
            Error::Format(e) => e.into(),
            Error::Buffer => Self::Buffer,
            Error::Token(_) => Self::Token,
            Error::Length => Self::Position,
            Error::Snapshot => Self::Snapshot,
            Error::Control(_) => Self::Control,
            Error::Budget(_) => Self::Budget,
            // What no function here can cause.
            _ => Self::Other,
        }
    }
}

impl From<forge_formats::Error> for ForgeStatus {
    fn from(error: forge_formats::Error) -> Self {
        use forge_formats::Error;
        match error {
            Error::Magic => Self::FileMagic,
            Error::Version => Self::FileVersion,
            Error::Truncated(_) => Self::FileTruncated,
            Error::Trailing => Self::FileTrailing,
            Error::Checksum(_) => Self::FileChecksum,
            Error::Manifest => Self::FileManifest,
            Error::Config(_) => Self::FileConfig,
            Error::Layout => Self::FileLayout,
            Error::Tensor(_) => Self::FileTensor,
            Error::Codec(_) => Self::FileCodec,
            Error::Tokenizer(_) => Self::FileTokenizer,
            Error::Tools(_) => Self::FileTools,
            Error::Card => Self::FileCard,
            Error::Feature(_) => Self::FileFeature,
            Error::Buffer => Self::Buffer,
            _ => Self::Other,
        }
    }
}

/// What a status means, in English; never null. The text is static.
// SAFETY: no other function of the program may have this name; so for every one of this module.
#[unsafe(no_mangle)]
pub extern "C" fn forge_status_message(status: i32) -> *const c_char {
    let known = MESSAGES.iter().find(|(s, _)| *s as i32 == status);
    known.map_or(c"unknown status", |(_, message)| *message).as_ptr()
}

/// The runtime's version, such as "0.1.0"; static text.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn forge_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    #[test]
    fn every_status_has_its_message() {
        for (i, (status, message)) in MESSAGES.iter().enumerate() {
            assert!(
                MESSAGES.iter().skip(i + 1).all(|(s, m)| s != status && m != message),
                "{status:?} twice"
            );
            // SAFETY: the function returns static text that ends in a NUL.
            let found = unsafe { CStr::from_ptr(forge_status_message(*status as i32)) };
            assert_eq!(found, *message);
        }
        // SAFETY: as above.
        let unknown = unsafe { CStr::from_ptr(forge_status_message(-1)) };
        assert_eq!(unknown, c"unknown status");
    }
}
