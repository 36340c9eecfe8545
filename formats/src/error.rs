//! The one error type of this crate: small, `Copy`, without dependency types inside.

use core::fmt;

/// Result of every fallible operation in this crate.
pub type Result<T> = core::result::Result<T, Error>;

/// Why bytes are not a valid `.forge` file, or a model cannot be written as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The first eight bytes are not the magic number.
    Magic,
    /// The major version or a must-understand feature bit is unknown to this reader.
    Version,
    /// The input ends before the named part does.
    Truncated(&'static str),
    /// Bytes follow the last section, or a gap or reserved field is not zero.
    Trailing,
    /// The checksum of the named part does not match.
    Checksum(&'static str),
    /// The manifest is not canonical postcard of the expected structure.
    Manifest,
    /// A model size is out of range; the field's name.
    Config(&'static str),
    /// A section overlaps another, is misaligned, or lies outside the file.
    Layout,
    /// A tensor is missing, duplicated, of the wrong shape, or coded with a codec its role forbids.
    Tensor(&'static str),
    /// A codec's parameters or payload are invalid; the codec's name.
    Codec(&'static str),
    /// This program was built without a codec or kind of memory that the file uses; its name, which is that of the Cargo feature.
    Feature(&'static str),
    /// The tokenizer table is invalid.
    Tokenizer(&'static str),
    /// The tool table is invalid.
    Tools(&'static str),
    /// The model card is not UTF-8.
    Card,
    /// The caller's buffer is too small or not aligned.
    Buffer,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Magic => f.write_str("not a .forge file (wrong magic number)"),
            Error::Version => f.write_str("written by a newer version of forge than this reader"),
            Error::Truncated(part) => write!(f, "file ends inside the {part}"),
            Error::Trailing => f.write_str("unexpected bytes between or after sections"),
            Error::Checksum(part) => write!(f, "checksum mismatch in the {part}: the file is damaged"),
            Error::Manifest => f.write_str("malformed manifest"),
            Error::Config(field) => write!(f, "model size out of range: {field}"),
            Error::Layout => f.write_str("section outside the file, misaligned or overlapping"),
            Error::Tensor(role) => write!(f, "tensor {role} missing, repeated or of the wrong shape"),
            Error::Codec(codec) => write!(f, "invalid {codec} tensor"),
            Error::Feature(codec) => write!(
                f,
                "this program was built without {codec}: build it with that feature of forge-formats"
            ),
            Error::Tokenizer(what) => write!(f, "invalid tokenizer table: {what}"),
            Error::Tools(what) => write!(f, "invalid tool table: {what}"),
            Error::Card => f.write_str("the model card is not UTF-8"),
            Error::Buffer => f.write_str("buffer too small or misaligned"),
        }
    }
}

impl core::error::Error for Error {}
