//! What version 1.1 adds is marked, and readers that do not know a mark refuse the file.

mod common;

use common::{Raw, full_config, model, newer, patch_header, plain_config, spec};
use forge_formats::config::{CacheKind, MemoryKind};
use forge_formats::header::{
    FEATURE_ALPHABET, FEATURE_CACHE_INT8, FEATURE_MEMORY_TITANS, FEATURE_TERNARY_RANS,
    FEATURE_TERNARY_SPARSE, FEATURES, crc32, crc32_by_table,
};
use forge_formats::tokenizer::{SpecialKind, UNKNOWN};
use forge_formats::write::Writer;
use forge_formats::{Alphabet, Error, File, ModelConfig};

fn refusal(bytes: &[u8]) -> Error {
    File::parse(bytes).expect_err("the fault must be refused")
}

#[test]
fn an_int8_cache_is_a_feature_that_readers_must_understand() {
    let plain = model(&plain_config()).finish().unwrap();
    let config = ModelConfig { cache: CacheKind::Int8, ..plain_config() };
    let bytes = model(&config).finish().unwrap();
    let file = File::parse(&bytes).unwrap();
    file.verify().unwrap();
    assert_eq!(*file.config(), config);
    assert_eq!((file.header().minor, file.header().features), (1, FEATURE_CACHE_INT8));
    assert_eq!(Writer::from_file(&file).finish().unwrap(), bytes);
    // The header says it: minor version, feature bit and checksum. All else is as without.
    let differing: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != plain[*at]).collect();
    assert!(differing.iter().all(|at| [10, 12, 60, 61, 62, 63].contains(at)), "{differing:?}");
    assert_eq!(bytes.len(), plain.len());
    assert_eq!(File::parse(&plain).unwrap().config().cache, CacheKind::F32);
}

#[test]
fn a_memory_that_is_a_matrix_is_a_feature_that_readers_must_understand() {
    let config = ModelConfig { memory: MemoryKind::Titans, ..full_config() };
    let bytes = model(&config).finish().unwrap();
    let file = File::parse(&bytes).unwrap();
    assert_eq!(*file.config(), config);
    assert_eq!((file.header().minor, file.header().features), (1, FEATURE_MEMORY_TITANS));
    // Without the bit the tensors have the wrong shapes, and a model without memories cannot have it.
    let mut raw = Raw::new(&bytes);
    raw.features = 0;
    assert!(matches!(refusal(&raw.bytes()), Error::Tensor(_)));
    let mut raw = Raw::new(&model(&plain_config()).finish().unwrap());
    (raw.minor, raw.features) = (1, FEATURE_MEMORY_TITANS);
    assert_eq!(refusal(&raw.bytes()), Error::Manifest);
    // A matrix grows with the square of its width.
    let wide = ModelConfig { mem_dim: 513, ..config };
    assert_eq!(wide.validate(), Err(Error::Config("mem_dim")));
    assert_eq!(ModelConfig { memory: MemoryKind::Ema, ..wide }.validate(), Ok(()));
}

#[test]
fn features_are_those_that_are_used() {
    let bytes = newer().finish().unwrap();
    let file = File::parse(&bytes).unwrap();
    file.verify().unwrap();
    assert_eq!(
        (file.header().minor, file.header().features),
        (1, FEATURES & !(FEATURE_ALPHABET | FEATURE_MEMORY_TITANS))
    );
    assert_eq!(Writer::from_file(&file).finish().unwrap(), bytes);
    for bit in [FEATURE_TERNARY_RANS, FEATURE_TERNARY_SPARSE] {
        let mut raw = Raw::new(&bytes);
        raw.features &= !bit;
        assert_eq!(refusal(&raw.bytes()), Error::Manifest, "used, but not said: {bit}");
        let mut raw = Raw::new(&model(&plain_config()).finish().unwrap());
        (raw.minor, raw.features) = (1, bit);
        assert_eq!(refusal(&raw.bytes()), Error::Manifest, "said, but not used: {bit}");
        raw.features = 0;
        assert!(File::parse(&raw.bytes()).is_ok());
    }
}

#[test]
fn a_reduced_alphabet_is_a_feature() {
    let mut spec = spec();
    spec.specials.push((SpecialKind::Control, UNKNOWN.into()));
    (spec.alphabet, spec.merges) = (Alphabet::of(*b"timer"), Vec::new());
    let vocab = spec.specials.len() as u32 + 5;
    let table = spec.to_bytes().unwrap();
    let writer = model(&ModelConfig { vocab, ..plain_config() }).tokenizer(table);
    let bytes = writer.finish().unwrap();
    let file = File::parse(&bytes).unwrap();
    file.verify().unwrap();
    assert_eq!((file.header().minor, file.header().features), (1, FEATURE_ALPHABET));
    assert_eq!(file.tokenizer().to_spec(), spec);
    assert_eq!(Writer::from_file(&file).finish().unwrap(), bytes);
    let mut raw = Raw::new(&bytes);
    raw.features = 0;
    assert_eq!(refusal(&raw.bytes()), Error::Manifest, "used, but not said");
    let mut raw = Raw::new(&model(&plain_config()).finish().unwrap());
    (raw.minor, raw.features) = (1, FEATURE_ALPHABET);
    assert_eq!(refusal(&raw.bytes()), Error::Manifest, "said, but not used");
}

/// Version 1.0 knew no feature: what it does with this file is what this reader does with every bit it does not know,
/// and with any bit in a file that calls itself 1.0.
#[test]
fn unknown_features_are_refused_before_the_manifest_is_read() {
    let mut good = model(&plain_config()).finish().unwrap();
    patch_header(&mut good, 10, &[1]);
    // A manifest nobody can read: whoever looked at it would say so.
    let at = 64;
    let mut spoiled = good.clone();
    spoiled[at] ^= 0xFF;
    assert_eq!(refusal(&spoiled), Error::Checksum("manifest"));
    for bit in 0..32 {
        let features = 1u32 << bit;
        let with = |bytes: &[u8], minor: u8| {
            let mut bytes = bytes.to_vec();
            patch_header(&mut bytes, 10, &[minor]);
            patch_header(&mut bytes, 12, &features.to_le_bytes());
            File::parse(&bytes).map(|_| ())
        };
        assert_eq!(with(&good, 0), Err(Error::Version), "bit {bit} in version 1.0");
        if features & FEATURES == 0 {
            assert_eq!(with(&spoiled, 1), Err(Error::Version), "bit {bit}");
            assert_eq!(with(&spoiled, 9), Err(Error::Version), "bit {bit}");
        } else {
            assert_eq!(with(&spoiled, 1), Err(Error::Checksum("manifest")), "bit {bit}");
        }
    }
}

/// With `std` the checksum has instructions of its own; without, and on devices, a table.
#[test]
fn both_checksums_agree() {
    assert_eq!((crc32(b"123456789"), crc32_by_table(b"123456789")), (0xCBF4_3926, 0xCBF4_3926));
    let bytes: Vec<u8> = common::values(1, 4096).iter().map(|v| (v * 127.0) as i8 as u8).collect();
    for len in (0..300).chain([511, 512, 513, 1023, 4000]) {
        for start in [0, 1, 7, 96] {
            let part = &bytes[start..start + len];
            assert_eq!(crc32(part), crc32_by_table(part), "{len} bytes from {start}");
        }
    }
}
