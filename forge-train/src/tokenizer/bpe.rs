//! Byte-pair encoding (Sennrich et al. 2016), trained by the crate `tokenizers` and put into the form of the file's table.
//!
//! The crate is given the pieces of [`forge_formats::pretokens`], which the device cuts text into, so that no merge learnt
//! here crosses what the device keeps apart. Among pairs that are equally frequent, the one whose tokens are older is
//! merged; bytes are as old as they are large.

use std::collections::HashMap;

use forge_formats::pretokens;
use tokenizers::Trainer;
use tokenizers::models::bpe::{BPE, BpeTrainer};

use crate::error::{Error, Result};

/// Longest token a merge may make, in bytes.
pub const MAX_MERGED_BYTES: usize = 16;
/// Times a pair must occur to be merged.
const MIN_FREQUENCY: u64 = 2;
/// The crate works on characters: byte `b` is the character of this number plus `b`.
const FIRST: u32 = 0x100;

/// Two adjacent tokens.
type Pair = (u16, u16);

/// At most `wanted` merges in rank order; ids as in the file's table with `specials` special tokens.
///
/// # Errors
/// [`Error::Config`] when the crate fails.
pub(super) fn train<S: AsRef<str> + Send>(
    texts: impl Iterator<Item = S> + Send,
    specials: u16,
    wanted: usize,
) -> Result<Vec<Pair>> {
    let failed = |e: &dyn std::fmt::Display| Error::Config(format!("the tokenizer cannot be trained: {e}"));
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .min_frequency(MIN_FREQUENCY)
        .vocab_size(256 + wanted)
        .initial_alphabet((0..=255).map(character).collect())
        // The crate's bound is not included.
        .max_token_length(Some(MAX_MERGED_BYTES + 1))
        .build();
    let pieces = |text: &str| Ok(pretokens(text.as_bytes()).map(characters).collect());
    trainer.feed(texts, pieces).map_err(|e| failed(&e))?;
    let mut model = BPE::default();
    trainer.train(&mut model).map_err(|e| failed(&e))?;
    let merges = merges_of(&model).map_err(|e| failed(&e))?;
    Ok(numbered(&merges, specials))
}

/// The merges by rank; the crate tells them in its file format only.
fn merges_of(model: &BPE) -> serde_json::Result<Vec<(String, String)>> {
    serde_json::from_value(serde_json::to_value(model)?["merges"].take())
}

/// Merges as pairs of ids. The crate may learn two ways to the same token, and a table has one merge a token: the first
/// way is kept.
fn numbered(merges: &[(String, String)], specials: u16) -> Vec<Pair> {
    let byte = |byte: u8| (character(byte).to_string(), specials + u16::from(byte));
    let mut ids: HashMap<String, u16> = (0..=255).map(byte).collect();
    let mut pairs = Vec::new();
    for (left, right) in merges {
        let merged = format!("{left}{right}");
        if let (Some(l), Some(r), false) = (ids.get(left), ids.get(right), ids.contains_key(&merged)) {
            pairs.push((*l, *r));
            ids.insert(merged, specials + 255 + pairs.len() as u16);
        }
    }
    pairs
}

fn character(byte: u8) -> char {
    char::from_u32(FIRST + u32::from(byte)).unwrap_or_default()
}

fn characters(piece: &[u8]) -> String {
    piece.iter().copied().map(character).collect()
}

#[cfg(test)]
#[path = "bpe_tests.rs"]
mod tests;
