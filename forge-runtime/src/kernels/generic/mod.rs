//! Float operations, each written once. Every instruction set compiles these bodies with its own features
//! (`super::dispatch`); vectorising changes no result, since every lane does what `docs/numerics.md` says.
#![forbid(unsafe_code)]

mod associate;
mod attend;
mod attend_compact;
mod attend_fixed;
mod attend_hybrid;
mod attend_int8;
mod elementwise;
mod quantise;
mod rows;

pub(crate) use associate::associate;
#[allow(unused_imports, reason = "little code has a function of its own")]
pub(crate) use attend::{HeadF32, attend};
#[cfg(little_code)]
pub(crate) use attend_compact::{attend_compact, attend_hybrid_compact};
#[allow(unused_imports, reason = "for vector instruction sets")]
pub(crate) use attend_fixed::{attend_fixed, attend_hybrid_fixed};
#[allow(unused_imports, reason = "little code has a function of its own")]
pub(crate) use attend_hybrid::attend_hybrid;
pub(crate) use attend_int8::{HeadInt8, attend_hybrid_int8, attend_int8, store_int8};
pub(crate) use elementwise::{add, blend, norm, norm_gained, norm_in_place, relu2, remember, rotate, swiglu};
#[cfg(armv7em)]
pub(crate) use quantise::to_int8;
pub(crate) use quantise::{Meta, quantise};
pub(crate) use rows::float_rows;
