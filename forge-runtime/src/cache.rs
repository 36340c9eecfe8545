//! The memory of sequences: rings of keys and values, and the long-term memories.
#![forbid(unsafe_code)]

use core::ops::Range;

use bytemuck::must_cast_slice;
use bytemuck::must_cast_slice_mut;
use forge_formats::ModelConfig;
use forge_formats::config::CacheKind;

use crate::kernels::generic::{HeadF32, HeadInt8};
use crate::kernels::{Floats, PANEL_ROWS};
use crate::math::rsqrt;

/// Sizes of one sequence's caches. A ring is the cache of one key/value head of one block in one recursion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheShape {
    int8: bool,
    /// Rings of one recursion and block: the key/value heads.
    pub(crate) heads: usize,
    layers: usize,
    window: usize,
    /// Channels of a head.
    pub(crate) width: usize,
    /// `1/sqrt(width)`.
    scale: f32,
    memory: usize,
    /// Words of all keys, all values, all memories.
    pub(crate) key_words: usize,
    pub(crate) value_words: usize,
    pub(crate) memory_words: usize,
}

impl CacheShape {
    pub(crate) fn new(c: &ModelConfig) -> Option<Self> {
        let int8 = c.cache == CacheKind::Int8;
        let (window, width) = (c.window as usize, c.head_dim as usize);
        let rings =
            (c.recursion as usize).checked_mul(c.layers as usize)?.checked_mul(c.kv_heads as usize)?;
        let memories = (0..c.layers).filter(|l| c.has_memory(*l)).count();
        let mut shape = Self {
            int8,
            heads: c.kv_heads as usize,
            layers: c.layers as usize,
            window,
            width,
            scale: rsqrt(width as f32),
            memory: c.mem_state(),
            key_words: 0,
            value_words: 0,
            memory_words: memories.checked_mul(c.mem_state())?,
        };
        shape.key_words = shape.key_ring().checked_mul(rings)?;
        shape.value_words = shape.value_ring().checked_mul(rings)?;
        Some(shape)
    }

    /// Words of a ring of int8: the channels of every position, then the positions' units.
    fn int8_ring(&self) -> usize {
        (self.window * self.width).div_ceil(4) + self.window
    }

    /// Words of a ring's keys: in f32, blocks of sixteen positions.
    fn key_ring(&self) -> usize {
        let blocks = self.window.next_multiple_of(PANEL_ROWS);
        if self.int8 { self.int8_ring() } else { blocks * self.width }
    }

    /// Words of a ring's values.
    fn value_ring(&self) -> usize {
        if self.int8 { self.int8_ring() } else { self.window * self.width }
    }

    /// The slot of a position in a ring. (`max`: the compiler does not know that sizes are checked.)
    pub(crate) fn slot(&self, position: u32) -> usize {
        position as usize % self.window.max(1)
    }

    /// Slots in use when `position` is the newest, and the slot of the oldest.
    fn extent(&self, position: u32) -> (usize, usize) {
        let slot = self.slot(position);
        if (position as usize) < self.window {
            (slot + 1, 0)
        } else {
            (self.window, (slot + 1) % self.window.max(1))
        }
    }
}

/// Which ring of which sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    pub(crate) sequence: usize,
    pub(crate) recursion: usize,
    pub(crate) layer: usize,
    pub(crate) head: usize,
}

impl Ring {
    fn index(self, s: &CacheShape) -> usize {
        (self.recursion * s.layers + self.layer) * s.heads + self.head
    }

    fn keys(self, s: &CacheShape) -> Range<usize> {
        let start = self.sequence * s.key_words + self.index(s) * s.key_ring();
        start..start + s.key_ring()
    }

    fn values(self, s: &CacheShape) -> Range<usize> {
        let start = self.sequence * s.value_words + self.index(s) * s.value_ring();
        start..start + s.value_ring()
    }
}

/// The caches of all sequences.
#[derive(Debug)]
pub(crate) struct Caches<'m> {
    /// Rotated keys of every ring; see [`HeadF32`] and [`HeadInt8`].
    pub(crate) keys: &'m mut [f32],
    /// Values of every ring.
    pub(crate) values: &'m mut [f32],
    /// States of the long-term memories `[sequence][memory][mem_state]`.
    pub(crate) memories: &'m mut [f32],
}

