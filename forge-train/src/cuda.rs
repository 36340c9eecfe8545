//! A card as the trainer opens it: one stream for everything, memory that is kept, and what it holds at most.

use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::CudaContext;
use candle_core::cuda::cudarc::driver::sys::{self, CUmemPool_attribute};
use candle_core::{CudaDevice, Device, Result};

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
