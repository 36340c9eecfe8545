//! Embedding: a gather, and a gradient that adds up each row's places in one order.

use candle_core::{CudaStorage, Result, Shape, bail};

use super::super::embedding::Embedding;
use super::launch::{Grid, Module, Param, THREADS, launch, output, warps_of_rows};
use super::{DeviceOp, Gradient, Operand};

impl Embedding {
    /// The table: its f32 master, or the integers and scales that stand for it.
    fn table(&self, master: Operand<'_>) -> Result<[Param; 3]> {
        let codes = self.device.as_ref().and_then(|weight| weight.codes.as_ref());
        let master = Param::from(&master.f32()?);
        Ok([master, codes.map(|c| &c.values).into(), codes.map(|c| &c.scales).into()])
    }
}

impl DeviceOp<1> for Embedding {
    fn device_forward(&self, [e]: [Operand<'_>; 1]) -> Result<(CudaStorage, Shape)> {
        let (device, d, tokens) = (e.device(), e.width(), self.ids.len());
        if let Some(id) = self.ids.iter().find(|id| **id as usize >= e.rows()) {
            bail!("token id {id} is outside the vocabulary of {}", e.rows());
        }
        let out = output::<f32>(device, tokens * d)?;
        let operands = [self.ids.on(device)?.into(), (&out).into(), tokens.into(), d.into(), self.eps.into()];
        let params: Vec<Param> = self.table(e)?.into_iter().chain(operands).collect();
        let grid = Grid::new((tokens.div_ceil(THREADS as usize / 32), 1, 1), THREADS);
        launch(device, Module::Embedding, "embed", grid, &params)?;
        Ok((CudaStorage::wrap_cuda_slice(out, device.clone()), (tokens, d).into()))
    }

    fn device_backward(
        &self,
        [e]: [Operand<'_>; 1],
        _result: Operand<'_>,
        grad: Operand<'_>,
        _wanted: [bool; 1],
    ) -> Result<[Gradient; 1]> {
        let (device, d, vocab) = (e.device(), e.width(), e.rows());
        let (start, order) = self.places(vocab);
        let words = |places: &[usize]| places.iter().map(|&p| p as u32).collect::<Vec<u32>>();
        let (start, order) = (device.clone_htod(&words(&start))?, device.clone_htod(&words(&order))?);
        let de = output::<f32>(device, e.len())?;
        let factor = self.device.as_ref().map_or(1.0, |weight| weight.gradient_factor());
        let warps = warps_of_rows(d);
        let operands = [
            (&start).into(),
            (&order).into(),
            (&grad.f32()?).into(),
            (&de).into(),
            d.into(),
            self.eps.into(),
            factor.into(),
        ];
        let params: Vec<Param> = self.table(e)?.into_iter().chain(operands).collect();
        let grid = Grid::new((vocab, 1, 1), 32 * warps as u32).shared(warps * d * 4);
        launch(device, Module::Embedding, "embed_backward", grid, &params)?;
        Ok([Gradient::Values(CudaStorage::wrap_cuda_slice(de, device.clone()))])
    }
}
