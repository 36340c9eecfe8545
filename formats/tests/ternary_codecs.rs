//! Entropy-coded and sparse trits: round trips, one encoding only, hostile payloads.

mod common;

use common::trits;
use forge_formats::codec::encode::{Simple, pack};
use forge_formats::codec::{Codec, Matrix};
use forge_formats::{Error, codec};
use proptest::prelude::*;

const TERNARY: [Simple; 4] =
    [Simple::Ternary2b, Simple::Ternary5x8, Simple::TernaryRans, Simple::TernarySparse];
const NEW: [Simple; 2] = [Simple::TernaryRans, Simple::TernarySparse];

fn matrix(codec: Simple, cols: usize, payload: &[u8]) -> Result<Matrix<'_>, Error> {
    // Every test that uses this has as many rows as the payload ends in scales of 1.
    let rows = payload.rchunks_exact(2).take_while(|b| **b == [0x00, 0x3C]).count();
    Matrix::new(codec.into(), [rows as u32, cols as u32], payload)
}

fn packed(codec: Simple, cols: usize, q: &[i8]) -> Vec<u8> {
    pack(codec, cols, q, &vec![1.0; q.len() / cols])
}

proptest! {
    #[test]
    fn trits_come_back(rows in 1usize..20, cols in 1usize..70, zeros in 0.0f32..1.1, seed: u32, lean in 0usize..3) {
        let mut q = trits(seed, rows * cols, zeros);
        // Also without one of the signs, and with the signs alone.
        q.iter_mut().for_each(|t| *t = match lean { 1 => t.abs(), 2 => *t | 1, _ => *t });
        let reference = packed(Simple::Ternary2b, cols, &q);
        let stride = cols.div_ceil(4);
        for codec in TERNARY {
            let payload = packed(codec, cols, &q);
            let m = Matrix::new(codec.into(), [rows as u32, cols as u32], &payload).unwrap();
            let (mut row, mut floats) = (vec![9i8; cols], vec![9f32; cols]);
            let mut all = vec![0xAA; rows * stride + stride - 1];
            m.pack_rows_2b(0, &mut all);
            prop_assert_eq!(&all[..rows * stride], &reference[..rows * stride], "{:?}", codec);
            prop_assert!(all[rows * stride..].iter().all(|b| *b == 0xAA));
            let part = m.slice_rows(rows / 2..rows).unwrap();
            for (r, want) in q.chunks(cols).enumerate() {
                m.row_trits(r, &mut row);
                prop_assert_eq!(&row, want);
                m.decode_row(r, &mut floats);
                prop_assert!(floats.iter().zip(want).all(|(f, t)| *f == f32::from(*t)));
                let mut bytes = vec![0xAA; stride + 1];
                m.pack_row_2b(r, &mut bytes);
                prop_assert_eq!(&bytes[..stride], &reference[r * stride..][..stride]);
                prop_assert_eq!(bytes[stride], 0xAA);
                if r >= rows / 2 {
                    part.row_trits(r - rows / 2, &mut row);
                    prop_assert_eq!(&row, want);
                    bytes.fill(0);
                    part.pack_row_2b(r - rows / 2, &mut bytes);
                    prop_assert_eq!(&bytes[..stride], &reference[r * stride..][..stride]);
                }
            }
            prop_assert_eq!(m.scales().len(), rows);
            prop_assert_eq!(part.scale(0), 1.0);
        }
    }

    #[test]
    fn mutants_are_refused_or_other_trits(
        rows in 1usize..9,
        cols in 1usize..40,
        zeros in 0.0f32..1.0,
        seed: u32,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let q = trits(seed, rows * cols, zeros);
        for codec in NEW {
            let good = packed(codec, cols, &q);
            let mut payload = good.clone();
            for (at, value) in &changes {
                let at = at.index(payload.len());
                payload[at] ^= value;
            }
            let shape = [rows as u32, cols as u32];
            let Ok(m) = Matrix::new(codec.into(), shape, &payload) else { continue };
            let (mut row, mut decoded, mut scales) = (vec![0i8; cols], Vec::<i8>::new(), Vec::new());
            for r in 0..rows {
                m.row_trits(r, &mut row);
                decoded.extend(&row);
                scales.push(m.scale(r));
            }
            // Same parameters and content: the same bytes.
            let parameters = if codec == Simple::TernaryRans { 2 } else { 1 };
            let same = payload[..parameters] == good[..parameters] && decoded == q && scales == vec![1.0; rows];
            prop_assert!(!same || payload == good);
        }
    }

    #[test]
    fn any_bytes_are_refused_or_decoded(bytes in prop::collection::vec(any::<u8>(), 0..40), rows in 1u32..5, cols in 1u32..50) {
        for codec in NEW {
            let codec = Codec::from(codec);
            let (mut floats, mut row) = (vec![f32::NAN; cols as usize], vec![9i8; cols as usize]);
            if let Ok(m) = Matrix::new(codec, [rows, cols], &bytes) {
                m.decode_row(rows as usize - 1, &mut floats);
                prop_assert!(floats.iter().all(|w| w.is_finite()));
            }
            // Whoever skips the check gets some trits, and no panic.
            let unchecked = Matrix::validated(codec, [rows, cols], &bytes);
            let mut packed = vec![0; 64];
            unchecked.pack_rows_2b(rows as usize - 1, &mut packed);
            unchecked.row_trits(rows as usize - 1, &mut row);
            unchecked.decode_row(0, &mut floats);
        }
    }
}

