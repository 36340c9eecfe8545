//! VPTQ (Liu et al. 2024, arXiv 2409.17066): v neighbouring weights of a row are an entry of a codebook, plus
//! one of a residual codebook.
//!
//! Payload: scale of the main codebook (f16, not negative), its `2^index_bits · v` signed bytes; the same for
//! the residual codebook when `residual_bits > 0`; then the rows. Row: its scale (f16, not negative), then
//! for each of `ceil(cols / v)` vectors the main index and the residual index, least significant bits first,
//! then zero bits to a whole byte. With `a = codebook scale · row scale`, `b = residual scale · row scale`:
//! `w = C[i]·a`, or `w = C[i]·a + R[j]·b`, every operation rounded.

use half::f16;

use crate::codec::VptqParams;
use crate::codec::bitstream::BitReader;
use crate::error::{Error, Result};

/// The longest vector (v).
pub const MAX_DIM: usize = 16;
/// Widths of a main index.
pub const INDEX_BITS: core::ops::RangeInclusive<u8> = 4..=10;
/// The widest residual index; 0 stands for no residual.
pub const MAX_RESIDUAL_BITS: u8 = 10;

fn valid(p: &VptqParams) -> bool {
    (1..=MAX_DIM).contains(&usize::from(p.dim))
        && INDEX_BITS.contains(&p.index_bits)
        && p.residual_bits <= MAX_RESIDUAL_BITS
}

/// Bytes of a codebook of `bits`-wide indices with its scale; 0 without indices.
fn book_len(p: &VptqParams, bits: u8) -> usize {
    if bits == 0 { 0 } else { 2 + (usize::from(p.dim) << bits) }
}

/// Bits of a row's indices. The compiler cannot see that `dim` is never 0 here; `max` spares it a panic.
fn row_bits(p: &VptqParams, cols: u32) -> u64 {
    let vectors = cols.div_ceil(u32::from(p.dim).max(1));
    u64::from(vectors) * u64::from(p.index_bits + p.residual_bits)
}

fn row_len(p: &VptqParams, cols: u32) -> u64 {
    2 + row_bits(p, cols).div_ceil(8)
}

/// Bytes of a `rows × cols` payload; `None` for invalid parameters or an overflow.
pub fn payload_len(p: &VptqParams, rows: u32, cols: u32) -> Option<u64> {
    if !valid(p) {
        return None;
    }
    let books = book_len(p, p.index_bits) + book_len(p, p.residual_bits);
    row_len(p, cols).checked_mul(u64::from(rows))?.checked_add(books as u64)
}

/// A scale and what follows it; `None` unless the scale is a number that is not negative.
fn split_scale(bytes: &[u8]) -> Option<(f32, &[u8])> {
    let (scale, rest) = bytes.split_first_chunk::<2>()?;
    let scale = f16::from_le_bytes(*scale);
    (scale.is_finite() && scale.is_sign_positive()).then(|| (scale.to_f32(), rest))
}

/// A codebook: its scale and its entries, one after another.
#[derive(Clone, Copy)]
struct Book<'a> {
    scale: f32,
    entries: &'a [u8],
}

impl<'a> Book<'a> {
    fn split(p: &VptqParams, bits: u8, bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        if bits == 0 {
            return Some((Self { scale: 0.0, entries: &[] }, bytes));
        }
        let (scale, rest) = split_scale(bytes)?;
        let (entries, rest) = rest.split_at_checked(usize::from(p.dim) << bits)?;
        Some((Self { scale, entries }, rest))
    }

    fn entry(&self, dim: usize, index: u32) -> &'a [u8] {
        let start = usize::try_from(index).unwrap_or(usize::MAX).saturating_mul(dim);
        self.entries.get(start..).and_then(|rest| rest.get(..dim)).unwrap_or(&[])
    }
}

/// The codebooks and the bytes of all rows.
fn split_books<'a>(p: &VptqParams, payload: &'a [u8]) -> Option<(Book<'a>, Book<'a>, &'a [u8])> {
    let (main, rest) = Book::split(p, p.index_bits, payload)?;
    let (residual, rows) = Book::split(p, p.residual_bits, rest)?;
    Some((main, residual, rows))
}

/// The scale of a row and the bytes of its indices.
fn split_row<'a>(p: &VptqParams, cols: u32, rows: &'a [u8], row: u32) -> Option<(f32, &'a [u8])> {
    let len = row_len(p, cols);
    let start = u64::from(row).checked_mul(len)?;
    split_scale(rows.get(usize::try_from(start).ok()?..)?.get(..usize::try_from(len).ok()?)?)
}

