//! Text to token ids and back, without memory of its own.
#![forbid(unsafe_code)]

use forge_formats::pretokens;
use forge_formats::tokenizer::{MAX_TOKEN, SpecialKind, TokenizerTable};

use crate::error::{Error, Result};

/// A byte-level byte-pair encoder over a file's table.
#[derive(Clone, Copy, Debug)]
pub struct Tokenizer<'a> {
    table: TokenizerTable<'a>,
}

impl<'a> Tokenizer<'a> {
    /// A tokenizer over a table, for trainers; a model's is [`crate::Model::tokenizer`].
    pub fn new(table: TokenizerTable<'a>) -> Self {
        Self { table }
    }

    /// The table.
    pub fn table(&self) -> TokenizerTable<'a> {
        self.table
    }

    /// Number of token ids.
    pub fn vocab(&self) -> u32 {
        self.table.vocab()
    }

    /// Whether there is a token of this id.
    pub fn has(&self, id: u16) -> bool {
        u32::from(id) < self.vocab()
    }

    /// Encodes text into the front of `out` and returns the number of ids. Text, whatever it says, never encodes
    /// to a special token. `text.len()` places always suffice.
    ///
    /// # Errors
    /// [`Error::Buffer`] when `out` has no room for the next piece of text as single bytes.
    pub fn encode(&self, text: &[u8], out: &mut [u16]) -> Result<usize> {
        let mut len = 0;
        for piece in pretokens(text) {
            let room = out.get_mut(len..).and_then(|o| o.get_mut(..piece.len())).ok_or(Error::Buffer)?;
            for (id, byte) in room.iter_mut().zip(piece) {
                *id = self.table.byte_id(*byte);
            }
            len += self.merge_all(room);
        }
        Ok(len)
    }

    /// Applies merges, those of the lowest rank first, to the ids of one piece; returns how many are left.
    fn merge_all(&self, ids: &mut [u16]) -> usize {
        let mut len = ids.len();
        while let Some(ids) = ids.get_mut(..len) {
            let pairs = ids.iter().zip(ids.iter().skip(1));
            // A merged id is its rank plus a constant, so the lowest id is the lowest rank.
            let Some(merged) = pairs.filter_map(|(l, r)| self.table.find_merge(*l, *r)).min() else {
                break;
            };
            let Some(pair) = self.table.merge(merged) else {
                break;
            };
            len = replace_pairs(ids, pair, merged);
        }
        len
    }

    /// The bytes of a token; none for special tokens and ids outside the vocabulary.
    pub fn decode<'b>(&self, id: u16, buffer: &'b mut [u8; MAX_TOKEN]) -> &'b [u8] {
        self.table.token_bytes(id, buffer).unwrap_or(&[])
    }

    /// Id of a special token.
    pub fn special(&self, kind: SpecialKind, name: &str) -> Option<u16> {
        self.table.special(kind, name)
    }

    /// Kind and name of a special token's id.
    pub fn special_at(&self, id: u16) -> Option<(SpecialKind, &'a str)> {
        self.table.special_at(id)
    }

    /// Id of a control token such as `<bos>`.
    ///
    /// # Errors
    /// [`Error::Control`] when the table has none of this name.
    pub fn control(&self, name: &'static str) -> Result<u16> {
        self.special(SpecialKind::Control, name).ok_or(Error::Control(name))
    }
}

/// Replaces every occurrence of `pair`, left to right, by `merged`; returns the new length.
fn replace_pairs(ids: &mut [u16], pair: (u16, u16), merged: u16) -> usize {
    let (mut read, mut write) = (0, 0);
    while let Some(&id) = ids.get(read) {
        let joins = (Some(&pair.1) == ids.get(read + 1)) && id == pair.0;
        read += if joins { 2 } else { 1 };
        if let Some(place) = ids.get_mut(write) {
            *place = if joins { merged } else { id };
        }
        write += 1;
    }
    write
}
