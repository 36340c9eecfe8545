use forge_formats::codec::bitstream::{BitReader, nibble};

use super::*;
use crate::codec::presets::SEEDLM_4;
use crate::codec::reference::{Source, source};
use crate::codec::{Distortion, encode as encode_any};

const SMALL: SeedLmParams = SeedLmParams { block: 6, coeffs: 3, bits: 8, exponent: 0 };

/// States of the 8-bit register after a seed, by the definition.
fn basis_of(seed: u32, p: &SeedLmParams) -> Vec<i32> {
    assert_eq!(p.bits, 8);
    let next = |s: &u32| Some((s >> 1) | ((s ^ (s >> 2) ^ (s >> 3) ^ (s >> 4)) & 1) << 7);
    let states = std::iter::successors(Some(seed), next).skip(1);
    states.take(usize::from(p.block * p.coeffs)).map(|s| s as i32 - 128).collect()
}

/// The weights of a block's code, by the definition.
fn reconstruct(p: &SeedLmParams, code: &Code) -> Vec<f32> {
    let unit = ((f64::from(code.exponent) + f64::from(p.exponent)).exp2() / 127.0) as f32;
    let rows = basis_of(code.seed, p);
    rows.chunks(p.coeffs.into())
        .map(|u| u.iter().zip(code.coeffs).map(|(u, q)| u * q).sum::<i32>() as f32 * unit)
        .collect()
}

fn sample(rows: usize, cols: usize) -> Matrix {
    let data = source(Source::Gauss, rows * cols);
    Matrix { rows, cols, data }
}

#[test]
fn readers_see_the_encoders_own_reconstruction_to_the_bit() {
    let matrix = sample(5, 20);
    let encoded = encode(&SMALL, &matrix, Metric::Plain).unwrap();
    let Codec::SeedLm(p) = encoded.codec else { panic!("codec changed") };
    let decoded = encoded.decode(5, 20).unwrap();
    let codes = search_all(&p, &matrix, None);
    for (r, row) in codes.chunks(4).enumerate() {
        let expected: Vec<f32> = row.iter().flat_map(|code| reconstruct(&p, code)).take(20).collect();
        let bits = |row: &[f32]| row.iter().map(|w| w.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(decoded.row(r)), bits(&expected));
    }
}

/// Pruning must not lose anything: no seed, exponent and rounding of the plain search beats the result.
#[test]
fn no_seed_beats_the_one_found() {
    let matrix = sample(8, 12);
    let encoded = encode(&SMALL, &matrix, Metric::Plain).unwrap();
    let Codec::SeedLm(p) = encoded.codec else { panic!("codec changed") };
    let decoded = encoded.decode(8, 12).unwrap();
    let basis = Basis::new(&p, &[1.0; 6]);
    for r in 0..8 {
        for (block, found) in matrix.row(r).chunks(6).zip(decoded.row(r).chunks(6)) {
            let error = |other: &[f32]| block.iter().zip(other).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
            let scaled: Vec<f32> = block.iter().map(|w| w * (-f32::from(p.exponent)).exp2()).collect();
            let searcher = Searcher::new(&basis);
            let total: f32 = scaled.iter().map(|w| w * w).sum();
            for slot in 0..255 {
                let mut best = Code { error: f32::INFINITY, ..Code::default() };
                let explained: f32 = basis.project(slot, &scaled).iter().map(|z| z * z).sum();
                searcher.quantise(slot, &scaled, total - explained, &mut best);
                assert!(error(found) <= error(&reconstruct(&p, &best)) * 1.0001, "slot {slot}");
            }
        }
    }
}

#[test]
fn errors_predicted_by_the_search_are_those_of_the_decoded_block() {
    let matrix = sample(16, 12);
    let p = SeedLmParams { exponent: tensor_exponent(&matrix.data), ..SMALL };
    let unit = f32::from(p.exponent).exp2();
    for (i, code) in search_all(&p, &matrix, None).iter().enumerate() {
        let block = &matrix.data[i * 6..][..6];
        let error: f32 = block.iter().zip(reconstruct(&p, code)).map(|(w, d)| ((w - d) / unit).powi(2)).sum();
        assert!((error - code.error).abs() < 1e-5, "{error} {}", code.error);
    }
}

#[test]
fn importance_moves_the_error_to_columns_that_matter_less() {
    let matrix = sample(64, 12);
    let importance: Vec<f32> = (0..12).map(|c| if c % 2 == 0 { 16.0 } else { 1.0 }).collect();
    let metric = Metric::Columns(&importance);
    let cost = |encoded: &Encoded| Distortion::of(&matrix, encoded, metric).unwrap().relative();
    let plain = cost(&encode(&SMALL, &matrix, Metric::Plain).unwrap());
    let weighted = cost(&encode(&SMALL, &matrix, metric).unwrap());
    assert!(weighted < 0.8 * plain, "{weighted} {plain}");
}

#[test]
fn degenerate_matrices_are_encoded() {
    let zeros = Matrix::zeros(3, 9);
    assert_eq!(encode(&SMALL, &zeros, Metric::Plain).unwrap().decode(3, 9).unwrap(), zeros);
    let no_importance = Metric::Columns(&[0.0; 9]);
    encode(&SMALL, &sample(3, 9), no_importance).unwrap().decode(3, 9).unwrap();
    for scale in [1e-20f32, 1e20] {
        let matrix = Matrix { rows: 2, cols: 4, data: sample(2, 4).data.iter().map(|w| w * scale).collect() };
        let encoded = encode(&SMALL, &matrix, Metric::Plain).unwrap();
        let loss = Distortion::of(&matrix, &encoded, Metric::Plain).unwrap();
        assert!(loss.relative() < 0.1, "{scale}: {loss:?}");
    }
    assert!(encode(&SeedLmParams { bits: 17, ..SMALL }, &zeros, Metric::Plain).is_err());
}

#[test]
fn threads_do_not_change_the_bytes() {
    let matrix = sample(9, 50);
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let many = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
    let run = || encode(&SMALL, &matrix, Metric::Plain).unwrap();
    assert_eq!(alone.install(run), many.install(run));
}

#[test]
fn payload_is_laid_out_as_documented() {
    let matrix = sample(1, 8);
    let encoded = encode_any(&SEEDLM_4, &matrix, Metric::Plain).unwrap();
    let Codec::SeedLm(p) = encoded.codec else { panic!("codec changed") };
    let code = search_all(&p, &matrix, None)[0];
    let mut bits = BitReader::new(&encoded.payload);
    assert_eq!(encoded.payload.len(), 4);
    assert_eq!((bits.take(16), nibble(bits.take(4))), (code.seed, code.exponent));
    assert_eq!([(); 3].map(|()| nibble(bits.take(4))), code.coeffs[..3]);
}
