//! How a session's memory is divided.

use bytemuck::try_cast_slice_mut;
use forge_formats::ModelConfig;

use crate::error::{Error, Result};
use crate::kernels::QUANTISED_PADDING;
use crate::model::{self, Place};

/// Words (of 4 bytes) in each part of the memory, in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    places: usize,
    cache: usize,
    memories: usize,
    reads: usize,
    dim: usize,
    input: usize,
    output: usize,
    attended: usize,
    scores: usize,
    turns: usize,
    row: usize,
    quantised: usize,
    vocab: usize,
}

impl Layout {
    /// The division for a model, or `None` when a part has more words than this machine has addresses.
    pub(crate) fn new(c: &ModelConfig) -> Option<Self> {
        let memory_blocks = (0..c.layers).filter(|l| c.has_memory(*l)).count();
        let with_memory = |n: u32| if memory_blocks > 0 { n as usize } else { 0 };
        let size = |n: u32| n as usize;
        let largest = |sizes: &[usize]| sizes.iter().copied().max().unwrap_or(0);
        let gate = with_memory(c.mem_gate);
        let attended = size(c.attn_dim());
        let memory = with_memory(c.mem_dim);
        let joined = with_memory(2 * c.attn_dim());
        let input = largest(&[size(c.dim), attended, size(c.ffn), memory, joined, gate]);
        let output = largest(&[size(c.qkv_dim()), 2 * size(c.ffn), 2 * memory, gate, attended, size(c.dim)]);
        let cache = size(c.recursion)
            .checked_mul(size(c.layers))?
            .checked_mul(size(c.window))?
            .checked_mul(size(c.kv_dim()))?;
        Some(Self {
            places: model::places(c) * size_of::<Place>() / 4,
            cache,
            memories: memory_blocks * memory,
            reads: memory_blocks * attended,
            dim: size(c.dim),
            input,
            output,
            attended,
            scores: size(c.window),
            turns: size(c.head_dim),
            // The halting head has one column more than the model is wide.
            row: input.max(size(c.dim) + 1),
            quantised: (input + QUANTISED_PADDING).div_ceil(2),
            vocab: size(c.vocab),
        })
        .filter(|l| l.words().is_some())
    }

    /// Words in all, `None` when their bytes overflow.
    fn words(&self) -> Option<usize> {
        let l = self;
        let small = l.places + l.memories + l.reads + 3 * l.dim + l.input + l.output + l.attended;
        let rest = l.scores + l.turns + l.row + l.quantised + l.vocab;
        let words = l.cache.checked_mul(2)?.checked_add(small)?.checked_add(rest)?;
        words.checked_mul(4).map(|bytes| bytes / 4)
    }

    /// Bytes in all.
    pub(crate) fn bytes(&self) -> usize {
        self.words().map_or(usize::MAX, |w| w * 4)
    }

    /// Cuts the caller's memory up.
    pub(crate) fn divide<'m>(&self, memory: &'m mut [u8]) -> Result<(&'m mut [Place], Buffers<'m>)> {
        let memory = memory.get_mut(..self.bytes()).ok_or(Error::Buffer)?;
        let mut rest: &'m mut [f32] = try_cast_slice_mut(memory).map_err(|_| Error::Buffer)?;
        let mut part = |words: usize| -> Result<&'m mut [f32]> {
            let (part, after) =
                core::mem::take(&mut rest).split_at_mut_checked(words).ok_or(Error::Buffer)?;
            rest = after;
            Ok(part)
        };
        let places = try_cast_slice_mut(part(self.places)?).map_err(|_| Error::Buffer)?;
        let buffers = Buffers {
            keys: part(self.cache)?,
            values: part(self.cache)?,
            memories: part(self.memories)?,
            reads: part(self.reads)?,
            embedded: part(self.dim)?,
            answer: part(self.dim)?,
            latent: part(self.dim)?,
            input: part(self.input)?,
            output: part(self.output)?,
            attended: part(self.attended)?,
            scores: part(self.scores)?,
            turns: part(self.turns)?,
            row: part(self.row)?,
            quantised: try_cast_slice_mut(part(self.quantised)?).map_err(|_| Error::Buffer)?,
            logits: part(self.vocab)?,
        };
        Ok((places, buffers))
    }
}

/// The parts of a session's memory.
#[derive(Debug)]
pub(crate) struct Buffers<'m> {
    /// Rotated keys `[recursion][block][position mod window][kv_dim]`.
    pub(crate) keys: &'m mut [f32],
    /// Values, laid out as the keys.
    pub(crate) values: &'m mut [f32],
    /// State of each memory `[memory][mem_dim]`.
    pub(crate) memories: &'m mut [f32],
    /// What the current token read from each memory `[memory][attn_dim]`.
    pub(crate) reads: &'m mut [f32],
    /// The normalised embedding `x` of the current token.
    pub(crate) embedded: &'m mut [f32],
    /// `y`.
    pub(crate) answer: &'m mut [f32],
    /// `u` within the block stack, `z` after it.
    pub(crate) latent: &'m mut [f32],
    /// Input of the next linear map.
    pub(crate) input: &'m mut [f32],
    /// Output of the last one.
    pub(crate) output: &'m mut [f32],
    /// `o`, the heads' outputs.
    pub(crate) attended: &'m mut [f32],
    /// Attention scores of one head, oldest position first.
    pub(crate) scores: &'m mut [f32],
    /// Cosines, then sines of the current position's angles.
    pub(crate) turns: &'m mut [f32],
    /// A decoded row or vector.
    pub(crate) row: &'m mut [f32],
    /// A quantised input.
    pub(crate) quantised: &'m mut [i16],
    /// The last logits.
    pub(crate) logits: &'m mut [f32],
}
