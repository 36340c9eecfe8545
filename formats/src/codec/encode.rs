//! Encoders of the simple codecs, and the one definition of quantisation (`docs/numerics.md`, section 2).
//! The trainer's fake quantisation calls the same functions.

use alloc::vec;
use alloc::vec::Vec;

use half::f16;

use super::ternary::{pack4, pack5};
use super::{Codec, rans, sparse};

/// The codecs that need no search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Simple {
    /// [`Codec::F32`].
    F32,
    /// [`Codec::F16`].
    F16,
    /// [`Codec::Int8Row`].
    Int8Row,
    /// [`Codec::Ternary2b`].
    Ternary2b,
    /// [`Codec::Ternary5x8`].
    Ternary5x8,
    /// [`Codec::TernaryRans`].
    TernaryRans,
    /// [`Codec::TernarySparse`].
    TernarySparse,
}

impl From<Simple> for Codec {
    fn from(simple: Simple) -> Codec {
        match simple {
            Simple::F32 => Codec::F32,
            Simple::F16 => Codec::F16,
            Simple::Int8Row => Codec::Int8Row,
            Simple::Ternary2b => Codec::Ternary2b,
            Simple::Ternary5x8 => Codec::Ternary5x8,
            Simple::TernaryRans => Codec::TernaryRans,
            Simple::TernarySparse => Codec::TernarySparse,
        }
    }
}

/// Codes a row-major `[rows, cols]` matrix. `data` must hold `rows * cols` finite values; otherwise the result
/// has a length or content that [`super::Matrix::new`] refuses.
pub fn encode(codec: Simple, rows: usize, cols: usize, data: &[f32]) -> Vec<u8> {
    let quantise: fn(&[f32], &mut [i8]) -> f32 = match codec {
        Simple::F32 => return data.iter().flat_map(|w| w.to_le_bytes()).collect(),
        Simple::F16 => return data.iter().flat_map(|w| f16_saturating(*w).to_le_bytes()).collect(),
        Simple::Int8Row => int8_row,
        Simple::Ternary2b | Simple::Ternary5x8 | Simple::TernaryRans | Simple::TernarySparse => ternary_row,
    };
    let weights = data.chunks_exact(cols.max(1)).take(rows);
    let mut q = vec![0i8; weights.len() * cols];
    let scales: Vec<f32> =
        weights.zip(q.chunks_exact_mut(cols.max(1))).map(|(row, q)| quantise(row, q)).collect();
    pack(codec, cols, &q, &scales)
}

/// Codes weights that are integers already: `q` is row-major with `cols` columns, `scales` (each an f16 value)
/// has one entry a row. For turning one integer codec into another without loss.
///
/// `codec` must be an integer codec; the float ones give an empty payload, which no matrix accepts.
pub fn pack(codec: Simple, cols: usize, q: &[i8], scales: &[f32]) -> Vec<u8> {
    let mut out = Vec::new();
    let rows = || q.chunks_exact(cols.max(1)).take(scales.len());
    match codec {
        Simple::Ternary2b => rows().for_each(|q| out.extend(q.chunks(4).map(pack4))),
        Simple::Ternary5x8 => rows().for_each(|q| out.extend(q.chunks(5).map(pack5))),
        Simple::Int8Row => rows().for_each(|q| out.extend(q.iter().map(|w| w.cast_unsigned()))),
        Simple::TernaryRans => rans::put(cols, q, &mut out),
        Simple::TernarySparse => sparse::put(cols, q, &mut out),
        Simple::F32 | Simple::F16 => return out,
    }
    out.extend(scales.iter().flat_map(|s| f16_saturating(*s).to_le_bytes()));
    out
}

/// Ternary quantisation of one row (BitNet b1.58, Ma et al. 2024, eq. 1-3, with one scale a row):
/// `γ = mean|w|` summed in f64 and rounded to f16, `out[i] = clamp(round_even(w[i] / γ), -1, 1)`; all zeros when
/// γ rounds to 0. Returns γ as the f16 value the file holds.
pub fn ternary_row(w: &[f32], out: &mut [i8]) -> f32 {
    let sum: f64 = w.iter().map(|w| f64::from(w.abs())).sum();
    let mean = if w.is_empty() { 0.0 } else { (sum / w.len() as f64) as f32 };
    quantise(w, out, mean, 1.0)
}

/// Int8 quantisation of one row: `scale = f16(max|w| / 127)`, `out[i] = clamp(round_even(w[i] / scale), ±127)`;
/// all zeros when the scale rounds to 0. Returns the scale as the f16 value the file holds.
pub fn int8_row(w: &[f32], out: &mut [i8]) -> f32 {
    let max = w.iter().fold(0.0f32, |m, w| m.max(w.abs()));
    quantise(w, out, max / 127.0, 127.0)
}

/// Rounds `scale` to f16 and the weights to multiples of it, up to `limit` of them.
fn quantise(w: &[f32], out: &mut [i8], scale: f32, limit: f32) -> f32 {
    let scale = f16_saturating(scale).to_f32();
    if scale == 0.0 {
        out.fill(0);
        return 0.0;
    }
    for (o, w) in out.iter_mut().zip(w) {
        // The limit is an integer, so clamping first gives the same and keeps `round_even` in its range.
        *o = round_even((w / scale).clamp(-limit, limit)) as i8;
    }
    scale
}

/// Nearest integer, ties to even, for |x| < 2^22 (`docs/numerics.md`, section 1).
fn round_even(x: f32) -> f32 {
    (x + 12_582_912.0) - 12_582_912.0
}

/// Nearest f16, the largest finite one for values beyond it.
fn f16_saturating(x: f32) -> f16 {
    f16::from_f32(x.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()))
}
