//! The memory of sequences: rings of keys and values, and the long-term memories.
#![forbid(unsafe_code)]

mod ring;

use core::ops::Range;

use forge_formats::ModelConfig;
use forge_formats::config::{CacheKind, Globals};

use crate::kernels::Floats;
use crate::math::rsqrt;

use ring::RingShape;

/// Sizes of one sequence's caches. Each key/value head of each block in each recursion has a ring of the window's
/// positions, and one of the global positions that have left it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheShape {
    window: RingShape,
    globals: Globals,
    /// Rings of one recursion and block: the key/value heads.
    pub(crate) heads: usize,
    layers: usize,
    /// Rings in all.
    rings: usize,
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
        let width = c.head_dim as usize;
        let rings =
            (c.recursion as usize).checked_mul(c.layers as usize)?.checked_mul(c.kv_heads as usize)?;
        let memories = (0..c.layers).filter(|l| c.has_memory(*l)).count();
        let mut shape = Self {
            window: RingShape::new(c.cache == CacheKind::Int8, c.window as usize, width),
            globals: c.globals,
            heads: c.kv_heads as usize,
            layers: c.layers as usize,
            rings,
            scale: rsqrt(width as f32),
            memory: c.mem_state(),
            key_words: 0,
            value_words: 0,
            memory_words: memories.checked_mul(c.mem_state())?,
        };
        let far = shape.far();
        let words = |keys| shape.window.words(keys).checked_add(far.words(keys))?.checked_mul(rings);
        (shape.key_words, shape.value_words) = (words(true)?, words(false)?);
        Some(shape)
    }

    pub(crate) fn is_int8(&self) -> bool {
        self.window.int8
    }

    /// The ring of the global positions, without slots when there are none. Not kept, because models without them
    /// should not pay for it.
    fn far(&self) -> RingShape {
        if !Globals::LINKED {
            return RingShape::default();
        }
        RingShape::new(self.window.int8, self.globals.rows as usize, self.window.width)
    }

    /// Global positions beyond the window when `position` is the newest.
    fn departed(&self, position: u32) -> usize {
        if !Globals::LINKED || !self.globals.any() {
            return 0;
        }
        self.globals.departed(position, self.window.slots as u32) as usize
    }

    /// The slot among the global positions for the one that leaves the window when `position` comes, if it is one.
    fn departure(&self, position: u32) -> Option<usize> {
        if !Globals::LINKED || !self.globals.any() {
            return None;
        }
        let (now, before) = (self.departed(position), self.departed(position.saturating_sub(1)));
        (now > before).then(|| self.far().slot(before))
    }

    /// Words of one sequence's keys or values.
    fn words(&self, keys: bool) -> usize {
        if keys { self.key_words } else { self.value_words }
    }

    /// Where ring `index` of a kind lies among a sequence's keys or values: those of the window come first.
    fn range(&self, keys: bool, far: bool, index: usize) -> Range<usize> {
        let (kind, before) = if far { (self.far(), self.rings) } else { (self.window, 0) };
        let start = before * self.window.words(keys) + index * kind.words(keys);
        start..start + kind.words(keys)
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
    /// Its place among the keys or values of all sequences.
    fn range(self, s: &CacheShape, keys: bool, far: bool) -> Range<usize> {
        let index = (self.recursion * s.layers + self.layer) * s.heads + self.head;
        let (within, base) = (s.range(keys, far, index), self.sequence * s.words(keys));
        base + within.start..base + within.end
    }
}

/// The caches of all sequences.
#[derive(Debug)]
pub(crate) struct Caches<'m> {
    /// Rotated keys of every ring; see [`crate::kernels::generic::HeadF32`] and
    /// [`crate::kernels::generic::HeadInt8`].
    pub(crate) keys: &'m mut [f32],
    /// Values of every ring.
    pub(crate) values: &'m mut [f32],
    /// States of the long-term memories `[sequence][memory][mem_state]`.
    pub(crate) memories: &'m mut [f32],
}

