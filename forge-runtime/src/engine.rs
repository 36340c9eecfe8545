//! The forward pass of a block of tokens: recursion, halting, logits (`docs/numerics.md` §3).
//!
//! The tokens of a block go through each matrix together, so that weights are read once for all of them. They may be
//! neighbours in one sequence (a prompt) or the next tokens of several (a batch); everything that a token reads of
//! an earlier one is computed before it.
#![forbid(unsafe_code)]

use core::ops::Range;

use forge_formats::{ModelConfig, Role};

use crate::block;
use crate::error::{Error, Result};
use crate::kernels::{Kernels, Outputs};
use crate::layout::{Buffers, Layout, Row};
use crate::linear::{Vectors, linear};
use crate::math::{dot, sigmoid};
use crate::member::Member;
use crate::model::{Model, Tensors};
use crate::options::Options;

/// Tokens a sequence takes before it is reset: up to here a position is exact in `f32`.
pub const MAX_POSITION: u32 = 1 << 24;

/// A model with the memory of one or more sequences.
#[derive(Debug)]
pub(crate) struct Engine<'m> {
    pub(crate) config: &'m ModelConfig,
    pub(crate) kernels: &'static Kernels,
    pub(crate) layout: Layout,
    pub(crate) tensors: Tensors<'m>,
    pub(crate) buffers: Buffers<'m>,
    pub(crate) member: Member<'m>,
}

impl<'m> Engine<'m> {
    pub(crate) fn new(
        model: &'m Model<'m>,
        options: &Options<'m>,
        sequences: usize,
        member: Member<'m>,
        memory: &'m mut [u8],
    ) -> Result<Self> {
        let layout = Layout::new(model, options, sequences).ok_or(Error::Buffer)?;
        let (places, buffers) = layout.divide(memory)?;
        let tensors = Tensors::new(model, options.prepared, places)?;
        let (config, kernels) = (model.config(), options.kernels);
        let mut engine = Self { config, kernels, layout, tensors, buffers, member };
        (0..sequences.max(1)).for_each(|s| engine.reset(s));
        Ok(engine)
    }

    /// Forgets a sequence.
    pub(crate) fn reset(&mut self, sequence: usize) {
        let b = &mut self.buffers;
        b.positions.iter_mut().skip(sequence).take(1).for_each(|p| *p = 0);
        b.rows.iter_mut().for_each(|r| r.recursions = 0);
        b.caches.forget(&self.layout.caches, sequence);
        self.logits_mut(sequence).fill(0.0);
    }

    /// Tokens a sequence has read.
    pub(crate) fn position(&self, sequence: usize) -> u32 {
        self.buffers.positions.get(sequence).copied().unwrap_or(0)
    }

    /// Whether a sequence can read these tokens.
    pub(crate) fn check(&self, sequence: usize, tokens: &[u16]) -> Result<()> {
        let position = *self.buffers.positions.get(sequence).ok_or(Error::Sequence(sequence))?;
        if let Some(token) = tokens.iter().find(|t| u32::from(**t) >= self.config.vocab) {
            return Err(Error::Token(*token));
        }
        let left = MAX_POSITION.saturating_sub(position) as usize;
        if tokens.len() > left { Err(Error::Length) } else { Ok(()) }
    }

    /// Notes a token, which [`Engine::check`] has passed, as row `row` of the next block.
    pub(crate) fn enter(&mut self, row: usize, sequence: usize, token: u16) {
        let (c, b, w) = (self.config, &mut self.buffers, &self.layout.widths);
        let Some(position) = b.positions.get_mut(sequence) else { return };
        let turns = row_of(b.turns, row, w.turns);
        block::set_turns(c, *position, turns);
        if let Some(place) = b.rows.get_mut(row) {
            *place = Row { sequence: sequence as u32, position: *position, recursions: 0, live: 1 };
        }
        *position += 1;
        let width = c.dim as usize;
        let decoded = b.scratch.row.get_mut(..width).unwrap_or(&mut []);
        if let Some(table) = self.tensors.get(Role::Embedding, 0) {
            table.matrix.decode_row(usize::from(token), decoded);
        }
        let x = part(row_of(b.embedded, row, w.dim), width);
        (self.kernels.floats.norm)(decoded, c.norm_eps, x);
        row_of(b.answer, row, w.dim).fill(0.0);
        row_of(b.latent, row, w.dim).fill(0.0);
    }

