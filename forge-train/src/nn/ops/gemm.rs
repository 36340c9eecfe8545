//! Matrix products through the `gemm` crate behind a bounds-checked interface. With `simd.rs` and
//! `bf16.rs` this is all of the CPU's operations that holds unsafe code.

use gemm::Parallelism;
use serde::{Deserialize, Serialize};

use super::bf16::{Kernel, multiply_bf16};
use crate::error::{Error, Result};

/// What numbers a product of activations, weights or gradients multiplies; sums are f32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Products {
    /// Single precision.
    #[default]
    F32,
    /// bf16, rounded from f32 ahead of each product; a processor without them is refused.
    Bf16,
    /// bf16 where the processor has it, else single precision. Results then depend on the processor.
    Auto,
}

impl Products {
    /// How this machine computes them.
    ///
    /// # Errors
    /// If bf16 is asked for and the processor has none.
    pub(crate) fn here(self) -> Result<Multiplier> {
        match (self, Kernel::detected()) {
            (Products::F32, _) | (Products::Auto, None) => Ok(Multiplier(None)),
            (_, Some(kernel)) => Ok(Multiplier(Some(kernel))),
            (Products::Bf16, None) => Err(Error::Usage {
                what: "this processor has no bf16 products (AMX or AVX512-BF16)".into(),
                hint: "set `products` to `f32`, or to `auto` to use them where there are any".into(),
            }),
        }
    }
}

/// Multiplies matrices in f32, or in bf16 with a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Multiplier(pub(super) Option<Kernel>);

impl Multiplier {
    /// bf16 by plain arithmetic.
    #[cfg(test)]
    pub(crate) fn emulated() -> Self {
        Self(Some(Kernel::EmulatedPairs))
    }

    /// `dst = alpha · a · b` on all threads, or `dst += …` when `accumulate`.
    ///
    /// # Panics
    /// If the shapes do not match.
    pub(crate) fn multiply(self, dst: MatMut<'_>, a: Mat<'_>, b: Mat<'_>, alpha: f32, accumulate: bool) {
        match self.0 {
            None => multiply(dst, a, b, alpha, accumulate, Threads::All),
            Some(kernel) => multiply_bf16(kernel, dst, a, b, alpha, accumulate, Threads::All),
        }
    }
}

/// A matrix read from a slice: element `(r, c)` is `data[r * row_stride + c * col_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A row-major matrix without gaps.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A row-major matrix whose rows start `row_stride` apart.
    ///
    /// # Panics
    /// If an element lies outside `data`.
    pub(crate) fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(fits(data.len(), rows, cols, row_stride), "matrix exceeds its slice");
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transposed view.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// A row-major matrix written to a slice; rows start `row_stride >= cols` apart, so elements never alias.
pub(crate) struct MatMut<'a> {
    pub(super) data: &'a mut [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
}

impl<'a> MatMut<'a> {
    /// A matrix without gaps.
    pub(crate) fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A matrix whose rows start `row_stride` apart.
    ///
    /// # Panics
    /// If an element lies outside `data` or rows overlap.
    pub(crate) fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(row_stride >= cols, "rows overlap");
        assert!(fits(data.len(), rows, cols, row_stride), "matrix exceeds its slice");
        Self { data, rows, cols, row_stride }
    }
}

fn fits(len: usize, rows: usize, cols: usize, row_stride: usize) -> bool {
    rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= len
}

/// Whether a product may use the thread pool. Either way an element's sum over the inner dimension is taken in
/// the same order, so the result does not depend on the number of threads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The calling thread only, for products inside a parallel loop.
    One,
    /// All threads of the pool.
    All,
}

/// `dst = alpha * a * b`, or `dst += alpha * a * b` when `accumulate`.
///
/// # Panics
/// If the shapes do not match.
pub(crate) fn multiply(
    dst: MatMut<'_>,
    a: Mat<'_>,
    b: Mat<'_>,
    alpha: f32,
    accumulate: bool,
    threads: Threads,
) {
    assert!(dst.rows == a.rows && dst.cols == b.cols && a.cols == b.rows, "product of mismatched shapes");
    if dst.rows == 0 || dst.cols == 0 {
        return;
    }
    let parallelism = match threads {
        Threads::All if rayon::current_num_threads() > 1 => Parallelism::Rayon(rayon::current_num_threads()),
        _ => Parallelism::None,
    };
    // SAFETY: the constructors have checked that every element (r, c) of each matrix, at the strides passed
    // here, lies inside its slice, and transposition only swaps both extents with both strides. `dst` is an
    // exclusive borrow, so it overlaps neither operand, and its rows do not overlap each other. Slices are
    // initialised f32 values, for which every bit pattern is valid. Strides fit isize because slices do.
    unsafe {
        gemm::gemm(
            dst.rows,
            dst.cols,
            a.cols,
            dst.data.as_mut_ptr(),
            1,
            dst.row_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            if accumulate { 1.0 } else { 0.0 },
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}
