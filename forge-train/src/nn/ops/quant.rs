//! Fake quantisation: the values a matrix or a row has after a round trip through its integer codec.
//! Weights go through `forge_formats`, activations through the rule of docs/numerics.md, section 2.

use std::borrow::Cow;

use rayon::prelude::*;

use super::ROWS;
use super::simd::vectorised;
use forge_formats::codec::encode::{int8_row, ternary_row};
use forge_runtime::math;

/// Integer grid of a weight matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grid {
    /// −1, 0, 1 times one scale a row.
    Ternary,
    /// −127…127 times one scale a row.
    Int8,
}

/// How strongly a linear map is quantised, and what its gradient is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Blend {
    /// Share of the quantised value: `x + lambda (Q(x) − x)`.
    pub(crate) lambda: f32,
    /// Whether gradients pass straight through `Q` (Bengio et al. 2013); otherwise `Q` has gradient 0.
    pub(crate) straight_through: bool,
}

impl Blend {
    /// Factor between the gradient of a blended value and that of its latent.
    pub(crate) fn gradient(self) -> f32 {
        if self.straight_through { 1.0 } else { 1.0 - self.lambda }
    }
}

/// A quantised weight matrix beside its latent.
pub(crate) struct QuantWeight {
    stored: Stored,
    /// Width of a row.
    cols: usize,
    /// One scale a row.
    pub(crate) scales: Vec<f32>,
    /// How it is blended.
    pub(crate) blend: Blend,
}

/// What is kept of a quantised matrix, row-major: as little as both passes can be computed from.
enum Stored {
    /// The integers alone, a byte each; a product takes a copy in f32 for as long as it lasts.
    Integers(Vec<i8>),
    /// `latent + lambda (integer * scale − latent)`, which both passes multiply with while quantisation is faded in.
    Blended(Vec<f32>),
}

impl QuantWeight {
    /// Quantises `[rows, cols]` latents row by row.
    pub(crate) fn new(latent: &[f32], cols: usize, grid: Grid, blend: Blend) -> Self {
        let quantise = match grid {
            Grid::Ternary => ternary_row,
            Grid::Int8 => int8_row,
        };
        if blend.lambda >= 1.0 {
            let mut integers = vec![0i8; latent.len()];
            let rows = integers.par_chunks_mut(cols).zip(latent.par_chunks(cols)).with_min_len(16);
            let scales = rows.map(|(integers, latent)| quantise(latent, integers)).collect();
            return Self { stored: Stored::Integers(integers), cols, scales, blend };
        }
        let mut blended = vec![0.0; latent.len()];
        let rows = blended.par_chunks_mut(cols).zip(latent.par_chunks(cols)).with_min_len(16);
        let scales = rows
            .map_init(
                || vec![0i8; cols],
                |integers, (blended, latent)| {
                    let scale = quantise(latent, integers);
                    for ((out, x), q) in blended.iter_mut().zip(latent).zip(integers) {
                        *out = mix(*x, f32::from(*q) * scale, blend.lambda);
                    }
                    scale
                },
            )
            .collect();
        Self { stored: Stored::Blended(blended), cols, scales, blend }
    }

    /// Whether the map runs on integers exactly as the runtime does.
    pub(crate) fn exact(&self) -> bool {
        matches!(self.stored, Stored::Integers(_))
    }

    /// What the forward pass multiplies with: integers, or blended values.
    pub(crate) fn multiplied(&self) -> Cow<'_, [f32]> {
        match &self.stored {
            Stored::Integers(integers) => {
                let mut values = vec![0.0; integers.len()];
                let chunks = values.par_chunks_mut(self.chunk()).zip(integers.par_chunks(self.chunk()));
                chunks.for_each(|(values, integers)| widen(integers, values));
                Cow::Owned(values)
            }
            Stored::Blended(values) => Cow::Borrowed(values),
        }
    }

    /// What gradients flow through: `latent + lambda (integer * scale − latent)`.
    pub(crate) fn effective(&self) -> Cow<'_, [f32]> {
        match &self.stored {
            Stored::Integers(integers) => {
                let mut values = vec![0.0; integers.len()];
                let chunks = values.par_chunks_mut(self.chunk()).zip(integers.par_chunks(self.chunk()));
                chunks.zip(self.scales.par_chunks(ROWS)).for_each(|((values, integers), scales)| {
                    widen_rows(self.cols, integers, scales, values);
                });
                Cow::Owned(values)
            }
            Stored::Blended(values) => Cow::Borrowed(values),
        }
    }

    /// Writes row `row` of [`QuantWeight::effective`].
    #[inline(always)]
    pub(crate) fn effective_row(&self, row: usize, out: &mut [f32]) {
        let part = row * self.cols..(row + 1) * self.cols;
        match &self.stored {
            Stored::Integers(integers) => {
                let scale = self.scales[row];
                out.iter_mut().zip(&integers[part]).for_each(|(v, q)| *v = f32::from(*q) * scale);
            }
            Stored::Blended(values) => out.copy_from_slice(&values[part]),
        }
    }

    /// Values of a piece of parallel work: [`ROWS`] whole rows.
    fn chunk(&self) -> usize {
        ROWS * self.cols.max(1)
    }
}

vectorised! {
fn widen(integers: &[i8], values: &mut [f32]) {
    values.iter_mut().zip(integers).for_each(|(v, q)| *v = f32::from(*q));
}

/// Rows of `cols` integers, each row times its scale.
fn widen_rows(cols: usize, integers: &[i8], scales: &[f32], values: &mut [f32]) {
    let rows = values.chunks_exact_mut(cols).zip(integers.chunks_exact(cols));
    for ((values, integers), scale) in rows.zip(scales) {
        values.iter_mut().zip(integers).for_each(|(v, q)| *v = f32::from(*q) * scale);
    }
}
}

/// `x + lambda (q − x)`, exactly `q` at 1.
#[inline(always)]
pub(crate) fn mix(x: f32, q: f32, lambda: f32) -> f32 {
    if lambda >= 1.0 { q } else { x + lambda * (q - x) }
}

/// Quantises a row of activations to int8 in place, leaving integers; returns what one step is worth, 0 for a
/// row without magnitude, which becomes zeros.
#[inline(always)]
pub(crate) fn int8_activations(x: &mut [f32]) -> f32 {
    let amax = max_abs(x);
    if amax > 1e-30 {
        let scale = 127.0 / amax;
        for v in x.iter_mut() {
            *v = math::round_even(*v * scale);
        }
        amax / 127.0
    } else {
        x.fill(0.0);
        0.0
    }
}

/// Replaces a row of activations by its blended round trip through int8.
#[inline(always)]
pub(crate) fn blend_activations(x: &mut [f32], lambda: f32) {
    let amax = max_abs(x);
    let (scale, inv) = if amax > 1e-30 { (127.0 / amax, amax / 127.0) } else { (0.0, 0.0) };
    for v in x.iter_mut() {
        *v = mix(*v, math::round_even(*v * scale) * inv, lambda);
    }
}

#[inline(always)]
fn max_abs(x: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let chunks = x.chunks_exact(16);
    for (lane, v) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = v.abs();
    }
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            let a = v.abs();
            *lane = if a > *lane { a } else { *lane };
        }
    }
    lanes.into_iter().fold(0.0, f32::max)
}
