//! A whole block, made of the operations it consists of: their results never enter candle's graph, which would add
//! every gradient to fresh zeros.

use candle_core::cuda::cudarc::driver::CudaSlice;
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, Layout, Result, Shape, Storage, Tensor, bail};

use super::super::block::{Block, Kept, Projection};
use super::super::dropout::{Dropped, Mask};
use super::super::linear::Extra;
use super::super::sink::{Deposited, Sink};
use super::{DeviceOp, Gradient, Operand};
use crate::weights::Key;

/// Rows in a device's memory, the result of one operation and an operand of the next.
pub(crate) struct DeviceRows {
    storage: CudaStorage,
    layout: Layout,
}

impl From<(CudaStorage, Shape)> for DeviceRows {
    fn from((storage, shape): (CudaStorage, Shape)) -> Self {
        Self { storage, layout: Layout::contiguous(shape) }
    }
}

impl DeviceRows {
    /// The memory that holds them.
    pub(super) fn into_storage(self) -> CudaStorage {
        self.storage
    }

    /// The rows as an operand.
    pub(super) fn operand(&self) -> Result<Operand<'_>> {
        Operand::new(&self.storage, &self.layout)
    }
}

/// What a block's forward pass keeps for its backward pass.
pub(crate) struct KeptOnDevice {
    rows: Kept<DeviceRows>,
    /// log2 of the sums of exponentials of attention's rows.
    log_sums: CudaSlice<f32>,
}

/// Puts the gradient of a parameter of shape `dims` into the sink.
fn deposit(sink: &Sink, key: Key, dims: &[usize], gradient: Gradient) -> Result<()> {
    let Gradient::Values(values) = gradient else { bail!("a parameter without gradient") };
    sink.add_on_device(key, &Tensor::from_storage(Storage::Cuda(values), dims, BackpropOp::none(), false))
}

impl Projection {
    /// Calls `f` with matrix and gain.
    fn with_operands<T>(&self, f: impl FnOnce(Operand<'_>, Option<Operand<'_>>) -> Result<T>) -> Result<T> {
        let (w, w_layout) = self.matrix.weight.storage_and_layout();
        let w = Operand::of(&w, w_layout)?;
        let Some(gain) = &self.gain else { return f(w, None) };
        let (gain, gain_layout) = gain.weight.storage_and_layout();
        f(w, Some(Operand::of(&gain, gain_layout)?))
    }

    /// `W · norm(prologue(x))`, with the gain.
    pub(super) fn device_forward(&self, x: Operand<'_>) -> Result<DeviceRows> {
        self.with_operands(|w, gain| {
            let op = self.op(Extra::Gain);
            Ok(op.device_run(&op.device_call(x, w, gain)?)?.into())
        })
    }

    /// `base + [mask ⊙] W · norm(prologue(x))`.
    fn device_residual(&self, x: Operand<'_>, base: Operand<'_>, mask: Option<Mask>) -> Result<DeviceRows> {
        if let Some(mask) = mask {
            let branch = self.device_forward(x)?;
            return Ok(DeviceOp::<2>::device_forward(&Dropped(mask), [base, branch.operand()?])?.into());
        }
        self.with_operands(|w, _| {
            let op = self.op(Extra::Residual);
            Ok(op.device_run(&op.device_call(x, w, Some(base))?)?.into())
        })
    }

    /// Gradient of `x`, added to `base` where that is given; those of the parameters go to the sink.
    pub(super) fn device_backward(
        &self,
        x: Operand<'_>,
        grad: Operand<'_>,
        base: Option<Operand<'_>>,
        sink: &Sink,
    ) -> Result<DeviceRows> {
        self.with_operands(|w, gain| {
            let op = self.op(Extra::Gain);
            let (dx, dw, dgain) = op.device_gradients(&op.device_call(x, w, gain)?, grad, base, true)?;
            deposit(sink, self.matrix.key, w.dims(), dw)?;
            if let (Some(parameter), Some(gain)) = (&self.gain, gain) {
                deposit(sink, parameter.key, gain.dims(), dgain)?;
            }
            let Gradient::Values(dx) = dx else { bail!("rows without gradient") };
            Ok((dx, Shape::from(x.dims())).into())
        })
    }
}

