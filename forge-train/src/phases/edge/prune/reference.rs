//! A plain f64 forward pass of docs/numerics.md (float weights, no halting) with channels that can be masked:
//! the independent judge of pruning, for tests only.

use forge_formats::config::{Activation, CacheKind, Globals, MemoryKind, ModelConfig};
use forge_formats::role::Role;

use crate::rng::Rng;
use crate::weights::Weights;

/// Three blocks, two of them with a memory, two groups of two heads, two recursions.
pub(super) fn config() -> ModelConfig {
    ModelConfig {
        vocab: 12,
        dim: 16,
        layers: 3,
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        ffn: 24,
        activation: Activation::SwiGlu,
        window: 4,
        rope_log2_theta: 13.2877,
        norm_eps: 1e-12,
        norm_gain: true,
        tied: true,
        recursion: 2,
        halting: false,
        halt_threshold: 0.5,
        mem_dim: 8,
        mem_gate: 4,
        mem_layers: 0b101,
        cache: CacheKind::default(),
        memory: MemoryKind::default(),
        globals: Globals::default(),
    }
}

/// A model of random weights, with gains that are not 1.
pub(super) fn model(seed: u64) -> Weights {
    let mut w = Weights::init(&config(), seed);
    let mut rng = Rng::new(seed, &["reference"]);
    for ((role, _), m) in &mut w.tensors {
        if matches!(role, Role::AttnNorm | Role::FfnNorm | Role::MemBias) {
            m.data.iter_mut().for_each(|v| *v *= 0.5 + rng.uniform());
        }
    }
    w
}

/// Channels that stay, by block, where some are set to zero as they are computed.
#[derive(Default)]
pub(super) struct Mask {
    pub(super) ffn: Option<Vec<Vec<usize>>>,
    pub(super) memory: Option<Vec<Vec<usize>>>,
    pub(super) gate: Option<Vec<Vec<usize>>>,
    pub(super) heads: Option<Vec<Vec<usize>>>,
}

/// Zeroes the entries of `x` that `keep` does not name; entry `i` belongs to channel `i / size`.
fn apply(keep: &Option<Vec<Vec<usize>>>, layer: u32, size: usize, x: &mut [f64]) {
    if let Some(keep) = keep {
        let kept = |i: usize| keep[layer as usize].contains(&(i / size));
        x.iter_mut().enumerate().filter(|(i, _)| !kept(*i)).for_each(|(_, v)| *v = 0.0);
    }
}

/// Largest absolute difference.
pub(super) fn worst_difference(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().flatten().zip(b.iter().flatten()).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}

/// Logits after each token.
pub(super) fn logits(w: &Weights, tokens: &[usize], mask: &Mask) -> Vec<Vec<f64>> {
    let c = &w.config;
    let mut caches = vec![vec![Vec::new(); c.layers as usize]; c.recursion as usize];
    let mut memory = vec![vec![0.0; c.mem_dim as usize]; c.layers as usize];
    tokens.iter().map(|&token| step(w, token, &mut caches, &mut memory, mask)).collect()
}

/// Keys and values of each position of one block in one recursion.
type Cache = Vec<(Vec<f64>, Vec<f64>)>;

fn step(
    w: &Weights,
    token: usize,
    caches: &mut [Vec<Cache>],
    memory: &mut [Vec<f64>],
    mask: &Mask,
) -> Vec<f64> {
    let c = &w.config;
    let gain = |role| w.tensors.get(&(role, 0)).map(|m| to_f64(&m.data));
    let table = w.get(Role::Embedding, 0);
    let x = norm(&to_f64(table.row(token)), c);
    let (mut y, mut z) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    let mut reads = vec![Vec::new(); c.layers as usize];
    for (t, cache) in caches.iter_mut().enumerate() {
        let mut u = x.clone();
        if t > 0 {
            add(&mut u, &times(&norm(&y, c), &gain(Role::LoopAnswer)));
            add(&mut u, &times(&norm(&z, c), &gain(Role::LoopLatent)));
        }
        for layer in 0..c.layers {
            let l = layer as usize;
            let a = times(&norm(&u, c), &w.tensors.get(&(Role::AttnNorm, layer)).map(|m| to_f64(&m.data)));
            let mut o = attend(w, layer, &a, &mut cache[l]);
            if c.has_memory(layer) {
                if t == 0 {
                    reads[l] = remember(w, layer, &a, &mut memory[l], mask);
                }
                o = blend(w, layer, o, reads[l].clone(), mask);
            }
            apply(&mask.heads, layer, c.head_dim as usize, &mut o);
            add(&mut u, &linear(w, Role::AttnOut, layer, &norm(&o, c)));
            let f = feed_forward(w, layer, &u, mask);
            add(&mut u, &f);
        }
        z = u;
        if c.recursion == 1 { y = z.clone() } else { add(&mut y, &times(&norm(&z, c), &gain(Role::LoopOut))) }
    }
    let answer = times(&norm(&y, c), &gain(Role::FinalNorm));
    (0..table.rows).map(|r| dot(&to_f64(table.row(r)), &answer)).collect()
}

