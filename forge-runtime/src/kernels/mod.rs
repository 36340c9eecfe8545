//! The arithmetic of a model, one table of functions for each instruction set.
//!
//! | table | where | integer products |
//! |---|---|---|
//! | [`PORTABLE`] | everywhere; the definition | rows as they lie in the file |
//! | `sse41` | x86-64 | panels, 128 bits |
//! | `avx2` | x86-64 | panels, 256 bits |
//! | `avx512` | x86-64 with VNNI | panels, 512 bits |
//! | `dsp` | Armv7E-M | rows as they lie in the file, two products an instruction |
//! | `neon` | AArch64 | panels, 128 bits |
//! | `neon_dotprod` | AArch64 with `sdot` | panels, 128 bits |
//! | `simd128` | WebAssembly built for it | panels, 128 bits |
//! | `relaxed-simd`, `relaxed-simd-dot` | WebAssembly built for it | panels, 128 bits |
//!
//! With `std` the best table is found at run time, without it by the features the crate is compiled for. All tables
//! give the same bits: float operations are written once ([`generic`]) and compiled for each instruction set, integer
//! products are exact in any order.
#![deny(unsafe_code)]
#![cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, reason = "panels are for vector registers")
)]

#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
mod aarch64;
mod dispatch;
#[cfg(armv7em)]
mod dsp;
pub(crate) mod generic;
mod panels;
pub mod portable;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use generic::Meta;
pub(crate) use panels::{PANEL_ROWS, Panels, VECTOR, pack_panel, panel_vectors};

use core::fmt;

use forge_formats::Matrix;
use generic::{HeadF32, HeadInt8};

/// A table of functions for one instruction set.
pub struct Kernels {
    pub(crate) name: &'static str,
    pub(crate) floats: Floats,
    /// Products over panels; without them integer matrices are multiplied row by row, as they lie in the file.
    pub(crate) panels: Option<Products>,
    /// Products of one input with rows as they lie in the file, where there are better ones than [`portable::rows`]; in
    /// a table with panels, for weights that have not been prepared.
    pub(crate) rows: Option<RowProduct>,
}

