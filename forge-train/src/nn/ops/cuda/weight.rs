//! A matrix in the form the device multiplies it in, made from its f32 master once a forward pass.

use candle_core::cuda::cudarc::driver::CudaSlice;
use candle_core::{Result, Tensor, bail};
use half::bf16;

use super::super::quant::{Blend, Grid};
use super::Operand;
use super::launch::{Grid as Blocks, Module, THREADS, launch, output};
use super::linear::rounded;

/// A matrix `[rows, cols]` rounded for products.
pub(crate) struct DeviceWeight {
    /// What gradients flow through: the rounded matrix, with its scales and its share of the blend.
    pub(super) effective: CudaSlice<bf16>,
    /// The integer form, none for a float matrix.
    pub(super) codes: Option<Codes>,
}

/// A matrix as its integer codec has it.
pub(super) struct Codes {
    /// Integers, row-major.
    pub(super) values: CudaSlice<bf16>,
    /// One scale a row.
    pub(super) scales: CudaSlice<f32>,
    /// How it is blended with the master.
    pub(super) blend: Blend,
}

impl DeviceWeight {
    /// Rounds the f32 master `[rows, cols]` to bf16 or, row by row, to the integers of `grid`.
    ///
    /// # Errors
    /// If the master is not an f32 matrix on a CUDA device.
    pub(crate) fn new(master: &Tensor, grid: Option<(Grid, Blend)>) -> Result<Self> {
        let (storage, layout) = master.storage_and_layout();
        let master = Operand::of(&storage, layout)?;
        let device = master.device();
        let Some((grid, blend)) = grid else {
            return Ok(Self { effective: rounded(master)?, codes: None });
        };
        let &[rows, cols] = master.dims() else { bail!("weights must be a matrix") };
        let ternary = usize::from(grid == Grid::Ternary);
        let values = output::<bf16>(device, master.len())?;
        let effective = output::<bf16>(device, master.len())?;
        let scales = output::<f32>(device, rows)?;
        let blocks = Blocks::new((rows.div_ceil(THREADS as usize / 32), 1, 1), THREADS);
        launch(
            device,
            Module::Weights,
            "quantise_rows",
            blocks,
            &[
                (&master.f32()?).into(),
                (&values).into(),
                (&scales).into(),
                (&effective).into(),
                rows.into(),
                cols.into(),
                ternary.into(),
                blend.lambda.into(),
            ],
        )?;
        Ok(Self { effective, codes: Some(Codes { values, scales, blend }) })
    }

    /// Factor between the gradient of a rounded value and that of its master.
    pub(super) fn gradient_factor(&self) -> f32 {
        self.codes.as_ref().map_or(1.0, |codes| codes.blend.gradient())
    }
}

impl Codes {
    /// Whether the map runs on integers exactly as the runtime does.
    pub(super) fn exact(&self) -> bool {
        self.blend.lambda >= 1.0
    }
}
