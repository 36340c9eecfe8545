//! The linear map: a kernel ahead of the product, one behind it.

use candle_core::cuda::cudarc::driver::CudaSlice;
use candle_core::{CudaDevice, CudaStorage, Result, Shape, bail};
use forge_formats::config::Activation;
use half::bf16;

use super::super::glu::Prologue;
use super::super::linear::{Extra, NormLinear};
use super::gemm::{Matrix, multiply};
use super::launch::{Grid, Module, Param, launch, output, warps_of_rows};
use super::norm::{PARTIALS, sum_columns};
use super::{DeviceOp, DeviceWeight, Gradient, Operand};

/// Operands of one call, sorted out.
pub(super) struct Call<'a> {
    x: Operand<'a>,
    gain: Option<Operand<'a>>,
    residual: Option<Operand<'a>>,
    weight: &'a DeviceWeight,
    rows: usize,
    ins: usize,
    outs: usize,
}

impl Call<'_> {
    fn device(&self) -> &CudaDevice {
        self.x.device()
    }
}

impl NormLinear {
    /// The operands of a call, checked.
    pub(super) fn device_call<'a>(
        &'a self,
        x: Operand<'a>,
        w: Operand<'a>,
        extra: Option<Operand<'a>>,
    ) -> Result<Call<'a>> {
        let &[outs, ins] = w.dims() else { bail!("weights must be a matrix") };
        let wide = self.prologue.input_width(ins);
        if x.width() != wide {
            bail!("linear map of {ins} inputs given rows of {} values instead of {wide}", x.width());
        }
        let (gain, residual) = match self.extra {
            Extra::Gain => (extra, None),
            Extra::Residual => (None, extra),
        };
        let rows = x.rows();
        if gain.is_some_and(|g| g.len() != ins) || residual.is_some_and(|r| r.len() != rows * outs) {
            bail!("gain or residual of the wrong size");
        }
        let Some(weight) = &self.device else { bail!("a weight was not prepared for the device") };
        if weight.effective.len() != outs * ins {
            bail!("a weight was prepared for another matrix");
        }
        Ok(Call { x, gain, residual, weight, rows, ins, outs })
    }

    /// The kernels for the call's rows.
    fn activation_kernels(&self, call: &Call<'_>) -> Result<Module> {
        let prologue = match self.prologue {
            Prologue::Identity => 0,
            Prologue::Relu => 1,
            Prologue::Gated(Activation::SwiGlu) => 2,
            Prologue::Gated(Activation::Relu2) => 3,
        };
        let vector = if call.ins.is_multiple_of(4) { 4 } else { 1 };
        Ok(Module::Activations { bf16: call.x.is_bf16()?, prologue, vector })
    }

    /// What these kernels take last: extents, norm and rounding.
    fn activation_params(&self, call: &Call<'_>) -> [Param; 5] {
        let (rounding, lambda) = match &call.weight.codes {
            None => (0, 0.0),
            Some(codes) if codes.exact() => (1, 1.0),
            Some(codes) => (2, codes.blend.lambda),
        };
        [call.rows.into(), call.ins.into(), self.eps.into(), Param::Int(rounding), lambda.into()]
    }

    /// Activations `[rows, ins]`, and the value of one step of each row where they are integers.
    fn device_activations(&self, call: &Call<'_>) -> Result<(CudaSlice<bf16>, Option<CudaSlice<f32>>)> {
        let a = output::<bf16>(call.device(), call.rows * call.ins)?;
        let integers = call.weight.codes.as_ref().is_some_and(|codes| codes.exact());
        let steps = integers.then(|| output::<f32>(call.device(), call.rows)).transpose()?;
        let warps = warps_of_rows(call.ins);
        let grid =
            Grid::new((call.rows.div_ceil(warps), 1, 1), 32 * warps as u32).shared(warps * call.ins * 4);
        let gain = call.gain.map(|g| g.f32()).transpose()?;
        let operands = [call.x.param()?, gain.as_ref().into(), (&a).into(), steps.as_ref().into()];
        let params: Vec<Param> = operands.into_iter().chain(self.activation_params(call)).collect();
        launch(call.device(), self.activation_kernels(call)?, "activations", grid, &params)?;
        Ok((a, steps))
    }

    /// The map's result.
    pub(super) fn device_run(&self, call: &Call<'_>) -> Result<(CudaStorage, Shape)> {
        let (a, steps) = self.device_activations(call)?;
        let device = call.device();
        let a = a.as_view();
        let a = Matrix::new(&a, call.rows, call.ins)?;
        let count = call.rows * call.outs;
        let shape = Shape::from((call.rows, call.outs));
        let codes = call.weight.codes.as_ref().filter(|codes| codes.exact());
        let w = codes.map_or(&call.weight.effective, |codes| &codes.values).as_view();
        let w = Matrix::new(&w, call.outs, call.ins)?.t();
        if codes.is_none() && call.residual.is_none() {
            let mut out = output::<bf16>(device, count)?;
            multiply(device, &mut out, a, w, 1.0)?;
            return Ok((CudaStorage::wrap_cuda_slice(out, device.clone()), shape));
        }
        let mut sums = output::<f32>(device, count)?;
        multiply(device, &mut sums, a, w, 1.0)?;
        let scaling: [Param; 2] = [steps.as_ref().into(), codes.map(|codes| &codes.scales).into()];
        let residual = call.residual.map(|r| r.f32()).transpose()?;
        let finish = |name: &str, y: Param| {
            let vector = if call.outs.is_multiple_of(4) { 4 } else { 1 };
            let name = if vector == 4 { format!("{name}_4") } else { name.to_owned() };
            let [steps, scales] = scaling;
            let params = [
                (&sums).into(),
                steps,
                scales,
                residual.as_ref().into(),
                y,
                Param::Count(count),
                call.outs.into(),
            ];
            launch(device, Module::Outcomes, &name, Grid::elements(count.div_ceil(vector)), &params)
        };
        if call.residual.is_some() {
            let out = output::<f32>(device, count)?;
            finish("finish_f32", (&out).into())?;
            Ok((CudaStorage::wrap_cuda_slice(out, device.clone()), shape))
        } else {
            let out = output::<bf16>(device, count)?;
            finish("finish_bf16", (&out).into())?;
            Ok((CudaStorage::wrap_cuda_slice(out, device.clone()), shape))
        }
    }

    /// Gradients of `x`, added to the f32 `base` where that is given, of `W` and of the gain.
    pub(super) fn device_gradients(
        &self,
        call: &Call<'_>,
        grad: Operand<'_>,
        base: Option<Operand<'_>>,
        weights: bool,
    ) -> Result<(Gradient, Gradient, Gradient)> {
        let device = call.device();
        let factor = call.weight.gradient_factor();
        let cast = if grad.is_bf16()? { None } else { Some(rounded(grad)?) };
        let dy = match &cast {
            Some(cast) => cast.as_view(),
            None => grad.bf16()?,
        };
        let dy = Matrix::new(&dy, call.rows, call.outs)?;
        let w = call.weight.effective.as_view();
        let mut da = output::<bf16>(device, call.rows * call.ins)?;
        multiply(device, &mut da, dy, Matrix::new(&w, call.outs, call.ins)?, factor)?;
        let (dx, a, dgain) = self.activations_gradient(call, &da, base)?;
        let dw = if weights {
            let mut dw = output::<f32>(device, call.outs * call.ins)?;
            let a = a.as_view();
            multiply(device, &mut dw, dy.t(), Matrix::new(&a, call.rows, call.ins)?, factor)?;
            Gradient::Values(CudaStorage::wrap_cuda_slice(dw, device.clone()))
        } else {
            Gradient::Unwanted
        };
        Ok((Gradient::Values(dx), dw, dgain))
    }

    /// Gradient of `x`, the activations the matrix was multiplied with, and the gain's gradient.
    fn activations_gradient(
        &self,
        call: &Call<'_>,
        da: &CudaSlice<bf16>,
        base: Option<Operand<'_>>,
    ) -> Result<(CudaStorage, CudaSlice<bf16>, Gradient)> {
        let device = call.device();
        let gain = call.gain.map(|g| g.f32()).transpose()?;
        let base = base.map(|b| b.f32()).transpose()?;
        if base.is_some() && (self.prologue != Prologue::Identity || call.x.is_bf16()?) {
            bail!("a gradient is added to that of plain f32 rows only");
        }
        let a = output::<bf16>(device, call.rows * call.ins)?;
        let buffers = if gain.is_some() { 2 } else { 1 };
        let warps = warps_of_rows(buffers * call.ins);
        let blocks = call.rows.div_ceil(warps);
        let blocks = if gain.is_some() { blocks.min(PARTIALS) } else { blocks };
        let partials = gain.is_some().then(|| output::<f32>(device, blocks * call.ins)).transpose()?;
        let launch_to = |dx: Param| {
            let operands = [
                call.x.param()?,
                gain.as_ref().into(),
                da.into(),
                base.as_ref().into(),
                dx,
                (&a).into(),
                partials.as_ref().into(),
            ];
            let params: Vec<Param> = operands.into_iter().chain(self.activation_params(call)).collect();
            let grid = Grid::new((blocks, 1, 1), 32 * warps as u32).shared(warps * buffers * call.ins * 4);
            launch(device, self.activation_kernels(call)?, "activations_backward", grid, &params)
        };
        let dx = if call.x.is_bf16()? {
            let dx = output::<bf16>(device, call.x.len())?;
            launch_to((&dx).into())?;
            CudaStorage::wrap_cuda_slice(dx, device.clone())
        } else {
            let dx = output::<f32>(device, call.x.len())?;
            launch_to((&dx).into())?;
            CudaStorage::wrap_cuda_slice(dx, device.clone())
        };
        let dgain = match partials {
            Some(partials) => Gradient::Values(sum_columns(device, &partials, blocks, call.ins)?),
            None => Gradient::Unwanted,
        };
        Ok((dx, a, dgain))
    }
}

