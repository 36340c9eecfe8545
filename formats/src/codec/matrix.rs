//! A validated matrix that stays in the bytes of its section.

use core::fmt;
use core::ops::Range;

use half::f16;

use super::float::Width;
use super::ternary::Packing;
use super::{Codec, float, hyper, int8, linked, rans, seedlm, sparse, split_scales, ternary, validate, vptq};
use crate::error::Result;

/// A coded `[rows, cols]` matrix, or a range of rows of one. Holding it means that its payload is valid.
#[derive(Clone, Copy, PartialEq)]
pub struct Matrix<'a> {
    codec: Codec,
    payload: &'a [u8],
    /// Rows in the payload.
    stored: u32,
    /// First row of the payload that belongs to this view.
    first: u32,
    rows: u32,
    cols: u32,
}

impl<'a> Matrix<'a> {
    /// Checks a payload against its codec and `[rows, cols]`.
    ///
    /// # Errors
    /// [`crate::error::Error::Codec`] when the length differs from [`super::payload_len`] or the content is
    /// invalid.
    pub fn new(codec: Codec, shape: [u32; 2], payload: &'a [u8]) -> Result<Self> {
        validate(&codec, shape, payload)?;
        Ok(Self::validated(codec, shape, payload))
    }

    /// Wraps a payload that [`validate`] has passed before, as those of a parsed [`crate::File`] have;
    /// [`Matrix::new`] is for all others.
    pub fn validated(codec: Codec, [rows, cols]: [u32; 2], payload: &'a [u8]) -> Self {
        Self { codec, payload, stored: rows, first: 0, rows, cols }
    }

    /// Rows of this view.
    pub fn rows(&self) -> usize {
        self.rows as usize
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols as usize
    }

    /// How the payload is coded.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// The bytes of the whole stored matrix, also when this is a view of some rows.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Bytes from one row to the next, for the codecs whose rows are contiguous; 0 for the others.
    pub fn row_stride(&self) -> usize {
        match self.codec {
            Codec::F32 => self.cols() * 4,
            Codec::F16 => self.cols() * 2,
            Codec::Int8Row => self.cols(),
            Codec::Ternary2b => Packing::TwoBit.row_bytes(self.cols) as usize,
            Codec::Ternary5x8 => Packing::FiveInEight.row_bytes(self.cols) as usize,
            Codec::SeedLm(_) | Codec::Vptq(_) | Codec::Hyper(_) => 0,
            Codec::TernaryRans | Codec::TernarySparse => 0,
        }
    }

