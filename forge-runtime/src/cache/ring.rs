//! The keys and values that one key/value head keeps of as many positions as there are slots.
#![forbid(unsafe_code)]

use bytemuck::{must_cast_slice, must_cast_slice_mut};

use crate::kernels::generic::{HeadF32, HeadInt8};
use crate::kernels::{Floats, PANEL_ROWS};

/// Sizes of a ring; without slots, of none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RingShape {
    pub(super) int8: bool,
    pub(super) slots: usize,
    /// Channels of a head.
    pub(super) width: usize,
    /// Words of the keys: in f32, blocks of sixteen positions; in int8, the channels of every position, then the
    /// positions' units.
    key_words: usize,
    /// Words of the values.
    value_words: usize,
}

impl RingShape {
    pub(super) fn new(int8: bool, slots: usize, width: usize) -> Self {
        let plain = Self { int8, slots, width, ..Self::default() };
        let words = |slots: usize| if int8 { plain.channel_words() + slots } else { slots * width };
        let blocks = if int8 { slots } else { slots.next_multiple_of(PANEL_ROWS) };
        Self { key_words: words(blocks), value_words: words(slots), ..plain }
    }

    fn channel_words(&self) -> usize {
        (self.slots * self.width).div_ceil(4)
    }

    /// Words of the keys or of the values.
    pub(super) fn words(&self, keys: bool) -> usize {
        if keys { self.key_words } else { self.value_words }
    }

    /// The slot of the `number`-th position. (`max`: the compiler does not know that sizes are checked.)
    pub(super) fn slot(&self, number: usize) -> usize {
        number % self.slots.max(1)
    }

    /// Slots in use after so many positions, and the slot of the oldest.
    pub(super) fn extent(&self, count: usize) -> (usize, usize) {
        if count <= self.slots { (count, 0) } else { (self.slots, self.slot(count)) }
    }

    /// Puts a position's key and value in.
    pub(super) fn store(
        &self,
        floats: &Floats,
        [keys, values]: [&mut [f32]; 2],
        slot: usize,
        key: &[f32],
        value: &[f32],
    ) {
        if self.int8 {
            for (ring, x) in [(keys, key), (values, value)] {
                let (channels, units) = self.split_mut(ring);
                let place = channels.get_mut(slot * self.width..).and_then(|c| c.get_mut(..self.width));
                let unit = (floats.store_int8)(x, place.unwrap_or(&mut []));
                units.iter_mut().skip(slot).take(1).for_each(|u| *u = unit);
            }
            return;
        }
        let block = keys.get_mut(slot / PANEL_ROWS * PANEL_ROWS * self.width..).unwrap_or(&mut []);
        let lanes = block.as_chunks_mut::<PANEL_ROWS>().0;
        for (place, k) in lanes.iter_mut().filter_map(|l| l.get_mut(slot % PANEL_ROWS)).zip(key) {
            *place = *k;
        }
        let places = values.get_mut(slot * self.width..).unwrap_or(&mut []);
        places.iter_mut().zip(value).for_each(|(place, v)| *place = *v);
    }

    /// Copies a position's key (or value) from a slot of a ring of shape `other` that differs in slots only.
    pub(super) fn copy(
        &self,
        keys: bool,
        (other, from, from_slot): (&RingShape, &[f32], usize),
        (to, slot): (&mut [f32], usize),
    ) {
        if self.int8 {
            let ((from, from_units), (to, units)) = (other.split(from), self.split_mut(to));
            let unit = from_units.get(from_slot).copied().unwrap_or(0.0);
            units.iter_mut().skip(slot).take(1).for_each(|u| *u = unit);
            let places = to.get_mut(slot * self.width..).unwrap_or(&mut []);
            let channels = from.get(from_slot * self.width..).unwrap_or(&[]);
            places.iter_mut().zip(channels).take(self.width).for_each(|(t, f)| *t = *f);
        } else if keys {
            let skip = |slot: usize| slot / PANEL_ROWS * PANEL_ROWS * self.width + slot % PANEL_ROWS;
            let places = to.iter_mut().skip(skip(slot)).step_by(PANEL_ROWS).take(self.width);
            places.zip(from.iter().skip(skip(from_slot)).step_by(PANEL_ROWS)).for_each(|(t, f)| *t = *f);
        } else {
            let places = to.get_mut(slot * self.width..).unwrap_or(&mut []);
            let values = from.get(from_slot * self.width..).unwrap_or(&[]);
            places.iter_mut().zip(values).take(self.width).for_each(|(t, f)| *t = *f);
        }
    }

    /// What kernels read of it after so many positions.
    pub(super) fn head<'c>(&self, [keys, values]: [&'c [f32]; 2], count: usize) -> HeadF32<'c> {
        let (len, first) = self.extent(count);
        HeadF32 { keys, values, len, first }
    }

    /// As [`RingShape::head`], of int8.
    pub(super) fn head_int8<'c>(&self, [keys, values]: [&'c [f32]; 2], count: usize) -> HeadInt8<'c> {
        let (len, first) = self.extent(count);
        let ((keys, key_units), (values, value_units)) = (self.split(keys), self.split(values));
        HeadInt8 { keys, values, key_units, value_units, len, first }
    }

    /// Places in use, as indices of words, in an order that every machine shares.
    pub(super) fn used_words(&self, keys: bool, used: usize) -> impl Iterator<Item = usize> + use<> {
        let (width, channels) = (self.width, self.channel_words());
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

    /// Number of words that [`RingShape::used_words`] gives.
    pub(super) fn saved_words(&self, used: usize) -> usize {
        if self.int8 { (used * self.width).div_ceil(4) + used } else { used * self.width }
    }

    /// The word of int8 channels of which the upper half is not in use, if there is one.
    pub(super) fn half_word(&self, used: usize) -> Option<usize> {
        let channels = used * self.width;
        (self.int8 && !channels.is_multiple_of(4)).then_some(channels / 4)
    }

    /// Channels and units of int8.
    fn split<'c>(&self, ring: &'c [f32]) -> (&'c [i8], &'c [f32]) {
        let (channels, units) = ring.split_at_checked(self.channel_words()).unwrap_or_default();
        (must_cast_slice(channels), units)
    }

    fn split_mut<'c>(&self, ring: &'c mut [f32]) -> (&'c mut [i8], &'c mut [f32]) {
        let (channels, units) = ring.split_at_mut_checked(self.channel_words()).unwrap_or_default();
        (must_cast_slice_mut(channels), units)
    }
}