/// The f32 operand rounded to bf16.
///
/// # Errors
/// If it is not f32.
pub(super) fn rounded(x: Operand<'_>) -> Result<CudaSlice<bf16>> {
    let out = output::<bf16>(x.device(), x.len())?;
    let params = [(&x.f32()?).into(), (&out).into(), Param::Count(x.len())];
    launch(x.device(), Module::Outcomes, "round_bf16", Grid::elements(x.len().div_ceil(4)), &params)?;
    Ok(out)
}

impl DeviceOp<2> for NormLinear {
    fn device_forward(&self, [x, w]: [Operand<'_>; 2]) -> Result<(CudaStorage, Shape)> {
        self.device_run(&self.device_call(x, w, None)?)
    }

    fn device_backward(
        &self,
        [x, w]: [Operand<'_>; 2],
        _result: Operand<'_>,
        grad: Operand<'_>,
        wanted: [bool; 2],
    ) -> Result<[Gradient; 2]> {
        let (dx, dw, _) = self.device_gradients(&self.device_call(x, w, None)?, grad, None, wanted[1])?;
        Ok([dx, dw])
    }
}

impl DeviceOp<3> for NormLinear {
    fn device_forward(&self, [x, w, extra]: [Operand<'_>; 3]) -> Result<(CudaStorage, Shape)> {
        self.device_run(&self.device_call(x, w, Some(extra))?)
    }

    fn device_backward(
        &self,
        [x, w, extra]: [Operand<'_>; 3],
        _result: Operand<'_>,
        grad: Operand<'_>,
        wanted: [bool; 3],
    ) -> Result<[Gradient; 3]> {
        let (dx, dw, dgain) =
            self.device_gradients(&self.device_call(x, w, Some(extra))?, grad, None, wanted[1])?;
        let dextra = match self.extra {
            Extra::Gain => dgain,
            Extra::Residual => Gradient::Passed,
        };
        Ok([dx, dw, dextra])
    }
}
