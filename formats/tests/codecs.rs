//! The simple codecs: what is encoded is decoded, quantisation is as defined, and bad payloads are refused.

mod common;

use forge_formats::Error;
use forge_formats::codec::encode::{Simple, encode, int8_row, pack, ternary_row};
use forge_formats::codec::ternary::{Packing, pack4, pack5, unpack_row, unpack4, unpack5};
use forge_formats::codec::{Codec, Matrix, payload_len};
use half::f16;
use proptest::prelude::*;

const ALL: [Simple; 7] = [
    Simple::F32,
    Simple::F16,
    Simple::Int8Row,
    Simple::Ternary2b,
    Simple::Ternary5x8,
    Simple::TernaryRans,
    Simple::TernarySparse,
];

/// Whether a payload's length depends on the weights.
fn varies(codec: Simple) -> bool {
    matches!(codec, Simple::TernaryRans | Simple::TernarySparse)
}

/// What a row must decode to, by the definitions of `docs/numerics.md`.
fn expected(codec: Simple, row: &[f32]) -> Vec<f32> {
    let mut q = vec![0i8; row.len()];
    let scale = match codec {
        Simple::F32 => return row.to_vec(),
        Simple::F16 => return row.iter().map(|w| f16::from_f32(*w).to_f32()).collect(),
        Simple::Int8Row => int8_row(row, &mut q),
        _ => ternary_row(row, &mut q),
    };
    q.iter().map(|q| f32::from(*q) * scale).collect()
}

proptest! {
    #[test]
    fn every_codec_decodes_what_it_encodes(
        rows in 1usize..6,
        cols in 1usize..40,
        seed: u32,
        exponent in -30i32..20,
    ) {
        let data: Vec<f32> =
            common::values(seed, rows * cols).iter().map(|w| w * 2f32.powi(exponent.min(15))).collect();
        for codec in ALL {
            let payload = encode(codec, rows, cols, &data);
            let shape = [rows as u32, cols as u32];
            let len = if varies(codec) { None } else { Some(payload.len() as u64) };
            prop_assert_eq!(payload_len(&codec.into(), shape), len);
            let matrix = Matrix::new(codec.into(), shape, &payload).unwrap();
            let mut out = vec![f32::NAN; cols];
            for (r, row) in data.chunks(cols).enumerate() {
                matrix.decode_row(r, &mut out);
                prop_assert_eq!(&out, &expected(codec, row));
            }
        }
    }

    #[test]
    fn a_slice_of_rows_reads_like_the_whole(rows in 2usize..9, cols in 1usize..12, a in 0usize..9, b in 0usize..9) {
        let (from, to) = (a.min(b).min(rows), a.max(b).min(rows));
        let data = common::values(7, rows * cols);
        for codec in ALL {
            let payload = encode(codec, rows, cols, &data);
            let whole = Matrix::new(codec.into(), [rows as u32, cols as u32], &payload).unwrap();
            // A slice of a slice, to catch an offset applied once instead of twice.
            let part = whole.slice_rows(from..rows).unwrap().slice_rows(0..to - from).unwrap();
            prop_assert_eq!(part.rows(), to - from);
            let (mut x, mut y) = (vec![0.0; cols], vec![0.0; cols]);
            for r in 0..part.rows() {
                part.decode_row(r, &mut x);
                whole.decode_row(from + r, &mut y);
                prop_assert_eq!(&x, &y);
                prop_assert_eq!(part.scale(r), whole.scale(from + r));
                prop_assert_eq!(part.row_bytes(r), whole.row_bytes(from + r));
            }
            prop_assert!(part.row_bytes(part.rows()).is_empty());
        }
    }

    #[test]
    fn packing_between_integer_codecs_loses_nothing(rows in 1usize..5, cols in 1usize..23, seed: u32) {
        let data = common::values(seed, rows * cols);
        let mut q = vec![0i8; rows * cols];
        let scales: Vec<f32> =
            data.chunks(cols).zip(q.chunks_mut(cols)).map(|(w, q)| ternary_row(w, q)).collect();
        for codec in [Simple::Ternary2b, Simple::Ternary5x8] {
            let payload = pack(codec, cols, &q, &scales);
            prop_assert_eq!(&payload, &encode(codec, rows, cols, &data));
            let packing = if codec == Simple::Ternary2b { Packing::TwoBit } else { Packing::FiveInEight };
            let matrix = Matrix::new(codec.into(), [rows as u32, cols as u32], &payload).unwrap();
            let mut trits = vec![0i8; cols];
            for (r, row) in q.chunks(cols).enumerate() {
                unpack_row(packing, matrix.row_bytes(r), &mut trits);
                prop_assert_eq!(&trits, row);
            }
        }
    }

    #[test]
    fn ternary_rows_follow_the_definition(w in prop::collection::vec(-4.0f32..4.0, 1..60)) {
        let mut q = vec![0; w.len()];
        let gamma = ternary_row(&w, &mut q);
        let mean = w.iter().map(|w| f64::from(w.abs())).sum::<f64>() / w.len() as f64;
        prop_assert_eq!(gamma, f16::from_f32(mean as f32).to_f32());
        for (w, q) in w.iter().zip(q) {
            let expected = if gamma == 0.0 { 0.0 } else { (w / gamma).round_ties_even().clamp(-1.0, 1.0) };
            prop_assert_eq!(f32::from(q), expected);
        }
    }

    #[test]
    fn int8_rows_follow_the_definition(w in prop::collection::vec(-4.0f32..4.0, 1..60)) {
        let mut q = vec![0; w.len()];
        let scale = int8_row(&w, &mut q);
        let max = w.iter().fold(0f32, |m, w| m.max(w.abs()));
        prop_assert_eq!(scale, f16::from_f32(max / 127.0).to_f32());
        for (w, q) in w.iter().zip(q) {
            let expected = if scale == 0.0 { 0.0 } else { (w / scale).round_ties_even().clamp(-127.0, 127.0) };
            prop_assert_eq!(f32::from(q), expected);
        }
    }
}

