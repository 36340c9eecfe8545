//! What the integration tests share: shapes, sessions, and the slow reference.
#![allow(dead_code)]

pub(crate) mod reference;

use forge_formats::ModelConfig;
use forge_formats::codec::encode::Simple;
use forge_formats::config::{Activation, CacheKind, Globals, MemoryKind};
use forge_runtime::testing::Noise;
use forge_runtime::{Model, Session, Workspace};

/// Every codec that needs no search.
pub(crate) const CODECS: [Simple; 7] = [
    Simple::F32,
    Simple::F16,
    Simple::Int8Row,
    Simple::Ternary2b,
    Simple::Ternary5x8,
    Simple::TernaryRans,
    Simple::TernarySparse,
];

/// A small model without extras.
pub(crate) fn plain() -> ModelConfig {
    ModelConfig {
        vocab: 300,
        dim: 24,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_dim: 8,
        ffn: 40,
        activation: Activation::SwiGlu,
        window: 6,
        rope_log2_theta: 13.2877,
        norm_eps: 1e-5,
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

/// The small model with a memory in its last block, three recursions and halting.
pub(crate) fn full() -> ModelConfig {
    ModelConfig { recursion: 3, halting: true, mem_dim: 7, mem_gate: 9, mem_layers: 0b10, ..plain() }
}

/// A random shape; over many seeds every option occurs with every other.
pub(crate) fn random_config(noise: &mut Noise) -> ModelConfig {
    let kv_heads = 1 + noise.below(2) as u32;
    let layers = 1 + noise.below(3) as u32;
    let memory = noise.below(2) == 1;
    ModelConfig {
        vocab: 266 + noise.below(60) as u32,
        dim: 3 + noise.below(70) as u32,
        layers,
        heads: kv_heads * (1 + noise.below(3) as u32),
        kv_heads,
        head_dim: 2 + 2 * noise.below(12) as u32,
        ffn: 1 + noise.below(100) as u32,
        activation: if noise.below(2) == 0 { Activation::SwiGlu } else { Activation::Relu2 },
        window: 1 + noise.below(20) as u32,
        norm_gain: noise.below(2) == 0,
        tied: noise.below(2) == 0,
        recursion: 1 + noise.below(3) as u32,
        halting: noise.below(3) > 0,
        mem_dim: if memory { 1 + noise.below(40) as u32 } else { 0 },
        mem_gate: if memory { 1 + noise.below(40) as u32 } else { 0 },
        mem_layers: if memory { noise.next_u64() & ((1 << layers) - 1) } else { 0 },
        memory: if noise.below(2) == 0 { MemoryKind::Ema } else { MemoryKind::Titans },
        globals: random_globals(noise),
        ..plain()
    }
}

/// None as often as any; few enough that they are overwritten, or more than there are positions.
fn random_globals(noise: &mut Noise) -> Globals {
    let (every, rows) = (2 + noise.below(5) as u32, 1 + noise.below(20) as u32);
    if noise.below(2) == 0 { Globals::default() } else { Globals { every, rows } }
}

/// Random tokens of a vocabulary.
pub(crate) fn tokens(n: usize, vocab: u32, seed: u64) -> Vec<u16> {
    let mut noise = Noise(seed);
    (0..n).map(|_| noise.below(vocab as usize) as u16).collect()
}

/// Logits (as bits) and recursions of every step.
pub(crate) fn run(bytes: &[u8], tokens: &[u16]) -> Vec<(Vec<u32>, u32)> {
    let model = Model::parse(bytes).unwrap();
    let mut memory = Workspace::new(&model);
    let mut session = Session::new(&model, memory.bytes()).unwrap();
    steps(&mut session, tokens)
}

/// As [`run`], in a session.
pub(crate) fn steps(session: &mut Session<'_>, tokens: &[u16]) -> Vec<(Vec<u32>, u32)> {
    let step = |t: &u16| {
        let logits = session.step(*t).unwrap().iter().map(|l| l.to_bits()).collect();
        (logits, session.recursions())
    };
    tokens.iter().map(step).collect()
}
