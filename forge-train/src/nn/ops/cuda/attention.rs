//! Window attention, and attention to global positions beyond it, by tiles on the tensor cores.

use candle_core::cuda::cudarc::driver::CudaSlice;
use candle_core::{CudaStorage, Result, Shape, bail};
use forge_formats::config::Globals;
use half::bf16;

use super::super::attention::Attention;
use super::launch::{Grid, Module, Param, launch, output};
use super::{DeviceOp, DeviceRows, Gradient, Operand};

/// Queries or keys of a tile.
const TILE: usize = 64;
/// Threads of a block: four warps, which own 16 rows of the tile each.
const THREADS: u32 = 128;
/// Widest head whose tiles and sums a block has room for.
const WIDEST: usize = 128;

impl Attention {
    /// Bytes of so many tiles in shared memory: rows padded to the matrix unit's depth, and by 16 bytes against bank
    /// conflicts.
    fn tile_bytes(&self, tiles: usize) -> usize {
        tiles * TILE * (self.head_dim.next_multiple_of(16) + 8) * size_of::<bf16>()
    }

    /// A block for each tile of `positions` of each head of each sequence.
    fn grid(&self, positions: usize, rows: usize, heads: usize, tiles: usize) -> Grid {
        let blocks = (positions.div_ceil(TILE), heads, rows / self.cols);
        Grid::new(blocks, THREADS).shared(self.tile_bytes(tiles))
    }

    fn shape_params(&self) -> [Param; 7] {
        let Globals { every, rows } = self.reach.globals;
        let [every, rows] = [every, rows].map(|n| Param::from(n as usize));
        let [cols, heads, kv_heads, window] =
            [self.cols, self.heads, self.kv_heads, self.reach.window].map(Param::from);
        [cols, heads, kv_heads, window, every, rows, self.scale().into()]
    }

    fn check(&self, qkv: Operand<'_>) -> Result<Module> {
        if qkv.width() != self.wide() || self.cols == 0 || !qkv.rows().is_multiple_of(self.cols) {
            bail!("attention over {} rows of {} values", qkv.rows(), qkv.width());
        }
        if self.head_dim > WIDEST {
            bail!("heads of {} channels: the device's attention takes {WIDEST} at most", self.head_dim);
        }
        Ok(Module::Attention(self.head_dim))
    }
}

impl Attention {
    /// The result `[b·t, heads·d]`, and log2 of each row's sum of exponentials `[b, heads, t]`, from which the backward
    /// pass finds the probabilities again.
    pub(super) fn device_attend(&self, qkv: Operand<'_>) -> Result<(DeviceRows, CudaSlice<f32>)> {
        let module = self.check(qkv)?;
        let (device, rows) = (qkv.device(), qkv.rows());
        let (cos, sin) = self.rope.on(device)?;
        let out = output::<bf16>(device, rows * self.narrow())?;
        let log_sums = output::<f32>(device, rows * self.heads)?;
        let operands = [(&qkv.bf16()?).into(), cos.into(), sin.into(), (&out).into(), (&log_sums).into()];
        let params: Vec<Param> = operands.into_iter().chain(self.shape_params()).collect();
        launch(device, module, "attention", self.grid(self.cols, rows, self.heads, 3), &params)?;
        let out = CudaStorage::wrap_cuda_slice(out, device.clone());
        Ok(((out, Shape::from((rows, self.narrow()))).into(), log_sums))
    }

    /// Gradient of `qkv`, given what [`Attention::device_attend`] made of it and the gradient of its result.
    pub(super) fn device_gradient(
        &self,
        qkv: Operand<'_>,
        result: Operand<'_>,
        log_sums: &CudaSlice<f32>,
        grad: Operand<'_>,
    ) -> Result<DeviceRows> {
        let module = self.check(qkv)?;
        let (device, rows, shape) = (qkv.device(), qkv.rows(), Shape::from(qkv.dims()));
        let (cos, sin) = self.rope.on(device)?;
        let (qkv, result, grad) = (qkv.bf16()?, result.bf16()?, grad.bf16()?);
        let dqkv = output::<bf16>(device, qkv.len())?;
        // Σ dout · out of each row, which the queries' kernel leaves for the keys'.
        let deltas = output::<f32>(device, rows * self.heads)?;
        let inputs = [Param::from(&qkv), cos.into(), sin.into()];
        let between: [Param; 2] = [log_sums.into(), (&deltas).into()];
        let extents = self.shape_params();
        let queries =
            [&inputs[..], &[(&result).into(), (&grad).into(), (&dqkv).into()], &between, &extents].concat();
        launch(
            device,
            module,
            "attention_backward_queries",
            self.grid(self.cols, rows, self.heads, 3),
            &queries,
        )?;
        let keys = [&inputs[..], &[(&grad).into()], &between, &[(&dqkv).into()], &extents].concat();
        launch(
            device,
            module,
            "attention_backward_keys",
            self.grid(self.cols, rows, self.kv_heads, 2),
            &keys,
        )?;
        // Those that some query sees from beyond its window.
        let globals = self.reach.globals.departed(self.cols as u32 - 1, self.reach.window as u32) as usize;
        if globals > 0 {
            let grid = self.grid(globals, rows, self.kv_heads, 2);
            launch(device, module, "attention_backward_globals", grid, &keys)?;
        }
        Ok((CudaStorage::wrap_cuda_slice(dqkv, device.clone()), shape).into())
    }
}

impl DeviceOp<1> for Attention {
    fn device_forward(&self, [qkv]: [Operand<'_>; 1]) -> Result<(CudaStorage, Shape)> {
        let shape = Shape::from((qkv.rows(), self.narrow()));
        Ok((self.device_attend(qkv)?.0.into_storage(), shape))
    }

    /// The forward pass again for its sums: an operation by itself keeps nothing. A block does.
    fn device_backward(
        &self,
        [qkv]: [Operand<'_>; 1],
        _result: Operand<'_>,
        grad: Operand<'_>,
        _wanted: [bool; 1],
    ) -> Result<[Gradient; 1]> {
        let (result, log_sums) = self.device_attend(qkv)?;
        let dqkv = self.device_gradient(qkv, result.operand()?, &log_sums, grad)?;
        Ok([Gradient::Values(dqkv.into_storage())])
    }
}