#[test]
fn quantisation_at_the_edges() {
    let mut q = [9i8; 4];
    assert_eq!(ternary_row(&[0.0; 4], &mut q), 0.0);
    assert_eq!(q, [0; 4]);
    // 1e-8 is below half the smallest f16, so the scale rounds to 0.
    q = [9; 4];
    assert_eq!(ternary_row(&[1e-8; 4], &mut q), 0.0);
    assert_eq!(q, [0; 4]);
    // γ = 1: 0.5 and −0.5 tie to 0, 1.5 to 2, which is clamped.
    assert_eq!(ternary_row(&[0.5, -0.5, 1.5, -1.5], &mut q), 1.0);
    assert_eq!(q, [0, 0, 1, -1]);
    // Scale 1: ties to even.
    assert_eq!(int8_row(&[127.0, -127.0, 0.5, 1.5], &mut q), 1.0);
    assert_eq!(q, [127, -127, 0, 2]);
    // Beyond f16 the scale is the largest finite one, and a file may hold it.
    assert_eq!(ternary_row(&[1e9, -1e9, 0.0, 3e4], &mut q), 65504.0);
    assert_eq!(q, [1, -1, 0, 0]);
    let payload = encode(Simple::Int8Row, 1, 2, &[1e30, -1e30]);
    assert!(Matrix::new(Codec::Int8Row, [1, 2], &payload).is_ok());
}

#[test]
fn every_byte_of_trits_is_either_canonical_or_refused() {
    let digits = |v: usize, n: u32| (v / 3usize.pow(n) % 3) as i8 - 1;
    let mut five = [false; 256];
    for v in 0..243 {
        let trits = [4, 3, 2, 1, 0].map(|n| digits(v, n));
        let byte = pack5(&trits);
        assert_eq!(u16::from(byte), ((v * 256).div_ceil(243)) as u16);
        assert_eq!(unpack5(byte), trits);
        five[usize::from(byte)] = true;
    }
    let mut two = [false; 256];
    for v in 0..81 {
        let trits = [0, 1, 2, 3].map(|n| digits(v, n));
        two[usize::from(pack4(&trits))] = true;
        assert_eq!(unpack4(pack4(&trits)), trits);
    }
    for byte in 0..=255u8 {
        let payload = [byte, 0, 0x3C];
        let accepts = |codec, cols| Matrix::new(codec, [1, cols], &payload).is_ok();
        assert_eq!(accepts(Codec::Ternary5x8, 5), five[usize::from(byte)]);
        assert_eq!(accepts(Codec::Ternary2b, 4), two[usize::from(byte)]);
        // With fewer columns the unused places must be 0 as well.
        for cols in 1..5usize {
            let zero = unpack5(byte)[cols..].iter().all(|t| *t == 0);
            assert_eq!(accepts(Codec::Ternary5x8, cols as u32), five[usize::from(byte)] && zero);
        }
        for cols in 1..4usize {
            let zero = unpack4(byte)[cols..].iter().all(|t| *t == 0);
            assert_eq!(accepts(Codec::Ternary2b, cols as u32), two[usize::from(byte)] && zero);
        }
    }
}

