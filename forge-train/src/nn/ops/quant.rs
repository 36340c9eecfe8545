//! Fake quantisation: the values a matrix or a row has after a round trip through its integer codec.
//! Weights go through `forge_formats`, activations through the rule of docs/numerics.md, section 2.

use rayon::prelude::*;

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
    /// Integer values, row-major.
    pub(crate) values: Vec<f32>,
    /// One scale a row.
    pub(crate) scales: Vec<f32>,
    /// `latent + lambda (values * scale − latent)`.
    pub(crate) effective: Vec<f32>,
    /// How it is blended.
    pub(crate) blend: Blend,
}

impl QuantWeight {
    /// Quantises `[rows, cols]` latents row by row.
    pub(crate) fn new(latent: &[f32], cols: usize, grid: Grid, blend: Blend) -> Self {
        let mut values = vec![0.0; latent.len()];
        let mut effective = vec![0.0; latent.len()];
        let scales = values
            .par_chunks_mut(cols)
            .zip(effective.par_chunks_mut(cols))
            .zip(latent.par_chunks(cols))
            .with_min_len(16)
            .map_init(
                || vec![0i8; cols],
                |codes, ((values, effective), latent)| {
                    let scale = match grid {
                        Grid::Ternary => ternary_row(latent, codes),
                        Grid::Int8 => int8_row(latent, codes),
                    };
                    for i in 0..cols {
                        values[i] = f32::from(codes[i]);
                        effective[i] = mix(latent[i], values[i] * scale, blend.lambda);
                    }
                    scale
                },
            )
            .collect();
        Self { values, scales, effective, blend }
    }

    /// Whether the map runs on integers exactly as the runtime does.
    pub(crate) fn exact(&self) -> bool {
        self.blend.lambda >= 1.0
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