/// `y = W x` of an integer matrix as it lies in the file, with the memory [`portable::rows`] needs to work in.
pub(crate) type RowProduct = fn(&Matrix<'_>, &[f32], &mut [u32], &mut [f32]);

/// Float operations; see [`generic`] for each.
#[derive(Clone, Copy)]
pub(crate) struct Floats {
    pub(crate) norm: fn(&[f32], f32, &mut [f32]),
    pub(crate) norm_in_place: fn(&mut [f32], f32),
    pub(crate) norm_gained: fn(&[f32], &[f32], f32, &mut [f32]),
    pub(crate) quantise: fn(&[f32], &mut [i8]) -> Meta,
    pub(crate) rotate: fn(&mut [f32], &[f32]),
    pub(crate) attend: fn(&HeadF32<'_>, &[f32], f32, &mut [f32], &mut [f32]),
    pub(crate) attend_int8: fn(&HeadInt8<'_>, &[f32], f32, &mut [f32], &mut [f32]),
    pub(crate) attend_hybrid: AttendHybrid,
    pub(crate) attend_hybrid_int8: AttendHybridInt8,
    pub(crate) store_int8: fn(&[f32], &mut [i8]) -> f32,
    pub(crate) swiglu: fn(&[f32], &[f32], &mut [f32]),
    pub(crate) relu2: fn(&[f32], &[f32], &mut [f32]),
    pub(crate) add: fn(&mut [f32], &[f32]),
    pub(crate) remember: Remember,
    pub(crate) associate: Associate,
    pub(crate) blend: fn(&mut [f32], &[f32], &[f32]),
    pub(crate) float_rows: fn(&Matrix<'_>, &[f32], usize, &mut [f32], &mut Outputs<'_>),
}

/// `(caches, query, scale, scratch, out)`.
pub(crate) type AttendHybrid = fn(&[HeadF32<'_>; 2], &[f32], f32, &mut [f32], &mut [f32]);

/// As [`AttendHybrid`], of int8.
pub(crate) type AttendHybridInt8 = fn(&[HeadInt8<'_>; 2], &[f32], f32, &mut [f32], &mut [f32]);

/// `(memory, values, rates, bias)`.
pub(crate) type Remember = fn(&mut [f32], &[f32], &[f32], &[f32]);

/// `(state, projected, bias, read)`.
pub(crate) type Associate = fn(&mut [f32], &mut [f32], &[f32], &mut [f32]);

/// Integer products of panels with any number of inputs.
#[derive(Clone, Copy)]
pub(crate) struct Products {
    pub(crate) ternary: Product,
    pub(crate) int8: Product,
}

/// `y[t][r] = (Σ w[r]·q[t]) · (inverse[t] · scale[r])` for every row of the panels.
pub(crate) type Product = fn(&Panels<'_>, &Inputs<'_>, &mut Outputs<'_>);

/// Quantised inputs, one every `stride` integers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inputs<'q> {
    /// Zero beyond an input's last element; `stride` is a multiple of [`VECTOR`].
    pub(crate) q: &'q [i8],
    pub(crate) stride: usize,
    /// One for each input.
    pub(crate) meta: &'q [Meta],
}

impl<'q> Inputs<'q> {
    /// The integers of input `t`, in pieces of `N`.
    #[inline(always)]
    pub(crate) fn pieces<const N: usize>(&self, t: usize) -> &'q [[i8; N]] {
        let row = self.q.get(t * self.stride..).and_then(|q| q.get(..self.stride));
        row.unwrap_or(&[]).as_chunks().0
    }
}

/// Results, those of one input every `stride` places.
#[derive(Debug)]
pub(crate) struct Outputs<'y> {
    /// Room for `stride` results of each input.
    pub(crate) y: &'y mut [f32],
    pub(crate) stride: usize,
}

impl Outputs<'_> {
    /// Result `r` of every input.
    #[inline(always)]
    pub(crate) fn column(&mut self, r: usize) -> impl Iterator<Item = &mut f32> {
        self.y.iter_mut().skip(r).step_by(self.stride.max(1))
    }

    /// The results of the sixteen rows from `r` on, of input `t`.
    #[inline(always)]
    pub(crate) fn panel(&mut self, t: usize, r: usize) -> Option<&mut [f32; PANEL_ROWS]> {
        self.y.get_mut(t * self.stride + r..)?.first_chunk_mut()
    }
}

/// Whether some table of this target has vector registers, and so panels.
pub(crate) const PANELS: bool = cfg!(any(
    target_arch = "x86_64",
    all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"),
    all(target_arch = "wasm32", target_feature = "simd128")
));

/// The table every other agrees with, to the last bit.
pub static PORTABLE: Kernels = portable::TABLE;

impl Kernels {
    /// The best table for this machine: looked up at run time with `std`, else by the features compiled for.
    pub fn best() -> &'static Kernels {
        // Without a walk over all of them, so that a module that browsers download has no table but this.
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        return wasm::best();
        #[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
        Self::all().last().unwrap_or(&PORTABLE)
    }

    /// Every table this machine can run, the best last.
    pub fn all() -> impl Iterator<Item = &'static Kernels> {
        let portable = core::iter::once(&PORTABLE);
        #[cfg(target_arch = "x86_64")]
        let portable = portable.chain(x86::available());
        #[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
        let portable = portable.chain(aarch64::available());
        #[cfg(armv7em)]
        let portable = portable.chain(core::iter::once(&dsp::TABLE));
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        let portable = portable.chain(wasm::available());
        portable
    }

    /// `y = W x` of an integer matrix as it lies in the file, one input at a time and without panels, with
    /// `(w.cols() + 80) / 2` words to work in: what tests of kernels compare where there is no heap.
    #[doc(hidden)]
    pub fn multiply_rows(&self, w: &Matrix<'_>, x: &[f32], buffer: &mut [u32], y: &mut [f32]) {
        self.rows.unwrap_or(portable::rows)(w, x, buffer, y);
    }

    /// Products over panels, if this table has them. Where none has, the compiler sees it here and leaves panels out.
    #[inline(always)]
    pub(crate) fn products(&self) -> Option<Products> {
        if PANELS { self.panels } else { None }
    }

    /// The instruction set: `portable`, `avx2` …
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether they multiply weights that [`crate::Model::prepare`] has laid out, which makes them faster.
    pub fn want_prepared(&self) -> bool {
        self.products().is_some()
    }
}

impl fmt::Debug for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernels({})", self.name)
    }
}
