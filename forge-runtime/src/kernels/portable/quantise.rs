//! Activations as int8, arranged for the kernel that reads them.

use crate::math::{LANES, clamp, max_abs, round_even};

/// Elements a buffer needs beyond the input's length, whatever the arrangement: its last group of up to
/// `5 · 16` is filled up with zeros.
pub const QUANTISED_PADDING: usize = 5 * LANES;

/// An activation vector quantised to int8 (held in `i16`, which is what the kernels multiply in).
///
/// The elements lie in groups of `16 · G`, transposed: `group[k][i]` is element `i · G + k` of the group. Sixteen
/// bytes of `G` packed weights each then meet, digit by digit, sixteen neighbouring elements.
#[derive(Debug)]
pub struct Quantised<'q, const G: usize> {
    groups: &'q [[[i16; LANES]; G]],
    inverse: f32,
    sum: i32,
}

impl<'q, const G: usize> Quantised<'q, G> {
    /// Quantises `x` into `buffer`: `amax = max|x|`, `q = round_even(x · (127 / amax))`. `None` when `amax` is not
    /// above 1e-30 (every product is then zero) or the buffer is shorter than `x` plus [`QUANTISED_PADDING`].
    pub fn new(x: &[f32], buffer: &'q mut [i16]) -> Option<Self> {
        let amax = max_abs(x);
        if amax <= 1e-30 || G == 0 {
            return None;
        }
        let len = x.len().div_ceil(LANES * G) * LANES * G;
        let groups = buffer.get_mut(..len)?.as_chunks_mut::<LANES>().0.as_chunks_mut::<G>().0;
        let scale = 127.0 / amax;
        let mut rest = x;
        for group in groups.iter_mut() {
            let (x, after) = rest.split_at_checked(LANES * G).unwrap_or((rest, &[]));
            rest = after;
            let mut rows = [[0.0; G]; LANES];
            rows.as_flattened_mut().iter_mut().zip(x).for_each(|(to, from)| *to = *from);
            for (k, lanes) in group.iter_mut().enumerate() {
                for (q, row) in lanes.iter_mut().zip(&rows) {
                    *q = row.get(k).map_or(0, |x| to_int8(x * scale));
                }
            }
        }
        let sum = groups.as_flattened().as_flattened().iter().map(|q| i32::from(*q)).sum();
        Some(Self { groups, inverse: amax / 127.0, sum })
    }

    /// The elements.
    #[inline(always)]
    pub fn groups(&self) -> &'q [[[i16; LANES]; G]] {
        self.groups
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
}

/// The nearest integer, ties to even. The clamp matters for infinities and NaN only: it keeps the kernels' sums in
/// range and the result the same everywhere.
#[inline(always)]
fn to_int8(x: f32) -> i16 {
    round_even(clamp(x, -127.0, 127.0)) as i16
}
