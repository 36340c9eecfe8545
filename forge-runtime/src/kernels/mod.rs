//! Linear maps. The portable kernels define the result; others must agree with them to the last bit.

pub mod portable;
mod quantise;

pub use quantise::{QUANTISED_PADDING, Quantised};

use forge_formats::Matrix;
use forge_formats::codec::Codec;
use forge_formats::codec::ternary::Packing;

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
    let (packing, groups) = match w.codec() {
        Codec::Int8Row => (None, 1),
        Codec::Ternary2b => (Some(Packing::TwoBit), 4),
        Codec::Ternary5x8 => (Some(Packing::FiveInEight), 5),
        Codec::F32 => return portable::gemv_f32(w, x, y),
        _ => return portable::gemv_decoded(w, x, y, scratch.row),
    };
    let Some(q) = Quantised::new(x, groups, scratch.quantised) else {
        y.fill(0.0);
        return;
    };
    match packing {
        None => portable::gemv_int8(w, &q, y),
        Some(Packing::TwoBit) => portable::gemv_ternary_2b(w, &q, y),
        Some(Packing::FiveInEight) => portable::gemv_ternary_5x8(w, &q, y),
    }
}
