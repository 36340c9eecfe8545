//! Exhaustive damage to small files: every cut, every bit, every length and offset at its extremes. Where checksums
//! would end the matter they are made right again. Whatever is done, a file is refused with a typed error or is a
//! correct model.

mod common;

use common::exercise::exercise;
use common::{Raw, full_config, globals, model, newer, patch_header, plain_config, searched, titans};
use forge_formats::codec::{Codec, HyperParams, SeedLmParams, VptqParams};
use forge_formats::header::{ALIGN, FEATURES, HEADER_LEN, Header, crc32};
use forge_formats::manifest::{Content, Section};
use forge_formats::{Error, File, ModelConfig, Role};

/// Extremes of a 32-bit field, and the neighbours of what overflows when multiplied by 2, 4 or 64.
const EXTREMES: [u32; 13] = [
    0,
    1,
    63,
    64,
    0x03FF_FFFF,
    0x0400_0000,
    0x3FFF_FFFF,
    0x4000_0001,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFC0,
    0xFFFF_FFFE,
    0xFFFF_FFFF,
];

/// The committed files of every version.
fn golden() -> Vec<(String, Vec<u8>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .flat_map(|version| std::fs::read_dir(version.unwrap().path()).unwrap())
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    assert!(files.len() >= 5);
    files
}

/// Makes the lengths in the header those of a file cut or grown at its end.
fn fit(bytes: &mut [u8]) {
    if let Some(header) = bytes.first_chunk::<HEADER_LEN>() {
        let offset = u32::from_le_bytes(header[20..24].try_into().unwrap());
        let data_len = (bytes.len() as u64).saturating_sub(u64::from(offset));
        patch_header(bytes, 24, &data_len.to_le_bytes());
    }
}

#[test]
fn golden_files_cut_anywhere_are_refused() {
    for (name, good) in golden() {
        for len in 0..good.len() {
            assert!(File::parse(&good[..len]).is_err(), "{name} cut to {len} bytes");
            let mut fitted = good[..len].to_vec();
            fit(&mut fitted);
            assert!(File::parse(&fitted).is_err(), "{name} cut to {len} bytes, lengths fitted");
        }
        // Grown by what alignment would allow, lengths fitted.
        for more in 1..=2 * ALIGN {
            let mut fitted = [&good[..], &vec![0; more]].concat();
            fit(&mut fitted);
            assert_eq!(File::parse(&fitted).map(|_| ()), Err(Error::Trailing), "{name} and {more} bytes");
        }
        assert!(exercise(&good), "{name} itself");
    }
}

#[test]
fn every_bit_of_the_golden_files_is_guarded() {
    for (name, mut bytes) in golden() {
        for at in 0..bytes.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                let noticed = File::parse(&bytes).and_then(|file| file.verify()).is_err();
                assert!(noticed, "{name}: bit {bit} of byte {at}");
                // The same checks in one walk; a bit of each byte will do.
                let noticed = bit != at % 8 || File::parse_verified(&bytes).is_err();
                assert!(noticed, "{name}: bit {bit} of byte {at}, in one walk");
                bytes[at] ^= 1 << bit;
            }
        }
    }
}

#[test]
fn every_bit_of_header_and_manifest_behind_right_checksums() {
    let mut accepted = 0;
    for (name, good) in golden() {
        let front = File::parse(&good).unwrap().header().data_offset as usize;
        for at in (0..front).filter(|at| !(32..36).contains(at) && *at < HEADER_LEN - 4 || *at >= HEADER_LEN)
        {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                let end =
                    front.min(HEADER_LEN + u32::from_le_bytes(good[16..20].try_into().unwrap()) as usize);
                let crc = crc32(&bytes[HEADER_LEN..end]).to_le_bytes();
                patch_header(&mut bytes, 32, &crc);
                let taken = exercise(&bytes);
                accepted += usize::from(taken);
                // Of the header, the minor version and the known features may differ, if the one has the other.
                let minor = u16::from_le_bytes(bytes[10..12].try_into().unwrap());
                let features = u32::from_le_bytes(bytes[12..16].try_into().unwrap());
                let free = match at {
                    10..12 => Some(minor > 0 || features == 0),
                    12..16 => Some(features & !FEATURES == 0 && minor > 0).filter(|free| !free),
                    ..HEADER_LEN => Some(false),
                    _ => None,
                };
                assert!(
                    free.is_none_or(|free| free == taken),
                    "{name}: bit {bit} of byte {at}: taken {taken}"
                );
            }
        }
    }
    // Switches such as the activation, and numbers without a wrong value such as the threshold.
    assert!(accepted > 100, "{accepted} accepted: the manifest's bits were not reached");
}

