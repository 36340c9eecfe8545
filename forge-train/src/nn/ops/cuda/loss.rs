//! Losses: one block a row of logits, then one block for the mean.

use candle_core::cuda::CudaDType;
use candle_core::cuda::cudarc::driver::{CudaSlice, DeviceRepr};
use candle_core::{CudaDevice, CudaStorage, Result, Shape, Tensor, bail};
use half::bf16;

use super::super::HostData;
use super::super::loss::{BinaryCrossEntropy, CrossEntropy, Divergence, Weighting};
use super::launch::{Grid, Module, Param, THREADS, launch, output};
use super::{DeviceOp, Gradient, Operand};

/// Threads of the block that adds up the rows.
const SUMMING: u32 = 1024;

/// One block a row.
fn blocks(rows: usize) -> Grid {
    Grid::new((rows, 1, 1), THREADS)
}

/// `factor · Σ losses` as the scalar a loss yields.
fn weighted_mean(device: &CudaDevice, losses: &CudaSlice<f64>, factor: f64) -> Result<(CudaStorage, Shape)> {
    let mean = output::<f32>(device, 1)?;
    let params = [losses.into(), (&mean).into(), losses.len().into(), factor.into()];
    launch(device, Module::Loss, "weighted_mean", Grid::new((1, 1, 1), SUMMING), &params)?;
    Ok((CudaStorage::wrap_cuda_slice(mean, device.clone()), Shape::from(())))
}

/// Launches the kernel that writes the gradient of the logits `x`; its parameters are `before`, the gradient's
/// address and `after`.
fn logit_gradient(x: Operand<'_>, kernel: &str, before: &[Param], after: &[Param]) -> Result<Gradient> {
    fn typed<T: CudaDType + DeviceRepr>(
        x: Operand<'_>,
        kernel: &str,
        before: &[Param],
        after: &[Param],
    ) -> Result<Gradient> {
        let dx = output::<T>(x.device(), x.len())?;
        let params = [before, &[(&dx).into()], after].concat();
        let name = format!("{kernel}_{}", x.suffix()?);
        launch(x.device(), Module::Loss, &name, blocks(x.rows()), &params)?;
        Ok(Gradient::Values(CudaStorage::wrap_cuda_slice(dx, x.device().clone())))
    }
    if x.is_bf16()? {
        typed::<bf16>(x, kernel, before, after)
    } else {
        typed::<f32>(x, kernel, before, after)
    }
}

impl Weighting {
    fn device_weights(&self, device: &CudaDevice) -> Result<Param> {
        Ok(self.weights().on(device)?.into())
    }
}

