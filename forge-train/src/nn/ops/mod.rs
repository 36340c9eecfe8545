//! Fused operations with exact backward passes on contiguous tensors: in f32 on the CPU, in bf16 and f32 on a CUDA
//! device (`cuda`, with the feature of that name).
//!
//! An operation is an [`Op`] over slices, and a [`DeviceOp`] over device memory; [`apply1`], [`apply2`] and [`apply3`] put it into candle's graph.
//! candle's own fused layers have no backward pass and cut the graph without an error, so none is used here.
//! Work is split into chunks of fixed size and partial sums are added in the order of the chunks: results do not
//! depend on the number of threads.

pub(crate) mod associate;
pub(crate) mod attention;
pub(crate) mod bf16;
pub(crate) mod block;
pub(crate) mod carry;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod device;
pub(crate) mod dropout;
pub(crate) mod embedding;
pub(crate) mod gemm;
pub(crate) mod glu;
pub(crate) mod head;
mod host_data;
pub(crate) mod linear;
pub(crate) mod loss;
pub(crate) mod memory;
pub(crate) mod norm;
pub(crate) mod quant;
pub(crate) mod rope;
pub(crate) mod simd;
pub(crate) mod sink;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, Device, Layout, Result, Shape, Storage, Tensor, bail,
};

pub(crate) use device::{DeviceOp, DeviceWeight, Form};
pub(crate) use host_data::HostData;

/// Rows of a chunk: activations of this many tokens stay in the second-level cache.
pub(crate) const ROWS: usize = 128;

/// One operand: its values and shape.
#[derive(Clone, Copy)]
pub(crate) struct Arg<'a> {
    /// Values, row-major.
    pub(crate) data: &'a [f32],
    /// Extents.
    pub(crate) dims: &'a [usize],
}

impl Arg<'_> {
    /// Width of the last dimension.
    pub(crate) fn width(&self) -> usize {
        self.dims.last().copied().unwrap_or(1)
    }

    /// Number of rows of that width.
    pub(crate) fn rows(&self) -> usize {
        self.data.len().checked_div(self.width()).unwrap_or(0)
    }
}

