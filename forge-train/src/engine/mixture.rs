//! Training mixtures: which examples, in which shares, in which order.

use std::borrow::Cow;
use std::sync::Arc;

use rayon::prelude::*;

use crate::data::sequences::Drawn;
use crate::data::store::{Store, Writer};
use crate::data::{Dataset, Example, Examples, Mix, Sequence, Sequences, Slice};
use crate::error::Result;
use crate::rng::Rng;

/// One of the three domains that the branches of phase 1 specialise in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// Worked problems with checkable answers.
    Reasoning = 0,
    /// Dialogue and prose: long-range dependence.
    Memory = 1,
    /// Short commands: easy tokens next to hard ones.
    Adaptive = 2,
}

impl Domain {
    /// All domains in branch order.
    pub const ALL: [Domain; 3] = [Domain::Reasoning, Domain::Memory, Domain::Adaptive];

    /// Name of the branch specialised in this domain.
    pub fn branch(self) -> &'static str {
        match self {
            Domain::Reasoning => "reasoning",
            Domain::Memory => "memory_integration",
            Domain::Adaptive => "adaptive_computation",
        }
    }
}

/// Sorts examples into domains: by slice where the data has several, otherwise by a hash of what the example is
/// about (its tool, or its position in a corpus), so that each domain is a real subset either way.
pub fn domain_of(example: &Example, index: usize, total: usize, single_slice: bool) -> Domain {
    if !single_slice {
        return match example.slice {
            Slice::Arithmetic => Domain::Reasoning,
            Slice::Dialogue | Slice::Prose => Domain::Memory,
            Slice::Tool => Domain::Adaptive,
        };
    }
    let third = match &example.completion {
        crate::data::Completion::Tool { tool, .. } => {
            tool.bytes().fold(7usize, |h, b| h.wrapping_mul(31).wrapping_add(b as usize)) % 3
        }
        _ => index * 3 / total.max(1),
    };
    Domain::ALL[third.min(2)]
}

/// Whether all of a data set's training examples belong to one slice.
pub fn is_single_slice(dataset: &Dataset) -> bool {
    let mut slices = dataset.train.iter().map(|example| example.slice);
    slices.next().is_none_or(|first| slices.all(|slice| slice == first))
}

/// Examples that are encoded side by side.
const AHEAD: usize = 4096;

/// Encoded training sequences by source and domain.
pub struct Domains {
    parts: Vec<(u64, [Store<Sequence>; 3])>,
}

impl Domains {
    /// Encodes `examples`, each as `encode` does.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`] when what is too large for memory cannot be written.
    pub fn new(
        dataset: &Dataset,
        examples: &Examples,
        encode: impl Fn(&Example) -> Sequence + Sync,
    ) -> Result<Self> {
        let single = is_single_slice(dataset);
        let mut parts = Vec::new();
        for part in examples.parts() {
            let (examples, total) = (&part.examples, part.examples.len());
            let mut groups: [Writer<Sequence>; 3] = std::array::from_fn(|_| examples.writer());
            for from in (0..total).step_by(AHEAD) {
                let encoded = |i: usize| {
                    let example = examples.get(i);
                    (domain_of(&example, i, total, single), encode(&example))
                };
                let ahead = from..total.min(from + AHEAD);
                let ahead: Vec<(Domain, Sequence)> = ahead.into_par_iter().map(encoded).collect();
                ahead.into_iter().try_for_each(|(domain, s)| groups[domain as usize].push(s))?;
            }
            let [a, b, c] = groups.map(Writer::finish);
            parts.push((part.weight, [a?, b?, c?]));
        }
        Ok(Self { parts })
    }

    /// As many sequences as each source has, with the given share of each domain (shares of empty domains go to the
    /// others), shuffled by `seed`. Domains shorter than their share repeat.
    pub fn mix(&self, shares: [f32; 3], seed: u64, label: &str) -> Mix {
        let mut rng = Rng::new(seed, &["mixture", label]);
        let part = |(weight, groups): &(u64, [Store<Sequence>; 3])| {
            let count: usize = groups.iter().map(Store::len).sum();
            let total: f32 = (0..3).filter(|d| !groups[*d].is_empty()).map(|d| shares[d]).sum();
            let wanted = |d: usize| match !groups[d].is_empty() && total > 0.0 {
                true => (count as f32 * shares[d] / total).round() as usize,
                false => 0,
            };
            let counts = [wanted(0), wanted(1), wanted(2)];
            let drawn = Drawn::new(groups.to_vec(), &counts, &mut rng, seed, label);
            (*weight, Arc::new(drawn) as Arc<dyn Sequences>)
        };
        Mix(self.parts.iter().map(part).collect())
    }
}

/// The sequences of `examples`, shuffled by `rng`, source by source.
///
/// # Errors
/// [`crate::error::Error::Io`] when what is too large for memory cannot be written.
pub fn shuffled(
    examples: &Examples,
    rng: &mut Rng,
    encode: impl Fn(&Example) -> Sequence + Sync,
) -> Result<Mix> {
    let mut parts = Vec::new();
    for part in examples.parts() {
        let mut out = part.examples.writer();
        part.examples.iter().try_for_each(|example: Cow<'_, Example>| out.push(encode(&example)))?;
        let drawn = Drawn::shuffled(out.finish()?, rng);
        parts.push((part.weight, Arc::new(drawn) as Arc<dyn Sequences>));
    }
    Ok(Mix(parts))
}
