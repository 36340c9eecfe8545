//! Dropout: the mask is hashed again wherever it is needed.

use candle_core::{CudaStorage, Result, Shape, bail};
use half::bf16;

use super::super::dropout::{Dropped, Mask};
use super::launch::{Grid, Module, Param, launch, output};
use super::{DeviceOp, Gradient, Operand};

impl Mask {
    fn params(&self) -> [Param; 7] {
        let [a, b, c, d, e, f] = self.words().map(Param::Word);
        [a, b, c, d, e, f, self.scale.into()]
    }
}

/// Launches the kernel of the given operand types: `y = base + mask ⊙ x`.
fn dropped(mask: &Mask, kernel: &str, base: Param, x: Operand<'_>, y: Param) -> Result<()> {
    let operands = [base, x.param()?, y, Param::Count(x.len())];
    let params: Vec<Param> = operands.into_iter().chain(mask.params()).collect();
    launch(x.device(), Module::Dropout, kernel, Grid::elements(x.len().div_ceil(4)), &params)
}

/// `base + mask ⊙ x` in f32.
fn dropped_f32(mask: &Mask, base: Param, x: Operand<'_>) -> Result<CudaStorage> {
    let y = output::<f32>(x.device(), x.len())?;
    dropped(mask, &format!("dropped_{}_f32", x.suffix()?), base, x, (&y).into())?;
    Ok(CudaStorage::wrap_cuda_slice(y, x.device().clone()))
}

impl Mask {
    /// `mask ⊙ x` of f32 rows, in bf16.
    pub(super) fn device_applied(&self, x: Operand<'_>) -> Result<CudaStorage> {
        let y = output::<bf16>(x.device(), x.len())?;
        dropped(self, "dropped_f32_bf16", Param::NONE, x, (&y).into())?;
        Ok(CudaStorage::wrap_cuda_slice(y, x.device().clone()))
    }
}

impl DeviceOp<1> for Dropped {
    fn device_forward(&self, [x]: [Operand<'_>; 1]) -> Result<(CudaStorage, Shape)> {
        if x.is_bf16()? {
            bail!("dropout of bf16 rows that are no branch of the residual stream");
        }
        Ok((dropped_f32(&self.0, Param::NONE, x)?, x.dims().into()))
    }

    fn device_backward(
        &self,
        _args: [Operand<'_>; 1],
        _result: Operand<'_>,
        grad: Operand<'_>,
        _wanted: [bool; 1],
    ) -> Result<[Gradient; 1]> {
        Ok([Gradient::Values(dropped_f32(&self.0, Param::NONE, grad)?)])
    }
}

impl DeviceOp<2> for Dropped {
    fn device_forward(&self, [base, x]: [Operand<'_>; 2]) -> Result<(CudaStorage, Shape)> {
        if base.dims() != x.dims() {
            bail!("a residual of {:?} beside a branch of {:?}", base.dims(), x.dims());
        }
        Ok((dropped_f32(&self.0, (&base.f32()?).into(), x)?, x.dims().into()))
    }

    fn device_backward(
        &self,
        [_, x]: [Operand<'_>; 2],
        _result: Operand<'_>,
        grad: Operand<'_>,
        _wanted: [bool; 2],
    ) -> Result<[Gradient; 2]> {
        let dx = if x.is_bf16()? {
            self.0.device_applied(grad)?
        } else {
            dropped_f32(&self.0, Param::NONE, grad)?
        };
        Ok([Gradient::Passed, Gradient::Values(dx)])
    }
}
