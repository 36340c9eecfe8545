//! `TernarySparse`: the places of the trits that are not 0, for pruned matrices.
//!
//! A row is a sequence of gaps (zeros before the next trit that is not 0) in the code of Golomb and Rice (Rice 1979),
//! each followed by a sign, and ends with the gap that reaches its end. Gaps of independent places are geometric, for
//! which the code is at most 2 % above the entropy from P₀ = 0.8 on (`docs/codecs.md`, section 6).

use super::directory::Directory;
use super::split_scales;
use crate::error::{Error, Result};

/// Largest parameter of the code: gaps are at most 8192.
pub const MAX_SHIFT: u8 = 12;
/// Four trits 0, packed as in `Ternary2b`.
const ZEROS: u8 = 0b0101_0101;

/// A payload's parts.
#[derive(Clone, Copy)]
struct Parts<'a> {
    shift: u32,
    directory: Directory<'a>,
    body: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(rows: u32, payload: &'a [u8]) -> Option<Self> {
        let (front, _) = split_scales(rows, payload)?;
        let (shift, rest) = front.split_first()?;
        let (directory, body) = Directory::read(rows, rest)?;
        (*shift <= MAX_SHIFT).then_some(Self { shift: (*shift).into(), directory, body })
    }

    /// The bytes of a row that begins at `at`.
    #[inline]
    fn row(&self, row: u32, at: usize) -> &'a [u8] {
        self.body.get(at..).and_then(|body| body.get(..self.directory.len(row))).unwrap_or(&[])
    }
}

/// Reads bits of a row, least significant first.
struct Bits<'a> {
    row: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    /// At least 57 bits from here on; zeros past the end.
    #[inline]
    fn window(&self) -> u64 {
        let rest = self.row.get(self.at / 8..).unwrap_or(&[]);
        let bytes = rest.first_chunk().copied().unwrap_or_else(|| {
            let mut bytes = [0; 8];
            bytes.iter_mut().zip(rest).for_each(|(b, r)| *b = *r);
            bytes
        });
        u64::from_le_bytes(bytes) >> (self.at % 8)
    }

    /// The next gap: as many ones as its high part says, a zero, its lowest `shift` bits.
    #[inline]
    fn gap(&mut self, shift: u32) -> usize {
        let mut high = 0;
        let window = loop {
            let window = self.window();
            let ones = window.trailing_ones();
            if ones < 32 {
                high += ones as usize;
                self.at += ones as usize + 1 + shift as usize;
                break window >> (ones + 1);
            }
            high += 32;
            self.at += 32;
        };
        high << shift | (window & ((1 << shift) - 1)) as usize
    }

    /// The next bit.
    #[inline]
    fn bit(&mut self) -> bool {
        let byte = self.row.get(self.at / 8).copied().unwrap_or(0);
        let bit = byte >> (self.at % 8) & 1;
        self.at += 1;
        bit == 1
    }

    /// Whether all that is left are zeros that fill the last byte.
    fn ended(&self) -> bool {
        self.at.div_ceil(8) == self.row.len() && self.window() == 0
    }
}

/// Calls `put` with the place of each trit that is not 0, rising, and whether it is −1. Returns whether the row is
/// valid; stops where it is not.
#[inline(always)]
fn decode(shift: u32, cols: usize, row: &[u8], mut put: impl FnMut(usize, bool)) -> bool {
    let (mut bits, mut place) = (Bits { row, at: 0 }, 0);
    while place < cols {
        place += bits.gap(shift);
        if place >= cols || bits.at / 8 >= row.len() {
            return place == cols && bits.ended();
        }
        put(place, bits.bit());
        place += 1;
    }
    bits.ended()
}

/// The parameter in range, the directory canonical, every row the one encoding of its trits, every scale finite and
/// not negative.
///
/// # Errors
/// [`Error::Codec`].
pub fn validate(rows: u32, cols: u32, payload: &[u8]) -> Result<()> {
    let invalid = Error::Codec("ternary_sparse");
    let parts = Parts::of(rows, payload).ok_or(invalid)?;
    let (_, scales) = split_scales(rows, payload).ok_or(invalid)?;
    if !parts.directory.valid(rows, parts.body.len()) || !super::scales_valid(scales) {
        return Err(invalid);
    }
    let mut at = 0;
    for row in 0..rows {
        let bytes = parts.row(row, at);
        if !decode(parts.shift, cols as usize, bytes, |_, _| {}) {
            return Err(invalid);
        }
        at += bytes.len();
    }
    Ok(())
}

