use super::pack::round;
use super::*;
use crate::rng::Rng;

fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed, &["bf16"]);
    (0..n).map(|_| rng.normal()).collect()
}

fn rounded(x: f32) -> f32 {
    f32::from_bits(round(x) << 16)
}

#[test]
fn rounding_is_to_nearest_with_ties_to_even() {
    for (x, want) in [(1.0, 1.0), (256.0, 256.0), (257.0, 256.0), (259.0, 260.0), (-0.0, -0.0)] {
        assert_eq!(rounded(x).to_bits(), f32::to_bits(want), "{x}");
    }
    assert_eq!((rounded(f32::MAX), rounded(f32::NEG_INFINITY)), (f32::INFINITY, f32::NEG_INFINITY));
    assert_eq!(rounded(1e-40), 0.0);
    assert!(rounded(f32::NAN).is_nan());
    for x in noise(1000, 1) {
        assert!((rounded(x) - x).abs() <= x.abs() / 256.0);
    }
}

/// The product in the plainest loops, in the order of the sums that a kernel takes.
fn naive(kernel: Kernel, [m, n, k]: [usize; 3], a: &[f32], b: &[f32], alpha: f32) -> Vec<f32> {
    let one = |r: usize, c: usize| {
        let product = |i: usize| if i < k { rounded(a[r * k + i]) * rounded(b[i * n + c]) } else { 0.0 };
        let mut total = None;
        for top in (0..k).step_by(DEPTH) {
            let end = (top + DEPTH).min(k);
            let sum = match kernel.order() {
                Order::Pairs => (top..end).step_by(2).fold(0.0, |sum, i| (sum + product(i + 1)) + product(i)),
                Order::Spans => (top..end).step_by(2 * SPAN).fold(0.0, |sum, span| {
                    let part = |from| (from..span + 2 * SPAN).step_by(2).fold(0.0, |sum, i| sum + product(i));
                    sum + (part(span) + part(span + 1))
                }),
            };
            total = Some(total.map_or(alpha * sum, |t: f32| t + alpha * sum));
        }
        total.unwrap_or(0.0)
    };
    (0..m * n).map(|i| one(i / n, i % n)).collect()
}

enum Order {
    Pairs,
    Spans,
}

impl Kernel {
    fn order(self) -> Order {
        match self {
            Self::EmulatedPairs => Order::Pairs,
            Self::EmulatedTiles => Order::Spans,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Order::Pairs,
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Order::Spans,
        }
    }
}

/// Kernels to try: the emulations always, the instructions where they are.
fn kernels() -> Vec<Kernel> {
    let mut kernels = vec![Kernel::EmulatedPairs, Kernel::EmulatedTiles];
    #[cfg(target_arch = "x86_64")]
    {
        kernels.extend(avx512::available().then_some(Kernel::Avx512));
        kernels.extend(amx::available().then_some(Kernel::Amx));
    }
    kernels
}

#[test]
fn every_edge_and_layout_gives_the_plain_product() {
    for [m, n, k] in [[1, 1, 1], [12, 32, 2], [13, 33, 3], [97, 31, 513], [5, 600, 7], [200, 40, 1030]] {
        let (a, b) = (noise(m * k, 1), noise(k * n, 2));
        let transposed: Vec<f32> = (0..n * k).map(|i| b[i % k * n + i / k]).collect();
        for (kernel, threads) in kernels().into_iter().flat_map(|k| [(k, Threads::One), (k, Threads::All)]) {
            let want = naive(kernel, [m, n, k], &a, &b, 0.5);
            let mut c = vec![9.0; m * n];
            let right = Mat::new(&b, k, n);
            let dst = MatMut::new(&mut c, m, n);
            multiply_bf16(kernel, dst, Mat::new(&a, m, k), right, 0.5, false, threads);
            assert_eq!(c, want, "{kernel:?} {m} {n} {k}");
            let right = Mat::new(&transposed, n, k).t();
            let dst = MatMut::new(&mut c, m, n);
            let left: Vec<f32> = (0..m * k).map(|i| a[i % m * k + i / m]).collect();
            multiply_bf16(kernel, dst, Mat::new(&left, k, m).t(), right, 0.5, true, threads);
            // Twice the first product only where one block of the inner dimension makes it.
            if k <= DEPTH {
                assert!(c.iter().zip(&want).all(|(c, w)| *c == 2.0 * w), "{kernel:?} {m} {n} {k}");
            }
        }
    }
}

#[test]
fn products_of_trits_and_bytes_are_exact() {
    let [m, n, k] = [30, 40, 1031];
    let a: Vec<f32> = noise(m * k, 3).iter().map(|v| (v * 50.0).round().clamp(-127.0, 127.0)).collect();
    let b: Vec<f32> = noise(k * n, 4).iter().map(|v| v.round().clamp(-1.0, 1.0)).collect();
    for kernel in kernels() {
        let mut c = vec![0.0; m * n];
        let dst = MatMut::new(&mut c, m, n);
        multiply_bf16(kernel, dst, Mat::new(&a, m, k), Mat::new(&b, k, n), 1.0, false, Threads::One);
        for (i, c) in c.iter().enumerate() {
            let want: i64 = (0..k).map(|j| a[i / n * k + j] as i64 * b[j * n + i % n] as i64).sum();
            assert_eq!(*c as i64, want);
        }
    }
}

/// Not a test of correctness: prints the speed of one thread on the shapes of training. Run with
/// `cargo test --release -p forge-train bf16_speed -- --ignored --nocapture`.
#[test]
#[ignore = "measures speed; needs a processor with bf16 products and a quiet machine"]
fn bf16_speed() {
    for [m, n, k] in
        [[1024, 1024, 192], [1024, 192, 512], [512, 2816, 512], [512, 512, 8192], [8192, 512, 512]]
    {
        let (a, b, mut c) = (noise(m * k, 1), noise(k * n, 2), vec![0.0; m * n]);
        for (layout, left, right) in [
            ("X Wᵀ", Mat::new(&a, m, k), Mat::new(&b, n, k).t()),
            ("dY W", Mat::new(&a, m, k), Mat::new(&b, k, n)),
            ("dYᵀ X", Mat::new(&a, k, m).t(), Mat::new(&b, k, n)),
        ] {
            let ways: Vec<_> = [None].into_iter().chain(kernels().into_iter().skip(2).map(Some)).collect();
            let mut best = vec![f64::INFINITY; ways.len()];
            for _ in 0..20 {
                for (kernel, best) in ways.iter().zip(&mut best) {
                    let dst = MatMut::new(&mut c, m, n);
                    let start = std::time::Instant::now();
                    match *kernel {
                        Some(kernel) => multiply_bf16(kernel, dst, left, right, 1.0, false, Threads::One),
                        None => crate::nn::ops::gemm::multiply(dst, left, right, 1.0, false, Threads::One),
                    }
                    *best = best.min(start.elapsed().as_secs_f64());
                }
            }
            for (kernel, seconds) in ways.iter().zip(best) {
                let speed = 2.0 * (m * n * k) as f64 / seconds / 1e9;
                println!("{m} × {n} × {k}, {layout}, {kernel:?}: {speed:.0} GFLOP/s");
            }
        }
    }
}

#[test]
fn an_inner_dimension_of_nothing_gives_zeros() {
    let mut c = [1.0; 6];
    let dst = MatMut::new(&mut c, 2, 3);
    let (a, b) = (Mat::new(&[], 2, 0), Mat::new(&[], 0, 3));
    multiply_bf16(Kernel::EmulatedTiles, dst, a, b, 1.0, false, Threads::One);
    assert_eq!(c, [0.0; 6]);
}
