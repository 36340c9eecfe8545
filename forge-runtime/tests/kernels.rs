//! Every linear map against sums in i64, or in the stated order over decoded rows.

mod common;

use common::CODECS;
use common::reference::linear as oracle;
use forge_formats::Matrix;
use forge_formats::codec::encode::{Simple, encode, pack};
use forge_formats::codec::{Codec, HyperParams, SeedLmParams, VptqParams, payload_len};
use forge_runtime::Kernels;
use forge_runtime::kernels::PORTABLE;
use forge_runtime::testing::{self, Noise};

fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut noise = Noise(seed);
    (0..n).map(|_| noise.uniform()).collect()
}

/// The product on every table of kernels, from the file and from panels; all must be equal.
fn product(w: &Matrix<'_>, x: &[f32]) -> Vec<f32> {
    let y = testing::product(&PORTABLE, w, x, 1, false);
    for kernels in Kernels::all() {
        for prepared in [false, true] {
            let other = testing::product(kernels, w, x, 1, prepared);
            assert_eq!(bits(&other), bits(&y), "{kernels:?}, prepared {prepared}, {w:?}");
        }
    }
    y
}

fn bits(y: &[f32]) -> Vec<u32> {
    y.iter().map(|v| v.to_bits()).collect()
}

fn check(codec: Simple, rows: usize, cols: usize, seed: u64) {
    let payload = encode(codec, rows, cols, &noise(rows * cols, seed));
    let w = Matrix::new(codec.into(), [rows as u32, cols as u32], &payload).unwrap();
    let x = noise(cols, seed + 1);
    let y = product(&w, &x);
    assert_eq!(bits(&y), bits(&oracle(&w, &x)), "{codec:?} {rows}x{cols}");
    assert!(cols < 8 || y.iter().any(|v| *v != 0.0), "{codec:?} {rows}x{cols} gives zeros");
    let part = w.slice_rows(rows / 3..rows).unwrap();
    assert_eq!(bits(&product(&part, &x)), bits(&y[rows / 3..]), "{codec:?} {rows}x{cols} sliced");
}

#[test]
fn every_codec_gives_the_defined_product() {
    for codec in CODECS {
        for cols in (1..=100).chain([127, 128, 129, 255, 320, 1000, 1599, 1601, 2000, 2001, 2500, 8192]) {
            check(codec, 1 + cols % 7, cols, cols as u64);
        }
    }
}

#[test]
fn codecs_that_need_a_search_are_executed_from_decoded_rows() {
    let codecs = [
        Codec::SeedLm(SeedLmParams { block: 8, coeffs: 3, bits: 16, exponent: -3 }),
        Codec::Vptq(VptqParams { dim: 4, index_bits: 6, residual_bits: 0 }),
        Codec::Hyper(HyperParams { nodes: 225, rings: 1 }),
    ];
    for codec in codecs {
        let shape = [5, 32];
        let len = payload_len(&codec, shape).expect("the parameters are in range") as usize;
        // Every other bit, so that no scale is negative or infinite and no node beyond the last.
        let mut noise_bytes = Noise(1);
        let mut payload: Vec<u8> = (0..len).map(|_| noise_bytes.next_u64() as u8 & 0x55).collect();
        if let Codec::Hyper(_) = codec {
            // Centroid, side and distance.
            let header = [0.1f32, -0.2, 1.0, 2.0].map(f32::to_le_bytes);
            payload[..16].copy_from_slice(header.as_flattened());
        }
        let w = Matrix::new(codec, shape, &payload).unwrap();
        let x = noise(32, 5);
        let y = product(&w, &x);
        assert_eq!(bits(&y), bits(&oracle(&w, &x)), "{codec:?}");
        assert!(y.iter().any(|v| *v != 0.0), "{codec:?} gives zeros");
    }
}

#[test]
fn the_largest_sums_fit() {
    let cols = 8192;
    for codec in [Simple::Int8Row, Simple::Ternary2b, Simple::Ternary5x8] {
        for sign in [-1i8, 1] {
            let largest = if codec == Simple::Int8Row { 127 } else { 1 };
            let payload = pack(codec, cols, &vec![sign * largest; cols], &[1.0]);
            let w = Matrix::new(codec.into(), [1, cols as u32], &payload).unwrap();
            let want = f32::from(sign) * f32::from(largest) * cols as f32 * 127.0;
            assert_eq!(product(&w, &vec![127.0; cols]), [want], "{codec:?}");
        }
    }
}

#[test]
fn zero_and_tiny_inputs_give_zero() {
    for codec in [Simple::Int8Row, Simple::Ternary2b, Simple::Ternary5x8] {
        let payload = encode(codec, 2, 20, &noise(40, 1));
        let w = Matrix::new(codec.into(), [2, 20], &payload).unwrap();
        assert_eq!(product(&w, &[0.0; 20]), [0.0; 2]);
        assert_eq!(product(&w, &[1e-30; 20]), [0.0; 2]);
        assert!(product(&w, &[1.1e-30; 20]).iter().any(|y| *y != 0.0));
    }
}