#[test]
fn every_bit_of_every_section_behind_right_checksums() {
    let (mut accepted, mut refused) = (0, 0);
    for (name, good) in golden() {
        let mut raw = Raw::new(&good);
        for section in 0..raw.sections.len() {
            for at in 0..raw.payload(section).len() {
                for bit in 0..8 {
                    raw.payload(section)[at] ^= 1 << bit;
                    let right = raw.sections[section].crc;
                    raw.sections[section].crc = crc32(raw.payload(section));
                    match File::parse(&raw.bytes()) {
                        Ok(file) => {
                            assert_eq!(file.verify(), Ok(()), "{name}: section {section} byte {at}");
                            accepted += 1;
                        }
                        Err(_) => refused += 1,
                    }
                    raw.payload(section)[at] ^= 1 << bit;
                    raw.sections[section].crc = right;
                }
            }
        }
        assert_eq!(raw.bytes(), good);
    }
    assert!(accepted > 10_000 && refused > 1_000, "{accepted} accepted, {refused} refused");
}

#[test]
fn header_fields_at_their_extremes() {
    for (name, good) in golden() {
        // Manifest length, data offset, both halves of the data length, the manifest's checksum, features, reserved.
        for at in [12, 16, 20, 24, 28, 32, 36, 52] {
            for value in EXTREMES {
                let mut bytes = good.clone();
                patch_header(&mut bytes, at, &value.to_le_bytes());
                assert_eq!(File::parse(&bytes).is_ok(), bytes == good, "{name}: {value:#x} at {at}");
            }
        }
        // All lengths together.
        for manifest_len in EXTREMES {
            for data_len in [0, 1, u64::from(u32::MAX), u64::MAX - 64, u64::MAX] {
                let offset = manifest_len.wrapping_add(127) & !63;
                let mut bytes = good.clone();
                patch_header(&mut bytes, 16, &manifest_len.to_le_bytes());
                patch_header(&mut bytes, 20, &offset.to_le_bytes());
                patch_header(&mut bytes, 24, &data_len.to_le_bytes());
                assert!(File::parse(&bytes).is_err(), "{name}: lengths {manifest_len:#x}, {data_len:#x}");
            }
        }
    }
}

/// Sets one field of one record to every extreme; only the value that was there may pass. (A card or an extra that
/// takes the zeros behind it for its own still parses: its checksum tells.)
fn extremes(what: &str, field: impl Fn(&mut Section) -> Option<&mut u32>) {
    let mut tried = 0;
    for writer in [model(&full_config()).extra(3, [1, 2]), searched(), newer(), titans(), globals()] {
        let good = writer.finish().unwrap();
        for at in 0..Raw::new(&good).sections.len() {
            for value in EXTREMES {
                let mut raw = Raw::new(&good);
                let Some(place) = field(&mut raw.sections[at]) else { continue };
                *place = value;
                tried += 1;
                let bytes = raw.bytes();
                let passed = File::parse(&bytes).and_then(|file| file.verify()).is_ok();
                assert_eq!(passed, bytes == good, "{what} of section {at} = {value:#x}");
            }
        }
    }
    assert!(tried > 100, "{what}: {tried} tried");
}

#[test]
fn section_fields_at_their_extremes() {
    extremes("offset", |s| Some(&mut s.offset64));
    extremes("length", |s| Some(&mut s.len));
    extremes("rows", |s| match &mut s.content {
        Content::Tensor { shape: [rows, _], .. } => Some(rows),
        _ => None,
    });
    extremes("columns", |s| match &mut s.content {
        Content::Tensor { shape: [_, cols], .. } => Some(cols),
        _ => None,
    });
    extremes("layer", |s| match &mut s.content {
        Content::Tensor { layer, .. } => Some(layer),
        _ => None,
    });
}

#[test]
fn sections_may_not_overlap() {
    let good = model(&full_config()).finish().unwrap();
    let count = Raw::new(&good).sections.len();
    for a in 0..count {
        for b in 0..count {
            // `b` lies where `a` does: the same bytes, or the front of them, or all up to the end of `b`.
            let mut raw = Raw::new(&good);
            raw.sections[b].offset64 = raw.sections[a].offset64;
            assert_eq!(File::parse(&raw.bytes()).is_ok(), a == b, "{b} at {a}");
            raw.sections[b].len = raw.sections[a].len;
            assert_eq!(File::parse(&raw.bytes()).is_ok(), a == b, "{b} is {a}");
            let mut raw = Raw::new(&good);
            raw.sections.swap(a, b);
            assert_eq!(File::parse(&raw.bytes()).is_ok(), a == b, "{a} and {b} swapped");
        }
        // One section longer by the padding after it, which is then not padding but content of the wrong length.
        let mut raw = Raw::new(&good);
        raw.sections[a].len = raw.sections[a].len.next_multiple_of(64) + 64;
        assert!(File::parse(&raw.bytes()).is_err(), "{a} reaches into the next");
    }
}

