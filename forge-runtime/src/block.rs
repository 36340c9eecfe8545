//! One block: attention with memory, then the gated feed-forward network (`docs/numerics.md` §3).
#![forbid(unsafe_code)]

use core::ops::Range;

use forge_formats::config::{Activation, MemoryKind};
use forge_formats::{ModelConfig, Role};

use crate::cache::Ring;
use crate::engine::{Engine, part, row_of};
use crate::kernels::Outputs;
use crate::linear::{Vectors, linear};
use crate::math::{cos_turns, exp2, relu, sin_turns};

/// Which block of which recursion is applied to what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) recursion: u32,
    pub(crate) layer: u32,
    /// Rows, halted ones included.
    pub(crate) n: usize,
    /// Rows that still recurse.
    pub(crate) slots: usize,
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

/// Applies block `at.layer` to the latents of the rows that still recurse.
pub(crate) fn apply(e: &mut Engine<'_>, at: At) {
    normalise_latents(e, at, Role::AttnNorm);
    let heads = e.member.heads(e.config.kv_heads as usize);
    query_keys_values(e, at, heads.clone());
    let mut slot = 0;
    for row in 0..at.n {
        if e.buffers.rows.get(row).is_some_and(|r| r.live == 1) {
            attend(e, at, row, slot, heads.clone());
            slot += 1;
        } else {
            carry(e, row, at.recursion, at.layer);
        }
    }
    let (c, w) = (e.config, e.layout.widths);
    let group = (c.attn_dim() / c.kv_heads.max(1)) as usize;
    for slot in 0..at.slots {
        let o = part(row_of(e.buffers.attended, slot, w.attended), c.attn_dim() as usize);
        e.member.share(o, heads.start * group..heads.end * group);
    }
    if c.has_memory(at.layer) {
        let index = (0..at.layer).filter(|l| c.has_memory(*l)).count();
        if at.recursion == 0 {
            // The inputs still hold the normalised latents.
            write_memory(e, at, index);
        }
        blend_memory(e, at, index);
    }
    let attn = c.attn_dim() as usize;
    for slot in 0..at.slots {
        let o = part(row_of(e.buffers.attended, slot, w.attended), attn);
        (e.kernels.floats.norm)(o, c.norm_eps, part(row_of(e.buffers.input, slot, w.input), attn));
    }
    add_to_latents(e, at, Role::AttnOut);
    feed_forward(e, at);
}

/// The cache of a key/value head.
fn ring(row: crate::layout::Row, recursion: u32, layer: u32, head: usize) -> Ring {
    let sequence = row.sequence as usize;
    Ring { sequence, recursion: recursion as usize, layer: layer as usize, head }
}

/// Gives a halted row's recursion the keys and values of the one before.
pub(crate) fn carry(e: &mut Engine<'_>, row: usize, recursion: u32, layer: u32) {
    let shape = &e.layout.caches;
    let Some(row) = e.buffers.rows.get(row).copied() else { return };
    for head in e.member.heads(shape.heads) {
        let ring = ring(row, recursion, layer, head);
        e.buffers.caches.carry(shape, ring, row.position);
    }
}

/// `input = norm(latent, gain of role)` of every slot.
fn normalise_latents(e: &mut Engine<'_>, at: At, role: Role) {
    let (c, w, floats) = (e.config, &e.layout.widths, &e.kernels.floats);
    let b = &mut e.buffers;
    let width = c.dim as usize;
    let gain = e.tensors.get(role, at.layer);
    let row = b.scratch.row.get_mut(..width).unwrap_or(&mut []);
    if let Some(gain) = &gain {
        gain.matrix.decode_row(0, row);
    }
    for (slot, latent) in b.active.iter().take(at.slots).enumerate() {
        let u = part(row_of(b.latent, *latent as usize, w.dim), width);
        let input = part(row_of(b.input, slot, w.input), width);
        match gain {
            Some(_) => (floats.norm_gained)(u, row, c.norm_eps, input),
            None => (floats.norm)(u, c.norm_eps, input),
        }
    }
}

/// `output = linear(role, input)` of every slot, only the rows of `parts`, each of which begins at a whole panel.
fn map(e: &mut Engine<'_>, at: At, role: Role, parts: &[Range<usize>]) {
    let Some(weights) = e.tensors.get(role, at.layer) else { return };
    let (w, b) = (&e.layout.widths, &mut e.buffers);
    let xs = Vectors { x: b.input, stride: w.input, n: at.slots };
    let output = part(b.output, at.slots * w.output);
    for rows in parts {
        let Some(weights) = weights.rows(rows.clone()) else { continue };
        let y = output.get_mut(rows.start..).unwrap_or(&mut []);
        linear(e.kernels, &weights, xs, &mut Outputs { y, stride: w.output }, &mut b.scratch);
    }
}

