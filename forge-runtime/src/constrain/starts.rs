//! The bytes a token may begin with: a quick look that spares most tokens a closer one.
#![forbid(unsafe_code)]

use crate::tokenizer::Tokenizer;

/// A set of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Starts([u64; 4]);

impl Starts {
    pub(super) const NONE: Self = Self([0; 4]);
    pub(super) const ALL: Self = Self([u64::MAX; 4]);

    pub(super) fn of(bytes: impl Iterator<Item = u8>) -> Self {
        let mut starts = Self::NONE;
        for byte in bytes {
            if let Some(word) = starts.0.get_mut(usize::from(byte / 64)) {
                *word |= 1 << (byte % 64);
            }
        }
        starts
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    /// Whether an ordinary token begins with one of the bytes.
    #[inline]
    pub(super) fn admits(&self, tokenizer: &Tokenizer<'_>, token: u16) -> bool {
        if *self == Self::ALL {
            return true;
        }
        let table = tokenizer.table();
        let mut first = token;
        while let Some((left, _)) = table.merge(first) {
            first = left;
        }
        let byte = table.byte_at(first).map(usize::from);
        byte.and_then(|b| Some(self.0.get(b / 64)? >> (b % 64) & 1 == 1)).unwrap_or(false)
    }
}