    /// Takes the first `n` rows through the model, but for the head.
    pub(crate) fn forward(&mut self, n: usize) {
        let last = self.config.recursion.saturating_sub(1);
        for recursion in 0..=last {
            let slots = self.gather(n);
            if slots == 0 {
                break;
            }
            for slot in 0..slots {
                self.begin(slot, recursion);
            }
            for layer in 0..self.config.layers {
                block::apply(self, block::At { recursion, layer, n, slots });
            }
            for slot in 0..slots {
                self.answer(slot);
                let halts = recursion < last && self.halts(slot);
                let row = self.row_at(slot);
                if let Some(row) = self.buffers.rows.get_mut(row) {
                    row.recursions = recursion + 1;
                    row.live = u32::from(!halts);
                }
            }
        }
        self.carry_rest(n);
    }

    /// Logits of the rows `rows`, which belong to different sequences.
    pub(crate) fn head(&mut self, rows: Range<usize>) {
        let (c, w) = (self.config, self.layout.widths);
        let b = &mut self.buffers;
        let width = c.dim as usize;
        let gain = b.scratch.row.get_mut(..width).unwrap_or(&mut []);
        if let Some(weights) = self.tensors.get(Role::FinalNorm, 0) {
            weights.matrix.decode_row(0, gain);
        }
        for (slot, row) in rows.clone().enumerate() {
            let y = part(row_of(b.answer, row, w.dim), width);
            let input = part(row_of(b.input, slot, w.input), width);
            (self.kernels.floats.norm_gained)(y, gain, c.norm_eps, input);
        }
        let role = if c.tied { Role::Embedding } else { Role::Head };
        let Some(head) = self.tensors.get(role, 0) else { return };
        let own = self.member.part(c.vocab as usize);
        let Some(weights) = head.rows(own.clone()) else { return };
        let mut slot = 0;
        while slot < rows.len() {
            let b = &mut self.buffers;
            let sequence = |slot: usize| b.rows.get(rows.start + slot).map_or(0, |r| r.sequence as usize);
            // Rows of neighbouring sequences are multiplied together.
            let first = sequence(slot);
            let n = (slot..rows.len()).take_while(|s| sequence(*s) == first + s - slot).count().max(1);
            let xs = Vectors { x: b.input.get(slot * w.input..).unwrap_or(&[]), stride: w.input, n };
            let logits = b.logits.get_mut(first * w.logits..).unwrap_or(&mut []);
            let logits = part(logits, n * w.logits);
            let y = logits.get_mut(own.start..).unwrap_or(&mut []);
            linear(self.kernels, &weights, xs, &mut Outputs { y, stride: w.logits }, &mut b.scratch);
            for t in 0..n {
                self.member.share(part(row_of(logits, t, w.logits), c.vocab as usize), own.clone());
            }
            slot += n;
        }
    }

    /// The last logits of a sequence.
    pub(crate) fn logits_mut(&mut self, sequence: usize) -> &mut [f32] {
        let (vocab, width) = (self.config.vocab as usize, self.layout.widths.logits);
        part(row_of(self.buffers.logits, sequence, width), vocab)
    }

    /// Puts the rows that still recurse side by side; returns how many they are.
    fn gather(&mut self, n: usize) -> usize {
        let b = &mut self.buffers;
        let live = b.rows.iter().take(n).enumerate().filter(|(_, r)| r.live == 1).map(|(i, _)| i as u32);
        b.active.iter_mut().zip(live).map(|(slot, row)| *slot = row).count()
    }

    /// The row of a slot.
    pub(crate) fn row_at(&self, slot: usize) -> usize {
        self.buffers.active.get(slot).map_or(0, |r| *r as usize)
    }

