//! Reference figures of the codecs on portable random sources, and what every codec must satisfy.
//!
//! Sources: SplitMix64 in counter form, Box–Muller; `Gauss` is N(0, 1) of seed 1, `Student` is Student's t
//! with five degrees of freedom of seed 3, scaled to unit variance, both the first values of a 512 × 512
//! matrix.

use std::sync::OnceLock;

use forge_formats::codec::Codec;

use crate::codec::presets::{self, HYPER_4, SEEDLM_3, SEEDLM_4, VPTQ_1, VPTQ_2};
use crate::codec::{Distortion, Encoded, Metric, encode};
use crate::weights::Matrix;

const SIDE: usize = 512;

/// A random source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Source {
    Gauss,
    Student,
}

fn uniform(seed: u64, i: u64) -> f64 {
    let mut z = seed.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    ((z >> 11) as f64 + 0.5) * 2f64.powi(-53)
}

fn gauss(seed: u64, i: usize) -> f64 {
    let pair = (i & !1) as u64;
    let radius = (-2.0 * uniform(seed, pair).ln()).sqrt();
    let angle = std::f64::consts::TAU * uniform(seed, pair + 1);
    radius * if i.is_multiple_of(2) { angle.cos() } else { angle.sin() }
}

fn student(i: usize) -> f64 {
    let squares: f64 = (1..=5).map(|k| gauss(3, k * SIDE * SIDE + i).powi(2)).sum();
    gauss(3, i) / (squares / 5.0).sqrt()
}

/// The first `count` values of a source.
pub(super) fn source(kind: Source, count: usize) -> Vec<f32> {
    static STUDENT: OnceLock<Vec<f32>> = OnceLock::new();
    match kind {
        Source::Gauss => (0..count).map(|i| gauss(1, i) as f32).collect(),
        Source::Student => {
            let all = STUDENT.get_or_init(|| {
                let raw: Vec<f64> = (0..SIDE * SIDE).map(student).collect();
                let mean = raw.iter().sum::<f64>() / raw.len() as f64;
                let variance = raw.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / raw.len() as f64;
                raw.iter().map(|x| (x / variance.sqrt()) as f32).collect()
            });
            all[..count].to_vec()
        }
    }
}

/// A Hessian with a falling spectrum in a random basis and channels of different scale.
pub(super) fn hessian(n: usize) -> Vec<f32> {
    let mut basis: Vec<Vec<f64>> = Vec::new();
    for i in 0..n {
        let mut row: Vec<f64> = (0..n).map(|j| gauss(9, i * n + j)).collect();
        for other in &basis {
            let overlap: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
            row.iter_mut().zip(other).for_each(|(a, b)| *a -= overlap * b);
        }
        let norm = row.iter().map(|a| a * a).sum::<f64>().sqrt();
        row.iter_mut().for_each(|a| *a /= norm);
        basis.push(row);
    }
    let channel = |i| 10f64.powf((gauss(11, i) * 0.25).clamp(-0.6, 0.8));
    let entry = |i: usize, j: usize| {
        let spectrum = |k: usize| 1.0 / ((k + 1) as f64).powf(0.8);
        let sum: f64 = (0..n).map(|k| basis[k][i] * spectrum(k) * basis[k][j]).sum();
        (sum * channel(i) * channel(j)) as f32
    };
    (0..n * n).map(|at| entry(at / n, at % n)).collect()
}

fn matrix(kind: Source, rows: usize, cols: usize) -> Matrix {
    Matrix { rows, cols, data: source(kind, rows * cols) }
}

fn relative(original: &Matrix, encoded: &Encoded) -> f64 {
    Distortion::of(original, encoded, Metric::Plain).unwrap().relative()
}

/// Bits a weight of the whole payload, and D of the decoded one.
fn measure(codec: &Codec, original: &Matrix) -> (f64, f64) {
    let encoded = encode(codec, original, Metric::Plain).unwrap();
    (encoded.bits_per_weight(original.rows, original.cols), relative(original, &encoded))
}

#[test]
fn generator_gives_the_published_values() {
    let g = source(Source::Gauss, SIDE * SIDE);
    for (value, expected) in g.iter().zip([-0.028_249_75, -1.065_617_65, -0.227_919_52, 0.083_094_17f64]) {
        assert!((f64::from(*value) - expected).abs() < 1e-7);
    }
    let variance = g.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / g.len() as f64;
    assert!((variance.sqrt() - 0.99878).abs() < 1e-4);
}

#[test]
fn seedlm_reaches_its_reference_figures() {
    let (bits, d) = measure(&SEEDLM_4, &matrix(Source::Gauss, 16, 512));
    assert!(bits == 4.0 && d <= 0.0152, "{bits} {d}");
    let (_, d) = measure(&SEEDLM_4, &matrix(Source::Student, 16, 512));
    assert!(d <= 0.0165, "{d}");
    let (bits, d) = measure(&SEEDLM_3, &matrix(Source::Gauss, 16, 768));
    assert!(bits == 3.0 && d <= 0.051, "{bits} {d}");
}