    /// The packed weights of row `r` (floats, int8 or trits), without its scale. Empty when the codec has no
    /// contiguous rows or `r` is out of range.
    #[inline]
    pub fn row_bytes(&self, r: usize) -> &'a [u8] {
        let stride = self.row_stride();
        let bytes = || self.payload.get(self.stored_row(r)? as usize * stride..)?.get(..stride);
        bytes().unwrap_or(&[])
    }

    /// The payload from the first row of this view on, past its last row to the end: kernels may read a little
    /// beyond a row. Row `r` begins at `r` times [`Matrix::row_stride`].
    pub fn rows_on(&self) -> &'a [u8] {
        self.payload.get(self.first as usize * self.row_stride()..).unwrap_or(&[])
    }

    /// The f16 scales of the rows, little-endian, for integer codecs; empty for the others.
    pub fn scales(&self) -> &'a [[u8; 2]] {
        let scales = || {
            let first = self.first as usize;
            split_scales(self.stored, self.payload)?.1.as_chunks().0.get(first..first + self.rows())
        };
        if self.codec.is_integer() { scales().unwrap_or(&[]) } else { &[] }
    }

    /// Scale of row `r` for integer codecs, 1 for the others and 0 when `r` is out of range.
    #[inline]
    pub fn scale(&self, r: usize) -> f32 {
        if !self.codec.is_integer() {
            return 1.0;
        }
        let bits = || {
            let (_, scales) = split_scales(self.stored, self.payload)?;
            scales.as_chunks::<2>().0.get(self.stored_row(r)? as usize).copied()
        };
        bits().map_or(0.0, |b| f16::from_le_bytes(b).to_f32())
    }

    /// Decodes row `r` into the first [`Matrix::cols`] places of `out`; zeros when `r` is out of range.
    pub fn decode_row(&self, r: usize, out: &mut [f32]) {
        let Some(row) = self.stored_row(r) else {
            out.fill(0.0);
            return;
        };
        let out = match out.split_at_mut_checked(self.cols()) {
            Some((out, _)) => out,
            None => return,
        };
        let (stored, cols, payload) = (self.stored, self.cols, self.payload);
        match &self.codec {
            Codec::F32 => float::decode_row(Width::F32, self.row_bytes(r), out),
            Codec::F16 => float::decode_row(Width::F16, self.row_bytes(r), out),
            Codec::Int8Row if linked::INT8 => int8::decode_row(self.row_bytes(r), self.scale(r), out),
            Codec::Ternary2b if linked::TERNARY_2B => {
                ternary::decode_row(Packing::TwoBit, self.row_bytes(r), self.scale(r), out);
            }
            Codec::Ternary5x8 if linked::TERNARY_5X8 => {
                ternary::decode_row(Packing::FiveInEight, self.row_bytes(r), self.scale(r), out);
            }
            Codec::SeedLm(p) if linked::SEEDLM => seedlm::decode_row(p, stored, cols, payload, row, out),
            Codec::Vptq(p) if linked::VPTQ => vptq::decode_row(p, stored, cols, payload, row, out),
            Codec::Hyper(p) if linked::HYPER => hyper::decode_row(p, stored, cols, payload, row, out),
            Codec::TernaryRans if linked::TERNARY_RANS => {
                rans::decode_row(stored, cols, payload, row, self.scale(r), out);
            }
            Codec::TernarySparse if linked::TERNARY_SPARSE => {
                sparse::decode_row(stored, cols, payload, row, self.scale(r), out);
            }
            // Not linked, so never validated.
            _ => {}
        }
    }

    /// Bytes of a row packed as in `Ternary2b`.
    pub fn packed_2b_bytes(&self) -> usize {
        Packing::TwoBit.row_bytes(self.cols) as usize
    }

    /// Writes the trits of row `r` of a ternary codec to the first [`Matrix::packed_2b_bytes`] bytes of `out`, packed
    /// as `Ternary2b` packs them: the first in the least significant bits, code `trit + 1`, unused places 1. For other
    /// codecs, rows out of range and shorter slices `out` stays as it is.
    pub fn pack_row_2b(&self, r: usize, out: &mut [u8]) {
        if let Some(out) = out.get_mut(..self.packed_2b_bytes()) {
            self.pack_rows_2b(r, out);
        }
    }

    /// Like [`Matrix::pack_row_2b`], the rows from `first` on one after another, as many as there are and `out` has
    /// whole rows' room for. Faster than row by row for the codecs whose rows differ in length.
    pub fn pack_rows_2b(&self, first: usize, out: &mut [u8]) {
        let Some(row) = self.stored_row(first) else { return };
        let stride = self.packed_2b_bytes().max(1);
        let left = self.rows().saturating_sub(first).saturating_mul(stride);
        let room = out.len().min(left) / stride * stride;
        let out = out.get_mut(..room).unwrap_or(&mut []);
        let (stored, cols, payload) = (self.stored, self.cols, self.payload);
        let mut each = |packing| {
            for (r, out) in (first..).zip(out.chunks_exact_mut(stride.max(1))) {
                ternary::row_packed_2b(packing, cols, self.row_bytes(r), out);
            }
        };
        match self.codec {
            Codec::Ternary2b if linked::TERNARY_2B => each(Packing::TwoBit),
            Codec::Ternary5x8 if linked::TERNARY_5X8 => each(Packing::FiveInEight),
            Codec::TernaryRans if linked::TERNARY_RANS => {
                rans::rows_packed_2b(stored, cols, payload, row, out);
            }
            Codec::TernarySparse if linked::TERNARY_SPARSE => {
                sparse::rows_packed_2b(stored, cols, payload, row, out);
            }
            _ => {}
        }
    }

    /// Writes the trits of row `r` of a ternary codec to the first [`Matrix::cols`] places of `out`. For other codecs,
    /// rows out of range and shorter slices `out` stays as it is.
    pub fn row_trits(&self, r: usize, out: &mut [i8]) {
        let (Some(row), Some(out)) = (self.stored_row(r), out.get_mut(..self.cols())) else { return };
        let (stored, cols, payload) = (self.stored, self.cols, self.payload);
        match self.codec {
            Codec::Ternary2b => ternary::unpack_row(Packing::TwoBit, self.row_bytes(r), out),
            Codec::Ternary5x8 => ternary::unpack_row(Packing::FiveInEight, self.row_bytes(r), out),
            Codec::TernaryRans if linked::TERNARY_RANS => rans::row_trits(stored, cols, payload, row, out),
            Codec::TernarySparse if linked::TERNARY_SPARSE => {
                sparse::row_trits(stored, cols, payload, row, out);
            }
            _ => {}
        }
    }

    /// The rows of `range` as a matrix, or `None` when it reaches past the last row.
    pub fn slice_rows(&self, range: Range<usize>) -> Option<Matrix<'a>> {
        if range.start > range.end || range.end > self.rows() {
            return None;
        }
        let first = self.first + u32::try_from(range.start).ok()?;
        Some(Matrix { first, rows: u32::try_from(range.len()).ok()?, ..*self })
    }

    /// Row `r` of this view as a row of the payload.
    #[inline]
    fn stored_row(&self, r: usize) -> Option<u32> {
        let r = u32::try_from(r).ok()?;
        (r < self.rows).then(|| self.first + r)
    }
}

impl fmt::Debug for Matrix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Matrix({}, {} x {})", self.codec.name(), self.rows, self.cols)
    }
}
