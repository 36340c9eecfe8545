//! Duplicates, and what validation shares with training: found and taken out of *training*, so that a measured figure is
//! of what was not learnt.

use std::collections::HashSet;

use sha2::{Digest, Sha256};

use super::Example;
use super::store::{Store, Writer};
use crate::error::Result;

/// Words of an n-gram that is looked for in the other split: long enough that chance repeats few (Brown et al. 2020,
/// appendix C, use 8 to 13).
const NGRAM: usize = 8;
/// N-grams remembered at most; a longer text is sampled by their hash (Broder 1997).
const REMEMBERED: usize = 1 << 19;
/// Share of a paragraph's n-grams that occur in the held-out text, from which on the paragraph leaks it.
const LEAKS: f64 = 0.5;

/// What was taken out of training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hygiene {
    /// Rows or paragraphs looked at.
    pub seen: usize,
    /// Rows that another training row says already.
    pub duplicates: usize,
    /// Rows that validation or test hold too; paragraphs that share most of their n-grams with held-out text.
    pub leaks: usize,
}

impl Hygiene {
    /// What a user should know; `None` when nothing was taken out.
    pub fn note(&self) -> Option<String> {
        let Self { seen, duplicates, leaks } = *self;
        (duplicates + leaks > 0).then(|| {
            format!("of {seen} training rows {duplicates} duplicates and {leaks} that are held out too are left out")
        })
    }
}

/// Text without case, punctuation, and white space beyond one space between words.
pub fn normalised(text: &str) -> String {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// Text without case, and with one space where white space is. Unlike [`normalised`] it tells `7+5` from `7-5`.
fn respaced(text: &str) -> String {
    text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A row as a whole: two rows with the same key say the same.
fn row_key(example: &Example) -> String {
    let system = example.system.as_deref().unwrap_or_default();
    [system, &example.prompt, &example.completion.canonical()].map(normalised).join("\n")
}

/// What a row asks: two rows with the same key would be answered alike.
fn asked_key(example: &Example) -> String {
    if example.is_plain() { row_key(example) } else { respaced(&example.prompt) }
}

/// Keys that are compared at once, at most: 16 MiB of them. More are compared in several passes, each over the keys of one
/// remainder.
const COMPARED: usize = 1 << 19;

/// The first 128 bits of the SHA-256 of what a row asks and of what it says: equal keys are equal texts.
fn keys(example: &Example) -> [u128; 2] {
    [asked_key(example), row_key(example)].map(|text| {
        let hash: [u8; 32] = Sha256::digest(text).into();
        u128::from_le_bytes(*hash.first_chunk().expect("32 bytes"))
    })
}

fn keys_of<'a>(lists: impl IntoIterator<Item = &'a Store<Example>>) -> Result<Store<[u128; 2]>> {
    let mut out: Option<Writer<[u128; 2]>> = None;
    for list in lists {
        let out = out.get_or_insert_with(|| list.writer());
        list.iter().try_for_each(|example| out.push(keys(&example)))?;
    }
    out.unwrap_or_else(|| Writer::new(None)).finish()
}

/// Takes rows out of the lists of `train` that repeat an earlier one of any list, and rows that ask or say what a row of
/// `held_out` does. Memory beyond a bit a row does not grow with the rows.
///
/// # Errors
/// [`crate::error::Error::Io`] when what is too large for memory cannot be written.
pub fn clean(
    train: &[Store<Example>],
    held_out: &[Store<Example>],
) -> Result<(Vec<Store<Example>>, Hygiene)> {
    clean_by(COMPARED, train, held_out)
}

/// As [`clean`], with so many keys compared at once.
fn clean_by(
    compared: usize,
    train: &[Store<Example>],
    held_out: &[Store<Example>],
) -> Result<(Vec<Store<Example>>, Hygiene)> {
    let (rows, held_out) = (keys_of(train)?, keys_of(held_out)?);
    let passes = (rows.len().max(held_out.len()).div_ceil(compared)).max(1) as u128;
    let mut leaks = Bits::new(rows.len());
    let mut repeats = Bits::new(rows.len());
    for which in [0, 1] {
        for pass in 0..passes {
            let of_pass = |keys: &[u128; 2]| keys[which] % passes == pass;
            let known: HashSet<u128> = held_out.iter().filter(|k| of_pass(k)).map(|k| k[which]).collect();
            for (row, keys) in rows.iter().enumerate() {
                if of_pass(&keys) && known.contains(&keys[which]) {
                    leaks.set(row);
                }
            }
        }
    }
    for pass in 0..passes {
        let mut seen = HashSet::new();
        for (row, keys) in rows.iter().enumerate() {
            if keys[1] % passes == pass && !leaks.get(row) && !seen.insert(keys[1]) {
                repeats.set(row);
            }
        }
    }
    let report = Hygiene { seen: rows.len(), duplicates: repeats.count(), leaks: leaks.count() };
    let mut row = 0..;
    let kept = train.iter().map(|list| {
        let mut out = list.writer();
        for (example, row) in list.iter().zip(&mut row) {
            if !leaks.get(row) && !repeats.get(row) {
                out.push(example.into_owned())?;
            }
        }
        out.finish()
    });
    Ok((kept.collect::<Result<_>>()?, report))
}

/// A bit a row.
struct Bits(Vec<u64>);

impl Bits {
    fn new(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)])
    }

    fn set(&mut self, at: usize) {
        self.0[at / 64] |= 1 << (at % 64);
    }

    fn get(&self, at: usize) -> bool {
        self.0[at / 64] >> (at % 64) & 1 == 1
    }

    fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }
}

