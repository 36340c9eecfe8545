//! Small models for the tests of this phase.

use forge_formats::config::{Activation, CacheKind, Globals, MemoryKind, ModelConfig};

use crate::weights::Weights;

/// Two blocks, one with a memory, recursion and halting: every role occurs.
pub(crate) fn config() -> ModelConfig {
    ModelConfig {
        vocab: 40,
        dim: 16,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_dim: 8,
        ffn: 24,
        activation: Activation::SwiGlu,
        window: 16,
        rope_log2_theta: 13.2877,
        norm_eps: 1e-5,
        norm_gain: true,
        tied: true,
        recursion: 2,
        halting: true,
        halt_threshold: 0.5,
        mem_dim: 8,
        mem_gate: 4,
        mem_layers: 1,
        cache: CacheKind::default(),
        memory: MemoryKind::default(),
        globals: Globals::default(),
    }
}

/// A model of random weights.
pub(crate) fn model(seed: u64) -> Weights {
    Weights::init(&config(), seed)
}

/// A model whose every weight is `value`.
pub(crate) fn model_of(value: f32) -> Weights {
    let mut weights = model(0);
    weights.tensors.values_mut().for_each(|m| m.data.fill(value));
    weights
}

/// All weights, in file order.
pub(crate) fn values(w: &Weights) -> impl Iterator<Item = f32> + '_ {
    w.tensors.values().flat_map(|m| m.data.iter().copied())
}

/// Whether `a` and `b` agree within a relative tolerance.
pub(crate) fn near(a: f32, b: f32, tolerance: f32) -> bool {
    (a - b).abs() <= tolerance * b.abs().max(1e-12)
}
