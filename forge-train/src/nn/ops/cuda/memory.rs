//! The memory's scan, the gate that blends it in, concatenation, and rows that halted tokens carry forward.

use candle_core::cuda::CudaDType;
use candle_core::cuda::cudarc::driver::DeviceRepr;
use candle_core::{CudaStorage, Result, Shape, bail};
use half::bf16;

use super::super::carry::Carry;
use super::super::memory::{Concat, GateBlend, Scan};
use super::launch::{Grid, Module, Param, launch, output};
use super::norm::sum_columns;
use super::{DeviceOp, Gradient, Operand};

impl DeviceOp<2> for Scan {
    fn device_forward(&self, [vr, bias]: [Operand<'_>; 2]) -> Result<(CudaStorage, Shape)> {
        let (device, m) = (vr.device(), bias.len());
        if vr.width() != 2 * m || self.cols == 0 || !vr.rows().is_multiple_of(self.cols) {
            bail!("memory of {m} channels over {} rows of {} values", vr.rows(), vr.width());
        }
        let sequences = vr.rows() / self.cols;
        let states = output::<bf16>(device, vr.rows() * m)?;
        launch(
            device,
            Module::Memory,
            "scan",
            Grid::elements(sequences * m),
            &[
                (&vr.bf16()?).into(),
                (&bias.f32()?).into(),
                (&states).into(),
                sequences.into(),
                self.cols.into(),
                m.into(),
            ],
        )?;
        Ok((CudaStorage::wrap_cuda_slice(states, device.clone()), (vr.rows(), m).into()))
    }

    fn device_backward(
        &self,
        [vr, bias]: [Operand<'_>; 2],
        result: Operand<'_>,
        grad: Operand<'_>,
        _wanted: [bool; 2],
    ) -> Result<[Gradient; 2]> {
        let (device, m) = (vr.device(), bias.len());
        let sequences = vr.rows() / self.cols;
        let dvr = output::<bf16>(device, vr.len())?;
        let partials = output::<f32>(device, sequences * m)?;
        launch(
            device,
            Module::Memory,
            "scan_backward",
            Grid::elements(sequences * m),
            &[
                (&vr.bf16()?).into(),
                (&bias.f32()?).into(),
                (&result.bf16()?).into(),
                (&grad.bf16()?).into(),
                (&dvr).into(),
                (&partials).into(),
                sequences.into(),
                self.cols.into(),
                m.into(),
            ],
        )?;
        let dbias = sum_columns(device, &partials, sequences, m)?;
        let dvr = CudaStorage::wrap_cuda_slice(dvr, device.clone());
        Ok([Gradient::Values(dvr), Gradient::Values(dbias)])
    }
}

impl DeviceOp<3> for GateBlend {
    fn device_forward(&self, [o, m, x]: [Operand<'_>; 3]) -> Result<(CudaStorage, Shape)> {
        if o.dims() != m.dims() || o.dims() != x.dims() {
            bail!("a blend of {:?} and {:?} by {:?}", o.dims(), m.dims(), x.dims());
        }
        let y = output::<bf16>(o.device(), o.len())?;
        launch(
            o.device(),
            Module::Memory,
            "gate_blend",
            Grid::elements(o.len()),
            &[
                (&o.bf16()?).into(),
                (&m.bf16()?).into(),
                (&x.bf16()?).into(),
                (&y).into(),
                Param::Count(o.len()),
            ],
        )?;
        Ok((CudaStorage::wrap_cuda_slice(y, o.device().clone()), o.dims().into()))
    }

    fn device_backward(
        &self,
        [o, m, x]: [Operand<'_>; 3],
        _result: Operand<'_>,
        grad: Operand<'_>,
        _wanted: [bool; 3],
    ) -> Result<[Gradient; 3]> {
        let device = o.device();
        let fresh = || output::<bf16>(device, o.len());
        let [d_o, d_m, d_x] = [fresh()?, fresh()?, fresh()?];
        launch(
            device,
            Module::Memory,
            "gate_blend_backward",
            Grid::elements(o.len()),
            &[
                (&o.bf16()?).into(),
                (&m.bf16()?).into(),
                (&x.bf16()?).into(),
                (&grad.bf16()?).into(),
                (&d_o).into(),
                (&d_m).into(),
                (&d_x).into(),
                Param::Count(o.len()),
            ],
        )?;
        Ok([d_o, d_m, d_x].map(|d| Gradient::Values(CudaStorage::wrap_cuda_slice(d, device.clone()))))
    }
}

impl DeviceOp<2> for Concat {
    fn device_forward(&self, [a, b]: [Operand<'_>; 2]) -> Result<(CudaStorage, Shape)> {
        if a.dims() != b.dims() {
            bail!("concatenation of rows of different shapes");
        }
        let y = output::<bf16>(a.device(), 2 * a.len())?;
        launch(
            a.device(),
            Module::Memory,
            "concat",
            Grid::elements(a.len()),
            &[(&a.bf16()?).into(), (&b.bf16()?).into(), (&y).into(), Param::Count(a.len()), a.width().into()],
        )?;
        Ok((CudaStorage::wrap_cuda_slice(y, a.device().clone()), (a.rows(), 2 * a.width()).into()))
    }

    fn device_backward(
        &self,
        [a, _]: [Operand<'_>; 2],
        _result: Operand<'_>,
        grad: Operand<'_>,
        _wanted: [bool; 2],
    ) -> Result<[Gradient; 2]> {
        let device = a.device();
        let parts = [output::<bf16>(device, a.len())?, output::<bf16>(device, a.len())?];
        launch(
            device,
            Module::Memory,
            "concat_backward",
            Grid::elements(a.len()),
            &[
                (&grad.bf16()?).into(),
                (&parts[0]).into(),
                (&parts[1]).into(),
                Param::Count(a.len()),
                a.width().into(),
            ],
        )?;
        Ok(parts.map(|d| Gradient::Values(CudaStorage::wrap_cuda_slice(d, device.clone()))))
    }
}

impl Carry {
    /// What both kernels take behind their rows.
    fn mask_params(&self, rows: Operand<'_>) -> [Param; 3] {
        [Param::Count(rows.len()), rows.width().into(), self.from.into()]
    }

    fn carried<T: CudaDType + DeviceRepr>(
        &self,
        newer: Operand<'_>,
        earlier: Operand<'_>,
    ) -> Result<CudaStorage> {
        let device = newer.device();
        let y = output::<T>(device, newer.len())?;
        let operands = [newer.param()?, earlier.param()?, self.halted.on(device)?.into(), (&y).into()];
        let params: Vec<Param> = operands.into_iter().chain(self.mask_params(newer)).collect();
        let name = format!("carry_{}", newer.suffix()?);
        launch(device, Module::Memory, &name, Grid::elements(newer.len()), &params)?;
        Ok(CudaStorage::wrap_cuda_slice(y, device.clone()))
    }

    fn gradients<T: CudaDType + DeviceRepr>(&self, grad: Operand<'_>) -> Result<[Gradient; 2]> {
        let device = grad.device();
        let parts = [output::<T>(device, grad.len())?, output::<T>(device, grad.len())?];
        let operands =
            [grad.param()?, self.halted.on(device)?.into(), (&parts[0]).into(), (&parts[1]).into()];
        let params: Vec<Param> = operands.into_iter().chain(self.mask_params(grad)).collect();
        let name = format!("carry_backward_{}", grad.suffix()?);
        launch(device, Module::Memory, &name, Grid::elements(grad.len()), &params)?;
        Ok(parts.map(|d| Gradient::Values(CudaStorage::wrap_cuda_slice(d, device.clone()))))
    }
}

impl DeviceOp<2> for Carry {
    fn device_forward(&self, [newer, earlier]: [Operand<'_>; 2]) -> Result<(CudaStorage, Shape)> {
        if newer.dims() != earlier.dims() || newer.rows() != self.halted.len() {
            bail!("carry of {} rows with a mask of {}", newer.rows(), self.halted.len());
        }
        let carried = match (newer.is_bf16()?, earlier.is_bf16()?) {
            (true, true) => self.carried::<bf16>(newer, earlier)?,
            (false, false) => self.carried::<f32>(newer, earlier)?,
            _ => bail!("carry between rows of different types"),
        };
        Ok((carried, newer.dims().into()))
    }

    fn device_backward(
        &self,
        _args: [Operand<'_>; 2],
        _result: Operand<'_>,
        grad: Operand<'_>,
        _wanted: [bool; 2],
    ) -> Result<[Gradient; 2]> {
        if grad.is_bf16()? { self.gradients::<bf16>(grad) } else { self.gradients::<f32>(grad) }
    }
}
