//! A task whose answers take as many steps as they say: following a permutation.
//!
//! A sequence states a permutation of eight letters as pairs, in random order, then asks questions of a letter and a
//! number `k`: where is the letter after `k` applications? Answers are targets only, never inputs, so that no question
//! helps another. Each application is a look-up that needs the one before. Chance is one in eight.

use anyhow::{Context, Result};
use forge_formats::config::{Activation, CacheKind, Globals, MemoryKind, ModelConfig};
use forge_runtime::{Model, Session, Workspace};
use forge_train::data::batch::Batch;
use forge_train::data::source::BatchSource;
use forge_train::rng::Rng;
use forge_train::tokenizer::Tokenizer;

/// Letters of a permutation.
const LETTERS: &[u8] = b"abcdefgh";
/// Most applications that are asked for.
pub(super) const MOST: usize = 6;
/// Questions of a sequence.
const QUESTIONS: usize = 8;
/// Sequences that a file is judged on.
const JUDGED: u64 = 500;
/// Tokens of a sequence.
const LENGTH: usize = 2 * (LETTERS.len() + QUESTIONS);

/// Sequences of a permutation and questions.
#[derive(Clone)]
pub(super) struct Hops {
    letters: Vec<u16>,
    numbers: Vec<u16>,
    rows: usize,
    seed: u64,
}

/// One sequence, and what is asked: place of the number, applications, answer.
struct Asked {
    ids: Vec<u16>,
    questions: Vec<(usize, usize, u16)>,
}

/// Applications to judge by: each number as often.
fn evenly(rng: &mut Rng) -> usize {
    1 + rng.below(MOST)
}

/// Applications to train on: few more often, because following one is what following more begins with.
fn mostly_few(rng: &mut Rng) -> usize {
    let most = evenly(rng);
    1 + rng.below(most)
}

impl Hops {
    /// Batches of about `batch_tokens`.
    pub(super) fn new(tokenizer: &Tokenizer, batch_tokens: usize, seed: u64) -> Result<Self> {
        let id = |b: &u8| tokenizer.encode(&char::from(*b).to_string()).first().copied();
        let ids =
            |bytes: &[u8]| bytes.iter().map(id).collect::<Option<Vec<_>>>().context("a byte without a token");
        let numbers: Vec<u8> = (1..=MOST as u8).map(|k| b'0' + k).collect();
        Ok(Self { letters: ids(LETTERS)?, numbers: ids(&numbers)?, rows: batch_tokens / LENGTH, seed })
    }

    /// A sequence whose questions ask for as many applications as `times` draws.
    fn ask(&self, rng: &mut Rng, times: fn(&mut Rng) -> usize) -> Asked {
        let n = self.letters.len();
        let mut image: Vec<usize> = (0..n).collect();
        rng.shuffle(&mut image);
        let mut order: Vec<usize> = (0..n).collect();
        rng.shuffle(&mut order);
        let mut ids: Vec<u16> =
            order.iter().flat_map(|letter| [self.letters[*letter], self.letters[image[*letter]]]).collect();
        let mut questions = Vec::new();
        for _ in 0..QUESTIONS {
            let (letter, times) = (rng.below(n), times(rng));
            let answer = (0..times).fold(letter, |at, _| image[at]);
            questions.push((ids.len() + 1, times, self.letters[answer]));
            ids.extend([self.letters[letter], self.numbers[times - 1]]);
        }
        Asked { ids, questions }
    }