/// As [`map`], all `n` rows.
fn map_all(e: &mut Engine<'_>, at: At, role: Role, n: usize) {
    map(e, at, role, core::slice::from_ref(&(0..n)));
}

/// Queries, keys and values of some key/value heads and of the query heads that use them.
fn query_keys_values(e: &mut Engine<'_>, at: At, heads: Range<usize>) {
    let c = e.config;
    let (attn, kv, d) = (c.attn_dim() as usize, c.kv_dim() as usize, c.head_dim as usize);
    if e.member.size == 1 {
        return map_all(e, at, Role::Qkv, attn + 2 * kv);
    }
    let group = attn / (c.kv_heads.max(1) as usize);
    let own = heads.start * d..heads.end * d;
    let keys = attn + own.start..attn + own.end;
    let values = attn + kv + own.start..attn + kv + own.end;
    map(e, at, Role::Qkv, &[heads.start * group..heads.end * group, keys, values]);
}

/// Rotates a row's queries and keys, puts keys and values into the caches and attends.
fn attend(e: &mut Engine<'_>, at: At, row: usize, slot: usize, heads: Range<usize>) {
    let (c, w, floats, shape) = (e.config, &e.layout.widths, &e.kernels.floats, &e.layout.caches);
    let b = &mut e.buffers;
    let Some(row_state) = b.rows.get(row).copied() else { return };
    let (attn, kv, d) = (c.attn_dim() as usize, c.kv_dim() as usize, c.head_dim as usize);
    let group = (c.heads / c.kv_heads.max(1)) as usize;
    let output = row_of(b.output, slot, w.output);
    let turns = row_of(b.turns, row, w.turns);
    (floats.rotate)(part(output, attn + kv), turns);
    let (queries, rest) = output.split_at_checked(attn).unwrap_or_default();
    let (keys, values) = rest.split_at_checked(kv).unwrap_or_default();
    let head = |x: &'_ [f32], h: usize| -> Range<usize> { (h * d).min(x.len())..((h + 1) * d).min(x.len()) };
    // All heads' keys before any is read: a load must wait for a store to the same line that is still under way.
    for h in heads.clone() {
        let key = keys.get(head(keys, h)).unwrap_or(&[]);
        let value = values.get(head(values, h)).unwrap_or(&[]);
        let ring = ring(row_state, at.recursion, at.layer, h);
        b.caches.store(shape, floats, (ring, row_state.position), key, value);
    }
    let attended = row_of(b.attended, slot, w.attended);
    for h in heads {
        let ring = ring(row_state, at.recursion, at.layer, h);
        for q in h * group..(h + 1) * group {
            let query = queries.get(head(queries, q)).unwrap_or(&[]);
            let out = attended.get_mut(q * d..).and_then(|o| o.get_mut(..d)).unwrap_or(&mut []);
            b.caches.attend(shape, floats, (ring, row_state.position), query, b.scores, out);
        }
    }
}

/// `latent += linear(role, input)`.
fn add_to_latents(e: &mut Engine<'_>, at: At, role: Role) {
    let width = e.config.dim as usize;
    let own = e.member.part(width);
    map(e, at, role, core::slice::from_ref(&own));
    let (w, b) = (&e.layout.widths, &mut e.buffers);
    for (slot, row) in b.active.iter().take(at.slots).enumerate() {
        let y = part(row_of(b.output, slot, w.output), width);
        e.member.share(y, own.clone());
        (e.kernels.floats.add)(part(row_of(b.latent, *row as usize, w.dim), width), y);
    }
}