impl Block {
    fn device_compute(&self, u: Operand<'_>) -> Result<(KeptOnDevice, (CudaStorage, Shape))> {
        let [attention_mask, ffn_mask] = self.masks.map_or([None; 2], |masks| masks.map(Some));
        let qkv = self.qkv.device_forward(u)?;
        let (attended, log_sums) = self.attention.device_attend(qkv.operand()?)?;
        let middle = self.attn_out.device_residual(attended.operand()?, u, attention_mask)?;
        let hidden = self.gate_up.device_forward(middle.operand()?)?;
        let out = self.down.device_residual(hidden.operand()?, middle.operand()?, ffn_mask)?;
        let shape = out.layout.shape().clone();
        Ok((
            KeptOnDevice { rows: Kept { qkv, attended, middle, hidden }, log_sums },
            (out.into_storage(), shape),
        ))
    }

    /// Gradient of the branch behind `projection`, whose input is `x`, given that of the residual stream.
    fn device_branch(
        &self,
        projection: &Projection,
        mask: Option<Mask>,
        x: Operand<'_>,
        grad: Operand<'_>,
    ) -> Result<DeviceRows> {
        let Some(mask) = mask else { return projection.device_backward(x, grad, None, &self.sink) };
        let masked = DeviceRows::from((mask.device_applied(grad)?, Shape::from(grad.dims())));
        projection.device_backward(x, masked.operand()?, None, &self.sink)
    }

    fn device_gradient(&self, u: Operand<'_>, kept: &KeptOnDevice, grad: Operand<'_>) -> Result<CudaStorage> {
        let [attention_mask, ffn_mask] = self.masks.map_or([None; 2], |masks| masks.map(Some));
        let (middle, attended) = (kept.rows.middle.operand()?, kept.rows.attended.operand()?);
        let dhidden = self.device_branch(&self.down, ffn_mask, kept.rows.hidden.operand()?, grad)?;
        let dmiddle = self.gate_up.device_backward(middle, dhidden.operand()?, Some(grad), &self.sink)?;
        drop(dhidden);
        let dmiddle = dmiddle.operand()?;
        let dattended = self.device_branch(&self.attn_out, attention_mask, attended, dmiddle)?;
        let qkv = kept.rows.qkv.operand()?;
        let dqkv = self.attention.device_gradient(qkv, attended, &kept.log_sums, dattended.operand()?)?;
        Ok(self.qkv.device_backward(u, dqkv.operand()?, Some(dmiddle), &self.sink)?.into_storage())
    }
}

impl DeviceOp<1> for Block {
    fn device_forward(&self, [u]: [Operand<'_>; 1]) -> Result<(CudaStorage, Shape)> {
        let (kept, out) = self.device_compute(u)?;
        *self.kept_on_device.lock().unwrap_or_else(|e| e.into_inner()) = Some(kept).filter(|_| self.keep);
        Ok(out)
    }

    fn device_backward(
        &self,
        [u]: [Operand<'_>; 1],
        _result: Operand<'_>,
        grad: Operand<'_>,
        _wanted: [bool; 1],
    ) -> Result<[Gradient; 1]> {
        let kept = self.kept_on_device.lock().unwrap_or_else(|e| e.into_inner()).take();
        let kept = match kept {
            Some(kept) => kept,
            None => self.device_compute(u)?.0,
        };
        Ok([Gradient::Values(self.device_gradient(u, &kept, grad)?)])
    }
}

impl<T: DeviceOp<1>> DeviceOp<1> for Deposited<T> {
    fn device_forward(&self, args: [Operand<'_>; 1]) -> Result<(CudaStorage, Shape)> {
        self.op.device_forward(args)
    }

    fn device_backward(
        &self,
        [parameter]: [Operand<'_>; 1],
        result: Operand<'_>,
        grad: Operand<'_>,
        wanted: [bool; 1],
    ) -> Result<[Gradient; 1]> {
        let [gradient] = self.op.device_backward([parameter], result, grad, wanted)?;
        deposit(&self.sink, self.key, parameter.dims(), gradient)?;
        Ok([Gradient::Unwanted])
    }
}
