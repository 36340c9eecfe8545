//! One block: attention with memory, then the gated feed-forward network (`docs/numerics.md` §3).

use core::ops::Range;

use forge_formats::config::Activation;
use forge_formats::{ModelConfig, Role};

use crate::kernels::{Scratch, linear};
use crate::layout::Buffers;
use crate::math::{cos_turns, dot, exp, exp2, max, rsqrt, sigmoid, silu, sin_turns, sum16};
use crate::model::Tensors;
use crate::norm;

/// Which computation of which token this is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) recursion: u32,
    pub(crate) layer: u32,
    pub(crate) position: u32,
}

impl Place {
    /// Where the cache of this recursion and block lies.
    fn ring(self, c: &ModelConfig) -> Range<usize> {
        let len = c.window as usize * c.kv_dim() as usize;
        let start = (self.recursion as usize * c.layers as usize + self.layer as usize) * len;
        start..start + len
    }

    /// This position's place in the ring. (`max`: the compiler does not know that sizes are checked; with it, it
    /// sees that nothing here can panic.)
    fn slot(self, c: &ModelConfig) -> usize {
        (self.position % c.window.max(1)) as usize
    }

    /// Where this position's keys (or values) lie in the cache.
    pub(crate) fn entry(self, c: &ModelConfig) -> Range<usize> {
        let len = c.kv_dim() as usize;
        let start = self.ring(c).start + self.slot(c) * len;
        start..start + len
    }
}

/// Cosines, then sines of the angles by which `position` rotates the channel pairs of a head.
pub(crate) fn set_turns(c: &ModelConfig, position: u32, turns: &mut [f32]) {
    const LOG2_TAU: f32 = 2.651_496_1;
    let d = c.head_dim as f32;
    let half = turns.len() / 2;
    let (cosines, sines) = turns.split_at_mut_checked(half).unwrap_or_default();
    for (i, (cos, sin)) in cosines.iter_mut().zip(sines).enumerate() {
        let frequency = exp2(-((2 * i) as f32 / d) * c.rope_log2_theta - LOG2_TAU);
        let t = position as f32 * frequency;
        *cos = cos_turns(t);
        *sin = sin_turns(t);
    }
}

/// Applies block `at.layer` to `b.latent`.
pub(crate) fn apply(c: &ModelConfig, tensors: &Tensors<'_>, b: &mut Buffers<'_>, at: Place) {
    let pass = Pass { c, tensors, at };
    pass.normalise_latent(Role::AttnNorm, b);
    pass.linear(Role::Qkv, c.dim, c.qkv_dim(), b);
    pass.rotate_and_store(b);
    pass.attend(b);
    if c.has_memory(at.layer) {
        if at.recursion == 0 {
            // `input` still holds the normalised latent.
            pass.write_memory(b);
        }
        pass.blend_memory(b);
    }
    let input = part(b.input, c.attn_dim());
    norm::plain(b.attended, c.norm_eps, input);
    pass.linear(Role::AttnOut, c.attn_dim(), c.dim, b);
    add(b.latent, b.output);
    pass.feed_forward(b);
    add(b.latent, b.output);
}

/// `x` in pieces of `n`, what is left over left out. (As `chunks_exact`, but with nothing in it that could panic.)
fn pieces(x: &[f32], n: usize) -> impl Iterator<Item = &[f32]> {
    let mut rest = x;
    core::iter::from_fn(move || {
        let (piece, after) = rest.split_at_checked(n)?;
        rest = after;
        (n > 0).then_some(piece)
    })
}

/// As [`pieces`], to write to.
fn pieces_mut(x: &mut [f32], n: usize) -> impl Iterator<Item = &mut [f32]> {
    let mut rest = x;
    core::iter::from_fn(move || {
        let (piece, after) = core::mem::take(&mut rest).split_at_mut_checked(n)?;
        rest = after;
        (n > 0).then_some(piece)
    })
}

