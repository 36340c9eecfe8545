//! Tests of the operations, the network and its agreement with the runtime.

mod agreement;
mod finite;
mod fused;
mod gradients;
mod peaks;
mod properties;
mod recompute;
mod reference;
mod training;

use candle_core::{Device, Tensor};
use forge_formats::config::{Activation, CacheKind, Globals, MemoryKind, ModelConfig};

use super::{Network, Precision};
use crate::rng::Rng;
use crate::weights::Weights;

/// A small model with everything switched on.
fn small() -> ModelConfig {
    ModelConfig {
        vocab: 40,
        dim: 16,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        ffn: 24,
        activation: Activation::SwiGlu,
        window: 6,
        rope_log2_theta: 13.2877,
        norm_eps: 1e-5,
        norm_gain: true,
        tied: false,
        recursion: 3,
        halting: true,
        halt_threshold: 0.5,
        mem_dim: 8,
        mem_gate: 12,
        mem_layers: 0b10,
        cache: CacheKind::default(),
        memory: MemoryKind::default(),
        globals: Globals::default(),
    }
}

/// The default model of a run.
fn nano() -> ModelConfig {
    ModelConfig {
        vocab: 512,
        dim: 128,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
        ffn: 256,
        window: 64,
        tied: true,
        recursion: 2,
        halting: false,
        mem_dim: 32,
        mem_gate: 32,
        ..small()
    }
}

/// Initial weights whose gains and biases are random too, so that no symmetry hides a fault.
fn weights(config: &ModelConfig, seed: u64) -> Weights {
    let mut weights = Weights::init(config, seed);
    let mut rng = Rng::new(seed, &["gains"]);
    for m in weights.tensors.values_mut().filter(|m| m.rows == 1) {
        m.data.iter_mut().for_each(|w| *w += 0.2 * rng.normal());
    }
    weights
}

fn network(config: &ModelConfig, precision: Precision) -> Network {
    Network::new(&weights(config, 7), precision, &Device::Cpu).unwrap()
}

/// Random ids `[rows, cols]`.
fn ids(config: &ModelConfig, rows: usize, cols: usize, seed: u64) -> (Tensor, Vec<u32>) {
    let mut rng = Rng::new(seed, &["ids"]);
    let ids: Vec<u32> = (0..rows * cols).map(|_| rng.below(config.vocab as usize) as u32).collect();
    (Tensor::from_slice(&ids, (rows, cols), &Device::Cpu).unwrap(), ids)
}

/// `n` standard normal numbers.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed, &["noise"]);
    (0..n).map(|_| rng.normal()).collect()
}
