//! Window attention by tiles on the tensor cores.

use candle_core::{CudaStorage, Result, Shape, bail};
use half::bf16;

use super::super::attention::Attention;
use super::launch::{Grid, Module, Param, launch, output};
use super::{DeviceOp, Gradient, Operand};

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

    fn grid(&self, rows: usize, heads: usize, tiles: usize) -> Grid {
        Grid::new((self.cols.div_ceil(TILE), heads, rows / self.cols), THREADS).shared(self.tile_bytes(tiles))
    }

    fn shape_params(&self) -> [Param; 5] {
        [self.cols.into(), self.heads.into(), self.kv_heads.into(), self.window.into(), self.scale().into()]
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

impl DeviceOp<1> for Attention {
    fn device_forward(&self, [qkv]: [Operand<'_>; 1]) -> Result<(CudaStorage, Shape)> {
        let module = self.check(qkv)?;
        let (device, rows) = (qkv.device(), qkv.rows());
        let (cos, sin) = self.rope.on(device)?;
        let out = output::<bf16>(device, rows * self.narrow())?;
        let operands = [(&qkv.bf16()?).into(), cos.into(), sin.into(), (&out).into()];
        let params: Vec<Param> = operands.into_iter().chain(self.shape_params()).collect();
        launch(device, module, "attention", self.grid(rows, self.heads, 3), &params)?;
        Ok((CudaStorage::wrap_cuda_slice(out, device.clone()), (rows, self.narrow()).into()))
    }

    fn device_backward(
        &self,
        [qkv]: [Operand<'_>; 1],
        result: Operand<'_>,
        grad: Operand<'_>,
        _wanted: [bool; 1],
    ) -> Result<[Gradient; 1]> {
        let module = self.check(qkv)?;
        let (device, rows) = (qkv.device(), qkv.rows());
        let (cos, sin) = self.rope.on(device)?;
        let (qkv, grad) = (qkv.bf16()?, grad.bf16()?);
        let dqkv = output::<bf16>(device, qkv.len())?;
        // Of each query row, head by head: log2 of its sum of exponentials, and Σ dout · out.
        let log_sums = output::<f32>(device, rows * self.heads)?;
        let deltas = output::<f32>(device, rows * self.heads)?;
        let inputs = [Param::from(&qkv), cos.into(), sin.into()];
        let between: [Param; 2] = [(&log_sums).into(), (&deltas).into()];
        let (shape, result) = (self.shape_params(), result.bf16()?);
        let queries =
            [&inputs[..], &[(&result).into(), (&grad).into(), (&dqkv).into()], &between, &shape].concat();
        let grid = self.grid(rows, self.heads, 3);
        launch(device, module, "attention_backward_queries", grid, &queries)?;
        let keys = [&inputs[..], &[(&grad).into()], &between, &[(&dqkv).into()], &shape].concat();
        launch(device, module, "attention_backward_keys", self.grid(rows, self.kv_heads, 2), &keys)?;
        Ok([Gradient::Values(CudaStorage::wrap_cuda_slice(dqkv, device.clone()))])
    }
}
