//! Compiling and launching kernels. With `gemm` the only file of the device's operations that holds unsafe code.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::cuda::cudarc::driver::{
    CudaSlice, CudaView, DevicePtr, DeviceRepr, DeviceSlice, LaunchConfig, PushKernelArg, sys,
};
use candle_core::cuda::cudarc::nvrtc;
use candle_core::{CudaDevice, Error, Result};

/// Threads of a block of row kernels: eight warps.
pub(crate) const THREADS: u32 = 256;
/// Shared memory a block may use without asking, in bytes.
const SHARED: u32 = 48 << 10;

/// One source file of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Module {
    /// For rows of a type that go through a prologue, so many neighbours at a time.
    Activations {
        bf16: bool,
        prologue: u8,
        vector: usize,
    },
    Outcomes,
    Dropout,
    Weights,
    /// For heads of so many channels.
    Attention(usize),
    Norm,
    Memory,
    /// Memories that are matrices, of a width.
    Associate(usize),
    Embedding,
    Loss,
    /// The loops of the optimisers.
    Optimizer,
}

impl Module {
    fn source(self) -> &'static str {
        match self {
            Module::Activations { .. } => include_str!("kernels/activations.cu"),
            Module::Outcomes => include_str!("kernels/outcomes.cu"),
            Module::Dropout => include_str!("kernels/dropout.cu"),
            Module::Weights => include_str!("kernels/weights.cu"),
            Module::Attention(_) => include_str!("kernels/attention.cu"),
            Module::Norm => include_str!("kernels/norm.cu"),
            Module::Memory => include_str!("kernels/memory.cu"),
            Module::Associate(_) => include_str!("kernels/associate.cu"),
            Module::Embedding => include_str!("kernels/embedding.cu"),
            Module::Loss => include_str!("kernels/loss.cu"),
            Module::Optimizer => include_str!("../../../optim/cuda/optimizer.cu"),
        }
    }

    /// What the source is compiled for.
    fn defines(self) -> Vec<String> {
        match self {
            Module::Activations { bf16, prologue, vector } => vec![
                format!("-DBF16={}", u8::from(bf16)),
                format!("-DPROLOGUE={prologue}"),
                format!("-DVECTOR={vector}"),
            ],
            Module::Attention(head) => vec![format!("-DHEAD={head}")],
            Module::Associate(width) => vec![format!("-DWIDTH={width}")],
            _ => Vec::new(),
        }
    }
}

/// A kernel argument. Addresses are those of live allocations of the launching device.
#[derive(Clone, Copy)]
pub(crate) enum Param {
    Address(u64),
    Int(i32),
    Word(u32),
    Count(usize),
    Float(f32),
    Double(f64),
}

impl Param {
    /// A pointer that the kernel takes for "not given".
    pub(crate) const NONE: Self = Param::Address(0);
}

impl<T> From<&CudaSlice<T>> for Param {
    fn from(slice: &CudaSlice<T>) -> Self {
        Param::Address(slice.device_ptr(slice.stream()).0)
    }
}

impl<T> From<&CudaView<'_, T>> for Param {
    fn from(view: &CudaView<'_, T>) -> Self {
        Param::Address(view.device_ptr(view.stream()).0)
    }
}

impl<T> From<Option<&CudaSlice<T>>> for Param {
    fn from(slice: Option<&CudaSlice<T>>) -> Self {
        slice.map_or(Param::NONE, Param::from)
    }
}

impl<T> From<Option<&CudaView<'_, T>>> for Param {
    fn from(view: Option<&CudaView<'_, T>>) -> Self {
        view.map_or(Param::NONE, Param::from)
    }
}

/// Extents and indices, which kernels take as `int`: tensors of more than 2³¹ rows or columns do not fit a device.
impl From<usize> for Param {
    fn from(value: usize) -> Self {
        Param::Int(i32::try_from(value).unwrap_or(i32::MAX))
    }
}

impl From<f32> for Param {
    fn from(value: f32) -> Self {
        Param::Float(value)
    }
}

impl From<f64> for Param {
    fn from(value: f64) -> Self {
        Param::Double(value)
    }
}

/// Blocks and threads of a launch.
#[derive(Clone, Copy)]
pub(crate) struct Grid {
    blocks: (u32, u32, u32),
    threads: u32,
    shared: u32,
}

impl Grid {
    /// So many blocks of so many threads.
    pub(crate) fn new(blocks: (usize, usize, usize), threads: u32) -> Self {
        let fit = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { blocks: (fit(blocks.0), fit(blocks.1), fit(blocks.2)), threads, shared: 0 }
    }