impl Caches<'_> {
    /// Puts a position's key and value in.
    #[cfg_attr(not(little_code), inline(never))]
    pub(crate) fn store(
        &mut self,
        s: &CacheShape,
        floats: &Floats,
        (ring, position): (Ring, u32),
        key: &[f32],
        value: &[f32],
    ) {
        self.make_room(s, ring, position);
        let keys = self.keys.get_mut(ring.range(s, true, false)).unwrap_or(&mut []);
        let values = self.values.get_mut(ring.range(s, false, false)).unwrap_or(&mut []);
        s.window.store(floats, [keys, values], s.window.slot(position as usize), key, value);
    }

    /// Copies a position from the ring of the recursion before.
    pub(crate) fn carry(&mut self, s: &CacheShape, ring: Ring, position: u32) {
        self.make_room(s, ring, position);
        let slot = s.window.slot(position as usize);
        let before = Ring { recursion: ring.recursion.saturating_sub(1), ..ring };
        for keys in [true, false] {
            let (from, to) = (before.range(s, keys, false), ring.range(s, keys, false));
            let (from, to) = two(if keys { self.keys } else { self.values }, from, to);
            s.window.copy(keys, (&s.window, from, slot), (to, slot));
        }
    }

    /// Keeps the position whose slot `position` takes, when it is a global one.
    fn make_room(&mut self, s: &CacheShape, ring: Ring, position: u32) {
        if let Some(slot) = s.departure(position) {
            self.keep(s, ring, s.window.slot(position as usize), slot);
        }
    }

    /// Copies a position from a slot of the window to one of the global positions. (Not inlined: models without any
    /// should not pay for it.)
    #[inline(never)]
    fn keep(&mut self, s: &CacheShape, ring: Ring, leaves: usize, slot: usize) {
        for keys in [true, false] {
            let (from, to) = (ring.range(s, keys, false), ring.range(s, keys, true));
            let (from, to) = two(if keys { self.keys } else { self.values }, from, to);
            s.far().copy(keys, (&s.window, from, leaves), (to, slot));
        }
    }

    /// Keys and values of a ring.
    fn ring(&self, s: &CacheShape, ring: Ring, far: bool) -> [&[f32]; 2] {
        let keys = self.keys.get(ring.range(s, true, far)).unwrap_or(&[]);
        [keys, self.values.get(ring.range(s, false, far)).unwrap_or(&[])]
    }

    /// Attention of one query head over the window that ends at `position`, and the global positions before it.
    #[cfg_attr(not(little_code), inline(never))]
    pub(crate) fn attend(
        &self,
        s: &CacheShape,
        floats: &Floats,
        (ring, position): (Ring, u32),
        query: &[f32],
        scores: &mut [f32],
        out: &mut [f32],
    ) {
        if s.departed(position) > 0 {
            return self.attend_beyond(s, floats, (ring, position), query, scores, out);
        }
        let (count, window) = (position as usize + 1, self.ring(s, ring, false));
        if s.is_int8() {
            (floats.attend_int8)(&s.window.head_int8(window, count), query, s.scale, scores, out);
        } else {
            (floats.attend)(&s.window.head(window, count), query, s.scale, scores, out);
        }
    }

    /// As [`Caches::attend`], where there are global positions beyond the window.
    #[inline(never)]
    fn attend_beyond(
        &self,
        s: &CacheShape,
        floats: &Floats,
        (ring, position): (Ring, u32),
        query: &[f32],
        scores: &mut [f32],
        out: &mut [f32],
    ) {
        let (count, departed, shape) = (position as usize + 1, s.departed(position), s.far());
        let [far, window] = [true, false].map(|far| self.ring(s, ring, far));
        if s.is_int8() {
            let parts = [shape.head_int8(far, departed), s.window.head_int8(window, count)];
            (floats.attend_hybrid_int8)(&parts, query, s.scale, scores, out);
        } else {
            let parts = [shape.head(far, departed), s.window.head(window, count)];
            (floats.attend_hybrid)(&parts, query, s.scale, scores, out);
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

/// A part of a cache, and another that lies behind it.
fn two(cache: &mut [f32], from: Range<usize>, to: Range<usize>) -> (&[f32], &mut [f32]) {
    let (before, after) = cache.split_at_mut_checked(to.start).unwrap_or_default();
    (before.get(from).unwrap_or(&[]), after.get_mut(..to.len()).unwrap_or(&mut []))
}

/// A word that a snapshot holds.
struct Saved {
    keys: bool,
    at: usize,
    /// Whether only its lower half is in use.
    half: bool,
}

impl CacheShape {
    /// Slots in use of a ring after `read` tokens.
    fn used(&self, far: bool, read: u32) -> usize {
        let departed = || read.checked_sub(1).map_or(0, |newest| self.departed(newest));
        if far { departed().min(self.far().slots) } else { (read as usize).min(self.window.slots) }
    }

    /// Words that [`Caches::save`] gives for the rings after `read` tokens.
    pub(crate) fn saved_words(&self, read: u32) -> usize {
        let far = self.far().saved_words(self.used(true, read));
        2 * self.rings * (self.window.saved_words(self.used(false, read)) + far)
    }

    /// Where every word in use lies after `read` tokens.
    fn saved(&self, read: u32) -> impl Iterator<Item = Saved> {
        let shape = *self;
        let kinds = if Globals::LINKED { 2 } else { 1 };
        let kinds = [false, true].into_iter().take(kinds);
        let rings = kinds.flat_map(move |far| (0..shape.rings).map(move |i| (far, i)));
        rings.flat_map(move |(far, index)| {
            let (kind, used) = (if far { shape.far() } else { shape.window }, shape.used(far, read));
            [true, false].into_iter().flat_map(move |keys| {
                let start = shape.range(keys, far, index).start;
                let saved =
                    move |word| Saved { keys, at: start + word, half: kind.half_word(used) == Some(word) };
                kind.used_words(keys, used).map(saved)
            })
        })
    }
}

impl Caches<'_> {
    /// Every word in use of sequence 0 after `read` tokens: rings, then memories.
    pub(crate) fn save(&self, s: &CacheShape, read: u32) -> impl Iterator<Item = u32> {
        let rings = s.saved(read).map(|Saved { keys, at, half }| {
            let cache = if keys { &*self.keys } else { &*self.values };
            let word = cache.get(at).map_or(0, |w| w.to_bits());
            if half { word & u32::from_le_bytes([0xFF, 0xFF, 0, 0]) } else { word }
        });
        rings.chain(self.memories.iter().take(s.memory_words).map(|m| m.to_bits()))
    }

    /// Puts back what [`Caches::save`] gave.
    pub(crate) fn restore(&mut self, s: &CacheShape, read: u32, words: &mut impl Iterator<Item = u32>) {
        for (Saved { keys, at, .. }, word) in s.saved(read).zip(&mut *words) {
            let cache = if keys { &mut *self.keys } else { &mut *self.values };
            cache.iter_mut().skip(at).take(1).for_each(|w| *w = f32::from_bits(word));
        }
        let memories = self.memories.iter_mut().take(s.memory_words);
        memories.zip(words).for_each(|(m, word)| *m = f32::from_bits(word));
    }
}