/// Of all rows, exactly one stands for each sequence of trits. Here no row is longer than two bytes, but for those
/// whose first trit takes eight bits, which begin with 1 (of other third bytes, two are tried).
#[test]
fn every_row_has_one_encoding() {
    let count = |codec: Simple, cols: u32, front: &[u8], most: usize| {
        let mut seen = std::collections::HashSet::new();
        for len in 1..=most {
            let head: Vec<u8> = [front, &[len as u8, 0, 0]].concat();
            for number in 0..1u32 << (8 * len) {
                if len == 3 && !matches!(number as u8, 1 | 2 | 0xFF) {
                    continue;
                }
                let payload = [&head[..], &number.to_le_bytes()[..len], &[0, 0x3C]].concat();
                if let Ok(m) = Matrix::new(codec.into(), [1, cols], &payload) {
                    let mut row = vec![0i8; cols as usize];
                    m.row_trits(0, &mut row);
                    assert!(seen.insert(row), "{codec:?}: two encodings");
                }
            }
        }
        seen.len()
    };
    for frequencies in [[85, 85], [1, 7], [248, 7]] {
        assert_eq!(count(Simple::TernaryRans, 1, &frequencies, 2), 3);
        assert_eq!(count(Simple::TernaryRans, 6, &frequencies, 3), 729, "{frequencies:?}");
    }
    for shift in [0, 1, 2] {
        assert_eq!(count(Simple::TernarySparse, 1, &[shift], 2), 3);
        let cols = 5 - u32::from(shift);
        assert_eq!(count(Simple::TernarySparse, cols, &[shift], 2), 3usize.pow(cols), "{shift}");
    }
}

/// The examples of `docs/format.md`, section 5.
#[test]
fn worked_bytes() {
    let row = [1, -1, 0, 0, -1, 1, 0, 0];
    assert_eq!(packed(Simple::TernaryRans, 8, &row), RANS);
    assert_eq!(packed(Simple::TernarySparse, 8, &row), SPARSE);
}

const RANS: &[u8] = &[64, 64, 2, 0, 0, 0x28, 0xE7, 0, 0x3C];
const SPARSE: &[u8] = &[0, 2, 0, 0, 0xB8, 0x0C, 0, 0x3C];

#[test]
fn parameters_out_of_range_are_refused() {
    let q = trits(1, 64, 0.5);
    let rans = packed(Simple::TernaryRans, 16, &q);
    let sparse = packed(Simple::TernarySparse, 16, &q);
    assert!(
        matrix(Simple::TernaryRans, 16, &rans).is_ok() && matrix(Simple::TernarySparse, 16, &sparse).is_ok()
    );
    let with = |codec: Simple, good: &[u8], front: &[u8]| {
        let payload = [front, &good[front.len()..]].concat();
        matrix(codec, 16, &payload).err()
    };
    for frequencies in [[0, 100], [100, 0], [249, 1], [1, 249], [3, 4], [128, 128], [200, 200]] {
        let refused = with(Simple::TernaryRans, &rans, &frequencies);
        assert_eq!(refused, Some(Error::Codec("ternary_rans")), "{frequencies:?}");
    }
    for shift in [13, 64, 255] {
        assert_eq!(with(Simple::TernarySparse, &sparse, &[shift]), Some(Error::Codec("ternary_sparse")));
    }
}

/// A payload cannot ask for more work than its length allows: no trit of it is free.
#[test]
fn rows_without_bytes_are_refused() {
    let shape = [1 << 16, 1 << 13];
    let scales = vec![0u8; 2 << 16];
    for (codec, front) in [(Codec::TernaryRans, &[4u8, 4][..]), (Codec::TernarySparse, &[12][..])] {
        for len in 0..4u8 {
            let rows = vec![0xFFu8; usize::from(len) << 16];
            let payload = [front, &[len, 0, 0], &rows, &scales].concat();
            assert!(codec::validate(&codec, shape, &payload).is_err(), "{codec:?} {len}");
        }
    }
}
