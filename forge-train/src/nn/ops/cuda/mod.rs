//! The operations on a CUDA device (feature `cuda`): the same graph, the same meaning, bf16 where it is wide.
//!
//! **Types.** Parameters, their gradients, the residual stream and the losses are f32, as under PyTorch's autocast:
//! every block adds to the residual stream, and its sums must not lose what small blocks contribute. What a linear map
//! without residual yields (queries, keys, values, hidden rows, gates, logits) is bf16, and so is its gradient: these
//! rows are the bulk of all bytes, and the step is bound by bytes. Norms, softmax, losses and reductions compute in
//! f32 from registers; products take bf16 operands and sum in f32.
//!
//! **Quantised maps** are exact where the CPU's are: int8 activations and ternary or int8 weights are integers that
//! bf16 holds exactly, their sums stay below 2²⁴, and scales are applied to the f32 sums.
//!
//! **Determinism.** No kernel adds floats atomically; every sum has one order, so a step gives the same bytes each
//! time on the same kind of device.
//!
//! **Few passes.** A block (`block`) hands its rows from one operation to the next without candle's graph in between,
//! which would add every gradient to a tensor of fresh zeros; that took a quarter of the step.
//!
//! **Kernels** are CUDA C++ in `kernels/`, compiled at run time (`launch`); products are cuBLAS (`gemm`). Everything
//! runs on the device's one stream. Host values that operations read are uploaded once a batch; nothing is read back
//! but losses, token scores and the halting logits of a pass that halts.

mod associate;
mod attention;
mod block;
mod dropout;
mod embedding;
mod gemm;
mod head;
pub(crate) mod launch;
mod linear;
mod loss;
mod memory;
mod norm;
mod operand;
#[cfg(test)]
pub(crate) mod tests;
mod weight;

pub(crate) use block::{DeviceRows, KeptOnDevice};
pub(crate) use loss::token_scores;
pub(crate) use operand::Operand;
pub(crate) use weight::DeviceWeight;

use candle_core::cuda::cudarc::driver::CudaSlice;
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, Result, Shape, Storage, Tensor, bail};

/// Device memory that holds a copy of host values.
pub(crate) type Uploaded<T> = CudaSlice<T>;

/// Gradient of one operand.
pub(crate) enum Gradient {
    /// Not asked for.
    Unwanted,
    /// The gradient of the result itself.
    Passed,
    /// New values, of the operand's shape and type.
    Values(CudaStorage),
}

/// What an operation of `N` operands does on a device; [`super::Op`] has the meaning.
pub(crate) trait DeviceOp<const N: usize> {
    /// Values and shape of the result.
    fn device_forward(&self, args: [Operand<'_>; N]) -> Result<(CudaStorage, Shape)>;

    /// Gradients with respect to the operands that are `wanted`, given the result and its gradient.
    fn device_backward(
        &self,
        args: [Operand<'_>; N],
        result: Operand<'_>,
        grad: Operand<'_>,
        wanted: [bool; N],
    ) -> Result<[Gradient; N]>;
}

/// The gradients of `args` as tensors.
///
/// # Errors
/// If a tensor is not on a CUDA device, or the operation fails.
pub(crate) fn backward<const N: usize>(
    op: &impl DeviceOp<N>,
    args: [&Tensor; N],
    result: &Tensor,
    grad: &Tensor,
) -> Result<[Option<Tensor>; N]> {
    let grad = grad.contiguous()?;
    let held = args.map(Tensor::storage_and_layout);
    let (result_storage, result_layout) = result.storage_and_layout();
    let (grad_storage, grad_layout) = grad.storage_and_layout();
    let mut operands = Vec::with_capacity(N);
    for (storage, layout) in &held {
        operands.push(Operand::of(storage, layout)?);
    }
    let Ok(operands) = operands.try_into() else { bail!("an operand is missing") };
    let gradients = op.device_backward(
        operands,
        Operand::of(&result_storage, result_layout)?,
        Operand::of(&grad_storage, grad_layout)?,
        args.map(Tensor::track_op),
    )?;
    let mut shapes = args.iter().map(|a| a.shape());
    Ok(gradients.map(|gradient| {
        let shape = shapes.next();
        match gradient {
            Gradient::Unwanted => None,
            Gradient::Passed => Some(grad.clone()),
            Gradient::Values(values) => shape
                .map(|shape| Tensor::from_storage(Storage::Cuda(values), shape, BackpropOp::none(), false)),
        }
    }))
}
