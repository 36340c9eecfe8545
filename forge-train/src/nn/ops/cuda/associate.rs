//! The memory that is a matrix: a block a sequence, its state in registers.

use candle_core::cuda::cudarc::driver::CudaSlice;
use candle_core::{CudaStorage, Result, Shape, bail};
use half::bf16;

use super::super::associate::Associate;
use super::launch::{Grid, Module, Param, launch, output};
use super::norm::sum_columns;
use super::{DeviceOp, Gradient, Operand};

/// Groups of threads that share the rows of the matrix; `GROUPS` of the kernels.
const GROUPS: usize = 4;
/// Widest memory: a block has no more threads.
const WIDEST: usize = 1024 / GROUPS;
/// Gates of a token.
const GATES: usize = 3;
/// Tokens between two states that the backward pass begins from.
const SEGMENT: usize = 16;
/// Threads of the kernels that take a warp a token.
const THREADS: usize = 256;

/// One operation's extents.
struct Extents {
    width: usize,
    rows: usize,
    sequences: usize,
}

impl Associate {
    fn extents(&self, projected: Operand<'_>, bias: Operand<'_>) -> Result<Extents> {
        let (columns, rows) = (projected.width(), projected.rows());
        let fits = columns > GATES && (columns - GATES).is_multiple_of(3) && bias.len() == GATES;
        if !fits || self.cols == 0 || !rows.is_multiple_of(self.cols) {
            bail!("a memory's keys, values, queries and gates in {rows} rows of {columns} values");
        }
        let width = (columns - GATES) / 3;
        if width > WIDEST {
            bail!("a memory {width} wide: a device takes at most {WIDEST}");
        }
        Ok(Extents { width, rows, sequences: rows / self.cols })
    }
}

impl Extents {
    fn module(&self) -> Module {
        Module::Associate(self.width)
    }

    fn warps(&self) -> Grid {
        Grid::new(((32 * self.rows).div_ceil(THREADS), 1, 1), THREADS as u32)
    }

    fn blocks(&self) -> Grid {
        let lanes = self.width.next_multiple_of(32);
        Grid::new((self.sequences, 1, 1), (GROUPS * lanes) as u32)
    }

    /// Tokens behind their non-linearities.
    fn tokens(&self, projected: Operand<'_>, bias: Operand<'_>) -> Result<CudaSlice<f32>> {
        let tokens = output::<f32>(projected.device(), projected.len())?;
        let params = [(&projected.bf16()?).into(), (&bias.f32()?).into(), (&tokens).into(), self.rows.into()];
        launch(projected.device(), self.module(), "activate", self.warps(), &params)?;
        Ok(tokens)
    }
}

impl DeviceOp<2> for Associate {
    fn device_forward(&self, [projected, bias]: [Operand<'_>; 2]) -> Result<(CudaStorage, Shape)> {
        let (device, e) = (projected.device(), self.extents(projected, bias)?);
        let tokens = e.tokens(projected, bias)?;
        let reads = output::<bf16>(device, e.rows * e.width)?;
        let params =
            [(&tokens).into(), (&reads).into(), Param::NONE, Param::NONE, self.cols.into(), SEGMENT.into()];
        launch(device, e.module(), "associate", e.blocks(), &params)?;
        Ok((CudaStorage::wrap_cuda_slice(reads, device.clone()), (e.rows, e.width).into()))
    }

    fn device_backward(
        &self,
        [projected, bias]: [Operand<'_>; 2],
        _result: Operand<'_>,
        grad: Operand<'_>,
        _wanted: [bool; 2],
    ) -> Result<[Gradient; 2]> {
        let (device, e) = (projected.device(), self.extents(projected, bias)?);
        let tokens = e.tokens(projected, bias)?;
        let state = 2 * e.width * e.width;
        let errors = output::<f32>(device, e.rows * e.width)?;
        let kept = output::<f32>(device, e.sequences * self.cols.div_ceil(SEGMENT) * state)?;
        let params = [
            (&tokens).into(),
            Param::NONE,
            (&errors).into(),
            (&kept).into(),
            self.cols.into(),
            SEGMENT.into(),
        ];
        launch(device, e.module(), "associate", e.blocks(), &params)?;
        let scratch = output::<f32>(device, e.sequences * SEGMENT.min(self.cols) * state)?;
        let dtokens = output::<f32>(device, projected.len())?;
        let params = [
            (&tokens).into(),
            (&errors).into(),
            (&kept).into(),
            (&scratch).into(),
            (&grad.bf16()?).into(),
            (&dtokens).into(),
            self.cols.into(),
            SEGMENT.min(self.cols).into(),
        ];
        launch(device, e.module(), "associate_backward", e.blocks(), &params)?;
        let dprojected = output::<bf16>(device, projected.len())?;
        let dgates = output::<f32>(device, e.rows * GATES)?;
        let params = [
            (&projected.bf16()?).into(),
            (&bias.f32()?).into(),
            (&dtokens).into(),
            (&dprojected).into(),
            (&dgates).into(),
            e.rows.into(),
        ];
        launch(device, e.module(), "activate_backward", e.warps(), &params)?;
        let dbias = sum_columns(device, &dgates, e.rows, GATES)?;
        let dprojected = CudaStorage::wrap_cuda_slice(dprojected, device.clone());
        Ok([Gradient::Values(dprojected), Gradient::Values(dbias)])
    }
}
