//! How many floating point operations of f32 matrix products the `gemm` crate, which the trainer uses, does a second.

use gemm::Parallelism;

use super::rate;
use crate::stats::Summary;

/// Rows and columns of the matrices: large enough that packing them costs little, small enough for the caches.
const SIZE: usize = 512;

/// Operations a second of `threads` threads together, each with matrices of its own.
pub(crate) fn sgemm_peak(threads: usize) -> Summary {
    let operations = 2.0 * (SIZE * SIZE * SIZE) as f64 * threads as f64;
    rate(threads, operations, &|_| {
        let (a, b) = (vec![0.5f32; SIZE * SIZE], vec![0.25f32; SIZE * SIZE]);
        let mut c = vec![0f32; SIZE * SIZE];
        move |times: u64| (0..times).for_each(|_| multiply(&a, &b, &mut c))
    })
}

/// `c = a · b`, row-major.
fn multiply(a: &[f32], b: &[f32], c: &mut [f32]) {
    let step = SIZE as isize;
    assert!([a.len(), b.len(), c.len()].iter().all(|len| *len >= SIZE * SIZE), "a matrix is too small");
    // SAFETY: every element of the three SIZE × SIZE matrices lies inside its slice, as has just been checked, and
    // `c` is borrowed exclusively.
    unsafe {
        gemm::gemm(
            SIZE,
            SIZE,
            SIZE,
            c.as_mut_ptr(),
            1,
            step,
            false,
            a.as_ptr(),
            1,
            step,
            b.as_ptr(),
            1,
            step,
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_right_and_counted() {
        let mut c = vec![0.0; SIZE * SIZE];
        multiply(&vec![0.5; SIZE * SIZE], &vec![0.25; SIZE * SIZE], &mut c);
        assert!(c.iter().all(|v| *v == 0.125 * SIZE as f32));
        assert!((1e8..1e14).contains(&sgemm_peak(1).max));
    }
}
