//! Activations as int8.
#![forbid(unsafe_code)]

use bytemuck::{Pod, Zeroable};

use crate::math::{ROUNDER, clamp, max_abs};

/// What belongs to a quantised vector besides its integers.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Meta {
    /// Real value of one unit: `amax / 127`; 0 for a vector of zeros.
    pub(crate) inverse: f32,
    /// Sum of the integers.
    pub(crate) sum: i32,
}

/// Quantises `x` into `q` in its order (`docs/numerics.md` §2) and fills the rest of `q` with zeros.
#[inline(always)]
pub(crate) fn quantise(x: &[f32], q: &mut [i8]) -> Meta {
    let amax = max_abs(x);
    let (q, rest) = q.split_at_mut_checked(x.len()).unwrap_or_default();
    rest.fill(0);
    if amax <= 1e-30 {
        q.fill(0);
        return Meta::default();
    }
    let scale = 127.0 / amax;
    let mut sum = 0i32;
    for (q, x) in q.iter_mut().zip(x) {
        let integer = to_int8(x * scale);
        sum += integer;
        *q = integer as i8;
    }
    Meta { inverse: amax / 127.0, sum }
}

/// The nearest integer, ties to even, of a number held to ±127: added to the rounder it stands in the low bits of
/// the sum, as two's complement.
#[inline(always)]
pub(crate) fn to_int8(x: f32) -> i32 {
    (clamp(x, -127.0, 127.0) + ROUNDER).to_bits().wrapping_sub(ROUNDER.to_bits()).cast_signed()
}
