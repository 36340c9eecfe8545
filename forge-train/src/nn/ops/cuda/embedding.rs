//! Embedding: a gather, and a gradient that adds up each row's places in one order, in chunks of equal work.

use candle_core::{CudaStorage, Result, Shape, bail};

use super::super::embedding::Embedding;
use super::launch::{Grid, Module, Param, THREADS, launch, output};
use super::{DeviceOp, Gradient, Operand};

/// Places of one row that a block adds up.
const CHUNK: usize = 64;

/// Where each row of the table stands in the batch.
struct Chunks {
    /// Places, ordered by row.
    order: Vec<u32>,
    /// First place of each chunk in `order`, and the end of the last.
    from: Vec<u32>,
    /// First chunk of each row, and the end of the last row's.
    first: Vec<u32>,
}

impl Embedding {
    fn chunks(&self, vocab: usize) -> Chunks {
        let (start, order) = self.places(vocab);
        let (mut from, mut first) = (Vec::new(), Vec::with_capacity(vocab + 1));
        for row in start.windows(2) {
            first.push(from.len() as u32);
            from.extend((row[0]..row[1]).step_by(CHUNK).map(|place| place as u32));
        }
        first.push(from.len() as u32);
        from.push(order.len() as u32);
        Chunks { order: order.into_iter().map(|place| place as u32).collect(), from, first }
    }

    /// The table: its f32 master, or the integers and scales that stand for it.
    fn device_table(&self, master: Operand<'_>) -> Result<[Param; 3]> {
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
        let params: Vec<Param> = self.device_table(e)?.into_iter().chain(operands).collect();
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
        let Chunks { order, from, first } = self.chunks(vocab);
        let count = from.len() - 1;
        let (order, from) = (device.clone_htod(&order)?, device.clone_htod(&from)?);
        let first = device.clone_htod(&first)?;
        let sums = output::<f32>(device, count * d)?;
        let grid = Grid::new((count, 1, 1), THREADS);
        let params = [(&from).into(), (&order).into(), (&grad.f32()?).into(), (&sums).into(), d.into()];
        launch(device, Module::Embedding, "sum_places", grid, &params)?;
        let de = output::<f32>(device, e.len())?;
        let factor = self.device.as_ref().map_or(1.0, |weight| weight.gradient_factor());
        let operands = [(&first).into(), (&sums).into(), (&de).into()];
        let extents = [vocab.into(), d.into(), self.eps.into(), factor.into()];
        let params = [&self.device_table(e)?[..], &operands, &extents].concat();
        let grid = Grid::new((vocab.div_ceil(THREADS as usize / 32), 1, 1), THREADS);
        launch(device, Module::Embedding, "embed_backward", grid, &params)?;
        Ok([Gradient::Values(CudaStorage::wrap_cuda_slice(de, device.clone()))])
    }
}
