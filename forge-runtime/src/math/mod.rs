//! The project's own elementary functions and sums: the same bits on every target.
//!
//! Everything here is built from IEEE 754 `+ − × ÷`, `sqrt` and integer operations on the bits, in one stated
//! order (`docs/numerics.md` §1). All functions are free of branches and data-dependent table look-ups, so
//! that a caller's loop over them vectorises; vectorising changes no result, because every lane performs the
//! same operations. The trainer uses these very functions.
#![forbid(unsafe_code)]

mod elementary;
mod sums;

pub(crate) use elementary::{ROUNDER, relu};
pub use elementary::{
    clamp, cos_turns, exp, exp2, round_even, rsqrt, sigmoid, silu, sin_turns, sqrt, widen_f16,
};
pub(crate) use sums::sum16_of;
pub use sums::{LANES, dot, dot_widened, max, max_abs, sum_squares, sum16};
