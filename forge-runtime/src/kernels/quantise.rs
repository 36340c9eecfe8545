//! Activations as int8, arranged for the kernel that reads them.

use crate::math::{LANES, round_even};

/// Elements a buffer needs beyond the input's length, whatever the arrangement: each of up to five planes is
/// filled up to a whole number of lanes.
pub const QUANTISED_PADDING: usize = 5 * LANES;

/// An activation vector quantised to int8 (held in `i16`, which is what the kernels multiply in).
///
/// With `groups = g` the elements lie in `g` planes: plane `k` holds elements `k, k + g, k + 2g, …`. A byte of
/// `g` packed trits then meets one element of every plane, and sixteen neighbouring bytes sixteen neighbouring
/// ones. Planes are padded with zeros to whole lanes.
#[derive(Debug)]
pub struct Quantised<'q> {
    values: &'q [[i16; LANES]],
    /// Groups of lanes in one plane.
    stride: usize,
    /// Real value of one unit.
    inverse: f32,
    /// Sum of all elements.
    sum: i32,
}

impl<'q> Quantised<'q> {
    /// Quantises `x` into `buffer`: `amax = max|x|`, `q = round_even(x · 127 / amax)`. `None` when `amax` is not
    /// above 1e-30 (the product is then zero) or the buffer is shorter than `x` plus [`QUANTISED_PADDING`].
    pub fn new(x: &[f32], groups: usize, buffer: &'q mut [i16]) -> Option<Self> {
        let amax = max_abs(x);
        if amax.is_nan() || amax <= 1e-30 || groups == 0 {
            return None;
        }
        let stride = x.len().div_ceil(groups).div_ceil(LANES);
        let buffer = buffer.get_mut(..stride * LANES * groups)?;
        let scale = 127.0 / amax;
        if groups == 1 {
            fill(buffer, x.iter(), scale);
        } else {
            for (k, plane) in buffer.chunks_exact_mut(stride * LANES).enumerate() {
                fill(plane, x.get(k..).unwrap_or(&[]).iter().step_by(groups), scale);
            }
        }
        let sum = buffer.iter().map(|q| i32::from(*q)).sum();
        Some(Self { values: buffer.as_chunks().0, stride, inverse: amax / 127.0, sum })
    }

    /// Real value of one unit: `amax / 127`.
    #[inline(always)]
    pub fn inverse(&self) -> f32 {
        self.inverse
    }

    /// Sum of all elements.
    #[inline(always)]
    pub fn sum(&self) -> i32 {
        self.sum
    }

    /// Plane `k`.
    #[inline(always)]
    pub fn plane(&self, k: usize) -> &'q [[i16; LANES]] {
        self.values.get(k * self.stride..).and_then(|p| p.get(..self.stride)).unwrap_or(&[])
    }
}

/// Quantises `x` to the front of `plane`, zeros after it.
#[inline(always)]
fn fill<'x>(plane: &mut [i16], x: impl ExactSizeIterator<Item = &'x f32>, scale: f32) {
    let used = x.len().min(plane.len());
    let (front, back) = plane.split_at_mut_checked(used).unwrap_or((&mut [], &mut []));
    for (q, x) in front.iter_mut().zip(x) {
        // In range but for a vector with an infinity in it; the clamp keeps the kernels' sums in range then too.
        *q = (round_even(x * scale) as i16).clamp(-127, 127);
    }
    back.fill(0);
}

/// The largest magnitude, ignoring NaN.
#[inline]
fn max_abs(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b.abs() > a { b.abs() } else { a };
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, v);
        }
    }
    lanes.iter().chain(tail).fold(0.0, |a, &b| larger(a, b))
}