impl DeviceOp<1> for CrossEntropy {
    fn device_forward(&self, [x]: [Operand<'_>; 1]) -> Result<(CudaStorage, Shape)> {
        self.check(x.rows(), x.width())?;
        let device = x.device();
        let losses = output::<f64>(device, x.rows())?;
        launch(
            device,
            Module::Loss,
            &format!("cross_entropy_{}", x.suffix()?),
            blocks(x.rows()),
            &[
                x.param()?,
                self.targets.on(device)?.into(),
                self.weighting.device_weights(device)?,
                (&losses).into(),
                x.width().into(),
            ],
        )?;
        weighted_mean(device, &losses, self.weighting.inverse_total())
    }

    fn device_backward(
        &self,
        [x]: [Operand<'_>; 1],
        _result: Operand<'_>,
        grad: Operand<'_>,
        _wanted: [bool; 1],
    ) -> Result<[Gradient; 1]> {
        let device = x.device();
        let before = [
            x.param()?,
            self.targets.on(device)?.into(),
            self.weighting.device_weights(device)?,
            (&grad.f32()?).into(),
        ];
        let after = [x.width().into(), self.weighting.inverse_total().into()];
        Ok([logit_gradient(x, "cross_entropy_backward", &before, &after)?])
    }
}

impl DeviceOp<2> for Divergence {
    fn device_forward(&self, [student, teacher]: [Operand<'_>; 2]) -> Result<(CudaStorage, Shape)> {
        self.check(student.rows(), student.dims(), teacher.dims())?;
        if student.is_bf16()? != teacher.is_bf16()? {
            bail!("logits of student and teacher of different types");
        }
        let (device, inverse) = (student.device(), 1.0 / self.temperature);
        let losses = output::<f64>(device, student.rows())?;
        launch(
            device,
            Module::Loss,
            &format!("divergence_{}", student.suffix()?),
            blocks(student.rows()),
            &[
                student.param()?,
                teacher.param()?,
                self.weighting.device_weights(device)?,
                (&losses).into(),
                student.width().into(),
                inverse.into(),
            ],
        )?;
        let square = f64::from(self.temperature * self.temperature);
        weighted_mean(device, &losses, self.weighting.inverse_total() * square)
    }

    fn device_backward(
        &self,
        [student, teacher]: [Operand<'_>; 2],
        _result: Operand<'_>,
        grad: Operand<'_>,
        _wanted: [bool; 2],
    ) -> Result<[Gradient; 2]> {
        let before = [
            student.param()?,
            teacher.param()?,
            self.weighting.device_weights(student.device())?,
            (&grad.f32()?).into(),
        ];
        let after = [
            student.width().into(),
            self.weighting.inverse_total().into(),
            (1.0 / self.temperature).into(),
            self.temperature.into(),
        ];
        Ok([logit_gradient(student, "divergence_backward", &before, &after)?, Gradient::Unwanted])
    }
}

impl DeviceOp<1> for BinaryCrossEntropy {
    fn device_forward(&self, [x]: [Operand<'_>; 1]) -> Result<(CudaStorage, Shape)> {
        self.check(x.len())?;
        let device = x.device();
        let losses = output::<f64>(device, x.len())?;
        launch(
            device,
            Module::Loss,
            "binary_cross_entropy",
            Grid::elements(x.len()),
            &[
                (&x.f32()?).into(),
                self.targets.on(device)?.into(),
                self.weighting.device_weights(device)?,
                (&losses).into(),
                x.len().into(),
            ],
        )?;
        weighted_mean(device, &losses, self.weighting.inverse_total())
    }

    fn device_backward(
        &self,
        [x]: [Operand<'_>; 1],
        _result: Operand<'_>,
        grad: Operand<'_>,
        _wanted: [bool; 1],
    ) -> Result<[Gradient; 1]> {
        let device = x.device();
        let dx = output::<f32>(device, x.len())?;
        launch(
            device,
            Module::Loss,
            "binary_cross_entropy_backward",
            Grid::elements(x.len()),
            &[
                (&x.f32()?).into(),
                self.targets.on(device)?.into(),
                self.weighting.device_weights(device)?,
                (&grad.f32()?).into(),
                (&dx).into(),
                x.len().into(),
                self.weighting.inverse_total().into(),
            ],
        )?;
        Ok([Gradient::Values(CudaStorage::wrap_cuda_slice(dx, device.clone()))])
    }
}

/// Cross entropy of each row of `logits [n, vocab]`, and 1 where its target has the highest logit, else 0.
///
/// # Errors
/// If the logits are not a matrix on a CUDA device with one row a target.
pub(crate) fn token_scores(logits: &Tensor, targets: &HostData<u32>) -> Result<(Vec<f32>, Vec<f32>)> {
    let (storage, layout) = logits.storage_and_layout();
    let x = Operand::of(&storage, layout)?;
    let (device, rows) = (x.device(), x.rows());
    if targets.len() != rows {
        bail!("{} targets for {rows} rows", targets.len());
    }
    let (losses, correct) = (output::<f32>(device, rows)?, output::<f32>(device, rows)?);
    launch(
        device,
        Module::Loss,
        &format!("token_scores_{}", x.suffix()?),
        blocks(rows),
        &[x.param()?, targets.on(device)?.into(), (&losses).into(), (&correct).into(), x.width().into()],
    )?;
    Ok((device.clone_dtoh(&losses)?, device.clone_dtoh(&correct)?))
}
