//! Running text of any size: read through a bounded buffer, cleaned, and tokenised into files that are mapped.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::cache::{Key, TokenFile, TokenWriter, hash_file};
use super::dataset::SAMPLE_BYTES;
use super::hygiene::{Hygiene, Overlap, paragraphs};
use super::lines::Chunks;
use super::load::held_out_from;
use super::sample::Sample;
use crate::config::{TokenizerConfig, TokenizerKind};
use crate::error::{Error, Result};
use crate::tokenizer::{Tokenizer, controls};

/// Chunks that are tokenised side by side, for each thread.
const AHEAD: usize = 2;
/// Of the format of what is cached and the rules by which text is left out.
const RULES: &[u8] = b"corpus 1";

/// How a text is prepared.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// Kind and size of the tokenizer that is trained on it.
    pub tokenizer: &'a TokenizerConfig,
    /// The table of a tokenizer to use instead.
    pub table: Option<&'a [u8]>,
    /// Share of the text that is held out, at its end.
    pub valid_share: f64,
    /// Seed of the sample the tokenizer is trained on.
    pub seed: u64,
    /// Whether paragraphs that leak the held-out text are left out of training.
    pub clean: bool,
    /// Where tokens are kept.
    pub cache: &'a Path,
}

/// A text ready to train on, and its end to validate on.
#[derive(Debug)]
pub struct Corpus {
    /// Trained on the training text, unless one was given.
    pub tokenizer: Tokenizer,
    /// The training text's tokens.
    pub train: Arc<TokenFile>,
    /// The held-out text's tokens.
    pub valid: Arc<TokenFile>,
    /// What was left out of training.
    pub hygiene: Hygiene,
}

/// Prepares a text. Memory does not grow with it.
///
/// # Errors
/// [`Error::Io`] when it cannot be read or the cache not written, [`Error::Data`] where it is not UTF-8 or too short to
/// split, [`Error::Usage`] for a vocabulary out of range.
pub fn prepare(path: &Path, settings: &Settings<'_>) -> Result<Corpus> {
    let len = fs::metadata(path).map_err(Error::io("read", path))?.len();
    let cut = held_out_from(path, settings.valid_share)?;
    if cut < 2 || len.saturating_sub(cut) < 2 {
        let what = "too little text to split into train and valid".into();
        return Err(Error::Data { path: path.into(), line: 1, what });
    }
    let overlap = held_out_ngrams(path, cut, len, settings.clean)?;
    let (tokenizer, hygiene) = learn(path, cut, settings, &overlap)?;
    if hygiene.leaks == hygiene.seen {
        let what = "all of the training text repeats what is held out at the end".into();
        return Err(Error::Data { path: path.into(), line: 1, what });
    }
    let text = hash_file(path)?;
    let clean = [u8::from(settings.clean)];
    let cut_at = cut.to_le_bytes();
    let file = |part: &[u8], start: u64, end: u64, leaves_out: &Overlap| {
        let key = Key::of(&[RULES, &text, &cut_at, part, &clean, tokenizer.table()]);
        let fill = |out: &mut TokenWriter<'_>| tokenise(path, start, end, &tokenizer, leaves_out, out);
        TokenFile::open_or(settings.cache, key, fill).map(Arc::new)
    };
    let train = file(b"train", 0, cut, &overlap)?;
    let valid = file(b"valid", cut, len, &Overlap::default())?;
    Ok(Corpus { tokenizer, train, valid, hygiene })
}

fn held_out_ngrams(path: &Path, start: u64, end: u64, clean: bool) -> Result<Overlap> {
    let mut overlap = Overlap::default();
    if clean {
        let mut chunks = Chunks::open(path, start, end)?;
        while let Some(text) = chunks.next()? {
            paragraphs(&text).for_each(|paragraph| overlap.add(paragraph));
        }
    }
    Ok(overlap)
}

/// Trains the tokenizer on the training text and counts what is left out of it.
fn learn(path: &Path, cut: u64, settings: &Settings<'_>, overlap: &Overlap) -> Result<(Tokenizer, Hygiene)> {
    let mut hygiene = Hygiene::default();
    let mut sample = Sample::new(SAMPLE_BYTES, settings.seed);
    let mut characters: BTreeSet<char> = BTreeSet::new();
    let mut chunks = Chunks::open(path, 0, cut)?;
    while let Some(text) = chunks.next()? {
        for paragraph in paragraphs(&text) {
            hygiene.seen += 1;
            if overlap.leaks(paragraph) {
                hygiene.leaks += 1;
                continue;
            }
            match settings.tokenizer.kind {
                TokenizerKind::Bpe => sample.offer(paragraph),
                TokenizerKind::Byte => {}
                TokenizerKind::Char => characters.extend(paragraph.chars()),
            }
        }
    }
    if let Some(table) = settings.table {
        return Ok((Tokenizer::from_bytes(table)?, hygiene));
    }
    let texts = sample.into_texts().chain(Some(characters.into_iter().collect()));
    Ok((Tokenizer::train(texts, controls(), settings.tokenizer)?, hygiene))
}

/// Writes the tokens of a range of a text, without the paragraphs that leak.
fn tokenise(
    path: &Path,
    start: u64,
    end: u64,
    tokenizer: &Tokenizer,
    overlap: &Overlap,
    out: &mut TokenWriter<'_>,
) -> Result<()> {
    let mut chunks = Chunks::open(path, start, end)?;
    let encode = |text: &String| -> Vec<u16> {
        let kept: String = paragraphs(text).filter(|paragraph| !overlap.leaks(paragraph)).collect();
        tokenizer.encode(&kept)
    };
    loop {
        let mut ahead = Vec::new();
        while ahead.len() < AHEAD * rayon::current_num_threads() {
            match chunks.next()? {
                Some(text) => ahead.push(text),
                None => break,
            }
        }
        if ahead.is_empty() {
            return Ok(());
        }
        let encoded: Vec<Vec<u16>> = ahead.par_iter().map(encode).collect();
        encoded.iter().try_for_each(|tokens| out.push(tokens))?;
    }
}

#[cfg(test)]
#[path = "corpus_tests.rs"]
mod tests;
