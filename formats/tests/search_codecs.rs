//! SeedLM, VPTQ and Hyper on hostile input: any bytes and any parameters give an error or finite numbers.

use forge_formats::codec::{Codec, HyperParams, Matrix, SeedLmParams, VptqParams, payload_len};
use forge_formats::codec::{hyper, seedlm, vptq};
use proptest::prelude::*;

fn any_codec() -> impl Strategy<Value = Codec> {
    let seedlm = (any::<u8>(), any::<u8>(), any::<u8>(), any::<i8>());
    let seedlm =
        seedlm.prop_map(|(block, coeffs, bits, exponent)| SeedLmParams { block, coeffs, bits, exponent });
    let vptq = (any::<u8>(), any::<u8>(), any::<u8>());
    let vptq =
        vptq.prop_map(|(dim, index_bits, residual_bits)| VptqParams { dim, index_bits, residual_bits });
    let hyper = (any::<u16>(), any::<u8>()).prop_map(|(nodes, rings)| HyperParams { nodes, rings });
    prop_oneof![seedlm.prop_map(Codec::SeedLm), vptq.prop_map(Codec::Vptq), hyper.prop_map(Codec::Hyper)]
}

fn usable_codec() -> impl Strategy<Value = Codec> {
    let seedlm = (1u8..=4, 8u8..=16, -100i8..=100).prop_flat_map(|(coeffs, bits, exponent)| {
        (coeffs..=32).prop_map(move |block| SeedLmParams { block, coeffs, bits, exponent })
    });
    let vptq = (1u8..=16, 4u8..=6, 0u8..=4);
    let vptq =
        vptq.prop_map(|(dim, index_bits, residual_bits)| VptqParams { dim, index_bits, residual_bits });
    let hyper = (1u16..2000, 0u8..=16).prop_map(|(nodes, rings)| HyperParams { nodes, rings });
    prop_oneof![seedlm.prop_map(Codec::SeedLm), vptq.prop_map(Codec::Vptq), hyper.prop_map(Codec::Hyper)]
}

/// Decodes without validating, as nobody should.
fn decode_unchecked(codec: &Codec, [rows, cols]: [u32; 2], payload: &[u8], row: u32, out: &mut [f32]) {
    match codec {
        Codec::SeedLm(p) => seedlm::decode_row(p, rows, cols, payload, row, out),
        Codec::Vptq(p) => vptq::decode_row(p, rows, cols, payload, row, out),
        Codec::Hyper(p) => hyper::decode_row(p, rows, cols, payload, row, out),
        _ => unreachable!("only the search codecs are generated"),
    }
}

proptest! {
    #[test]
    fn nothing_panics(
        codec in any_codec(),
        shape in any::<[u32; 2]>(),
        small in (0u32..9, 0u32..40),
        row in any::<u32>(),
        payload in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut out = [0.0; 40];
        for shape in [shape, [small.0, small.1]] {
            let valid = Matrix::new(codec, shape, &payload).is_ok();
            prop_assert!(!valid || payload_len(&codec, shape) == Some(payload.len() as u64));
            decode_unchecked(&codec, shape, &payload, row, &mut out);
            decode_unchecked(&codec, shape, &payload, row % 9, &mut out);
        }
    }

    #[test]
    fn whatever_validates_decodes_to_finite_numbers(
        codec in usable_codec(),
        rows in 1u32..5,
        cols in 1u32..40,
        header in prop::array::uniform4(-4.0f32..40.0),
        bytes in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 4096),
    ) {
        let len = usize::try_from(payload_len(&codec, [rows, cols]).unwrap()).unwrap();
        let mut payload: Vec<u8> = bytes.iter().copied().cycle().take(len).collect();
        if let Codec::Hyper(_) = codec {
            payload.iter_mut().zip(header.iter().flat_map(|x| x.to_le_bytes())).for_each(|(b, h)| *b = h);
        }
        let mut out = vec![f32::NAN; cols as usize + 1];
        for row in 0..rows {
            decode_unchecked(&codec, [rows, cols], &payload, row, &mut out);
            if let Ok(matrix) = Matrix::new(codec, [rows, cols], &payload) {
                matrix.decode_row(row as usize, &mut out);
                prop_assert!(out[..cols as usize].iter().all(|w| w.is_finite()));
                prop_assert!(out[cols as usize].is_nan(), "wrote beyond the row");
            }
        }
    }
}

/// The generator above must reach valid payloads of every codec, or the second property says nothing.
#[test]
fn payloads_of_ones_in_the_right_length_validate() {
    let seedlm = Codec::SeedLm(SeedLmParams { block: 8, coeffs: 3, bits: 16, exponent: 100 });
    let vptq = Codec::Vptq(VptqParams { dim: 4, index_bits: 8, residual_bits: 8 });
    for codec in [seedlm, vptq] {
        let payload = vec![0x7B; usize::try_from(payload_len(&codec, [3, 16]).unwrap()).unwrap()];
        let matrix = Matrix::new(codec, [3, 16], &payload).unwrap();
        let mut out = [f32::NAN; 16];
        matrix.decode_row(2, &mut out);
        assert!(out.iter().all(|w| w.is_finite() && *w != 0.0), "{codec:?}: {out:?}");
    }
    let mut payload = [1.0f32, -1.0, 2.0, 3.0].map(f32::to_le_bytes).concat();
    payload.extend([225, 0]);
    let hyper = Codec::Hyper(HyperParams { nodes: 225, rings: 0 });
    assert!(Matrix::new(hyper, [1, 4], &payload).is_ok());
    payload[16] = 226;
    assert!(Matrix::new(hyper, [1, 4], &payload).is_err(), "226 is beyond the last node");
}
