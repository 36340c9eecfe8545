//! How a session's memory is divided.
#![forbid(unsafe_code)]

use bytemuck::{Pod, Zeroable, try_cast_slice_mut};
use forge_formats::{ModelConfig, Role};

use crate::cache::{CacheShape, Caches};
use crate::error::{Error, Result};
use crate::kernels::{Meta, PANEL_ROWS, VECTOR};
use crate::linear::{Scratch, quantised_words, tile_vectors};
use crate::model::{self, Model, Place};
use crate::options::Options;

/// A token in work: what its row of every buffer belongs to.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Row {
    pub(crate) sequence: u32,
    pub(crate) position: u32,
    /// Times the block stack has been applied.
    pub(crate) recursions: u32,
    /// 1 while the token recurses.
    pub(crate) live: u32,
}

/// Words (of 4 bytes) in each part of the memory, in order. A block is the rows worked on at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) block: usize,
    pub(crate) caches: CacheShape,
    pub(crate) widths: Widths,
    places: usize,
    quantised: usize,
    tile: usize,
    heads: usize,
    sequences: usize,
    /// Words every part is rounded up to.
    align: usize,
}

/// Elements from one row of a buffer to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Widths {
    pub(crate) dim: usize,
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) attended: usize,
    pub(crate) turns: usize,
    pub(crate) logits: usize,
    memories: usize,
    scores: usize,
    row: usize,
}

impl Widths {
    fn new(c: &ModelConfig) -> Self {
        let memories = (0..c.layers).filter(|l| c.has_memory(*l)).count();
        let with_memory = |n: u32| if memories > 0 { n as usize } else { 0 };
        // Panels are stored whole.
        let size = |n: u32| (n as usize).next_multiple_of(PANEL_ROWS);
        let largest = |sizes: &[usize]| sizes.iter().copied().max().unwrap_or(0);
        let attended = size(c.attn_dim());
        let (memory, written) =
            (size(with_memory(c.mem_dim) as u32), size(with_memory(c.mem_in_dim()) as u32));
        let gate = size(with_memory(c.mem_gate) as u32);
        let joined = with_memory(2 * c.attn_dim());
        let input = largest(&[size(c.dim), attended, size(c.ffn), memory, joined, gate]);
        let output = largest(&[size(c.qkv_dim()), size(2 * c.ffn), written, gate, attended, size(c.dim)]);
        Self {
            dim: size(c.dim),
            input,
            output,
            attended,
            turns: c.head_dim as usize,
            logits: size(c.vocab),
            memories,
            scores: 2 * (c.window as usize + c.globals.rows as usize).next_multiple_of(PANEL_ROWS),
            // The halting head has one column more than the model is wide.
            row: input.max(c.dim as usize + 1),
        }
    }
}

impl Layout {
    /// The division for a model, or `None` when it has more words than this machine has addresses.
    pub(crate) fn new(model: &Model<'_>, options: &Options<'_>, sequences: usize) -> Option<Self> {
        let c = model.config();
        let widths = Widths::new(c);
        let block = options.block.min(c.window as usize).max(sequences).max(1);
        let mut tile = 0;
        if options.prepared.is_none() {
            for section in model.file().sections() {
                if let forge_formats::manifest::Content::Tensor { role, shape: [_, cols], codec, .. } =
                    section.content
                    && (role != Role::Embedding || c.tied)
                {
                    tile = tile.max(tile_vectors(options.kernels, codec, cols as usize));
                }
            }
        }
        let layout = Self {
            block,
            caches: CacheShape::new(c)?,
            widths,
            places: model::places(c) * size_of::<Place>() / 4,
            quantised: quantised_words(options.kernels, widths.input, block),
            tile: tile * VECTOR / 4,
            heads: sequences.max(1),
            sequences: sequences.max(1),
            align: if options.kernels.products().is_some() { VECTOR / 4 } else { 1 },
        };
        layout.words().is_some().then_some(layout)
    }