#[test]
fn vptq_reaches_its_reference_figures() {
    let g = matrix(Source::Gauss, SIDE, SIDE);
    let (bits, d) = measure(&VPTQ_2, &g);
    assert!(bits < 2.07 && d <= 0.097, "{bits} {d}");
    let (bits, d) = measure(&VPTQ_1, &g);
    assert!(bits < 1.1 && d <= 0.3056 * 1.03, "{bits} {d}");
}

#[test]
fn hyper_reaches_its_reference_figures() {
    let (bits, d) = measure(&HYPER_4, &matrix(Source::Gauss, SIDE, SIDE));
    assert!(bits < 4.001 && (0.0125..=0.0132).contains(&d), "{bits} {d}");
}

/// What any codec must satisfy on Gaussian weights: better than zeros, not better than the rate–distortion
/// bound at its full size.
fn sane(bits: f64, d: f64) -> bool {
    d < 1.0 && d >= 2f64.powf(-2.0 * bits)
}

#[test]
fn every_codec_beats_zeros_and_none_beats_the_gaussian_bound() {
    let small = matrix(Source::Gauss, 16, 480);
    let large = matrix(Source::Gauss, 128, 512);
    for codec in presets::ALL.iter().chain(&[Codec::Int8Row, Codec::Ternary2b, Codec::Ternary5x8]) {
        let original = if matches!(codec, Codec::SeedLm(_)) { &small } else { &large };
        let (bits, d) = measure(codec, original);
        assert!(sane(bits, d), "{codec:?}: {bits} bits, D {d}");
    }
}

/// Negative control of the check above and of the production guard: a stand-in whose seeds have nothing to do
/// with the weights, and one that forgets to count its codebook.
#[test]
fn pretended_codecs_are_caught() {
    let original = matrix(Source::Gauss, 16, 480);
    let Encoded { codec, mut payload } = encode(&SEEDLM_4, &original, Metric::Plain).unwrap();
    payload.chunks_exact_mut(4).for_each(|block| block[0] ^= 0x55);
    let unrelated = Encoded { codec, payload };
    let loss = Distortion::of(&original, &unrelated, Metric::Plain).unwrap();
    assert!(loss.check().is_err() && !sane(4.0, loss.relative()), "D {}", loss.relative());
    let tiny = matrix(Source::Gauss, 4, 480);
    let (bits, d) = measure(&VPTQ_2, &tiny);
    assert!(sane(bits, d) && !sane(2.0, d), "{bits} bits, D {d}");
}

/// Each stage of a chain codes what the one before decodes: the size is that of the last, the error never
/// below that of coding the master weights directly.
#[test]
fn stacking_lossy_codecs_never_helps() {
    let original = matrix(Source::Gauss, 32, 512);
    let first = encode(&SEEDLM_4, &original, Metric::Plain).unwrap().decode(32, 512).unwrap();
    for codec in [VPTQ_1, VPTQ_2, HYPER_4, Codec::Ternary5x8] {
        let direct = encode(&codec, &original, Metric::Plain).unwrap();
        let stacked = encode(&codec, &first, Metric::Plain).unwrap();
        assert_eq!(direct.payload.len(), stacked.payload.len());
        let (alone, after) = (relative(&original, &direct), relative(&original, &stacked));
        assert!(after > alone, "{codec:?}: {after} after SeedLM, {alone} alone");
    }
}

/// Prints the measured tables of `docs/codecs.md`.
#[test]
#[ignore = "a minute; run by hand to renew the tables in docs/codecs.md"]
fn tables() {
    for kind in [Source::Gauss, Source::Student] {
        for codec in presets::ALL.iter().chain(&[Codec::Int8Row, Codec::Ternary2b, Codec::Ternary5x8]) {
            // Rows of a whole number of blocks for every SeedLM preset.
            let (rows, cols) = if matches!(codec, Codec::SeedLm(_)) { (128, 480) } else { (SIDE, SIDE) };
            let original = matrix(kind, rows, cols);
            let start = std::time::Instant::now();
            let (bits, d) = measure(codec, &original);
            let gap = bits + 0.5 * d.log2();
            let seconds = start.elapsed().as_secs_f64();
            println!(
                "| {kind:?} | {codec:?} | {rows}×{cols} | {bits:.3} | {d:.5} | {gap:+.2} | {seconds:.1} |"
            );
        }
    }
    let (original, h) = (matrix(Source::Gauss, SIDE, SIDE), hessian(SIDE));
    let full = Metric::Hessian(&h);
    let diagonal = full.columns(SIDE).unwrap();
    for codec in [VPTQ_2, VPTQ_1] {
        for fit in [Metric::Plain, Metric::Columns(&diagonal), full] {
            let encoded = encode(&codec, &original, fit).unwrap();
            let loss = |metric| Distortion::of(&original, &encoded, metric).unwrap().relative();
            println!("| {codec:?} | {:.4} | {:.4} |", loss(Metric::Plain), loss(full));
        }
    }
}
