//! Tokenizers: byte-pair encodings, bytes and characters, trained here and run through `forge-runtime`.
//!
//! Whatever trained it, a tokenizer is the table that stands in the file, and text is encoded by the runtime's encoder over
//! that table: what the model is trained on is what the device will produce.

mod bpe;
mod characters;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, RwLock};

use forge_formats::pretokens;
use forge_formats::tokenizer::{MAX_TOKEN, SpecialKind, TokenizerSpec, TokenizerTable, UNKNOWN};

use crate::config::{TokenizerConfig, TokenizerKind};
use crate::data::Dataset;
use crate::error::{Error, Result};

pub use bpe::MAX_MERGED_BYTES;

/// Control tokens in id order; `<pad>` is 0.
pub const CONTROLS: [&str; 7] = ["<pad>", "<bos>", "<eos>", "<sys>", "<sep>", "<think>", "</think>"];

/// Control tokens that structure a thought, in id order behind [`CONTROLS`]: a step, a weighing of possibilities, a
/// part of a whole, an attempt to refute, a rule of the trade, a doubt. Tokenizers of before have none of them.
pub const MARKERS: [&str; 6] = ["<step>", "<reason>", "<mece>", "<falsify>", "<expert>", "<doubt>"];

/// Pieces of text remembered with their ids, at most.
const REMEMBERED: usize = 1 << 16;

/// Longest of them in bytes.
const LONGEST_REMEMBERED: usize = 64;

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
    /// A tokenizer of `texts` with these special tokens. [`TokenizerKind::Bpe`] makes merges until the vocabulary (special
    /// tokens and the 256 bytes included) is full or no pair occurs twice; the other kinds have the vocabulary the texts
    /// need.
    ///
    /// # Errors
    /// [`Error::Usage`] when the vocabulary does not hold the special tokens and bytes, or the texts have more
    /// characters than there are ids; [`Error::Format`] for names the table refuses.
    pub fn train<S: AsRef<str> + Send>(
        texts: impl Iterator<Item = S> + Send,
        mut specials: Vec<(SpecialKind, String)>,
        config: &TokenizerConfig,
    ) -> Result<Self> {
        match config.kind {
            TokenizerKind::Bpe => {
                let wanted = room(config.vocab as usize, specials.len())?;
                let merges = bpe::train(texts, specials.len() as u16, wanted)?;
                Self::from_spec(TokenizerSpec { specials, merges, ..TokenizerSpec::default() })
            }
            TokenizerKind::Byte => Self::from_spec(TokenizerSpec { specials, ..TokenizerSpec::default() }),
            TokenizerKind::Char => {
                let controls = specials.iter().take_while(|(kind, _)| *kind == SpecialKind::Control).count();
                specials.insert(controls, (SpecialKind::Control, UNKNOWN.into()));
                let mut found = BTreeSet::new();
                texts.for_each(|text| found.extend(text.as_ref().chars()));
                Self::of_characters(&found, specials)
            }
        }
    }

    fn of_characters(found: &BTreeSet<char>, specials: Vec<(SpecialKind, String)>) -> Result<Self> {
        if found.is_empty() {
            return Err(Error::Usage {
                what: "a text without characters makes no tokenizer of characters".into(),
                hint: "give more text, or set `tokenizer.kind` to bpe or byte".into(),
            });
        }
        let table = characters::table(found, specials.len() as u16);
        let (alphabet, merges) = table.ok_or_else(|| Error::Usage {
            what: format!("{} different characters do not fit a vocabulary of 65536", found.len()),
            hint: "set `tokenizer.kind` to bpe or byte".into(),
        })?;
        Self::from_spec(TokenizerSpec { specials, alphabet, merges })
    }

    /// Trains on a data set's training texts, with the controls and its tools and slots as specials.
    ///
    /// # Errors
    /// As [`Tokenizer::train`].
    pub fn for_dataset(data: &Dataset, config: &TokenizerConfig) -> Result<Self> {
        let mut specials = controls();
        specials.extend(data.tools.iter().map(|t| (SpecialKind::Tool, t.name.clone())));
        specials.extend(data.slots().into_iter().map(|s| (SpecialKind::Slot, s)));
        match config.kind {
            // A character that was left out could not be written.
            TokenizerKind::Char => Self::train(data.all_texts(), specials, config),
            TokenizerKind::Bpe | TokenizerKind::Byte => Self::train(data.texts(), specials, config),
        }
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
        (self.spec.specials.len() + self.spec.merges.len()) as u32 + u32::from(self.spec.alphabet.len())
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
        if memo.len() < REMEMBERED && piece.len() <= LONGEST_REMEMBERED {
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

    /// Id of one of the [`MARKERS`], none in a tokenizer from before there were any.
    pub fn marker(&self, name: &str) -> Option<u16> {
        self.special(SpecialKind::Control, name)
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

/// The control tokens as a table begins with them.
pub fn controls() -> Vec<(SpecialKind, String)> {
    CONTROLS.iter().chain(&MARKERS).map(|name| (SpecialKind::Control, (*name).to_owned())).collect()
}

/// Merges that fit a vocabulary beside special tokens and bytes.
fn room(vocab: usize, specials: usize) -> Result<usize> {
    let fixed = specials + 256;
    if vocab < fixed || vocab > usize::from(u16::MAX) {
        return Err(Error::Usage {
            what: format!("a vocabulary of {vocab} is out of range: {fixed} to 65535 with this data"),
            hint: "set `tokenizer.vocab` within that range, a few hundred above its start".into(),
        });
    }
    Ok(vocab - fixed)
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