    /// The parts' words, in order.
    fn parts(&self) -> Option<[usize; 18]> {
        let (w, n) = (&self.widths, self.block);
        let cache = |words: usize| words.checked_mul(self.sequences);
        let rows = |width: usize| width.checked_mul(n);
        Some([
            self.places,
            self.sequences,
            rows(size_of::<Row>() / 4)?,
            n,
            cache(self.caches.key_words)?,
            cache(self.caches.value_words)?,
            cache(self.caches.memory_words)?,
            rows(w.memories.checked_mul(w.attended)?)?,
            rows(3 * w.dim)?,
            rows(w.input)?,
            rows(w.output)?,
            rows(w.attended)?,
            w.scores,
            rows(w.turns)?,
            w.row,
            self.quantised,
            self.tile + rows(size_of::<Meta>() / 4)?,
            w.logits.checked_mul(self.heads)?,
        ])
    }

    /// Words in all, `None` when their bytes overflow.
    fn words(&self) -> Option<usize> {
        let sum = |sum: usize, part: &usize| sum.checked_add(part.checked_next_multiple_of(self.align)?);
        let words = self.parts()?.iter().try_fold(0, sum)?;
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
        let mut cut = |words: usize| -> Result<&'m mut [f32]> {
            let padded = words.next_multiple_of(self.align.max(1));
            let (part, after) =
                core::mem::take(&mut rest).split_at_mut_checked(padded).ok_or(Error::Buffer)?;
            rest = after;
            part.get_mut(..words).ok_or(Error::Buffer)
        };
        let [places, positions, rows, active, keys, values, memories, reads, streams, sizes @ ..] =
            self.parts().ok_or(Error::Buffer)?;
        let [input, output, attended, scores, turns, row, quantised, tile, logits] = sizes;
        let places = typed(cut(places)?)?;
        let positions = typed(cut(positions)?)?;
        let (rows, active) = (typed(cut(rows)?)?, typed(cut(active)?)?);
        let caches = Caches { keys: cut(keys)?, values: cut(values)?, memories: cut(memories)? };
        let reads = cut(reads)?;
        let (embedded, streams) = cut(streams)?.split_at_mut_checked(streams / 3).ok_or(Error::Buffer)?;
        let (answer, latent) = streams.split_at_mut_checked(streams.len() / 2).ok_or(Error::Buffer)?;
        let (input, output, attended) = (cut(input)?, cut(output)?, cut(attended)?);
        let (scores, turns, row, quantised) = (cut(scores)?, cut(turns)?, cut(row)?, typed(cut(quantised)?)?);
        let (tile, meta) = cut(tile)?.split_at_mut_checked(self.tile).ok_or(Error::Buffer)?;
        let (tile, meta) = (typed(tile)?, typed(meta)?);
        let scratch = Scratch { row, quantised, meta, tile };
        let logits = cut(logits)?;
        let buffers = Buffers {
            positions,
            rows,
            active,
            caches,
            reads,
            embedded,
            answer,
            latent,
            input,
            output,
            attended,
            scores,
            turns,
            scratch,
            logits,
        };
        Ok((places, buffers))
    }
}

/// Words as something else.
fn typed<T: Pod>(words: &mut [f32]) -> Result<&mut [T]> {
    try_cast_slice_mut(words).map_err(|_| Error::Buffer)
}

/// The parts of a session's memory. Rows are those of [`Row`]; slots are the rows that still recurse, side by side.
#[derive(Debug)]
pub(crate) struct Buffers<'m> {
    /// Tokens read by each sequence.
    pub(crate) positions: &'m mut [u32],
    pub(crate) rows: &'m mut [Row],
    /// The rows of the slots.
    pub(crate) active: &'m mut [u32],
    pub(crate) caches: Caches<'m>,
    /// What each row read from each memory `[memory][row][attended]`.
    pub(crate) reads: &'m mut [f32],
    /// The normalised embeddings `x` of the rows.
    pub(crate) embedded: &'m mut [f32],
    /// `y` of the rows.
    pub(crate) answer: &'m mut [f32],
    /// `u` of the rows within the block stack, `z` after it.
    pub(crate) latent: &'m mut [f32],
    /// Input of the next linear map, by slot.
    pub(crate) input: &'m mut [f32],
    /// Output of the last one, by slot.
    pub(crate) output: &'m mut [f32],
    /// `o`, the heads' outputs, by slot.
    pub(crate) attended: &'m mut [f32],
    /// Attention scores of one head, twice.
    pub(crate) scores: &'m mut [f32],
    /// Cosines, then sines of the angles of the rows' positions.
    pub(crate) turns: &'m mut [f32],
    pub(crate) scratch: Scratch<'m>,
    /// The last logits of each sequence.
    pub(crate) logits: &'m mut [f32],
}