/// The first `n` elements.
fn part(x: &mut [f32], n: u32) -> &mut [f32] {
    x.get_mut(..n as usize).unwrap_or(&mut [])
}

/// `to = from`.
pub(crate) fn copy(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
}

/// `x += y`.
fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// What the steps of one block share.
struct Pass<'p, 'm> {
    c: &'p ModelConfig,
    tensors: &'p Tensors<'m>,
    at: Place,
}

impl Pass<'_, '_> {
    /// `input = norm(latent, gain of role)`.
    fn normalise_latent(&self, role: Role, b: &mut Buffers<'_>) {
        let gain = self.tensors.get(role, self.at.layer);
        norm::gained(b.latent, gain.as_ref(), self.c.norm_eps, b.row, part(b.input, self.c.dim));
    }

    /// `output[..n_out] = linear(role, input[..n_in])`.
    fn linear(&self, role: Role, n_in: u32, n_out: u32, b: &mut Buffers<'_>) {
        self.map(role, part(b.input, n_in), part(b.output, n_out), b.row, b.quantised);
    }

    fn map(&self, role: Role, x: &[f32], y: &mut [f32], row: &mut [f32], quantised: &mut [i16]) {
        if let Some(w) = self.tensors.get(role, self.at.layer) {
            linear(&w, x, y, &mut Scratch { row, quantised });
        }
    }

    /// Rotates queries and keys in `output` and puts keys and values into the caches.
    fn rotate_and_store(&self, b: &mut Buffers<'_>) {
        let (attn, kv, d) = (self.c.attn_dim() as usize, self.c.kv_dim() as usize, self.c.head_dim as usize);
        let (cosines, sines) = b.turns.split_at_checked(d / 2).unwrap_or_default();
        let rotated = b.output.get_mut(..attn + kv).unwrap_or(&mut []);
        for head in pieces_mut(rotated, d) {
            let (first, second) = head.split_at_mut_checked(d / 2).unwrap_or_default();
            for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
        let entry = self.at.entry(self.c);
        for (cache, start) in [(&mut *b.keys, attn), (&mut *b.values, attn + kv)] {
            if let (Some(to), Some(from)) = (cache.get_mut(entry.clone()), b.output.get(start..start + kv)) {
                copy(to, from);
            }
        }
    }

    /// The halves of a ring cache in order of age: the oldest position's part first.
    fn by_age<'c>(&self, cache: &'c [f32]) -> [&'c [f32]; 2] {
        let kv = self.c.kv_dim() as usize;
        let ring = cache.get(self.at.ring(self.c)).unwrap_or(&[]);
        let next = self.at.slot(self.c) + 1;
        let (newer, older) = ring.split_at_checked(next * kv).unwrap_or((ring, &[]));
        if self.at.position >= self.c.window { [older, newer] } else { [newer, &[]] }
    }

    /// Sliding-window attention of every head into `attended`.
    fn attend(&self, b: &mut Buffers<'_>) {
        let (d, kv) = (self.c.head_dim as usize, self.c.kv_dim() as usize);
        let group = (self.c.heads / self.c.kv_heads.max(1)).max(1) as usize;
        let scale = rsqrt(self.c.head_dim as f32);
        let (keys, values) = (self.by_age(b.keys), self.by_age(b.values));
        let heads = pieces(b.output, d).zip(pieces_mut(b.attended, d));
        for (h, (query, out)) in heads.enumerate() {
            let channels = h / group * d..(h / group + 1) * d;
            let mut count = 0;
            for (score, key) in b.scores.iter_mut().zip(keys.iter().flat_map(|k| pieces(k, kv))) {
                *score = dot(query, key.get(channels.clone()).unwrap_or(&[])) * scale;
                count += 1;
            }
            let scores = b.scores.get_mut(..count).unwrap_or(&mut []);
            let largest = max(scores);
            scores.iter_mut().for_each(|s| *s = exp(*s - largest));
            out.fill(0.0);
            for (weight, value) in scores.iter().zip(values.iter().flat_map(|v| pieces(v, kv))) {
                let value = value.get(channels.clone()).unwrap_or(&[]);
                out.iter_mut().zip(value).for_each(|(o, v)| *o += weight * v);
            }
            let inverse = 1.0 / sum16(scores);
            out.iter_mut().for_each(|o| *o *= inverse);
        }
    }

