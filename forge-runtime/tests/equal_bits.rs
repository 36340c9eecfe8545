//! Every table of kernels against the portable one: random shapes, weights and inputs, equal bits.

use forge_formats::Matrix;
use forge_formats::codec::encode::{Simple, encode, pack};
use forge_runtime::Kernels;
use forge_runtime::kernels::PORTABLE;
use forge_runtime::testing::{Noise, float_operations, hybrid_attention, product};

/// Cases of each property; `FORGE_CASES` asks for another number.
fn cases() -> u64 {
    std::env::var("FORGE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000)
}

/// All bits but those of NaN: which one it is (sign, payload) is the processor's choice and no part of the definition.
fn bits(y: &[f32]) -> Vec<u32> {
    y.iter().map(|v| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() }).collect()
}

/// Weights of a random shape: mostly random, now and then extreme.
fn weights(noise: &mut Noise) -> (Simple, usize, usize, Vec<u8>) {
    let codec = [Simple::Int8Row, Simple::Ternary2b, Simple::Ternary5x8][noise.below(3)];
    let rows = 1 + noise.below(40);
    let cols = match noise.below(50) {
        0 => 1 + noise.below(3000),
        _ => 1 + noise.below(90),
    };
    if noise.below(8) == 0 {
        let most = if codec == Simple::Int8Row { 127 } else { 1 };
        let extreme: Vec<i8> =
            (0..rows * cols).map(|_| if noise.below(9) > 0 { most } else { -most }).collect();
        let scales: Vec<f32> = (0..rows).map(|_| [0.0, 6e-8, 1.0, 65504.0][noise.below(4)]).collect();
        return (codec, rows, cols, pack(codec, cols, &extreme, &scales));
    }
    let w: Vec<f32> = (0..rows * cols).map(|_| noise.uniform()).collect();
    (codec, rows, cols, encode(codec, rows, cols, &w))
}

/// Inputs: mostly random, now and then all extreme, zero, or with numbers that are none.
fn inputs(noise: &mut Noise, len: usize) -> Vec<f32> {
    match noise.below(8) {
        0 => (0..len).map(|_| if noise.below(9) > 0 { 3.0 } else { -3.0 }).collect(),
        1 => vec![[0.0, 1e-30, 1.1e-30][noise.below(3)]; len],
        2 => {
            let odd = [f32::NAN, f32::INFINITY, -f32::INFINITY, 1e-40, 3e38];
            let number = |noise: &mut Noise| match noise.below(7) {
                0 => odd[noise.below(odd.len())],
                _ => noise.uniform(),
            };
            (0..len).map(|_| number(noise)).collect()
        }
        _ => (0..len).map(|_| noise.uniform() * 5.0).collect(),
    }
}

/// `FORGE_TABLES` names the tables that must be tested here, so that a section of `./test` that means to test some
/// instruction set does not pass without it.
#[test]
fn the_expected_tables_are_there() {
    let names: Vec<_> = Kernels::all().map(Kernels::name).collect();
    if let Ok(expected) = std::env::var("FORGE_TABLES") {
        assert_eq!(names, expected.split(' ').collect::<Vec<_>>());
    }
    assert_eq!(names[0], "portable");
    assert_eq!(Kernels::best().name(), *names.last().unwrap());
}

#[test]
fn products_are_those_of_the_portable_kernels() {
    let mut noise = Noise(7);
    let mut different = 0u64;
    for case in 0..cases() {
        let (codec, rows, cols, payload) = weights(&mut noise);
        let w = Matrix::new(codec.into(), [rows as u32, cols as u32], &payload).unwrap();
        let n = 1 + noise.below(if case % 4 == 0 { 20 } else { 3 });
        let xs = inputs(&mut noise, n * cols);
        let want = product(&PORTABLE, &w, &xs, n, false);
        different += u64::from(want.iter().any(|y| *y != 0.0));
        for kernels in Kernels::all().skip(1) {
            for prepared in [false, true] {
                let got = product(kernels, &w, &xs, n, prepared);
                assert_eq!(
                    bits(&got),
                    bits(&want),
                    "case {case}: {kernels:?} {codec:?} {rows}x{cols}, {n} inputs"
                );
            }
        }
    }
    assert!(different * 2 > cases(), "most products are zero");
}

#[test]
fn float_operations_are_those_of_the_portable_kernels() {
    for seed in 0..cases() {
        let want = float_operations(&PORTABLE, seed);
        for kernels in Kernels::all().skip(1) {
            assert_eq!(float_operations(kernels, seed), want, "seed {seed}: {kernels:?}");
        }
    }
}

#[test]
fn float_operations_over_two_caches_are_those_of_the_portable_kernels() {
    let mut hash = Hash::default();
    for seed in 0..cases().min(20_000) {
        let want = hybrid_attention(&PORTABLE, seed);
        for kernels in Kernels::all().skip(1) {
            assert_eq!(hybrid_attention(kernels, seed), want, "seed {seed}: {kernels:?}");
        }
        want.into_iter().filter(|_| seed < 1000).for_each(|bits| hash.add(bits));
    }
    // Of the first thousand, as every machine computes them.
    if cases() >= 1000 {
        assert_eq!(hash.0, 9_842_135_321_870_590_434);
    }
}

/// FNV-1a.
struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Hash {
    fn add(&mut self, bits: u32) {
        self.0 = (self.0 ^ u64::from(bits)).wrapping_mul(0x0000_0100_0000_01B3);
    }
}

/// The results of the portable kernels in one number (FNV-1a): other machines, other compilers' back ends among them,
/// compute the same, infinities and NaN included.
#[test]
fn results_are_those_of_every_machine() {
    let mut hash = Hash::default();
    for seed in 0..4000 {
        float_operations(&PORTABLE, seed).into_iter().for_each(|bits| hash.add(bits));
    }
    let mut noise = Noise(11);
    for _ in 0..4000 {
        let (codec, rows, cols, payload) = weights(&mut noise);
        let w = Matrix::new(codec.into(), [rows as u32, cols as u32], &payload).unwrap();
        let xs = inputs(&mut noise, cols);
        bits(&product(&PORTABLE, &w, &xs, 1, false)).into_iter().for_each(|bits| hash.add(bits));
    }
    assert_eq!(hash.0, 8_601_862_370_704_385_847);
}
