//! The shapes all runtimes are compared on, and what one token of them costs at least.

use anyhow::{Context, Result};
use forge_formats::ModelConfig;
use forge_formats::config::{Activation, CacheKind, Globals, MemoryKind};

/// A model's sizes: multi-head attention, SwiGLU, tied embedding, neither recursion nor memory, so that every other
/// runtime can run it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// What it is called in `--shapes` and in the names of peers' model files.
    pub name: &'static str,
    /// Width of the residual stream.
    pub dim: u32,
    /// Number of blocks.
    pub layers: u32,
    /// Attention heads.
    pub heads: u32,
    /// Width of the feed-forward network.
    pub ffn: u32,
    /// Number of token ids.
    pub vocab: u32,
    /// Positions of the context.
    pub context: u32,
}

/// The shapes. The `q` ones have rows of a multiple of 256 throughout, without which llama.cpp's ternary types fall
/// back to others.
pub(crate) const SHAPES: [Shape; 4] = [
    Shape { name: "25M", dim: 512, layers: 8, heads: 8, ffn: 1408, vocab: 8192, context: 512 },
    Shape { name: "25Mq", dim: 512, layers: 8, heads: 8, ffn: 1536, vocab: 8192, context: 512 },
    Shape { name: "2M", dim: 192, layers: 6, heads: 6, ffn: 512, vocab: 2048, context: 256 },
    Shape { name: "2Mq", dim: 256, layers: 6, heads: 8, ffn: 512, vocab: 2048, context: 256 },
];

/// The base of the rotary embedding's frequencies, 10,000.
pub(crate) const ROPE_BASE: f32 = 10_000.0;
/// Added to the mean square in every norm.
pub(crate) const NORM_EPS: f32 = 1e-5;

impl Shape {
    /// The shape of a name.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn named(name: &str) -> Result<Self> {
        SHAPES.into_iter().find(|s| s.name == name).with_context(|| {
            format!("no shape is called {name:?}; there are {}", SHAPES.map(|s| s.name).join(", "))
        })
    }

    /// The shape a model file belongs to, by the beginning of its name up to the first `-`, `_` or `.`.
    pub(crate) fn of_file(name: &str) -> Option<Self> {
        let stem = name.split(['-', '_', '.']).next()?;
        SHAPES.into_iter().find(|s| s.name == stem)
    }

    /// The shape as a model of ours.
    pub(crate) fn config(&self) -> ModelConfig {
        ModelConfig {
            vocab: self.vocab,
            dim: self.dim,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.heads,
            head_dim: self.dim / self.heads,
            ffn: self.ffn,
            activation: Activation::SwiGlu,
            window: self.context,
            rope_log2_theta: ROPE_BASE.log2(),
            norm_eps: NORM_EPS,
            norm_gain: true,
            tied: true,
            recursion: 1,
            halting: false,
            halt_threshold: 0.5,
            mem_dim: 0,
            mem_gate: 0,
            mem_layers: 0,
            cache: CacheKind::default(),
            memory: MemoryKind::default(),
            globals: Globals::default(),
        }
    }

    /// Weights of the blocks.
    pub(crate) fn linear_weights(&self) -> u64 {
        let (d, f) = (u64::from(self.dim), u64::from(self.ffn));
        u64::from(self.layers) * (4 * d * d + 3 * d * f)
    }

    /// Weights of the head, which is the embedding.
    pub(crate) fn head_weights(&self) -> u64 {
        u64::from(self.dim) * u64::from(self.vocab)
    }

    /// Bytes of weights a token reads: the blocks' at 2 bits, the head's at 8.
    pub(crate) fn weight_bytes(&self) -> u64 {
        self.linear_weights() / 4 + self.head_weights()
    }

    /// Bytes of keys and values that each of the first `tokens` tokens reads on average, at 16 bits a number, the
    /// width the peers store.
    pub(crate) fn cache_bytes(&self, tokens: u64) -> u64 {
        u64::from(self.layers) * u64::from(self.dim) * 2 * 2 * tokens.div_ceil(2)
    }
}

/// The least time a token can take on this machine, microseconds.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Floor {
    /// To read the weights, at the read bandwidth of a working set of their size.
    pub weights_us: f64,
    /// To read the keys and values before it, likewise.
    pub cache_us: f64,
    /// To multiply blocks and head, at the peak of the instruction set's int8 unit.
    pub operations_us: f64,
    /// To multiply the blocks alone: what a prompt's tokens but the last need.
    pub block_operations_us: f64,
}

impl Floor {
    /// Of a decode of `tokens` tokens, from bytes and multiply-accumulates a second.
    pub(crate) fn new(shape: &Shape, tokens: u64, bandwidth: f64, peak: f64) -> Self {
        let us = |amount: u64, rate: f64| amount as f64 / rate * 1e6;
        Self {
            weights_us: us(shape.weight_bytes(), bandwidth),
            cache_us: us(shape.cache_bytes(tokens), bandwidth),
            operations_us: us(shape.linear_weights() + shape.head_weights(), peak),
            block_operations_us: us(shape.linear_weights(), peak),
        }
    }

    /// The floor of a decoded token: reading and multiplying at once, whichever takes longer.
    pub(crate) fn decode_us(&self) -> f64 {
        (self.weights_us + self.cache_us).max(self.operations_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sizes_are_those_of_the_files() {
        let sizes: Vec<_> = SHAPES.iter().map(|s| (s.linear_weights(), s.head_weights())).collect();
        assert_eq!(
            sizes,
            [(25_690_112, 4_194_304), (27_262_976, 4_194_304), (2_654_208, 393_216), (3_932_160, 524_288)]
        );
        for shape in SHAPES {
            assert_eq!(shape.config().validate(), Ok(()), "{}", shape.name);
            assert_eq!(Shape::of_file(&format!("{}-f16.gguf", shape.name)), Some(shape));
        }
        assert_eq!(Shape::of_file("llama-25M.gguf"), None);
    }
}
