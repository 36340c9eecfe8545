//! Byte-level BPE: training, and a wrapper that encodes and decodes through `forge-runtime`.
//!
//! The trainer is the project's own: it must cut text with [`forge_formats::pretokens`], the pre-tokeniser the
//! device uses, bound the length of a token, and emit the file's table directly; otherwise a token learned here
//! could be one the device never produces.

mod bpe;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, RwLock};

use forge_formats::pretokens;
use forge_formats::tokenizer::{MAX_TOKEN, SpecialKind, TokenizerSpec, TokenizerTable};

use crate::data::Dataset;
use crate::error::{Error, Result};

pub use bpe::MAX_MERGED_BYTES;

/// Control tokens in id order; `<pad>` is 0.
pub const CONTROLS: [&str; 7] = ["<pad>", "<bos>", "<eos>", "<sys>", "<sep>", "<think>", "</think>"];

/// Pieces of text remembered with their ids, at most.
const REMEMBERED: usize = 1 << 16;

/// Ids of pieces of text that were encoded before.
type Memo = HashMap<Box<[u8]>, Box<[u16]>>;

/// A trained tokenizer with its table in the file's form.
#[derive(Clone)]
pub struct Tokenizer {
    spec: TokenizerSpec,
    bytes: Vec<u8>,
    memo: Arc<RwLock<Memo>>,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("vocab", &self.vocab()).finish_non_exhaustive()
    }
}

impl PartialEq for Tokenizer {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Tokenizer {
    /// Trains merges on `texts` until the vocabulary (specials and the 256 bytes included) is full or no pair
    /// occurs twice.
    ///
    /// # Errors
    /// [`Error::Config`] when `vocab_size` does not even hold the specials and bytes; [`Error::Format`] for names
    /// the table refuses.
    pub fn train<S: AsRef<str>>(
        texts: impl Iterator<Item = S>,
        specials: Vec<(SpecialKind, String)>,
        vocab_size: usize,
    ) -> Result<Self> {
        let fixed = specials.len() + 256;
        if vocab_size < fixed || vocab_size > usize::from(u16::MAX) {
            return Err(Error::Usage {
                what: format!(
                    "a vocabulary of {vocab_size} is out of range: {fixed} to 65535 with this data"
                ),
                hint: "set `tokenizer.vocab` within that range, a few hundred above its start".into(),
            });
        }
        let merges = bpe::train(texts, specials.len() as u16, vocab_size - fixed);
        Self::from_spec(TokenizerSpec { specials, merges })
    }

    /// Trains on a data set's training texts, with the controls and its tools and slots as specials.
    ///
    /// # Errors
    /// As [`Tokenizer::train`].
    pub fn for_dataset(data: &Dataset, vocab_size: usize) -> Result<Self> {
        let mut specials: Vec<_> = CONTROLS.iter().map(|c| (SpecialKind::Control, c.to_string())).collect();
        specials.extend(data.tools.iter().map(|t| (SpecialKind::Tool, t.name.clone())));
        specials.extend(data.slots().into_iter().map(|s| (SpecialKind::Slot, s)));
        Self::train(data.texts(), specials, vocab_size)
    }

    /// The tokenizer of a specification.
    ///
    /// # Errors
    /// [`Error::Format`] when the table is invalid or lacks a control token.
    pub fn from_spec(spec: TokenizerSpec) -> Result<Self> {
        let bytes = spec.to_bytes()?;
        let table = TokenizerTable::parse(&bytes)?;
        if CONTROLS.iter().any(|c| table.special(SpecialKind::Control, c).is_none()) {
            return Err(Error::Format(forge_formats::error::Error::Tokenizer("a control token is missing")));
        }
        Ok(Self { spec, bytes, memo: Arc::default() })
    }

    /// The tokenizer of a table as it stands in a file.
    ///
    /// # Errors
    /// As [`Tokenizer::from_spec`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::from_spec(TokenizerTable::parse(bytes)?.to_spec())
    }

    /// Special tokens and merges.
    pub fn spec(&self) -> &TokenizerSpec {
        &self.spec
    }

    /// The table as it stands in the file.
    pub fn table(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of token ids.
    pub fn vocab(&self) -> u32 {
        (self.spec.specials.len() + 256 + self.spec.merges.len()) as u32
    }

    /// Text to ids, never to specials: what the runtime's encoder gives.
    pub fn encode(&self, text: &str) -> Vec<u16> {
        let mut ids = Vec::with_capacity(text.len() / 2);
        for piece in pretokens(text.as_bytes()) {
            let known = self.memo.read().unwrap_or_else(|e| e.into_inner());
            match known.get(piece) {
                Some(known) => ids.extend_from_slice(known),
                None => {
                    drop(known);
                    ids.extend(self.encode_piece(piece));
                }
            }
        }
        ids
    }

    /// Encodes a piece through the runtime and remembers it. Pieces are independent: no merge crosses two.
    fn encode_piece(&self, piece: &[u8]) -> Vec<u16> {
        let mut ids = vec![0; piece.len()];
        let len = self.runtime().encode(piece, &mut ids).expect("an id a byte always suffices");
        ids.truncate(len);
        let mut memo = self.memo.write().unwrap_or_else(|e| e.into_inner());
        if memo.len() < REMEMBERED {
            memo.insert(piece.into(), ids.clone().into());
        }
        ids
    }

    /// Ids to text; specials give nothing, bytes that are not UTF-8 the replacement character.
    pub fn decode(&self, ids: &[u16]) -> String {
        decode(&self.runtime(), ids)
    }

    /// The runtime's tokenizer over the same table.
    pub fn runtime(&self) -> forge_runtime::Tokenizer<'_> {
        forge_runtime::Tokenizer::new(TokenizerTable::parse(&self.bytes).expect("checked when it was made"))
    }

    /// Id of a control token.
    ///
    /// # Panics
    /// If `name` is not one of [`CONTROLS`].
    pub fn control(&self, name: &str) -> u16 {
        self.special(SpecialKind::Control, name).expect("a control token")
    }

    /// Id of a tool.
    pub fn tool(&self, name: &str) -> Option<u16> {
        self.special(SpecialKind::Tool, name)
    }

    /// Id of a slot.
    pub fn slot(&self, name: &str) -> Option<u16> {
        self.special(SpecialKind::Slot, name)
    }

    fn special(&self, kind: SpecialKind, name: &str) -> Option<u16> {
        let at = self.spec.specials.iter().position(|(k, n)| *k == kind && n == name)?;
        u16::try_from(at).ok()
    }
}

/// Ids to text with the runtime's tokenizer, as [`Tokenizer::decode`].
pub fn decode(tokenizer: &forge_runtime::Tokenizer<'_>, ids: &[u16]) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; MAX_TOKEN];
    for id in ids {
        bytes.extend_from_slice(tokenizer.decode(*id, &mut buffer));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