    /// One thread an element.
    pub(crate) fn elements(count: usize) -> Self {
        Self::new((count.div_ceil(THREADS as usize), 1, 1), THREADS)
    }

    /// With so many bytes of dynamic shared memory.
    pub(super) fn shared(self, bytes: usize) -> Self {
        Self { shared: u32::try_from(bytes).unwrap_or(u32::MAX), ..self }
    }
}

/// Warps of a block whose warps each keep `floats` numbers in shared memory.
pub(super) fn warps_of_rows(floats: usize) -> usize {
    (SHARED as usize / 4 / floats.max(1)).clamp(1, THREADS as usize / 32)
}

/// Launches `name` of `module` on the device's stream; nothing happens for a grid without blocks.
///
/// # Errors
/// If the kernels cannot be compiled or the launch is refused.
pub(crate) fn launch(
    device: &CudaDevice,
    module: Module,
    name: &str,
    grid: Grid,
    params: &[Param],
) -> Result<()> {
    let (x, y, z) = grid.blocks;
    if x == 0 || y == 0 || z == 0 {
        return Ok(());
    }
    let function =
        device.get_or_load_custom_func(name, &format!("{module:?}"), &compiled(device, module)?)?;
    if grid.shared > SHARED {
        let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(attribute, grid.shared as i32).map_err(Error::wrap)?;
    }
    let mut builder = function.builder();
    for param in params {
        match param {
            Param::Address(v) => builder.arg(v),
            Param::Int(v) => builder.arg(v),
            Param::Word(v) => builder.arg(v),
            Param::Count(v) => builder.arg(v),
            Param::Float(v) => builder.arg(v),
            Param::Double(v) => builder.arg(v),
        };
    }
    let config = LaunchConfig {
        grid_dim: grid.blocks,
        block_dim: (grid.threads, 1, 1),
        shared_mem_bytes: grid.shared,
    };
    #[cfg(test)]
    let started = super::tests::probe::before(device)?;
    // SAFETY: the launchers in this folder give each kernel the parameters its source declares, in number, order and
    // type, with extents that keep it inside the allocations behind its addresses (operands are checked by each
    // operation, outputs are allocated for it). Those are live: an allocation is freed in stream order, and the device
    // has one stream.
    unsafe { builder.launch(config) }.map_err(Error::wrap)?;
    #[cfg(test)]
    super::tests::probe::after(device, name, started)?;
    Ok(())
}

/// The module's code for the device's architecture, compiled once a process.
fn compiled(device: &CudaDevice, module: Module) -> Result<Arc<str>> {
    type Compiled = HashMap<(Module, (i32, i32)), Arc<str>>;
    static CACHE: OnceLock<Mutex<Compiled>> = OnceLock::new();
    let architecture = device.cuda_stream().context().compute_capability().map_err(Error::wrap)?;
    if architecture < (8, 0) {
        let (major, minor) = architecture;
        return Err(Error::msg(format!(
            "a GPU of compute capability {major}.{minor}: products of bf16 take one of 8.0 or higher"
        )));
    }
    let cache = CACHE.get_or_init(Mutex::default);
    let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(code) = cache.get(&(module, architecture)) {
        return Ok(code.clone());
    }
    let source = [include_str!("kernels/common.cu"), module.source()].concat();
    let target = format!("--gpu-architecture=compute_{}{}", architecture.0, architecture.1);
    let options = [vec![target, "--std=c++17".to_owned()], module.defines()].concat();
    let options = nvrtc::CompileOptions { options, ..Default::default() };
    let code = nvrtc::compile_ptx_with_opts(source, options)
        .map_err(|e| Error::msg(format!("the kernels of {module:?} do not compile for this device: {e}")))?;
    let code: Arc<str> = code.to_src().into();
    cache.insert((module, architecture), code.clone());
    Ok(code)
}

/// Memory for `len` elements that a kernel is about to write, every one of them.
///
/// # Errors
/// If the device has not that much left.
pub(crate) fn output<T: DeviceRepr>(device: &CudaDevice, len: usize) -> Result<CudaSlice<T>> {
    // SAFETY: `T` is f32, f64, bf16 or an integer, for which every bit pattern is valid, and the kernel that the
    // memory is for writes all of it before anything reads it.
    let out = unsafe { device.alloc::<T>(len)? };
    #[cfg(test)]
    super::tests::probe::poison(&out)?;
    Ok(out)
}
