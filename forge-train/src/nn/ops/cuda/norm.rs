//! Operations on rows of the residual stream: the gained residual and the halting logit.

use candle_core::cuda::cudarc::driver::CudaSlice;
use candle_core::{CudaDevice, CudaStorage, Result, Shape, bail};

use super::super::carry::HaltLogit;
use super::super::norm::GainedResidual;
use super::launch::{Grid, Module, THREADS, launch, output, warps_of_rows};
use super::{DeviceOp, Gradient, Operand};

/// Threads of a block that sums columns: 32 rows of 32.
const SUMMING: u32 = 1024;

/// Blocks that share a sum over rows: four for each of an H100's 132 multiprocessors.
pub(super) const PARTIALS: usize = 528;

/// Sums of the columns of `parts [count, width]`.
pub(super) fn sum_columns(
    device: &CudaDevice,
    parts: &CudaSlice<f32>,
    count: usize,
    width: usize,
) -> Result<CudaStorage> {
    let sums = output::<f32>(device, width)?;
    let grid = Grid::new((width.div_ceil(32), 1, 1), SUMMING);
    let params = [parts.into(), (&sums).into(), count.into(), width.into()];
    launch(device, Module::Norm, "sum_columns", grid, &params)?;
    Ok(CudaStorage::wrap_cuda_slice(sums, device.clone()))
}

/// One warp a row.
fn row_grid(rows: usize) -> Grid {
    Grid::new((rows.div_ceil(THREADS as usize / 32), 1, 1), THREADS)
}

/// Warps that walk over the rows, each with `width` numbers of its own; returns the number of blocks too.
fn sum_grid(rows: usize, width: usize) -> (Grid, usize) {
    let warps = warps_of_rows(width);
    let blocks = rows.div_ceil(warps).min(PARTIALS);
    (Grid::new((blocks, 1, 1), 32 * warps as u32).shared(warps * width * 4), blocks)
}

impl DeviceOp<3> for GainedResidual {
    fn device_forward(&self, [base, z, gain]: [Operand<'_>; 3]) -> Result<(CudaStorage, Shape)> {
        let (rows, d, device) = (z.rows(), z.width(), z.device());
        if base.dims() != z.dims() || gain.len() != d {
            bail!("gained residual of {:?} onto {:?} with {} gains", z.dims(), base.dims(), gain.len());
        }
        let y = output::<f32>(device, z.len())?;
        launch(
            device,
            Module::Norm,
            "gained_residual",
            row_grid(rows),
            &[
                (&base.f32()?).into(),
                (&z.f32()?).into(),
                (&gain.f32()?).into(),
                (&y).into(),
                rows.into(),
                d.into(),
                self.eps.into(),
            ],
        )?;
        Ok((CudaStorage::wrap_cuda_slice(y, device.clone()), z.dims().into()))
    }

    fn device_backward(
        &self,
        [_, z, gain]: [Operand<'_>; 3],
        _result: Operand<'_>,
        grad: Operand<'_>,
        _wanted: [bool; 3],
    ) -> Result<[Gradient; 3]> {
        let (rows, d, device) = (z.rows(), z.width(), z.device());
        let (grid, blocks) = sum_grid(rows, d);
        let dz = output::<f32>(device, z.len())?;
        let partials = output::<f32>(device, blocks * d)?;
        launch(
            device,
            Module::Norm,
            "gained_residual_backward",
            grid,
            &[
                (&z.f32()?).into(),
                (&gain.f32()?).into(),
                (&grad.f32()?).into(),
                (&dz).into(),
                (&partials).into(),
                rows.into(),
                d.into(),
                self.eps.into(),
            ],
        )?;
        let dgain = sum_columns(device, &partials, blocks, d)?;
        let dz = CudaStorage::wrap_cuda_slice(dz, device.clone());
        Ok([Gradient::Passed, Gradient::Values(dz), Gradient::Values(dgain)])
    }
}

impl DeviceOp<2> for HaltLogit {
    fn device_forward(&self, [y, halt]: [Operand<'_>; 2]) -> Result<(CudaStorage, Shape)> {
        let (rows, d, device) = (y.rows(), y.width(), y.device());
        if halt.len() != d + 1 {
            bail!("halting head of {} values for width {d}", halt.len());
        }
        let logits = output::<f32>(device, rows)?;
        launch(
            device,
            Module::Norm,
            "halt_logit",
            row_grid(rows),
            &[
                (&y.f32()?).into(),
                (&halt.f32()?).into(),
                (&logits).into(),
                rows.into(),
                d.into(),
                self.eps.into(),
            ],
        )?;
        Ok((CudaStorage::wrap_cuda_slice(logits, device.clone()), rows.into()))
    }

    fn device_backward(
        &self,
        [y, halt]: [Operand<'_>; 2],
        _result: Operand<'_>,
        grad: Operand<'_>,
        _wanted: [bool; 2],
    ) -> Result<[Gradient; 2]> {
        let (rows, d, device) = (y.rows(), y.width(), y.device());
        let (grid, blocks) = sum_grid(rows, d + 1);
        let dy = output::<f32>(device, y.len())?;
        let partials = output::<f32>(device, blocks * (d + 1))?;
        launch(
            device,
            Module::Norm,
            "halt_logit_backward",
            grid,
            &[
                (&y.f32()?).into(),
                (&halt.f32()?).into(),
                (&grad.f32()?).into(),
                (&dy).into(),
                (&partials).into(),
                rows.into(),
                d.into(),
                self.eps.into(),
            ],
        )?;
        let dhalt = sum_columns(device, &partials, blocks, d + 1)?;
        let dy = CudaStorage::wrap_cuda_slice(dy, device.clone());
        Ok([Gradient::Values(dy), Gradient::Values(dhalt)])
    }
}
