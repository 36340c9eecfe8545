//! Constrained decoding: whatever the logits, tokenizer and tools, what comes out is a call.

mod generator;
mod hostile;
mod oracle;
mod property;
mod worlds;

use forge_runtime::testing::Noise;
use forge_runtime::{Constraint, Sampler};

/// Writes a completion by random logits and returns it without its `<eos>`.
pub(crate) fn write(constraint: &mut Constraint<'_>, logits: &mut Logits, sampler: &mut Sampler) -> Vec<u16> {
    let mut ids = Vec::new();
    loop {
        let token = match constraint.forced() {
            Some(token) => token,
            None => constraint.pick(sampler, logits.draw(), &ids),
        };
        constraint.advance(token).expect("a token that was picked is allowed");
        if constraint.ended() {
            assert_eq!(token, constraint.end());
            return ids;
        }
        ids.push(token);
        assert!(ids.len() <= constraint.budget() as usize, "the budget holds");
    }
}

/// Random logits with a leaning, and now and then such as no model should have.
pub(crate) struct Logits {
    noise: Noise,
    /// Tokens made likely: a range of ids.
    liked: std::ops::Range<usize>,
    sick: bool,
    values: Vec<f32>,
}

impl Logits {
    /// The leaning is drawn: to nothing, to special tokens, to bytes or to merges.
    pub(crate) fn new(seed: u64, vocab: u32, specials: u16) -> Self {
        let mut noise = Noise(seed);
        let (specials, vocab) = (usize::from(specials), vocab as usize);
        let liked = match noise.below(5) {
            0 => 0..0,
            1 => 0..specials,
            2 => 2..3,
            3 => specials..specials + 256,
            _ => specials..vocab,
        };
        let sick = noise.below(10) == 0;
        Self { noise, liked, sick, values: vec![0.0; vocab] }
    }

    /// The next step's.
    pub(crate) fn draw(&mut self) -> &mut [f32] {
        for value in &mut self.values {
            *value = self.noise.uniform() * 4.0;
            if self.sick {
                *value = [*value, f32::NAN, f32::INFINITY, f32::NEG_INFINITY][self.noise.below(4)];
            }
        }
        self.values[self.liked.clone()].iter_mut().for_each(|value| *value += 3.0);
        &mut self.values
    }
}

/// A sampler of random settings.
pub(crate) fn random_sampler(noise: &mut Noise) -> Sampler {
    let mut sampler = Sampler::new([0.0, 0.0, 0.7, 1.5][noise.below(4)], noise.next_u64());
    sampler.top_k = [0, 0, 1, 5][noise.below(4)];
    sampler.top_p = [1.0, 1.0, 0.9, 0.0][noise.below(4)];
    sampler.min_p = [0.0, 0.0, 0.1, 1.0][noise.below(4)];
    sampler.repetition_penalty = [1.0, 1.0, 1.3, f32::NAN][noise.below(4)];
    sampler
}
