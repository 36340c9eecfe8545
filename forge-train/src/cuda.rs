//! Kernels for NVIDIA GPUs: CUDA C++ that NVRTC compiles for the card at hand when a kernel is first asked for.
//!
//! Nothing is compiled at build time and one program serves every card. All work of a device goes through its one
//! stream (see [`crate::device`]), so launches run in the order they are made and need no events between them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use candle_core::cuda_backend::cudarc::driver::sys::{self, CUmemPool_attribute};
use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaFunction, CudaModule, LaunchConfig};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileError, CompileOptions, compile_ptx_with_opts};
use candle_core::cuda_backend::{CudaDevice, DeviceId, WrapErr};
use candle_core::{Device, Error, Result};

/// Threads of a block where a kernel works on elements one by one.
const THREADS: u32 = 256;

/// A file of kernels.
pub(crate) struct Source {
    /// Name in messages, unique in the program.
    pub(crate) name: &'static str,
    /// CUDA C++ without includes: a user's machine has NVRTC, not the toolkit's headers.
    pub(crate) text: &'static str,
}

/// Compiled files by device and name, loaded kernels by device, file and name.
#[derive(Default)]
struct Loaded {
    modules: HashMap<(DeviceId, &'static str), Arc<CudaModule>>,
    functions: HashMap<(DeviceId, &'static str, &'static str), CudaFunction>,
}

impl Source {
    /// The kernel called `kernel`, compiled if this is the first time the device needs the file.
    ///
    /// # Errors
    /// What the compiler says, or that the file has no such kernel.
    pub(crate) fn kernel(&self, device: &CudaDevice, kernel: &'static str) -> Result<CudaFunction> {
        static LOADED: OnceLock<Mutex<Loaded>> = OnceLock::new();
        let mut loaded = LOADED.get_or_init(Mutex::default).lock().unwrap_or_else(|e| e.into_inner());
        if let Some(function) = loaded.functions.get(&(device.id(), self.name, kernel)) {
            return Ok(function.clone());
        }
        let module = match loaded.modules.get(&(device.id(), self.name)) {
            Some(module) => module.clone(),
            None => {
                let module = self.compile(device)?;
                loaded.modules.insert((device.id(), self.name), module.clone());
                module
            }
        };
        let function = module.load_function(kernel).w()?;
        loaded.functions.insert((device.id(), self.name, kernel), function.clone());
        Ok(function)
    }

    fn compile(&self, device: &CudaDevice) -> Result<Arc<CudaModule>> {
        let stream = device.cuda_stream();
        let (major, minor) = stream.context().compute_capability().w()?;
        let options = CompileOptions {
            name: Some(self.name.to_owned()),
            options: vec![format!("--gpu-architecture=compute_{major}{minor}"), "--std=c++17".to_owned()],
            ..CompileOptions::default()
        };
        let ptx = compile_ptx_with_opts(self.text, options).map_err(|error| match error {
            CompileError::CompileError { log, .. } => {
                Error::msg(format!("{} does not compile: {}", self.name, log.to_string_lossy()))
            }
            other => Error::msg(format!("{} cannot be compiled: {other:?}", self.name)),
        })?;
        stream.context().load_module(ptx).w()
    }
}

/// A grid with a thread for each of `n` elements.
pub(crate) fn elements(n: usize) -> LaunchConfig {
    blocks(n.div_ceil(THREADS as usize), THREADS)
}

/// A grid of `blocks` blocks of `threads` threads in one dimension, without dynamic shared memory.
pub(crate) fn blocks(blocks: usize, threads: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks as u32, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}

/// Opens card `ordinal` with one stream for everything, so that no tensor is ever used from two.
///
/// # Errors
/// What the driver says.
///
/// # Panics
/// Where a library of CUDA is missing: that is how candle's bindings say so.
pub(crate) fn open(ordinal: usize) -> Result<Device> {
    let device = CudaDevice::new_with_stream(ordinal)?;
    // SAFETY: the device has one stream, through which every allocation, copy, launch and release goes in the order it
    // is made; the events that would order several streams are not needed.
    unsafe { device.disable_event_tracking() };
    // Otherwise each wait for the device would give the memory that tensors left back to the system.
    set_pool(&device, CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, u64::MAX)?;
    Ok(Device::Cuda(device))
}

/// Number of cards.
///
/// # Errors
/// What the driver says.
///
/// # Panics
/// As [`open`].
pub(crate) fn count() -> Result<usize> {
    Ok(CudaContext::device_count().w()? as usize)
}

/// The card's name.
///
/// # Errors
/// What the driver says.
pub(crate) fn name(device: &CudaDevice) -> Result<String> {
    device.cuda_stream().context().name().w()
}

/// Largest number of bytes that tensors took at a time since the last [`reset_peak_memory`].
///
/// # Errors
/// What the driver says.
pub(crate) fn peak_memory(device: &CudaDevice) -> Result<u64> {
    let mut bytes = 0u64;
    let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    // SAFETY: the pool is the device's own and the attribute is a u64.
    unsafe { sys::cuMemPoolGetAttribute(pool(device)?, attribute, (&raw mut bytes).cast()) }.result().w()?;
    Ok(bytes)
}

/// Starts counting [`peak_memory`] anew.
///
/// # Errors
/// What the driver says.
pub(crate) fn reset_peak_memory(device: &CudaDevice) -> Result<()> {
    set_pool(device, CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH, 0)
}

fn set_pool(device: &CudaDevice, attribute: CUmemPool_attribute, mut value: u64) -> Result<()> {
    // SAFETY: the pool is the device's own and both attributes that are set are u64.
    unsafe { sys::cuMemPoolSetAttribute(pool(device)?, attribute, (&raw mut value).cast()) }.result().w()
}

/// The pool that tensors of the device are allocated from.
fn pool(device: &CudaDevice) -> Result<sys::CUmemoryPool> {
    let mut pool = std::ptr::null_mut();
    // SAFETY: the context is alive while the device is, and `pool` has room for the handle.
    unsafe { sys::cuDeviceGetDefaultMemPool(&raw mut pool, device.cuda_stream().context().cu_device()) }
        .result()
        .w()?;
    Ok(pool)
}