impl Caches<'_> {
    /// Puts a position's key and value in.
    pub(crate) fn store(
        &mut self,
        s: &CacheShape,
        floats: &Floats,
        ring: Ring,
        slot: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let keys = self.keys.get_mut(ring.keys(s)).unwrap_or(&mut []);
        let values = self.values.get_mut(ring.values(s)).unwrap_or(&mut []);
        if s.int8 {
            for (ring, x) in [(keys, key), (values, value)] {
                let (channels, units) = split_int8_mut(s, ring);
                let place = channels.get_mut(slot * s.width..).and_then(|c| c.get_mut(..s.width));
                let unit = (floats.store_int8)(x, place.unwrap_or(&mut []));
                units.iter_mut().skip(slot).take(1).for_each(|u| *u = unit);
            }
            return;
        }
        let block = keys.get_mut(slot / PANEL_ROWS * PANEL_ROWS * s.width..).unwrap_or(&mut []);
        let lanes = block.as_chunks_mut::<PANEL_ROWS>().0;
        for (place, k) in lanes.iter_mut().filter_map(|l| l.get_mut(slot % PANEL_ROWS)).zip(key) {
            *place = *k;
        }
        let places = values.get_mut(slot * s.width..).unwrap_or(&mut []);
        places.iter_mut().zip(value).for_each(|(place, v)| *place = *v);
    }

    /// Copies a position from the ring of the recursion before.
    pub(crate) fn carry(&mut self, s: &CacheShape, ring: Ring, slot: usize) {
        let from = Ring { recursion: ring.recursion.saturating_sub(1), ..ring };
        for (cache, from, to, keys) in [
            (&mut *self.keys, from.keys(s), ring.keys(s), true),
            (&mut *self.values, from.values(s), ring.values(s), false),
        ] {
            let (before, after) = cache.split_at_mut_checked(to.start).unwrap_or_default();
            let (from, to) = (before.get(from).unwrap_or(&[]), after.get_mut(..to.len()).unwrap_or(&mut []));
            if s.int8 {
                copy_int8(s, from, to, slot);
            } else if keys {
                let skip = slot / PANEL_ROWS * PANEL_ROWS * s.width + slot % PANEL_ROWS;
                let places = to.iter_mut().skip(skip).step_by(PANEL_ROWS).take(s.width);
                places.zip(from.iter().skip(skip).step_by(PANEL_ROWS)).for_each(|(t, f)| *t = *f);
            } else {
                let range = slot * s.width..(slot + 1) * s.width;
                let places = to.get_mut(range.clone()).unwrap_or(&mut []);
                places.iter_mut().zip(from.get(range).unwrap_or(&[])).for_each(|(t, f)| *t = *f);
            }
        }
    }

    /// Attention of one query head over the window that ends at `position`.
    pub(crate) fn attend(
        &self,
        s: &CacheShape,
        floats: &Floats,
        (ring, position): (Ring, u32),
        query: &[f32],
        scores: &mut [f32],
        out: &mut [f32],
    ) {
        let (len, first) = s.extent(position);
        let keys = self.keys.get(ring.keys(s)).unwrap_or(&[]);
        let values = self.values.get(ring.values(s)).unwrap_or(&[]);
        if s.int8 {
            let ((keys, key_units), (values, value_units)) = (split_int8(s, keys), split_int8(s, values));
            let head = HeadInt8 { keys, values, key_units, value_units, len, first };
            (floats.attend_int8)(&head, query, s.scale, scores, out);
        } else {
            (floats.attend)(&HeadF32 { keys, values, len, first }, query, s.scale, scores, out);
        }
    }

    /// The state of a sequence's memory.
    pub(crate) fn memory(&mut self, s: &CacheShape, sequence: usize, index: usize) -> &mut [f32] {
        let start = sequence * s.memory_words + index * s.memory;
        self.memories.get_mut(start..start + s.memory).unwrap_or(&mut [])
    }

    /// Sets a sequence's memories to zero. The rings need no clearing: only positions of the sequence are read.
    pub(crate) fn forget(&mut self, s: &CacheShape, sequence: usize) {
        let start = sequence * s.memory_words;
        self.memories.get_mut(start..start + s.memory_words).unwrap_or(&mut []).fill(0.0);
    }
}

impl CacheShape {
    pub(crate) fn is_int8(&self) -> bool {
        self.int8
    }

    /// Slots in use after `read` tokens.
    fn used(&self, read: u32) -> usize {
        (read as usize).min(self.window)
    }