/// A differentiable operation of `N` operands on slices.
pub(crate) trait Op<const N: usize>: DeviceOp<N> + Send + Sync + 'static {
    /// Name in error messages.
    const NAME: &'static str;

    /// Values and shape of the result.
    fn forward(&self, args: [Arg<'_>; N]) -> Result<(Vec<f32>, Shape)>;

    /// Gradients with respect to the operands that are `wanted`, given the result and its gradient.
    fn backward(
        &self,
        args: [Arg<'_>; N],
        result: &[f32],
        grad: &[f32],
        wanted: [bool; N],
    ) -> Result<[Option<Vec<f32>>; N]>;
}

/// Applies a one-operand operation.
pub(crate) fn apply1(op: impl Op<1>, a: &Tensor) -> Result<Tensor> {
    a.contiguous()?.apply_op1(Fused(op))
}

/// Applies a two-operand operation.
pub(crate) fn apply2(op: impl Op<2>, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    a.contiguous()?.apply_op2(&b.contiguous()?, Fused(op))
}

/// Applies a three-operand operation.
pub(crate) fn apply3(op: impl Op<3>, a: &Tensor, b: &Tensor, c: &Tensor) -> Result<Tensor> {
    a.contiguous()?.apply_op3(&b.contiguous()?, &c.contiguous()?, Fused(op))
}

/// Adapts an [`Op`] to candle's custom operations.
struct Fused<T>(T);

fn view<'a>(storage: &'a CpuStorage, layout: &'a Layout) -> Result<Arg<'a>> {
    let CpuStorage::F32(values) = storage else { bail!("only f32 is supported") };
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(Arg { data: &values[from..to], dims: layout.dims() }),
        None => bail!("only contiguous tensors are supported"),
    }
}

/// The values of a contiguous f32 tensor on the CPU.
pub(crate) fn host<'a>(storage: &'a Storage, layout: &'a Layout) -> Result<Arg<'a>> {
    match storage {
        Storage::Cpu(cpu) => view(cpu, layout),
        _ => bail!("only the CPU is supported"),
    }
}

fn gradient(like: &Tensor, values: Option<Vec<f32>>) -> Result<Option<Tensor>> {
    values.map(|v| Tensor::from_vec(v, like.shape(), &Device::Cpu)).transpose()
}

impl<T: Op<1>> CustomOp1 for Fused<T> {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let (values, shape) = self.0.forward([view(s, l)?])?;
        Ok((CpuStorage::F32(values), shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, s: &CudaStorage, l: &Layout) -> Result<(CudaStorage, Shape)> {
        self.0.device_forward([cuda::Operand::new(s, l)?])
    }

    fn bwd(&self, a: &Tensor, result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        if grad.device().is_cuda() {
            let [da] = cuda::backward(&self.0, [a], result, grad)?;
            return Ok(da);
        }
        let grad = grad.contiguous()?;
        let ((sa, la), (sr, lr), (sg, lg)) =
            (a.storage_and_layout(), result.storage_and_layout(), grad.storage_and_layout());
        let [da] =
            self.0.backward([host(&sa, la)?], host(&sr, lr)?.data, host(&sg, lg)?.data, [a.track_op()])?;
        gradient(a, da)
    }
}

impl<T: Op<2>> CustomOp2 for Fused<T> {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (values, shape) = self.0.forward([view(s1, l1)?, view(s2, l2)?])?;
        Ok((CpuStorage::F32(values), shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.0.device_forward([cuda::Operand::new(s1, l1)?, cuda::Operand::new(s2, l2)?])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if grad.device().is_cuda() {
            return Ok(cuda::backward(&self.0, [a, b], result, grad)?.into());
        }
        let grad = grad.contiguous()?;
        let ((sa, la), (sb, lb)) = (a.storage_and_layout(), b.storage_and_layout());
        let ((sr, lr), (sg, lg)) = (result.storage_and_layout(), grad.storage_and_layout());
        let [da, db] = self.0.backward(
            [host(&sa, la)?, host(&sb, lb)?],
            host(&sr, lr)?.data,
            host(&sg, lg)?.data,
            [a.track_op(), b.track_op()],
        )?;
        Ok((gradient(a, da)?, gradient(b, db)?))
    }
}

impl<T: Op<3>> CustomOp3 for Fused<T> {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (values, shape) = self.0.forward([view(s1, l1)?, view(s2, l2)?, view(s3, l3)?])?;
        Ok((CpuStorage::F32(values), shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
        s3: &CudaStorage,
        l3: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let [a, b, c] = [(s1, l1), (s2, l2), (s3, l3)].map(|(s, l)| cuda::Operand::new(s, l));
        self.0.device_forward([a?, b?, c?])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if grad.device().is_cuda() {
            return Ok(cuda::backward(&self.0, [a, b, c], result, grad)?.into());
        }
        let grad = grad.contiguous()?;
        let ((sa, la), (sb, lb), (sc, lc)) =
            (a.storage_and_layout(), b.storage_and_layout(), c.storage_and_layout());
        let ((sr, lr), (sg, lg)) = (result.storage_and_layout(), grad.storage_and_layout());
        let [da, db, dc] = self.0.backward(
            [host(&sa, la)?, host(&sb, lb)?, host(&sc, lc)?],
            host(&sr, lr)?.data,
            host(&sg, lg)?.data,
            [a.track_op(), b.track_op(), c.track_op()],
        )?;
        Ok((gradient(a, da)?, gradient(b, db)?, gradient(c, dc)?))
    }
}

/// Adds partial vectors in their order.
pub(crate) fn add_partials(partials: &[Vec<f32>], width: usize) -> Vec<f32> {
    let mut total = vec![0.0; width];
    for partial in partials {
        for (t, p) in total.iter_mut().zip(partial) {
            *t += p;
        }
    }
    total
}
