//! What tests see of the launches: their number, their times, and whether they write all of their output.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::cuda::cudarc::driver::{CudaEvent, CudaSlice, DevicePtr, result, sys};
use candle_core::{CudaDevice, Error, Result};

/// A launch and the events around it.
struct Span {
    name: String,
    start: CudaEvent,
    end: CudaEvent,
}

#[derive(Default)]
struct Probe {
    launches: usize,
    poison: bool,
    timed: Option<Vec<Span>>,
}

static PROBE: Mutex<Probe> = Mutex::new(Probe { launches: 0, poison: false, timed: None });

fn with<R>(f: impl FnOnce(&mut Probe) -> R) -> R {
    f(&mut PROBE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Whether new outputs are filled with NaN.
pub(super) fn set_poison(on: bool) {
    with(|p| p.poison = on);
}

/// Launches since the last call.
pub(super) fn take_launches() -> usize {
    with(|p| std::mem::take(&mut p.launches))
}

/// Times every launch from now on.
pub(super) fn start_timing() {
    with(|p| p.timed = Some(Vec::new()));
}

/// Milliseconds and number of launches of each kernel since [`start_timing`], the slowest first.
pub(super) fn stop_timing() -> Vec<(String, f32, usize)> {
    let spans = with(|p| p.timed.take()).unwrap_or_default();
    let mut sums: BTreeMap<String, (f32, usize)> = BTreeMap::new();
    for span in spans {
        let sum = sums.entry(span.name).or_default();
        sum.0 += span.start.elapsed_ms(&span.end).unwrap();
        sum.1 += 1;
    }
    let mut sums: Vec<_> = sums.into_iter().map(|(name, (ms, count))| (name, ms, count)).collect();
    sums.sort_by(|a, b| b.1.total_cmp(&a.1));
    sums
}

fn event(device: &CudaDevice) -> Result<CudaEvent> {
    let timed = sys::CUevent_flags::CU_EVENT_DEFAULT;
    device.cuda_stream().record_event(Some(timed)).map_err(Error::wrap)
}

/// Called ahead of a launch.
pub(crate) fn before(device: &CudaDevice) -> Result<Option<CudaEvent>> {
    with(|p| p.launches += 1);
    with(|p| p.timed.is_some()).then(|| event(device)).transpose()
}

/// Called behind a launch, with what [`before`] returned.
pub(crate) fn after(device: &CudaDevice, name: &str, start: Option<CudaEvent>) -> Result<()> {
    let Some(start) = start else { return Ok(()) };
    let end = event(device)?;
    with(|p| p.timed.as_mut().map(|spans| spans.push(Span { name: name.to_owned(), start, end })));
    Ok(())
}

/// Fills a new output with bytes that are NaN in f32, f64 and bf16.
pub(crate) fn poison<T>(out: &CudaSlice<T>) -> Result<()> {
    if !with(|p| p.poison) || out.is_empty() {
        return Ok(());
    }
    let stream = out.stream();
    let (address, _guard) = out.device_ptr(stream);
    // SAFETY: the range is the whole of a live allocation, and every bit pattern is valid for its type.
    unsafe { result::memset_d8_async(address, 0xFF, out.num_bytes(), stream.cu_stream()) }
        .map_err(Error::wrap)
}