    /// The place of this block among the blocks with a memory.
    fn memory_index(&self) -> usize {
        (0..self.at.layer).filter(|l| self.c.has_memory(*l)).count()
    }

    /// `M += sigmoid(r + bias) ⊙ (v' − M)` from the input, and what the token reads from it.
    fn write_memory(&self, b: &mut Buffers<'_>) {
        let (c, width) = (self.c, self.c.mem_dim as usize);
        self.linear(Role::MemIn, c.dim, 2 * c.mem_dim, b);
        if let Some(bias) = self.tensors.get(Role::MemBias, self.at.layer) {
            bias.decode_row(0, b.row);
        }
        let index = self.memory_index();
        let memory = pieces_mut(b.memories, width).nth(index).unwrap_or(&mut []);
        let (values, rates) = b.output.split_at_checked(width).unwrap_or((&[], &[]));
        for (((m, v), r), bias) in memory.iter_mut().zip(values).zip(rates).zip(b.row.iter()) {
            *m += sigmoid(r + bias) * (v - *m);
        }
        let input = part(b.input, c.mem_dim);
        norm::plain(memory, c.norm_eps, input);
        let read = pieces_mut(b.reads, c.attn_dim() as usize).nth(index).unwrap_or(&mut []);
        self.map(Role::MemOut, input, read, b.row, b.quantised);
    }

    /// `o = m + g ⊙ (o − m)` with the gate `g` of both.
    fn blend_memory(&self, b: &mut Buffers<'_>) {
        let (c, attn) = (self.c, self.c.attn_dim() as usize);
        let read = pieces(b.reads, attn).nth(self.memory_index()).unwrap_or(&[]);
        let joined = part(b.input, 2 * c.attn_dim());
        for (j, x) in joined.iter_mut().zip(b.attended.iter().chain(read)) {
            *j = *x;
        }
        norm::in_place(joined, c.norm_eps);
        let hidden = part(b.output, c.mem_gate);
        self.map(Role::MemGate1, joined, hidden, b.row, b.quantised);
        hidden.iter_mut().for_each(|f| *f = relu(*f));
        norm::in_place(hidden, c.norm_eps);
        let gate = part(b.input, c.attn_dim());
        self.map(Role::MemGate2, hidden, gate, b.row, b.quantised);
        for ((o, m), g) in b.attended.iter_mut().zip(read).zip(gate.iter()) {
            *o = m + sigmoid(*g) * (*o - m);
        }
    }

    /// The gated feed-forward network of `latent` into `output`.
    fn feed_forward(&self, b: &mut Buffers<'_>) {
        let c = self.c;
        self.normalise_latent(Role::FfnNorm, b);
        self.linear(Role::GateUp, c.dim, 2 * c.ffn, b);
        let (gate, up) = b.output.split_at_checked(c.ffn as usize).unwrap_or((&[], &[]));
        let input = part(b.input, c.ffn);
        let pairs = input.iter_mut().zip(gate.iter().zip(up));
        match c.activation {
            Activation::SwiGlu => pairs.for_each(|(x, (f, w))| *x = silu(*f) * w),
            Activation::Relu2 => pairs.for_each(|(x, (f, w))| *x = relu(*f) * relu(*f) * w),
        }
        norm::in_place(input, c.norm_eps);
        self.linear(Role::Down, c.ffn, c.dim, b);
    }
}

/// `max(x, 0)`; a NaN becomes 0.
#[inline(always)]
fn relu(x: f32) -> f32 {
    if x > 0.0 { x } else { 0.0 }
}