/// Writes the rows from `first` on to `out`, packed as in `Ternary2b`, as many as it has whole rows' room for.
pub fn rows_packed_2b(rows: u32, cols: u32, payload: &[u8], first: u32, out: &mut [u8]) {
    let Some(parts) = Parts::of(rows, payload) else { return };
    let mut at = parts.directory.begin(first);
    for (row, out) in (first..rows).zip(out.chunks_exact_mut(cols.div_ceil(4).max(1) as usize)) {
        let bytes = parts.row(row, at);
        pack(parts.shift, cols as usize, bytes, out);
        at += bytes.len();
    }
}

/// One row into `out`.
#[inline(never)]
fn pack(shift: u32, cols: usize, row: &[u8], out: &mut [u8]) {
    out.fill(ZEROS);
    decode(shift, cols, row, |place, minus| {
        if let Some(byte) = out.get_mut(place / 4) {
            // Code 1 becomes 0 or 2.
            *byte ^= (if minus { 1 } else { 3 }) << (place % 4 * 2);
        }
    });
}

/// Calls `put` with the place of each trit of a row that is not 0, rising, and the trit.
pub fn each_nonzero(rows: u32, cols: u32, payload: &[u8], row: u32, mut put: impl FnMut(usize, i8)) {
    if let Some(parts) = Parts::of(rows, payload) {
        let bytes = parts.row(row, parts.directory.begin(row));
        decode(parts.shift, cols as usize, bytes, |place, minus| put(place, if minus { -1 } else { 1 }));
    }
}

/// Writes one row to `out`, four trits a byte as in `Ternary2b`.
pub fn row_packed_2b(rows: u32, cols: u32, payload: &[u8], row: u32, out: &mut [u8]) {
    if let Some(out) = out.get_mut(..cols.div_ceil(4) as usize) {
        rows_packed_2b(rows, cols, payload, row, out);
    }
}

/// Writes one row of trits.
pub fn row_trits(rows: u32, cols: u32, payload: &[u8], row: u32, out: &mut [i8]) {
    out.iter_mut().take(cols as usize).for_each(|o| *o = 0);
    each_nonzero(rows, cols, payload, row, |place, trit| {
        if let Some(out) = out.get_mut(place) {
            *out = trit;
        }
    });
}

/// Dequantises one row.
pub fn decode_row(rows: u32, cols: u32, payload: &[u8], row: u32, scale: f32, out: &mut [f32]) {
    out.iter_mut().take(cols as usize).for_each(|o| *o = 0.0);
    each_nonzero(rows, cols, payload, row, |place, trit| {
        if let Some(out) = out.get_mut(place) {
            *out = f32::from(trit) * scale;
        }
    });
}

#[cfg(feature = "alloc")]
mod encoder {
    use alloc::vec::Vec;

    use super::MAX_SHIFT;
    use crate::codec::bitstream::BitWriter;
    use crate::codec::directory::put_rows;

    /// The gaps of a row, each with the trit behind it; the last reaches the row's end, unless a trit is there.
    fn gaps(row: &[i8]) -> impl Iterator<Item = (u32, Option<i8>)> {
        let mut rest = row;
        core::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let gap = rest.iter().take_while(|t| **t == 0).count();
            let (_, after) = rest.split_at(gap);
            let trit = after.first().copied();
            rest = after.get(1..).unwrap_or(&[]);
            Some((gap as u32, trit))
        })
    }

    /// Appends everything but the scales.
    pub(crate) fn put(cols: usize, q: &[i8], out: &mut Vec<u8>) {
        let rows = || q.chunks_exact(cols.max(1));
        let bits = |shift: &u8| -> u64 {
            rows().flat_map(gaps).map(|(gap, _)| u64::from(gap >> shift) + 1 + u64::from(*shift)).sum()
        };
        let shift = (0..=MAX_SHIFT).min_by_key(bits).unwrap_or(0);
        out.push(shift);
        let rows: Vec<Vec<u8>> = rows().map(|row| encode_row(shift.into(), row)).collect();
        put_rows(&rows, out);
    }

    fn encode_row(shift: u32, row: &[i8]) -> Vec<u8> {
        let mut bits = BitWriter::default();
        for (gap, trit) in gaps(row) {
            let mut high = gap >> shift;
            while high >= 32 {
                bits.put(u32::MAX, 32);
                high -= 32;
            }
            bits.put((1 << high) - 1, high + 1);
            bits.put(gap, shift);
            if let Some(trit) = trit {
                bits.put(u32::from(trit < 0), 1);
            }
        }
        bits.finish()
    }
}

#[cfg(feature = "alloc")]
pub(crate) use encoder::put;