fn attend(w: &Weights, layer: u32, a: &[f64], cache: &mut Cache) -> Vec<f64> {
    let c = &w.config;
    let (d, kv) = (c.head_dim as usize, c.kv_dim() as usize);
    let position = cache.len();
    let mut q = linear(w, Role::Qkv, layer, a);
    let mut k = q.split_off(c.attn_dim() as usize);
    let v = k.split_off(kv);
    q.chunks_mut(d).chain(k.chunks_mut(d)).for_each(|head| rotate(head, position, c));
    cache.push((k, v));
    let recent = &cache[(position + 1).saturating_sub(c.window as usize)..];
    let share = (c.heads / c.kv_heads) as usize;
    let head = |(h, q): (usize, &[f64])| {
        let at = h / share * d..(h / share + 1) * d;
        let scores: Vec<f64> =
            recent.iter().map(|(k, _)| (dot(q, &k[at.clone()]) / (d as f64).sqrt()).exp()).collect();
        let total: f64 = scores.iter().sum();
        let mut o = vec![0.0; d];
        for ((_, v), s) in recent.iter().zip(&scores) {
            o.iter_mut().zip(&v[at.clone()]).for_each(|(o, v)| *o += s / total * v);
        }
        o
    };
    q.chunks(d).enumerate().flat_map(head).collect()
}

fn rotate(head: &mut [f64], position: usize, c: &ModelConfig) {
    let half = head.len() / 2;
    for i in 0..half {
        let exponent = -(2.0 * i as f64 / head.len() as f64) * f64::from(c.rope_log2_theta);
        let (sin, cos) = (position as f64 * exponent.exp2()).sin_cos();
        let (a, b) = (head[i], head[i + half]);
        (head[i], head[i + half]) = (a * cos - b * sin, b * cos + a * sin);
    }
}

/// Writes the memory and reads it.
fn remember(w: &Weights, layer: u32, a: &[f64], memory: &mut [f64], mask: &Mask) -> Vec<f64> {
    let both = linear(w, Role::MemIn, layer, a);
    let (value, rate) = both.split_at(memory.len());
    let bias = to_f64(&w.get(Role::MemBias, layer).data);
    for (i, m) in memory.iter_mut().enumerate() {
        *m += sigmoid(rate[i] + bias[i]) * (value[i] - *m);
    }
    apply(&mask.memory, layer, 1, memory);
    linear(w, Role::MemOut, layer, &norm(memory, &w.config))
}

/// `m + g ⊙ (o − m)`.
fn blend(w: &Weights, layer: u32, mut o: Vec<f64>, mut m: Vec<f64>, mask: &Mask) -> Vec<f64> {
    let d = w.config.head_dim as usize;
    apply(&mask.heads, layer, d, &mut o);
    apply(&mask.heads, layer, d, &mut m);
    let mut f = linear(w, Role::MemGate1, layer, &norm(&[o.clone(), m.clone()].concat(), &w.config));
    f.iter_mut().for_each(|v| *v = v.max(0.0));
    apply(&mask.gate, layer, 1, &mut f);
    let g = linear(w, Role::MemGate2, layer, &norm(&f, &w.config));
    (0..o.len()).map(|i| m[i] + sigmoid(g[i]) * (o[i] - m[i])).collect()
}

fn feed_forward(w: &Weights, layer: u32, u: &[f64], mask: &Mask) -> Vec<f64> {
    let gain = w.tensors.get(&(Role::FfnNorm, layer)).map(|m| to_f64(&m.data));
    let mut f = linear(w, Role::GateUp, layer, &times(&norm(u, &w.config), &gain));
    let up = f.split_off(w.config.ffn as usize);
    for (f, up) in f.iter_mut().zip(up) {
        let active = match w.config.activation {
            Activation::SwiGlu => *f * sigmoid(*f),
            Activation::Relu2 => f.max(0.0).powi(2),
        };
        *f = active * up;
    }
    apply(&mask.ffn, layer, 1, &mut f);
    linear(w, Role::Down, layer, &norm(&f, &w.config))
}

fn linear(w: &Weights, role: Role, layer: u32, x: &[f64]) -> Vec<f64> {
    let m = w.get(role, layer);
    (0..m.rows).map(|r| dot(&to_f64(m.row(r)), x)).collect()
}

fn norm(x: &[f64], c: &ModelConfig) -> Vec<f64> {
    let scale = (dot(x, x) / x.len() as f64 + f64::from(c.norm_eps)).sqrt();
    x.iter().map(|v| v / scale).collect()
}

fn times(x: &[f64], gain: &Option<Vec<f64>>) -> Vec<f64> {
    match gain {
        Some(gain) => x.iter().zip(gain).map(|(x, g)| x * g).collect(),
        None => x.to_vec(),
    }
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len());
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn to_f64(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}
