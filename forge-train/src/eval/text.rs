//! Likelihood of running text, over all of it, through the runtime.
//!
//! The text is cut into blocks of a stated number of predictions, each read from an empty state; every position counts,
//! the first of a block too, as nanoGPT measures validation loss. With a stride below the block, windows overlap and
//! each scores only what the one before has not: every token but the first window's is then predicted from at least
//! `block − stride` tokens.

use std::time::Instant;

use forge_runtime::Model;
use serde::Serialize;

use super::estimate::Estimate;
use super::runner::failed;
use super::score::{Score, Span, score_all};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// How a text is scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextOptions {
    /// Predictions of a block.
    pub block: usize,
    /// Tokens from one block to the next, at most `block`; `block` for blocks side by side.
    pub stride: usize,
    /// Blocks that go through the model side by side; chosen by itself when `None`. Changes speed and memory, no figure.
    pub together: Option<usize>,
}

impl TextOptions {
    /// Blocks side by side.
    pub fn blocks(block: usize) -> Self {
        Self { block, stride: block, together: None }
    }
}

/// A text in the tokens of one model, with the bytes and characters each token stands for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TextTokens {
    /// The tokens.
    pub ids: Vec<u16>,
    /// Bytes and characters of each; a character belongs to the token of its first byte.
    sizes: Vec<[u8; 2]>,
}

impl TextTokens {
    /// Appends a part of a text; parts must end where no merge crosses.
    pub fn extend(&mut self, tokenizer: &Tokenizer, text: &str) {
        let ids = tokenizer.encode(text);
        let runtime = tokenizer.runtime();
        let mut rest = text.as_bytes();
        for id in &ids {
            let mut buffer = [0; forge_formats::tokenizer::MAX_TOKEN];
            // A token without bytes is the unknown one, and stands for one byte.
            let len = runtime.decode(*id, &mut buffer).len().max(1).min(rest.len());
            let (bytes, after) = rest.split_at(len);
            rest = after;
            let characters = bytes.iter().filter(|byte| **byte & 0xC0 != 0x80).count();
            self.sizes.push([len as u8, characters as u8]);
        }
        self.ids.extend(ids);
    }

    /// A whole text.
    pub fn of(tokenizer: &Tokenizer, text: &str) -> Self {
        let mut out = Self::default();
        out.extend(tokenizer, text);
        out
    }
}

/// What a block came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockScore {
    /// Negative log-likelihood of its scored tokens.
    pub nats: f64,
    /// How many these are.
    pub tokens: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Their characters.
    pub characters: usize,
}

/// What was measured. Every field but `tokens_per_second` is a pure function of file, text and options.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TextReport {
    /// Length of the file.
    pub bytes: u64,
    /// Predictions of a block.
    pub block: usize,
    /// Tokens from one block to the next.
    pub stride: usize,
    /// Blocks.
    pub blocks: usize,
    /// Tokens scored: all but the text's first.
    pub tokens: usize,
    /// Bytes of these.
    pub text_bytes: usize,
    /// Characters of these.
    pub characters: usize,
    /// Mean negative log-likelihood of a token.
    pub nats_per_token: Estimate,
    /// The same for each character.
    pub nats_per_character: Estimate,
    /// The same for each byte, in bits.
    pub bits_per_byte: Estimate,
    /// Tokens read a second, on all threads together, the overlap of windows counted.
    pub tokens_per_second: f64,
}

/// Scores every token of a text but its first.
///
/// # Errors
/// [`Error::Format`] for a file that is not a model, [`Error::Usage`] for a text of fewer than two tokens, or a block or
/// stride out of range.
pub fn score_text(file: &[u8], text: &TextTokens, options: &TextOptions) -> Result<Vec<BlockScore>> {
    let model = Model::parse(file).map_err(failed)?;
    let windows = windows(text.ids.len(), options)?;
    let spans: Vec<Span<'_>> = windows
        .iter()
        .map(|[start, from, end]| {
            let ids = &text.ids[*start..*end];
            Span { ids, from: from - start, completion: ids.len() }
        })
        .collect();
    let scores = score_all(&model, &spans, options.together)?;
    let block = |([_, from, end], score): (&[usize; 3], Score)| {
        let sizes = &text.sizes[*from..*end];
        let sum = |part: usize| sizes.iter().map(|size| usize::from(size[part])).sum();
        BlockScore { nats: score.nats, tokens: end - from, bytes: sum(0), characters: sum(1) }
    };
    Ok(windows.iter().zip(scores).map(block).collect())
}

/// Windows as `[first token read, first token scored, end]`. What they score is the text but its first token, each once.
fn windows(len: usize, options: &TextOptions) -> Result<Vec<[usize; 3]>> {
    let usage = |what: String, hint: &str| Err(Error::Usage { what, hint: hint.into() });
    let TextOptions { block, stride, together } = *options;
    if block == 0 || !(1..=block).contains(&stride) || together == Some(0) {
        return usage(
            format!("blocks of {block} tokens every {stride} cannot be scored"),
            "use 1 ≤ stride ≤ block",
        );
    }
    if len < 2 {
        return usage(format!("a text of {len} tokens has nothing to predict"), "give more text");
    }
    let mut out = vec![[0, 1, len.min(block + 1)]];
    while let Some([_, _, end]) = out.last().copied().filter(|w| w[2] < len) {
        out.push([end - 1 - (block - stride), end, len.min(end + stride)]);
    }
    Ok(out)
}

/// Scores a text and sums the blocks up.
///
/// # Errors
/// As [`score_text`].
pub fn evaluate_text(file: &[u8], text: &TextTokens, options: &TextOptions) -> Result<TextReport> {
    let begin = Instant::now();
    let blocks = score_text(file, text, options)?;
    let seconds = begin.elapsed().as_secs_f64();
    let read: usize = windows(text.ids.len(), options)?.iter().map(|[start, _, end]| end - start - 1).sum();
    let per = |unit: &dyn Fn(&BlockScore) -> usize| {
        let parts: Vec<(f64, f64)> = blocks.iter().map(|b| (b.nats, unit(b) as f64)).collect();
        Estimate::of_ratio(&parts)
    };
    let sum = |unit: &dyn Fn(&BlockScore) -> usize| blocks.iter().map(unit).sum();
    Ok(TextReport {
        bytes: file.len() as u64,
        block: options.block,
        stride: options.stride,
        blocks: blocks.len(),
        tokens: sum(&|b| b.tokens),
        text_bytes: sum(&|b| b.bytes),
        characters: sum(&|b| b.characters),
        nats_per_token: per(&|b| b.tokens),
        nats_per_character: per(&|b| b.characters),
        bits_per_byte: per(&|b| b.bytes).times(std::f64::consts::LOG2_E),
        tokens_per_second: read as f64 / seconds.max(1e-9),
    })
}

/// Measures a text in blocks of `block` predictions, side by side, in the file's own tokens.
///
/// # Errors
/// As [`score_text`].
pub fn evaluate(file: &[u8], text: &str, block: usize) -> Result<TextReport> {
    let model = Model::parse(file).map_err(failed)?;
    let tokenizer = Tokenizer::from_spec(model.file().tokenizer().to_spec())?;
    evaluate_text(file, &TextTokens::of(&tokenizer, text), &TextOptions::blocks(block))
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
