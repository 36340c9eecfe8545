//! From importance to a smaller model in one step.

use forge_formats::config::ModelConfig;
use forge_formats::role::Role;
use serde::{Deserialize, Serialize};

use super::importance::head_scores;
use super::{
    Activations, column_scores, keep_attention, keep_blocks, keep_ffn, keep_gate, keep_memory, select,
    select_heads,
};
use crate::error::{Error, Result};
use crate::weights::Weights;

/// The sizes that pruning can lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Blocks.
    pub layers: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Query heads that share one key/value head.
    pub heads_per_group: u32,
    /// Channels of the feed-forward network.
    pub ffn: u32,
    /// Channels of the memory.
    pub mem_dim: u32,
    /// Channels of the memory's gate.
    pub mem_gate: u32,
}

impl Sizes {
    /// The sizes of a model.
    pub fn of(config: &ModelConfig) -> Self {
        Self {
            layers: config.layers,
            kv_heads: config.kv_heads,
            heads_per_group: config.heads / config.kv_heads.max(1),
            ffn: config.ffn,
            mem_dim: config.mem_dim,
            mem_gate: config.mem_gate,
        }
    }

    /// Checks that every size lies between 1 and that of `config` (0 stays 0).
    ///
    /// # Errors
    /// [`Error::Config`] naming the size that does not.
    pub fn check(&self, config: &ModelConfig) -> Result<()> {
        let old = Self::of(config);
        let pairs = [
            ("layers", self.layers, old.layers),
            ("kv_heads", self.kv_heads, old.kv_heads),
            ("heads_per_group", self.heads_per_group, old.heads_per_group),
            ("ffn", self.ffn, old.ffn),
            ("mem_dim", self.mem_dim, old.mem_dim),
            ("mem_gate", self.mem_gate, old.mem_gate),
        ];
        match pairs.iter().find(|(_, new, old)| new > old || (*new == 0) != (*old == 0)) {
            Some((name, new, old)) => {
                Err(Error::Config(format!("{name} cannot be pruned from {old} to {new}")))
            }
            None => Ok(()),
        }
    }
}

/// Parts that stay whatever their score, by block: for instance the heads that copy arguments of tool calls.
/// A guard on a block (`blocks`) keeps the block; its widths are pruned like those of the others, since all
/// are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Query heads.
    pub heads: Vec<Vec<usize>>,
    /// Feed-forward channels.
    pub ffn: Vec<Vec<usize>>,
    /// Memory channels.
    pub memory: Vec<Vec<usize>>,
    /// Blocks.
    pub blocks: Vec<usize>,
}

/// Prunes `w` to `sizes` by importance: widths first, then depth (as Minitron, Muralidharan et al. 2024).
/// Activations are those of `w`; the score of a width does not depend on the removal of another. Recovery
/// training is the caller's part.
///
/// # Errors
/// When sizes, activations or guards do not fit the model.
pub fn shrink(w: &Weights, sizes: &Sizes, activations: &Activations, guard: &Guard) -> Result<Weights> {
    sizes.check(&w.config)?;
    let c = &w.config;
    let ffn = select(&column_scores(w, Role::Down, &activations.ffn)?, &guard.ffn, sizes.ffn as usize)?;
    let channels = column_scores(w, Role::AttnOut, &activations.attention)?;
    let heads = head_scores(&channels, c.head_dim as usize);
    let (groups, members) = (sizes.kv_heads as usize, sizes.heads_per_group as usize);
    let heads = select_heads(c, &heads, &guard.heads, groups, members)?;
    let mut pruned = keep_attention(&keep_ffn(w, &ffn)?, &heads)?;
    if c.mem_dim > 0 && c.mem_layers != 0 {
        let memory = column_scores(w, Role::MemOut, &activations.memory)?;
        let gate = column_scores(w, Role::MemGate2, &activations.gate)?;
        pruned = keep_memory(&pruned, &select(&memory, &guard.memory, sizes.mem_dim as usize)?)?;
        pruned = keep_gate(&pruned, &select(&gate, &[], sizes.mem_gate as usize)?)?;
    }
    if activations.blocks.len() != c.layers as usize {
        return Err(Error::Config("every block needs an influence".into()));
    }
    let influence = std::slice::from_ref(&activations.blocks);
    let blocks = select(influence, std::slice::from_ref(&guard.blocks), sizes.layers as usize)?;
    let kept: Vec<u32> = blocks.concat().iter().map(|&b| b as u32).collect();
    keep_blocks(&pruned, &kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phases::edge::prune::reference::{Mask, config, logits, model, worst_difference};

    const TOKENS: [usize; 6] = [3, 1, 4, 1, 5, 9];

    fn smaller() -> Sizes {
        Sizes { layers: 2, kv_heads: 1, heads_per_group: 1, ffn: 12, mem_dim: 5, mem_gate: 3 }
    }

    #[test]
    fn the_result_has_the_sizes_asked_for() {
        let w = model(1);
        let mut activations = Activations::even(&config());
        activations.blocks = vec![0.5, 0.1, 0.4];
        let pruned = shrink(&w, &smaller(), &activations, &Guard::default()).unwrap();
        assert_eq!(Sizes::of(&pruned.config), smaller());
        assert_eq!(pruned.config.mem_layers, 0b11);
        assert_eq!(pruned.parameters() as u64, pruned.config.parameters());
        assert!(logits(&pruned, &TOKENS, &Mask::default()).iter().flatten().all(|v| v.is_finite()));
        let guard = Guard { blocks: vec![1], ..Guard::default() };
        assert_eq!(shrink(&w, &smaller(), &activations, &guard).unwrap().config.mem_layers, 0b01);
        assert_eq!(shrink(&w, &Sizes::of(&config()), &activations, &Guard::default()).unwrap(), w);
    }

    #[test]
    fn dead_channels_go_first_and_the_function_stays() {
        let mut w = model(2);
        for layer in 0..3 {
            let up = w.tensors.get_mut(&(Role::GateUp, layer)).unwrap();
            (0..24).filter(|c| c % 2 == layer as usize % 2).for_each(|c| up.row_mut(24 + c).fill(0.0));
        }
        let mut activations = Activations::even(&config());
        for (layer, block) in activations.ffn.iter_mut().enumerate() {
            block.iter_mut().skip(layer % 2).step_by(2).for_each(|x| *x = 0.0);
        }
        let half = Sizes { ffn: 12, ..Sizes::of(&config()) };
        let whole = logits(&w, &TOKENS, &Mask::default());
        let pruned = shrink(&w, &half, &activations, &Guard::default()).unwrap();
        assert!(worst_difference(&logits(&pruned, &TOKENS, &Mask::default()), &whole) < 1e-4);
        // Without the measured activations the wrong ones may go.
        let blind = shrink(&w, &half, &Activations::even(&config()), &Guard::default()).unwrap();
        assert!(worst_difference(&logits(&blind, &TOKENS, &Mask::default()), &whole) > 1e-2);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let w = model(1);
        let even = Activations::even(&config());
        let ask = |sizes: Sizes| shrink(&w, &sizes, &even, &Guard::default());
        assert!(ask(Sizes { ffn: 25, ..smaller() }).is_err());
        assert!(ask(Sizes { layers: 0, ..smaller() }).is_err());
        assert!(ask(Sizes { mem_dim: 0, ..smaller() }).is_err());
        let short = Activations { blocks: vec![1.0], ..even.clone() };
        assert!(shrink(&w, &smaller(), &short, &Guard::default()).is_err());
    }
}
