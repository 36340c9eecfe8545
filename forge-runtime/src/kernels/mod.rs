//! Linear maps. The portable kernels define the result; others must agree with them to the last bit.

pub mod portable;
mod quantise;

pub use quantise::{QUANTISED_PADDING, Quantised};

use forge_formats::Matrix;
use forge_formats::codec::Codec;

/// Room a linear map works in.
#[derive(Debug)]
pub struct Scratch<'s> {
    /// One decoded row: at least as many elements as the widest matrix has columns.
    pub row: &'s mut [f32],
    /// The quantised input: as many elements, plus [`QUANTISED_PADDING`].
    pub quantised: &'s mut [i16],
}

/// `y = W x` as `docs/numerics.md` §2 has it. `x` holds `w.cols()` elements and `y` takes `w.rows()`; rows or
/// elements that a shorter slice lacks are left out.
pub fn linear(w: &Matrix<'_>, x: &[f32], y: &mut [f32], scratch: &mut Scratch<'_>) {
    match w.codec() {
        Codec::F32 => portable::gemv_f32(w, x, y),
        Codec::F16 => portable::gemv_f16(w, x, y),
        Codec::Int8Row => quantised(x, y, scratch, |q, y| portable::gemv_int8(w, q, y)),
        Codec::Ternary2b => quantised(x, y, scratch, |q, y| portable::gemv_ternary_2b(w, q, y)),
        Codec::Ternary5x8 => quantised(x, y, scratch, |q, y| portable::gemv_ternary_5x8(w, q, y)),
        Codec::TernaryRans | Codec::TernarySparse => streamed(w, x, y, scratch),
        Codec::SeedLm(_) | Codec::Vptq(_) | Codec::Hyper(_) => portable::gemv_decoded(w, x, y, scratch.row),
    }
}

/// A ternary matrix of any codec: a tile of rows at a time is packed into the scratch row (which takes 16 of them) and
/// multiplied from there.
fn streamed(w: &Matrix<'_>, x: &[f32], y: &mut [f32], scratch: &mut Scratch<'_>) {
    match Quantised::new(x, scratch.quantised) {
        Some(q) => portable::gemv_ternary_packed(w, &q, y, bytemuck::cast_slice_mut(scratch.row)),
        None => y.fill(0.0),
    }
}

/// Calls a kernel with the quantised input; without, when the input is zero and so is the product.
fn quantised<const G: usize>(
    x: &[f32],
    y: &mut [f32],
    scratch: &mut Scratch<'_>,
    kernel: impl FnOnce(&Quantised<'_, G>, &mut [f32]),
) {
    match Quantised::new(x, scratch.quantised) {
        Some(q) => kernel(&q, y),
        None => y.fill(0.0),
    }
}