    /// Places in use of one ring of keys or values, as indices of its words, in an order that every machine shares.
    fn used_words(&self, keys: bool, used: usize) -> impl Iterator<Item = usize> {
        let (width, channels) = (self.width, (self.window * self.width).div_ceil(4));
        let int8 = (0..(used * width).div_ceil(4)).chain(channels..channels + used);
        let blocks = (0..used).flat_map(move |slot| {
            let first = slot / PANEL_ROWS * PANEL_ROWS * width + slot % PANEL_ROWS;
            (0..width).map(move |channel| first + channel * PANEL_ROWS)
        });
        let none = 0..0;
        let (int8, blocks, plain) = match (self.int8, keys) {
            (true, _) => (Some(int8), None, none),
            (false, true) => (None, Some(blocks), none),
            (false, false) => (None, None, 0..used * width),
        };
        int8.into_iter().flatten().chain(blocks.into_iter().flatten()).chain(plain)
    }

    /// Words that [`Caches::save`] gives for the rings after `read` tokens.
    pub(crate) fn saved_words(&self, read: u32) -> usize {
        let used = self.used(read);
        let ring = if self.int8 { (used * self.width).div_ceil(4) + used } else { used * self.width };
        2 * ring * (self.key_words / self.key_ring().max(1))
    }

    /// Where every word in use lies after `read` tokens: among the keys or not, and which.
    fn saved(&self, read: u32) -> impl Iterator<Item = (bool, usize)> {
        let used = self.used(read);
        let (key_ring, value_ring) = (self.key_ring(), self.value_ring());
        (0..self.key_words / key_ring.max(1)).flat_map(move |ring| {
            let keys = self.used_words(true, used).map(move |w| (true, ring * key_ring + w));
            keys.chain(self.used_words(false, used).map(move |w| (false, ring * value_ring + w)))
        })
    }
}

impl Caches<'_> {
    /// Every word in use of sequence 0 after `read` tokens: rings, then memories.
    pub(crate) fn save(&self, s: &CacheShape, read: u32) -> impl Iterator<Item = u32> {
        // The last word of int8 channels may hold two that are not in use.
        let used = s.used(read) * s.width;
        let half = (s.int8 && !used.is_multiple_of(4)).then_some(used / 4);
        let ring = s.key_ring();
        let rings = s.saved(read).map(move |(keys, at)| {
            let cache = if keys { &*self.keys } else { &*self.values };
            let word = cache.get(at).map_or(0, |w| w.to_bits());
            if half == Some(at % ring.max(1)) { word & u32::from_le_bytes([0xFF, 0xFF, 0, 0]) } else { word }
        });
        rings.chain(self.memories.iter().take(s.memory_words).map(|m| m.to_bits()))
    }

    /// Puts back what [`Caches::save`] gave.
    pub(crate) fn restore(&mut self, s: &CacheShape, read: u32, words: &mut impl Iterator<Item = u32>) {
        for ((keys, at), word) in s.saved(read).zip(&mut *words) {
            let cache = if keys { &mut *self.keys } else { &mut *self.values };
            cache.iter_mut().skip(at).take(1).for_each(|w| *w = f32::from_bits(word));
        }
        let memories = self.memories.iter_mut().take(s.memory_words);
        memories.zip(words).for_each(|(m, word)| *m = f32::from_bits(word));
    }
}

/// Channels and units of a ring of int8.
fn split_int8<'c>(s: &CacheShape, ring: &'c [f32]) -> (&'c [i8], &'c [f32]) {
    let (channels, units) = ring.split_at_checked((s.window * s.width).div_ceil(4)).unwrap_or_default();
    (must_cast_slice(channels), units)
}

fn split_int8_mut<'c>(s: &CacheShape, ring: &'c mut [f32]) -> (&'c mut [i8], &'c mut [f32]) {
    let words = (s.window * s.width).div_ceil(4);
    let (channels, units) = ring.split_at_mut_checked(words).unwrap_or_default();
    (must_cast_slice_mut(channels), units)
}

fn copy_int8(s: &CacheShape, from: &[f32], to: &mut [f32], slot: usize) {
    let ((from, from_units), (to, to_units)) = (split_int8(s, from), split_int8_mut(s, to));
    let range = slot * s.width..(slot + 1) * s.width;
    let places = to.get_mut(range.clone()).unwrap_or(&mut []);
    places.iter_mut().zip(from.get(range).unwrap_or(&[])).for_each(|(t, f)| *t = *f);
    to_units.iter_mut().zip(from_units).skip(slot).take(1).for_each(|(t, f)| *t = *f);
}