/// The n-grams of a held-out text, or an even sample of them: memory is bounded whatever the text's length.
#[derive(Clone, Debug, Default)]
pub struct Overlap {
    hashes: HashSet<u64>,
    /// Hashes that are multiples of two to this power are remembered.
    rarity: u32,
}

impl Overlap {
    /// Adds a paragraph of the held-out text.
    pub fn add(&mut self, paragraph: &str) {
        for hash in ngrams(paragraph) {
            if hash.trailing_zeros() >= self.rarity {
                self.hashes.insert(hash);
            }
        }
        while self.hashes.len() > REMEMBERED {
            self.rarity += 1;
            self.hashes.retain(|hash| hash.trailing_zeros() >= self.rarity);
        }
    }

    /// Whether a paragraph of training leaks the held-out text: half of its n-grams or more occur there. One of fewer
    /// than eight words never does: so little is said again without being copied.
    pub fn leaks(&self, paragraph: &str) -> bool {
        let (mut known, mut all) = (0, 0);
        for hash in ngrams(paragraph).filter(|hash| hash.trailing_zeros() >= self.rarity) {
            known += usize::from(self.hashes.contains(&hash));
            all += 1;
        }
        all > 0 && known as f64 >= LEAKS * all as f64
    }
}

/// Hashes of each eight neighbouring words of a text's normal form.
fn ngrams(text: &str) -> impl Iterator<Item = u64> {
    let words: Vec<u64> = normalised(text).split(' ').filter(|w| !w.is_empty()).map(fnv).collect();
    let grams: Vec<u64> = words.windows(NGRAM).map(|gram| gram.iter().fold(0, |h, w| mix(h ^ w))).collect();
    grams.into_iter()
}

/// FNV-1a (Fowler, Noll, Vo 1991).
fn fnv(word: &str) -> u64 {
    word.bytes().fold(0xCBF2_9CE4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3))
}

/// A multiplication and a shift that spread every bit over the upper and lower ones.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x ^ (x >> 32)
}

/// Cuts text into paragraphs: behind blank lines, and, where there are none for long, behind line ends. Together they are
/// the text; each begins with what is no white space, so that no token crosses two.
pub fn paragraphs(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (paragraph, after) = rest.split_at(paragraph_len(rest));
        rest = after;
        (!paragraph.is_empty()).then_some(paragraph)
    })
}

/// Bytes from which on a line end suffices to end a paragraph.
const LONG: usize = 2000;

fn paragraph_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    let ends = |at: &usize| {
        let blank = bytes[at - 1] == b'\n' && (bytes[at - 2] == b'\n' || *at > LONG);
        blank && !matches!(bytes[*at], b' ' | 0x09..=0x0D)
    };
    (2..bytes.len()).find(ends).unwrap_or(bytes.len())
}

#[cfg(test)]
#[path = "hygiene_tests.rs"]
mod tests;