/// A right checksum is no proof of content: payloads exchanged between tensors of one shape and codec pass, and are
/// then what the tensors hold; of another shape or codec they do not.
#[test]
fn right_checksums_over_exchanged_content() {
    let good = model(&ModelConfig { layers: 6, ..plain_config() }).finish().unwrap();
    let count = Raw::new(&good).sections.len();
    let mut exchanged = 0;
    for a in 0..count {
        for b in (0..count).filter(|b| *b != a) {
            let mut raw = Raw::new(&good);
            let theirs = raw.payload(b).to_vec();
            if raw.payload(a).len() != theirs.len() {
                continue;
            }
            raw.payload(a).copy_from_slice(&theirs);
            raw.seal();
            let bytes = raw.bytes();
            let kind = |at: usize| match raw.sections[at].content {
                Content::Tensor { shape, codec, .. } => Some((shape, codec)),
                _ => None,
            };
            if kind(a).is_some() && kind(a) == kind(b) {
                let file = File::parse(&bytes).expect("the content is valid for both");
                assert_eq!(file.section_bytes(&raw.sections[a]), theirs);
                assert!(exercise(&bytes));
                exchanged += 1;
            } else {
                exercise(&bytes);
            }
        }
    }
    assert!(exchanged > 0, "no two tensors are alike");
}

/// Not a number, the infinities, minus one and minus zero, in f16 and f32.
const BAD_F16: [u16; 5] = [0x7E00, 0x7C00, 0xFC00, 0xBC00, 0x8000];
const BAD_F32: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

/// Writes `value` at `place` of the payload of `role`, checksums right, and returns the parser's answer.
fn spoiled(good: &[u8], role: Role, place: usize, value: &[u8]) -> Result<(), Error> {
    let mut raw = Raw::new(good);
    let at = raw.find(role);
    raw.payload(at)[place..place + value.len()].copy_from_slice(value);
    raw.seal();
    File::parse(&raw.bytes()).map(|_| ())
}

#[test]
fn scales_that_are_no_scales_are_refused() {
    let (full, searched) = (model(&full_config()).finish().unwrap(), searched().finish().unwrap());
    let mut refused = Vec::new();
    for good in [full, searched] {
        let file = File::parse(&good).unwrap();
        let first_layer = full_config().tensors().filter(|t| t.1 == 0).map(|t| t.0).collect::<Vec<_>>();
        for (role, matrix) in first_layer.into_iter().filter_map(|role| Some((role, file.tensor(role, 0)?))) {
            let (codec, len) = (matrix.codec(), matrix.payload().len());
            // Where the scales are: at the end for integers, before each codebook and row for vectors.
            let places = match codec {
                Codec::Int8Row | Codec::Ternary2b | Codec::Ternary5x8 => {
                    vec![len - 2, len - 2 * matrix.rows()]
                }
                Codec::Vptq(p) => {
                    let residual = 2 + (usize::from(p.dim) << p.index_bits);
                    let row =
                        if p.residual_bits == 0 { 0 } else { 2 + (usize::from(p.dim) << p.residual_bits) };
                    vec![0, residual, residual + row]
                }
                _ => continue,
            };
            refused.push(codec.name());
            for place in places {
                for bad in BAD_F16 {
                    let answer = spoiled(&good, role, place, &bad.to_le_bytes());
                    assert_eq!(
                        answer,
                        Err(Error::Codec(codec.name())),
                        "{} {bad:#x} at {place}",
                        role.name()
                    );
                }
                assert_eq!(
                    spoiled(&good, role, place, &0x7BFFu16.to_le_bytes()),
                    Ok(()),
                    "the largest scale"
                );
                assert_eq!(spoiled(&good, role, place, &[0, 0]), Ok(()), "the scale 0");
            }
        }
    }
    refused.sort_unstable();
    refused.dedup();
    assert_eq!(refused, ["int8", "ternary2b", "ternary5x8", "vptq"]);
}

