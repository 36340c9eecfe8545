//! Byte-pair-encoding training on word counts (Sennrich et al. 2016, with incremental pair counts).
//!
//! The pair with the highest count is merged; among equals the one whose left, then right bytes come first. So
//! the result depends on the texts alone, not on their order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};

use forge_formats::pretokens;

/// Longest token a merge may make, in bytes.
pub const MAX_MERGED_BYTES: usize = 16;

/// Two adjacent tokens.
type Pair = (u16, u16);

/// A candidate: count, then the smaller bytes first.
type Candidate = (u64, Reverse<(Vec<u8>, Vec<u8>)>, Reverse<Pair>);

/// A word's tokens and how often the word occurs.
struct Word {
    tokens: Vec<u16>,
    count: u64,
}

/// State of the training.
struct Trainer {
    words: Vec<Word>,
    /// Occurrences of each pair over all words.
    counts: HashMap<Pair, u64>,
    /// Words that have, or once had, a pair.
    holders: HashMap<Pair, HashSet<u32>>,
    /// Candidates, some of them outdated: an entry counts only when its count is the current one.
    queue: BinaryHeap<Candidate>,
    /// Bytes of every ordinary token, from the first byte token on.
    bytes: Vec<Vec<u8>>,
    specials: u16,
}

/// At most `wanted` merges in rank order; ids as in the file's table with `specials` special tokens.
pub(super) fn train<S: AsRef<str>>(
    texts: impl Iterator<Item = S>,
    specials: u16,
    wanted: usize,
) -> Vec<Pair> {
    let mut trainer = Trainer::new(texts, specials);
    let mut merges = Vec::new();
    while merges.len() < wanted {
        let Some(pair) = trainer.best() else { break };
        trainer.merge(pair);
        merges.push(pair);
    }
    merges
}

impl Trainer {
    fn new<S: AsRef<str>>(texts: impl Iterator<Item = S>, specials: u16) -> Self {
        let mut tally: HashMap<Vec<u8>, u64> = HashMap::new();
        for text in texts {
            for piece in pretokens(text.as_ref().as_bytes()) {
                match tally.get_mut(piece) {
                    Some(count) => *count += 1,
                    None => {
                        tally.insert(piece.to_vec(), 1);
                    }
                }
            }
        }
        // Sorted, so that nothing below depends on the hash's order.
        let tally: BTreeMap<Vec<u8>, u64> = tally.into_iter().collect();
        let tokens = |word: Vec<u8>| word.into_iter().map(|b| specials + u16::from(b)).collect();
        let words = tally.into_iter().map(|(word, count)| Word { tokens: tokens(word), count }).collect();
        let mut trainer = Self {
            words,
            counts: HashMap::new(),
            holders: HashMap::new(),
            queue: BinaryHeap::new(),
            bytes: (0..=255u8).map(|b| vec![b]).collect(),
            specials,
        };
        for index in 0..trainer.words.len() as u32 {
            trainer.count(index, true);
        }
        let mut pairs: Vec<Pair> = trainer.counts.keys().copied().collect();
        pairs.sort_unstable();
        pairs.into_iter().for_each(|pair| trainer.offer(pair));
        trainer
    }

    fn token_bytes(&self, id: u16) -> &[u8] {
        &self.bytes[usize::from(id - self.specials)]
    }

    /// Adds (or removes) a word's pairs to the counts.
    fn count(&mut self, index: u32, add: bool) -> Vec<Pair> {
        let word = &self.words[index as usize];
        let pairs: Vec<Pair> = word.tokens.windows(2).map(|w| (w[0], w[1])).collect();
        for pair in &pairs {
            let count = self.counts.entry(*pair).or_insert(0);
            if add {
                *count += word.count;
                self.holders.entry(*pair).or_default().insert(index);
            } else {
                *count -= word.count;
            }
        }
        pairs
    }

    /// Queues a pair with its present count, when a merge of it is allowed.
    fn offer(&mut self, pair: Pair) {
        let count = self.counts.get(&pair).copied().unwrap_or(0);
        let (left, right) = (self.token_bytes(pair.0), self.token_bytes(pair.1));
        if count >= 2 && left.len() + right.len() <= MAX_MERGED_BYTES {
            let key = Reverse((left.to_vec(), right.to_vec()));
            self.queue.push((count, key, Reverse(pair)));
        }
    }

    /// The pair to merge next.
    fn best(&mut self) -> Option<Pair> {
        while let Some((count, _, Reverse(pair))) = self.queue.pop() {
            if self.counts.get(&pair) == Some(&count) {
                return Some(pair);
            }
        }
        None
    }

    /// Replaces the pair in every word by a new token and brings the counts up to date.
    fn merge(&mut self, pair: Pair) {
        let id = self.specials + self.bytes.len() as u16;
        let merged = [self.token_bytes(pair.0), self.token_bytes(pair.1)].concat();
        self.bytes.push(merged);
        let holders = self.holders.remove(&pair).unwrap_or_default();
        let mut changed: Vec<Pair> = Vec::new();
        for index in holders {
            changed.extend(self.count(index, false));
            let word = &mut self.words[index as usize];
            word.tokens = replace(&word.tokens, pair, id);
            changed.extend(self.count(index, true));
        }
        self.counts.remove(&pair);
        changed.sort_unstable();
        changed.dedup();
        changed.into_iter().for_each(|p| self.offer(p));
    }
}

/// `tokens` with each `pair`, from the left, replaced by `id`.
fn replace(tokens: &[u16], pair: Pair, id: u16) -> Vec<u16> {
    let mut out = Vec::with_capacity(tokens.len());
    let mut i = 0;
    while i < tokens.len() {
        if i + 1 < tokens.len() && (tokens[i], tokens[i + 1]) == pair {
            out.push(id);
            i += 2;
        } else {
            out.push(tokens[i]);
            i += 1;
        }
    }
    out
}

