//! Training mixtures: which examples, in which shares, in which order.

use std::sync::Arc;

use crate::data::{Dataset, Example, Sequence, Slice, encode};
use crate::rng::Rng;
use crate::tokenizer::Tokenizer;

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
    dataset.train.windows(2).all(|w| w[0].slice == w[1].slice)
}

/// Encoded training sequences by domain.
pub struct Domains {
    groups: [Vec<Arc<Sequence>>; 3],
}

impl Domains {
    /// Encodes `examples`, leaving out thoughts unless `thoughts` is set.
    pub fn new(
        tokenizer: &Tokenizer,
        dataset: &Dataset,
        examples: &[Example],
        prompt_weight: f32,
        thoughts: bool,
    ) -> Self {
        let single = is_single_slice(dataset);
        let mut groups: [Vec<Arc<Sequence>>; 3] = Default::default();
        for (i, example) in examples.iter().enumerate() {
            let domain = domain_of(example, i, examples.len(), single);
            let sequence = if thoughts {
                encode::encode(tokenizer, example, prompt_weight)
            } else {
                encode::encode(tokenizer, &example.without_thought(), prompt_weight)
            };
            groups[domain as usize].push(Arc::new(sequence));
        }
        Self { groups }
    }

    /// `count` sequences with the given share of each domain (shares of empty domains go to the others),
    /// shuffled by `seed`. Domains shorter than their share repeat.
    pub fn mix(&self, shares: [f32; 3], count: usize, seed: u64, label: &str) -> Arc<Vec<Sequence>> {
        let total: f32 = (0..3).filter(|d| !self.groups[*d].is_empty()).map(|d| shares[d]).sum();
        let mut rng = Rng::new(seed, &["mixture", label]);
        let mut chosen: Vec<Arc<Sequence>> = Vec::with_capacity(count);
        for (group, share) in self.groups.iter().zip(shares) {
            if group.is_empty() || total <= 0.0 {
                continue;
            }
            let wanted = (count as f32 * share / total).round() as usize;
            let mut order: Vec<usize> = Vec::new();
            while order.len() < wanted {
                let mut epoch: Vec<usize> = (0..group.len()).collect();
                rng.shuffle(&mut epoch);
                order.extend(epoch);
            }
            chosen.extend(order[..wanted].iter().map(|i| group[*i].clone()));
        }
        rng.shuffle(&mut chosen);
        Arc::new(chosen.iter().map(|s| s.as_ref().clone()).collect())
    }

    /// Number of sequences in all domains.
    pub fn len(&self) -> usize {
        self.groups.iter().map(Vec::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