#[test]
fn numbers_that_are_none_are_refused() {
    // The winding's centroid, side and distance; a side or distance of nothing or less.
    let good = searched().finish().unwrap();
    for place in [0, 4, 8, 12] {
        for bad in BAD_F32.into_iter().chain([f32::MAX, -f32::MAX]) {
            let answer = spoiled(&good, Role::Embedding, place, &bad.to_le_bytes());
            assert_eq!(answer, Err(Error::Codec("hyper")), "{bad} at {place}");
        }
    }
    for place in [8, 12] {
        for bad in [0.0f32, -0.0, -1.0, f32::MIN_POSITIVE] {
            assert!(spoiled(&good, Role::Embedding, place, &bad.to_le_bytes()).is_err(), "{bad} at {place}");
        }
    }
    // Weights of the float codecs, the first and the last.
    let good = model(&full_config()).finish().unwrap();
    let file = File::parse(&good).unwrap();
    for (role, layer, _) in full_config().tensors().filter(|t| t.1 == 0) {
        let matrix = file.tensor(role, layer).unwrap();
        let len = matrix.payload().len();
        match matrix.codec() {
            Codec::F32 => {
                for (place, bad) in [0, len - 4].into_iter().flat_map(|p| BAD_F32.map(|bad| (p, bad))) {
                    let answer = spoiled(&good, role, place, &bad.to_le_bytes());
                    assert_eq!(answer, Err(Error::Codec("f32")), "{bad} at {place}");
                }
                assert_eq!(spoiled(&good, role, 0, &f32::MIN.to_le_bytes()), Ok(()));
            }
            Codec::F16 => {
                for (place, bad) in
                    [0, len - 2].into_iter().flat_map(|p| BAD_F16[..3].iter().map(move |b| (p, b)))
                {
                    let answer = spoiled(&good, role, place, &bad.to_le_bytes());
                    assert_eq!(answer, Err(Error::Codec("f16")), "{bad:#x} at {place}");
                }
            }
            _ => {}
        }
    }
}

#[test]
fn codec_parameters_at_their_extremes() {
    let good = searched().finish().unwrap();
    let params = [
        (Role::Embedding, Codec::Hyper(HyperParams { nodes: 0, rings: 0 })),
        (Role::Embedding, Codec::Hyper(HyperParams { nodes: u16::MAX, rings: 255 })),
        (Role::Embedding, Codec::Hyper(HyperParams { nodes: 225, rings: 17 })),
        (Role::Qkv, Codec::SeedLm(SeedLmParams { block: 0, coeffs: 0, bits: 0, exponent: 0 })),
        (Role::Qkv, Codec::SeedLm(SeedLmParams { block: 255, coeffs: 255, bits: 255, exponent: 127 })),
        (Role::Qkv, Codec::SeedLm(SeedLmParams { block: 4, coeffs: 3, bits: 11, exponent: -128 })),
        (Role::GateUp, Codec::Vptq(VptqParams { dim: 0, index_bits: 0, residual_bits: 0 })),
        (Role::GateUp, Codec::Vptq(VptqParams { dim: 255, index_bits: 255, residual_bits: 255 })),
        (Role::GateUp, Codec::Vptq(VptqParams { dim: 4, index_bits: 63, residual_bits: 64 })),
    ];
    for (role, codec) in params {
        let mut raw = Raw::new(&good);
        let at = raw.find(role);
        *raw.codec(at) = codec;
        assert_eq!(File::parse(&raw.bytes()).map(|_| ()), Err(Error::Codec(codec.name())), "{codec:?}");
    }
}

/// A file may state any sizes: nothing is allocated or walked from a stated length before it is known to be there.
#[test]
fn large_claims_in_small_files_cost_nothing() {
    let huge = ModelConfig {
        vocab: 1 << 16,
        dim: 1 << 13,
        layers: 64,
        heads: 32,
        kv_heads: 32,
        head_dim: 256,
        ffn: 1 << 13,
        window: 1 << 14,
        recursion: 16,
        mem_dim: 1 << 13,
        mem_gate: 1 << 13,
        mem_layers: u64::MAX,
        ..full_config()
    };
    huge.validate().expect("the largest sizes are allowed");
    let mut raw = Raw::new(&model(&plain_config()).finish().unwrap());
    raw.config = huge;
    let begun = std::time::Instant::now();
    for _ in 0..1000 {
        assert_eq!(File::parse(&raw.bytes()).map(|_| ()), Err(Error::Tensor("embedding")));
    }
    assert!(begun.elapsed().as_secs() < 5, "a thousand refusals took {:?}", begun.elapsed());
    assert!(Header::new(&vec![0; 1 << 20], 0).is_err());
}
