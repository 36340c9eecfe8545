//! The operations on a CUDA device against those on the CPU. Every test is skipped, with a message, where there is no
//! device.

mod network;
mod operations;
pub(crate) mod probe;
mod speed;

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use candle_core::{DType, Device, Tensor};
use half::bf16;

use crate::rng::Rng;

/// The device, for one test at a time: they share its stream, and the probe counts what is launched.
pub(crate) struct Gpu {
    pub(crate) device: Device,
    _alone: MutexGuard<'static, ()>,
}

/// The first device, with new memory poisoned so that an element a kernel leaves out is a NaN.
pub(crate) fn gpu() -> Option<Gpu> {
    static DEVICE: OnceLock<Option<Device>> = OnceLock::new();
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let device = DEVICE.get_or_init(|| crate::device::open("cuda").ok()).clone();
    if device.is_none() {
        println!("skipped: no CUDA device");
    }
    probe::set_poison(true);
    Some(Gpu { device: device?, _alone: alone })
}

/// `n` standard normal numbers.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed, &["noise"]);
    (0..n).map(|_| rng.normal()).collect()
}

/// What bf16 holds of the values.
fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|v| bf16::from_f32(*v).to_f32()).collect()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// `‖got − want‖ / ‖want‖`; NaN where a value is.
fn error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(want).map(|(g, w)| f64::from(*g) - f64::from(*w)));
    difference / norm(&mut want.iter().map(|w| f64::from(*w))).max(1e-30)
}

/// Comparisons of a test: all are made and printed before the test fails.
#[derive(Default)]
struct Report {
    failures: usize,
}

impl Report {
    fn check(&mut self, name: &str, got: &[f32], want: &[f32], tolerance: f64) {
        let error = error(got, want);
        let passed = error < tolerance;
        println!("{} {name}: {error:.1e} of {tolerance:.1e}", if passed { "ok" } else { "FAILED" });
        self.failures += usize::from(!passed);
    }

    #[track_caller]
    fn finish(self) {
        assert_eq!(self.failures, 0, "comparisons failed");
    }
}

#[test]
fn the_comparison_sees_small_differences_and_nan() {
    let want = noise(100, 1);
    let off: Vec<f32> = want.iter().map(|v| v * 1.02).collect();
    assert!(error(&off, &want) > 1.9e-2 && error(&want, &want) == 0.0);
    let mut missing = want.clone();
    missing[7] = f32::NAN;
    let mut report = Report::default();
    report.check("control: a value is missing", &missing, &want, 1.0);
    assert_eq!(report.failures, 1);
}
