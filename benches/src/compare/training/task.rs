//! What is trained: shapes, first weights and batches, the same for everyone.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use forge_formats::ModelConfig;
use forge_formats::role::Role;
use forge_train::data::Sequence;
use forge_train::data::batch::Batcher;
use forge_train::rng::Rng;
use forge_train::weights::Weights;

use super::super::shape::Shape;

/// Seed of weights and batches.
pub(super) const SEED: u64 = 4;
/// Positions of a sequence.
const CONTEXT: u32 = 256;
/// Learning rate, constant; betas, decay and the rest are the defaults of `TrainConfig::adamw` but for the decay.
pub(super) const RATE: f32 = 1e-3;
/// Weight decay of matrices.
pub(super) const DECAY: f32 = 0.1;

/// A shape and how many sequences a step takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    /// Sizes of the model.
    pub(super) shape: Shape,
    /// Sequences of a step.
    pub(super) rows: u32,
}

const fn task(
    name: &'static str,
    dim: u32,
    layers: u32,
    heads: u32,
    ffn: u32,
    vocab: u32,
    rows: u32,
) -> Task {
    Task { shape: Shape { name, dim, layers, heads, ffn, vocab, context: CONTEXT }, rows }
}

/// The tasks.
const TASKS: [Task; 2] = [task("tiny", 192, 6, 6, 512, 2048, 8), task("25m", 512, 8, 8, 1408, 8192, 4)];

impl Task {
    /// The task of a shape.
    ///
    /// # Errors
    /// When no task has the name.
    pub(super) fn named(name: &str) -> Result<Self> {
        TASKS.into_iter().find(|t| t.shape.name == name).with_context(|| {
            format!(
                "no training shape is called {name:?}; there are {}",
                TASKS.map(|t| t.shape.name).join(", ")
            )
        })
    }

    /// The model.
    pub(super) fn config(&self) -> ModelConfig {
        self.shape.config()
    }

    /// Tokens of a step.
    pub(super) fn tokens(&self) -> usize {
        (self.rows * self.shape.context) as usize
    }

    /// Floating point operations of a step: six for each weight of the matrices and each token, and the products of
    /// causal attention, half of whose square is needed.
    pub(super) fn operations(&self) -> f64 {
        let weights = (self.shape.linear_weights() + self.shape.head_weights()) as f64;
        let attention = f64::from(self.shape.layers * self.shape.context) * f64::from(self.shape.dim);
        6.0 * self.tokens() as f64 * (weights + attention)
    }

    /// First weights: matrices N(0, 0.02²), gains 1.
    pub(super) fn weights(&self) -> Weights {
        let mut weights = Weights::init(&self.config(), SEED);
        for ((role, layer), m) in weights.tensors.iter_mut().filter(|(_, m)| m.rows > 1) {
            let mut rng = Rng::new(SEED, &["compare", role.name(), &layer.to_string()]);
            m.data.iter_mut().for_each(|w| *w = 0.02 * rng.normal());
        }
        weights
    }

    /// Batches of tokens whose frequencies fall as natural ones do: `⌊u³·vocab⌋` of uniform `u`.
    pub(super) fn batches(&self, steps: usize) -> Batcher {
        let mut rng = Rng::new(SEED, &["compare", "tokens"]);
        let length = self.shape.context as usize + 1;
        let mut token = || (f64::from(rng.uniform()).powi(3) * f64::from(self.shape.vocab)) as u16;
        let sequences: Vec<Sequence> = (0..steps * self.rows as usize)
            .map(|_| Sequence { ids: (0..length).map(|_| token()).collect(), weights: vec![1.0; length] })
            .collect();
        Batcher::new(Arc::new(sequences), self.tokens(), length, SEED, "compare")
    }

    /// Writes weights and batches for a peer: f32 matrices of the embedding, of one block after the other and
    /// of the final norm; for each step ids and targets as 32-bit integers; all little-endian.
    pub(super) fn write(&self, steps: usize, folder: &Path) -> Result<()> {
        let weights = self.weights();
        let block = [Role::AttnNorm, Role::Qkv, Role::AttnOut, Role::FfnNorm, Role::GateUp, Role::Down];
        let blocks = (0..self.shape.layers).flat_map(|layer| block.map(|role| (role, layer)));
        let order = [(Role::Embedding, 0)].into_iter().chain(blocks).chain([(Role::FinalNorm, 0)]);
        let values = order.flat_map(|key| weights.tensors[&key].data.iter().flat_map(|v| v.to_le_bytes()));
        let batches = self.batches(steps);
        let ids = (0..steps as u64).flat_map(|step| {
            let batch = batches.batch(step);
            let both = batch.ids.into_iter().chain(batch.targets);
            both.flat_map(u32::to_le_bytes).collect::<Vec<u8>>()
        });
        for (name, bytes) in [("weights", values.collect::<Vec<u8>>()), ("batches", ids.collect())] {
            let path = folder.join(format!("{}.{name}", self.shape.name));
            std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_those_of_the_shapes() {
        let tiny = Task::named("tiny").expect("it is there");
        assert_eq!((tiny.tokens(), tiny.config().validate()), (2048, Ok(())));
        // 6 · 2048 · (2,654,208 + 393,216 + 6 · 256 · 192)
        assert_eq!(tiny.operations(), 41_070_624_768.0);
        assert!(Task::named("huge").is_err());
    }

    #[test]
    fn every_step_has_a_full_batch() {
        let tiny = Task::named("tiny").expect("it is there");
        let batches = tiny.batches(3);
        assert_eq!(batches.steps_per_epoch(), 3);
        for step in 0..3 {
            let batch = batches.batch(step);
            assert_eq!((batch.rows, batch.cols), (8, 256));
            assert!(batch.weights.iter().all(|w| *w == 1.0) && batch.ids.iter().all(|id| *id < 2048));
        }
    }
}