    /// `u = x`, or `u = x + loop_answer ⊙ norm(y) + loop_latent ⊙ norm(z)`, left to right, in the place of `z`.
    fn begin(&mut self, slot: usize, recursion: u32) {
        let row = self.row_at(slot);
        let (c, b, w, floats) = (self.config, &mut self.buffers, &self.layout.widths, &self.kernels.floats);
        let width = c.dim as usize;
        let latent = part(row_of(b.latent, row, w.dim), width);
        let x = part(row_of(b.embedded, row, w.dim), width);
        if recursion == 0 {
            latent.iter_mut().zip(x).for_each(|(u, x)| *u = *x);
            return;
        }
        let (Some(answer), Some(loop_latent)) =
            (self.tensors.get(Role::LoopAnswer, 0), self.tensors.get(Role::LoopLatent, 0))
        else {
            return;
        };
        let gain = b.scratch.row.get_mut(..width).unwrap_or(&mut []);
        let normed = part(b.input, width);
        let y = part(row_of(b.answer, row, w.dim), width);
        (floats.norm)(y, c.norm_eps, normed);
        answer.matrix.decode_row(0, gain);
        let sum = part(row_of(b.output, 0, w.output), width);
        for (((sum, x), y), g) in sum.iter_mut().zip(x.iter()).zip(normed.iter()).zip(gain.iter()) {
            *sum = x + g * y;
        }
        (floats.norm)(latent, c.norm_eps, normed);
        loop_latent.matrix.decode_row(0, gain);
        for (((z, sum), n), g) in latent.iter_mut().zip(sum.iter()).zip(normed.iter()).zip(gain.iter()) {
            *z = sum + g * n;
        }
    }

    /// `y = z`, or `y += loop_out ⊙ norm(z)`.
    fn answer(&mut self, slot: usize) {
        let row = self.row_at(slot);
        let (c, b, w) = (self.config, &mut self.buffers, &self.layout.widths);
        let width = c.dim as usize;
        let latent = part(row_of(b.latent, row, w.dim), width);
        let y = part(row_of(b.answer, row, w.dim), width);
        if c.recursion == 1 {
            y.iter_mut().zip(latent).for_each(|(y, z)| *y = *z);
        } else if let Some(gain) = self.tensors.get(Role::LoopOut, 0) {
            gain.matrix.decode_row(0, b.scratch.row);
            let normed = part(b.input, width);
            (self.kernels.floats.norm)(latent, c.norm_eps, normed);
            for ((y, z), g) in y.iter_mut().zip(normed).zip(b.scratch.row.iter()) {
                *y += g * *z;
            }
        }
    }

    /// Whether the halting head stops a row's recursion here.
    fn halts(&mut self, slot: usize) -> bool {
        let row = self.row_at(slot);
        let (c, b, w) = (self.config, &mut self.buffers, &self.layout.widths);
        let Some(halt) = self.tensors.get(Role::Halt, 0) else {
            return false;
        };
        let width = c.dim as usize;
        halt.matrix.decode_row(0, b.scratch.row);
        let Some((weights, rest)) = b.scratch.row.split_at_checked(width) else {
            return false;
        };
        let input = part(b.input, width);
        (self.kernels.floats.norm)(part(row_of(b.answer, row, w.dim), width), c.norm_eps, input);
        let bias = rest.first().copied().unwrap_or(0.0);
        sigmoid(dot(weights, input) + bias) > c.halt_threshold
    }

    /// When every row has halted early, the recursions nobody reached still take the keys and values over.
    fn carry_rest(&mut self, n: usize) {
        let deepest = self.buffers.rows.iter().take(n).map(|r| r.recursions).max().unwrap_or(0);
        for recursion in deepest..self.config.recursion {
            for layer in 0..self.config.layers {
                (0..n).for_each(|row| block::carry(self, row, recursion, layer));
            }
        }
    }
}

/// Row `row` of a buffer.
#[inline(always)]
pub(crate) fn row_of(buffer: &mut [f32], row: usize, width: usize) -> &mut [f32] {
    buffer.get_mut(row * width..).and_then(|b| b.get_mut(..width)).unwrap_or(&mut [])
}

/// The first `n` elements.
#[inline(always)]
pub(crate) fn part(x: &mut [f32], n: usize) -> &mut [f32] {
    x.get_mut(..n).unwrap_or(&mut [])
}