/// Checks a payload once; afterwards every row decodes to finite numbers.
///
/// # Errors
/// [`Error::Codec`] for parameters out of range, a wrong length, a scale that is negative or not finite, or
/// padding bits that are not zero.
pub fn validate(p: &VptqParams, rows: u32, cols: u32, payload: &[u8]) -> Result<()> {
    let bad = Error::Codec("vptq");
    if payload_len(p, rows, cols) != Some(payload.len() as u64) {
        return Err(bad);
    }
    let (_, _, body) = split_books(p, payload).ok_or(bad)?;
    for row in 0..rows {
        let (_, indices) = split_row(p, cols, body, row).ok_or(bad)?;
        let used = row_bits(p, cols);
        if !used.is_multiple_of(8) && indices.last().is_some_and(|last| last >> (used % 8) != 0) {
            return Err(bad);
        }
    }
    Ok(())
}

/// Decodes row `row` into the first `cols` elements of `out`. Total: an invalid payload or row, which
/// [`validate`] and the caller exclude, gives zeros.
pub fn decode_row(p: &VptqParams, _rows: u32, cols: u32, payload: &[u8], row: u32, out: &mut [f32]) {
    let cols_len = usize::try_from(cols).unwrap_or(usize::MAX).min(out.len());
    let Some(out) = out.get_mut(..cols_len) else { return };
    out.fill(0.0);
    if !valid(p) {
        return;
    }
    let Some((main, residual, body)) = split_books(p, payload) else { return };
    let Some((row_scale, indices)) = split_row(p, cols, body, row) else { return };
    let (a, b) = (main.scale * row_scale, residual.scale * row_scale);
    let dim = usize::from(p.dim);
    let mut bits = BitReader::new(indices);
    for vector in out.chunks_mut(dim.max(1)) {
        let entry = main.entry(dim, bits.take(u32::from(p.index_bits)));
        if p.residual_bits == 0 {
            for (w, &c) in vector.iter_mut().zip(entry) {
                *w = f32::from(c as i8) * a;
            }
        } else {
            let rest = residual.entry(dim, bits.take(u32::from(p.residual_bits)));
            for ((w, &c), &r) in vector.iter_mut().zip(entry).zip(rest) {
                *w = f32::from(c as i8) * a + f32::from(r as i8) * b;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    const P: VptqParams = VptqParams { dim: 3, index_bits: 4, residual_bits: 5 };

    /// Two rows of four weights: two vectors of nine bits a row, so three bytes with six bits of padding.
    fn payload() -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(f16::from_f32(0.5).to_le_bytes());
        bytes.extend((0..48).map(|i| i as u8));
        bytes.extend(f16::from_f32(0.25).to_le_bytes());
        bytes.extend((0..96).map(|i| (-i) as i8 as u8));
        for (scale, indices) in [(2.0, [2u32, 3, 15, 31]), (0.0, [1, 1, 1, 1])] {
            bytes.extend(f16::from_f32(scale).to_le_bytes());
            let word = indices[0] | indices[1] << 4 | indices[2] << 9 | indices[3] << 13;
            bytes.extend(&word.to_le_bytes()[..3]);
        }
        bytes
    }

    #[test]
    fn rows_decode_by_the_formula() {
        let bytes = payload();
        assert_eq!(validate(&P, 2, 4, &bytes), Ok(()));
        let mut out = [0.0; 4];
        decode_row(&P, 2, 4, &bytes, 0, &mut out);
        // a = 1, b = 0.5: entries 6, 7, 8 less half of 9, 10, 11; then entry 45 less half of 93.
        assert_eq!(out, [1.5, 2.0, 2.5, 45.0 - 46.5]);
        decode_row(&P, 2, 4, &bytes, 1, &mut out);
        assert_eq!(out, [0.0; 4]);
    }

    #[test]
    fn without_a_residual_a_weight_is_one_product() {
        let p = VptqParams { dim: 2, index_bits: 4, residual_bits: 0 };
        let mut bytes = f16::from_f32(0.125).to_le_bytes().to_vec();
        bytes.extend((0..32).map(|i| (i - 16) as i8 as u8));
        bytes.extend(f16::from_f32(3.0).to_le_bytes());
        bytes.push(0xF0);
        assert_eq!(validate(&p, 1, 4, &bytes), Ok(()));
        let mut out = [0.0; 4];
        decode_row(&p, 1, 4, &bytes, 0, &mut out);
        assert_eq!(out, [-6.0, -5.625, 5.25, 5.625]);
    }

    #[test]
    fn bad_scales_lengths_padding_and_parameters_are_refused() {
        let good = payload();
        for (at, byte) in [(1, 0x7C), (1, 0x80), (51, 0xFE), (149, 0x80), (152, 0x04), (157, 0x80)] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            assert!(validate(&P, 2, 4, &bytes).is_err(), "byte {at}");
        }
        assert!(validate(&P, 2, 4, &good[1..]).is_err());
        assert!(validate(&P, 3, 4, &good).is_err());
        for broken in [
            VptqParams { dim: 0, ..P },
            VptqParams { dim: 17, ..P },
            VptqParams { index_bits: 3, ..P },
            VptqParams { index_bits: 11, ..P },
            VptqParams { residual_bits: 11, ..P },
        ] {
            assert_eq!(payload_len(&broken, 2, 4), None);
            decode_row(&broken, 2, 4, &good, 0, &mut [0.0; 4]);
        }
    }
}