/// Writes the inputs into the memory, token after token, and what each token then reads from it.
fn write_memory(e: &mut Engine<'_>, at: At, index: usize) {
    let c = e.config;
    let (width, rates) = (c.mem_dim as usize, c.mem_bias_dim() as usize);
    let written = c.mem_in_dim() as usize;
    map_all(e, at, Role::MemIn, written);
    let (w, floats, shape) = (&e.layout.widths, &e.kernels.floats, &e.layout.caches);
    let b = &mut e.buffers;
    let bias = b.scratch.row.get_mut(..rates).unwrap_or(&mut []);
    if let Some(weights) = e.tensors.get(Role::MemBias, at.layer) {
        weights.matrix.decode_row(0, bias);
    }
    // In the first recursion every row is in work, and slots are rows.
    for (slot, row) in b.rows.iter().enumerate().take(at.slots) {
        let memory = b.caches.memory(shape, row.sequence as usize, index);
        let projected = part(row_of(b.output, slot, w.output), written);
        let input = part(row_of(b.input, slot, w.input), width);
        match c.memory {
            MemoryKind::Ema => {
                let (values, rates) = projected.split_at_checked(width).unwrap_or_default();
                (floats.remember)(memory, values, rates, bias);
                (floats.norm)(memory, c.norm_eps, input);
            }
            MemoryKind::Titans => {
                (floats.associate)(memory, projected, bias, input);
                (floats.norm_in_place)(input, c.norm_eps);
            }
        }
    }
    let Some(weights) = e.tensors.get(Role::MemOut, at.layer) else { return };
    let xs = Vectors { x: b.input, stride: w.input, n: at.slots };
    let start = index * e.layout.block * w.attended;
    let y = b.reads.get_mut(start..).and_then(|r| r.get_mut(..at.slots * w.attended)).unwrap_or(&mut []);
    linear(e.kernels, &weights, xs, &mut Outputs { y, stride: w.attended }, &mut b.scratch);
}

/// `o = m + g ⊙ (o − m)` with the gate `g` of both.
fn blend_memory(e: &mut Engine<'_>, at: At, index: usize) {
    let c = e.config;
    let (attn, gate, w) = (c.attn_dim() as usize, c.mem_gate as usize, e.layout.widths);
    let first = index * e.layout.block;
    for slot in 0..at.slots {
        let row = e.row_at(slot);
        let b = &mut e.buffers;
        let joined = part(row_of(b.input, slot, w.input), 2 * attn);
        let o = part(row_of(b.attended, slot, w.attended), attn);
        let m = part(row_of(b.reads, first + row, w.attended), attn);
        joined.iter_mut().zip(o.iter().chain(m.iter())).for_each(|(j, x)| *j = *x);
        (e.kernels.floats.norm_in_place)(joined, c.norm_eps);
    }
    map_all(e, at, Role::MemGate1, gate);
    for slot in 0..at.slots {
        let b = &mut e.buffers;
        let hidden = part(row_of(b.output, slot, w.output), gate);
        hidden.iter_mut().for_each(|f| *f = relu(*f));
        (e.kernels.floats.norm)(hidden, c.norm_eps, part(row_of(b.input, slot, w.input), gate));
    }
    map_all(e, at, Role::MemGate2, attn);
    for slot in 0..at.slots {
        let row = e.row_at(slot);
        let b = &mut e.buffers;
        let m = part(row_of(b.reads, first + row, w.attended), attn);
        let gate = part(row_of(b.output, slot, w.output), attn);
        (e.kernels.floats.blend)(part(row_of(b.attended, slot, w.attended), attn), m, gate);
    }
}

/// Adds the gated feed-forward network of the latents to them.
fn feed_forward(e: &mut Engine<'_>, at: At) {
    normalise_latents(e, at, Role::FfnNorm);
    let (c, w) = (e.config, e.layout.widths);
    let ffn = c.ffn as usize;
    let own = e.member.part(ffn);
    if e.member.size == 1 {
        map_all(e, at, Role::GateUp, 2 * ffn);
    } else {
        map(e, at, Role::GateUp, &[own.clone(), ffn + own.start..ffn + own.end]);
    }
    let act = match c.activation {
        Activation::SwiGlu => e.kernels.floats.swiglu,
        Activation::Relu2 => e.kernels.floats.relu2,
    };
    for slot in 0..at.slots {
        let b = &mut e.buffers;
        let output = part(row_of(b.output, slot, w.output), 2 * ffn);
        let (gate, up) = output.split_at_checked(ffn).unwrap_or_default();
        let input = part(row_of(b.input, slot, w.input), ffn);
        let range = |x: &'_ [f32]| own.start.min(x.len())..own.end.min(x.len());
        let (gate, up) = (gate.get(range(gate)).unwrap_or(&[]), up.get(range(up)).unwrap_or(&[]));
        act(gate, up, input.get_mut(own.clone()).unwrap_or(&mut []));
        e.member.share(input, own.clone());
        (e.kernels.floats.norm_in_place)(input, c.norm_eps);
    }
    add_to_latents(e, at, Role::Down);
}
