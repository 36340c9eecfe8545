//! Operands of operations on a device.

use candle_core::backend::BackendStorage;
use candle_core::cuda::CudaDType;
use candle_core::cuda::cudarc::driver::CudaView;
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Result, Storage, bail};
use half::bf16;

use super::launch::Param;

/// One operand: a contiguous tensor of f32 or bf16 on a device.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    storage: &'a CudaStorage,
    layout: &'a Layout,
}

impl<'a> Operand<'a> {
    /// The operand that a custom operation is given.
    pub(crate) fn new(storage: &'a CudaStorage, layout: &'a Layout) -> Result<Self> {
        if layout.contiguous_offsets().is_none() {
            bail!("only contiguous tensors are supported");
        }
        // Kernels load four neighbours at once.
        if !layout.start_offset().is_multiple_of(4) {
            bail!("a view that begins at element {}, which four does not divide", layout.start_offset());
        }
        Ok(Self { storage, layout })
    }

    /// The operand a tensor holds.
    pub(crate) fn of(storage: &'a Storage, layout: &'a Layout) -> Result<Self> {
        match storage {
            Storage::Cuda(storage) => Self::new(storage, layout),
            _ => bail!("an operand lies on the CPU, another on a CUDA device"),
        }
    }

    /// The device it lies on.
    pub(crate) fn device(&self) -> &'a CudaDevice {
        self.storage.device()
    }

    /// Extents.
    pub(crate) fn dims(&self) -> &'a [usize] {
        self.layout.dims()
    }

    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.layout.shape().elem_count()
    }

    /// Width of the last dimension.
    pub(crate) fn width(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// Number of rows of that width.
    pub(crate) fn rows(&self) -> usize {
        self.len().checked_div(self.width()).unwrap_or(0)
    }

    /// Whether the elements are bf16 rather than f32.
    pub(crate) fn is_bf16(&self) -> Result<bool> {
        match self.storage.dtype() {
            DType::BF16 => Ok(true),
            DType::F32 => Ok(false),
            other => bail!("an operand of type {other:?}, where f32 or bf16 is expected"),
        }
    }

    /// What the names of kernels over its type end in.
    pub(crate) fn suffix(&self) -> Result<&'static str> {
        Ok(if self.is_bf16()? { "bf16" } else { "f32" })
    }

    /// Its elements, which must be f32.
    pub(crate) fn f32(&self) -> Result<CudaView<'a, f32>> {
        self.view()
    }

    /// Its elements, which must be bf16.
    pub(crate) fn bf16(&self) -> Result<CudaView<'a, bf16>> {
        self.view()
    }

    fn view<T: CudaDType>(&self) -> Result<CudaView<'a, T>> {
        let from = self.layout.start_offset();
        Ok(self.storage.as_cuda_slice::<T>()?.slice(from..from + self.len()))
    }

    /// Its address, of either type.
    pub(crate) fn param(&self) -> Result<Param> {
        Ok(if self.is_bf16()? { Param::from(&self.bf16()?) } else { Param::from(&self.f32()?) })
    }
}