/// The examples of `docs/format.md`, section 5.
#[test]
fn worked_bytes() {
    let row = [1.0, -1.0, 0.0, 0.0, -1.0, 1.0];
    // γ = 4/6 = 0.6667 is 0x3955 in f16.
    assert_eq!(encode(Simple::Ternary2b, 1, 6, &row), [0x52, 0x58, 0x55, 0x39]);
    assert_eq!(encode(Simple::Ternary5x8, 1, 6, &row), [0xB8, 0xD5, 0x55, 0x39]);
    assert_eq!(encode(Simple::Int8Row, 1, 3, &[127.0, -63.5, 1.0]), [0x7F, 0xC0, 0x01, 0x00, 0x3C]);
    assert_eq!(encode(Simple::F16, 1, 2, &[1.0, -2.0]), [0x00, 0x3C, 0x00, 0xC0]);
    assert_eq!(encode(Simple::F32, 1, 1, &[1.0]), [0x00, 0x00, 0x80, 0x3F]);
}

#[test]
fn payloads_of_the_wrong_length_or_content_are_refused() {
    for codec in ALL {
        let payload = encode(codec, 3, 6, &common::values(1, 18));
        let codec = Codec::from(codec);
        let refused = Err(Error::Codec(codec.name()));
        let shape = [3, 6];
        for len in 0..payload.len() {
            assert_eq!(Matrix::new(codec, shape, &payload[..len]), refused);
        }
        let longer = [&payload[..], &[0]].concat();
        assert_eq!(Matrix::new(codec, shape, &longer), refused);
        assert_eq!(Matrix::new(codec, [0, 6], &[]), refused);
        assert_eq!(Matrix::new(codec, [3, 0], &[0; 6]), refused);
        assert_eq!(Matrix::new(codec, [u32::MAX, u32::MAX], &payload), refused);
        // The last two bytes are a scale of the integer codecs and an end of a float: infinity, NaN, minus.
        let mut bad = payload.clone();
        let end = bad.len() - 2;
        for (high, integer_only) in [(0x7C, false), (0x7E, false), (0xFC, false), (0x80, true), (0xBC, true)]
        {
            let high = if codec == Codec::F32 && high != 0x80 { high | 0x03 } else { high };
            bad[end..].copy_from_slice(&[if codec == Codec::F32 { 0x80 } else { 0 }, high]);
            let is_refused = Matrix::new(codec, shape, &bad).is_err();
            assert_eq!(is_refused, codec.is_integer() || !integer_only, "{codec:?} {high:#x}");
        }
    }
    assert!(Matrix::new(Codec::Int8Row, [1, 2], &[0x80, 0, 0, 0]).is_err());
    assert!(Matrix::new(Codec::Int8Row, [1, 2], &[0x81, 0, 0, 0]).is_ok());
}

#[test]
fn accessors_outside_the_matrix_do_nothing_wrong() {
    let payload = encode(Simple::Int8Row, 2, 3, &common::values(1, 6));
    let matrix = Matrix::new(Codec::Int8Row, [2, 3], &payload).unwrap();
    let mut out = [7.0; 3];
    matrix.decode_row(2, &mut out);
    assert_eq!(out, [0.0; 3]);
    assert_eq!(matrix.scale(usize::MAX), 0.0);
    assert!(matrix.row_bytes(usize::MAX).is_empty());
    assert!(matrix.slice_rows(1..3).is_none());
    #[expect(clippy::reversed_empty_ranges)]
    let reversed = matrix.slice_rows(2..1);
    assert!(reversed.is_none());
    assert_eq!(matrix.slice_rows(2..2).unwrap().rows(), 0);
    let mut long = [7.0; 5];
    matrix.decode_row(0, &mut long);
    assert_eq!(long[3..], [7.0; 2]);
}
