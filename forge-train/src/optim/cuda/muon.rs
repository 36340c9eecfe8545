//! Newton–Schulz on a device: maps of one shape are one batch of bf16 products that sum in f32.

use std::collections::BTreeMap;

use candle_core::cuda::cudarc::driver::CudaSlice;
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Storage, Tensor};
use half::bf16;

use crate::error::Result;
use crate::nn::ops::cuda::Operand;
use crate::nn::ops::cuda::launch::{Grid, Module, Param, launch, output};
use crate::optim::muon::{MuonConfig, QUINTIC};

/// Threads of the block that normalises a map.
const NORMALISING: u32 = 1024;

/// One map of a projection: rows of a variable, of its gradient and of its momentum.
pub(in crate::optim) struct Map {
    /// The variable.
    pub(in crate::optim) weight: Tensor,
    /// Its gradient.
    pub(in crate::optim) gradient: Tensor,
    /// Its momentum.
    pub(in crate::optim) momentum: Tensor,
    /// The map's first element in each of them.
    pub(in crate::optim) first: usize,
    /// Rows and columns of the map.
    pub(in crate::optim) shape: [usize; 2],
    /// Factor on the orthogonalised update.
    pub(in crate::optim) scale: f32,
}

impl Map {
    fn len(&self) -> usize {
        self.shape[0] * self.shape[1]
    }
}

/// One step of [`crate::optim::Muon`] over `maps`, those of one shape together.
pub(in crate::optim) fn muon(maps: Vec<Map>, config: &MuonConfig, lr: f32) -> Result<()> {
    let mut shapes: BTreeMap<[usize; 2], Vec<Map>> = BTreeMap::new();
    for map in maps {
        shapes.entry(map.shape).or_default().push(map);
    }
    shapes.values().try_for_each(|maps| alike(maps, config, lr))
}

/// The step over maps of one shape.
fn alike(maps: &[Map], config: &MuonConfig, lr: f32) -> Result<()> {
    let device = maps[0].weight.device().as_cuda_device()?;
    let (len, [rows, cols]) = (maps[0].len(), maps[0].shape);
    let looked_ahead: CudaSlice<f32> = output(device, maps.len() * len)?;
    for (at, map) in maps.iter().enumerate() {
        let own = looked_ahead.slice(at * len..(at + 1) * len);
        let params = [
            (&own).into(),
            part(&map.momentum, map)?,
            part(&map.gradient, map)?,
            Param::Count(len),
            config.beta.into(),
        ];
        launch(device, Module::Optimizer, "muon_momentum", Grid::elements(len), &params)?;
    }
    let normal: CudaSlice<bf16> = output(device, maps.len() * len)?;
    let params = [(&looked_ahead).into(), (&normal).into(), Param::Count(len)];
    let grid = Grid::new((maps.len(), 1, 1), NORMALISING);
    launch(device, Module::Optimizer, "muon_normalise", grid, &params)?;
    let directions = orthogonalise(tensor(normal, device, [maps.len(), rows, cols]), config.iterations)?;
    let (storage, layout) = directions.storage_and_layout();
    let directions = Operand::of(&storage, layout)?.bf16()?;
    for (at, map) in maps.iter().enumerate() {
        let own = directions.slice(at * len..(at + 1) * len);
        let params = [
            part(&map.weight, map)?,
            (&own).into(),
            Param::Count(len),
            (1.0 - lr * config.weight_decay).into(),
            (lr * map.scale).into(),
        ];
        launch(device, Module::Optimizer, "muon_apply", Grid::elements(len), &params)?;
    }
    Ok(())
}

/// About `U Vᵀ` of each matrix of `x [maps, rows, cols]`, whose norms are 1 at most.
fn orthogonalise(mut x: Tensor, iterations: u32) -> Result<Tensor> {
    let (a, b, c) = QUINTIC;
    let wide = x.dim(1)? <= x.dim(2)?;
    for _ in 0..iterations {
        let transposed = x.transpose(1, 2)?;
        // The Gram matrix is taken on the short side: X (Xᵀ X) is (X Xᵀ) X.
        let gram = if wide { x.matmul(&transposed)? } else { transposed.matmul(&x)? };
        let polynomial = mix(&gram, &gram.matmul(&gram)?, b, c)?;
        let product = if wide { polynomial.matmul(&x)? } else { x.matmul(&polynomial)? };
        x = mix(&x, &product, a, 1.0)?;
    }
    Ok(x)
}

/// `a·x + b·y` in bf16.
fn mix(x: &Tensor, y: &Tensor, a: f32, b: f32) -> Result<Tensor> {
    let ((sx, lx), (sy, ly)) = (x.storage_and_layout(), y.storage_and_layout());
    let (first, second) = (Operand::of(&sx, lx)?, Operand::of(&sy, ly)?);
    let device = first.device();
    let out: CudaSlice<bf16> = output(device, first.len())?;
    let count = Param::Count(first.len());
    let params =
        [(&first.bf16()?).into(), (&second.bf16()?).into(), (&out).into(), count, a.into(), b.into()];
    launch(device, Module::Optimizer, "muon_mix", Grid::elements(first.len()), &params)?;
    let (maps, rows, cols) = x.dims3()?;
    Ok(tensor(out, device, [maps, rows, cols]))
}

/// The address of a map's elements in `whole`.
fn part(whole: &Tensor, map: &Map) -> Result<Param> {
    let (storage, layout) = whole.storage_and_layout();
    let elements = Operand::of(&storage, layout)?.f32()?;
    Ok((&elements.slice(map.first..map.first + map.len())).into())
}

/// A tensor of what a kernel wrote.
fn tensor(values: CudaSlice<bf16>, device: &CudaDevice, shape: [usize; 3]) -> Tensor {
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(values, device.clone()));
    Tensor::from_storage(storage, shape.to_vec(), BackpropOp::none(), false)
}