    /// Share of answers that the file gives, by applications from 1 on.
    pub(super) fn judge(&self, file: &[u8]) -> Result<[f64; MOST]> {
        let model = Model::parse(file).map_err(|e| anyhow::anyhow!("{e}"))?;
        let (mut right, mut asked) = ([0u64; MOST], [0u64; MOST]);
        for number in 0..JUDGED {
            // Training draws from the same seed's `hops`.
            let sequence = self.ask(&mut Rng::at_step(self.seed, "judged hops", number), evenly);
            let mut memory = Workspace::new(&model);
            let mut session = Session::new(&model, memory.bytes()).map_err(|e| anyhow::anyhow!("{e}"))?;
            for (at, id) in sequence.ids.iter().enumerate() {
                let logits = session.step(*id).map_err(|e| anyhow::anyhow!("{e}"))?;
                if let Some((_, times, answer)) = sequence.questions.iter().find(|(place, ..)| *place == at) {
                    let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
                    right[times - 1] += u64::from(best == Some(usize::from(*answer)));
                    asked[times - 1] += 1;
                }
            }
        }
        Ok(std::array::from_fn(|k| right[k] as f64 / asked[k].max(1) as f64))
    }
}

impl BatchSource for Hops {
    fn batch(&self, step: u64) -> Batch {
        let mut rng = Rng::at_step(self.seed, "hops", step);
        let tokens = self.rows * LENGTH;
        let (targets, weights) = (vec![0; tokens], vec![0.0; tokens]);
        let mut batch = Batch { ids: Vec::new(), targets, weights, rows: self.rows, cols: LENGTH };
        for row in 0..self.rows {
            let Asked { ids, questions } = self.ask(&mut rng, mostly_few);
            batch.ids.extend(ids.iter().map(|id| u32::from(*id)));
            for (place, _, answer) in questions {
                batch.targets[row * LENGTH + place] = answer.into();
                batch.weights[row * LENGTH + place] = 1.0;
            }
        }
        batch
    }
}

/// A model of `layers` blocks applied `recursion` times that sees whole sequences.
pub(super) fn model(layers: u32, recursion: u32, vocab: u32) -> ModelConfig {
    ModelConfig {
        vocab,
        dim: 64,
        layers,
        heads: 4,
        kv_heads: 4,
        head_dim: 16,
        ffn: 172,
        activation: Activation::SwiGlu,
        window: LENGTH as u32,
        rope_log2_theta: 13.287_712,
        norm_eps: 1e-6,
        norm_gain: true,
        tied: true,
        recursion,
        halting: false,
        halt_threshold: 0.9,
        mem_dim: 0,
        mem_gate: 0,
        mem_layers: 0,
        cache: CacheKind::F32,
        memory: MemoryKind::Ema,
        globals: Globals::default(),
    }
}

#[cfg(test)]
mod tests {
    use forge_train::config::{TokenizerConfig, TokenizerKind};
    use forge_train::tokenizer::controls;

    use super::*;

    #[test]
    fn answers_follow_the_stated_pairs() {
        let config = TokenizerConfig { kind: TokenizerKind::Byte, vocab: 0 };
        let tokenizer = Tokenizer::train(std::iter::empty::<&str>(), controls(), &config).unwrap();
        let hops = Hops::new(&tokenizer, 10 * LENGTH, 3).unwrap();
        let batch = hops.batch(5);
        assert_eq!((batch.rows, batch.cols, batch.ids.len()), (10, LENGTH, 10 * LENGTH));
        assert_eq!(batch, hops.batch(5));
        for row in 0..10 {
            let ids = &batch.ids[row * LENGTH..][..LENGTH];
            let next = |letter: u32| {
                ids[..2 * LETTERS.len()].chunks(2).find(|pair| pair[0] == letter).map(|pair| pair[1]).unwrap()
            };
            for question in (2 * LETTERS.len()..LENGTH).step_by(2) {
                let times =
                    1 + hops.numbers.iter().position(|id| u32::from(*id) == ids[question + 1]).unwrap();
                let answer = (0..times).fold(ids[question], |letter, _| next(letter));
                let place = row * LENGTH + question + 1;
                assert_eq!((batch.targets[place], batch.weights[place]), (answer, 1.0));
                assert_eq!(batch.weights[place - 1], 0.0);
            }
        }
    }
}
