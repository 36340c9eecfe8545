//! Products of bf16 matrices by cuBLAS, summed in f32.

use std::ffi::c_void;

use candle_core::cuda::cudarc::cublas::{result, sys};
use candle_core::cuda::cudarc::driver::{CudaSlice, CudaView, DevicePtr, DevicePtrMut};
use candle_core::{CudaDevice, Error, Result, bail};
use half::bf16;

/// A row-major matrix without gaps, or its transpose.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: &'a CudaView<'a, bf16>,
    rows: usize,
    cols: usize,
    transposed: bool,
}

impl<'a> Matrix<'a> {
    /// `[rows, cols]` of the elements.
    ///
    /// # Errors
    /// If they are not so many.
    pub(super) fn new(data: &'a CudaView<'a, bf16>, rows: usize, cols: usize) -> Result<Self> {
        if data.len() != rows * cols {
            bail!("a matrix of {rows} × {cols} made of {} elements", data.len());
        }
        Ok(Self { data, rows, cols, transposed: false })
    }

    /// The transposed view.
    pub(super) fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }

    /// Elements from one row to the next as they lie in memory.
    fn stride(&self) -> usize {
        if self.transposed { self.rows } else { self.cols }
    }
}

/// Element types of a product.
pub(super) trait Element {
    /// cuBLAS's name of it.
    const TYPE: sys::cudaDataType;
}

impl Element for f32 {
    const TYPE: sys::cudaDataType = sys::cudaDataType::CUDA_R_32F;
}

impl Element for bf16 {
    const TYPE: sys::cudaDataType = sys::cudaDataType::CUDA_R_16BF;
}

/// `out = alpha · a · b`, row-major.
///
/// # Errors
/// If shapes do not match, a size exceeds 2³¹, or cuBLAS fails.
pub(super) fn multiply<T: Element>(
    device: &CudaDevice,
    out: &mut CudaSlice<T>,
    a: Matrix<'_>,
    b: Matrix<'_>,
    alpha: f32,
) -> Result<()> {
    if a.cols != b.rows || out.len() != a.rows * b.cols {
        bail!("product of {} × {} and {} × {}", a.rows, a.cols, b.rows, b.cols);
    }
    let size = |n: usize| i32::try_from(n).map_err(Error::wrap);
    let operation = |m: &Matrix<'_>| match m.transposed {
        true => sys::cublasOperation_t::CUBLAS_OP_T,
        false => sys::cublasOperation_t::CUBLAS_OP_N,
    };
    let stream = device.cuda_stream();
    let (to, _write) = out.device_ptr_mut(&stream);
    let (from_a, _read_a) = a.data.device_ptr(&stream);
    let (from_b, _read_b) = b.data.device_ptr(&stream);
    let beta = 0f32;
    #[cfg(test)]
    let started = super::tests::probe::before(device)?;
    // cuBLAS is column-major, in which row-major matrices are transposed: outᵀ = bᵀ · aᵀ.
    // SAFETY: `Matrix::new` and the check above have each operand and the result as long as its extents say; strides
    // are those of matrices without gaps; `out` is borrowed exclusively, so it overlaps no operand; the factors are
    // f32, as the compute type asks, and live through the call. The handle belongs to the device's one stream.
    unsafe {
        result::gemm_ex(
            *device.cublas_handle().handle(),
            operation(&b),
            operation(&a),
            size(b.cols)?,
            size(a.rows)?,
            size(a.cols)?,
            (&raw const alpha).cast::<c_void>(),
            from_b as *const c_void,
            bf16::TYPE,
            size(b.stride())?,
            from_a as *const c_void,
            bf16::TYPE,
            size(a.stride())?,
            (&raw const beta).cast::<c_void>(),
            to as *mut c_void,
            T::TYPE,
            size(b.cols)?,
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .map_err(Error::wrap)?;
    #[cfg(test)]
    {
        let name = format!("product {} × {} × {}", a.rows, b.cols, a.cols);
        super::tests::probe::after(device, &name, started)?;
    }
    Ok(())
}
