//! What version 1.1 adds is marked, and readers that do not know a mark refuse the file.

mod common;

use common::{Raw, full_config, globals, model, newer, patch_header, plain_config, spec};
use forge_formats::config::{CacheKind, Globals, MemoryKind};
use forge_formats::header::{
    FEATURE_ALPHABET, FEATURE_CACHE_INT8, FEATURE_GLOBALS, FEATURE_MEMORY_TITANS, FEATURE_TERNARY_RANS,
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
fn globals_are_a_feature_that_readers_must_understand() {
    let bytes = globals().finish().unwrap();
    let file = File::parse(&bytes).unwrap();
    file.verify().unwrap();
    assert_eq!(file.config().globals, Globals { every: 3, rows: 2 });
    assert_eq!((file.header().minor, file.header().features), (1, FEATURE_GLOBALS));
    assert_eq!(Writer::from_file(&file).finish().unwrap(), bytes);
    // Two bytes of manifest are all that differs from the file without, which is as it ever was.
    let plain = model(&full_config()).finish().unwrap();
    let manifest = |bytes: &[u8]| {
        let len = File::parse(bytes).unwrap().header().manifest_len as usize;
        bytes[64..64 + len].to_vec()
    };
    let (with, without) = (manifest(&bytes), manifest(&plain));
    let at = (0..without.len()).find(|at| with[*at] != without[*at]).unwrap();
    assert_eq!([&without[..at], &[3, 2], &without[at..]].concat(), with);
    assert_eq!(File::parse(&plain).unwrap().header().minor, 0);
    // Said, but not there; said and there, but none.
    let mut raw = Raw::new(&plain);
    (raw.minor, raw.features) = (1, FEATURE_GLOBALS);
    assert!(File::parse(&raw.with_manifest(&without)).is_err());
    assert_eq!(refusal(&raw.bytes()), Error::Manifest);
    // There, but not said.
    raw.features = 0;
    assert!(File::parse(&raw.with_manifest(&with)).is_err());
}

#[test]
fn globals_out_of_range_are_refused() {
    let mut raw = Raw::new(&globals().finish().unwrap());
    for (every, rows, good) in [
        (2, 1, true),
        (256, 1 << 14, true),
        (1, 1, false),
        (257, 1, false),
        (0, 1, false),
        (2, 0, false),
        (2, (1 << 14) + 1, false),
        (u32::MAX, u32::MAX, false),
    ] {
        raw.config.globals = Globals { every, rows };
        let found = File::parse(&raw.bytes()).map(|file| file.config().globals);
        let want = if good { Ok(Globals { every, rows }) } else { Err(Error::Config("globals")) };
        assert_eq!(found, want, "every {every}, {rows} rows");
    }
}

/// Which are seen is said once, for trainer and runtime; here against the definition.
#[test]
fn globals_beyond_the_window() {
    for (every, rows, window) in [(2, 1, 1), (2, 3, 5), (3, 100, 4), (7, 2, 6), (5, 4, 16)] {
        for position in 0..200u32 {
            let left = (0..=position).filter(|q| q % every == 0 && q + window <= position);
            let mut want: Vec<u32> = left.map(|q| q / every).collect();
            want.drain(..want.len().saturating_sub(rows as usize));
            let got: Vec<u32> = Globals { every, rows }.beyond(position, window).collect();
            assert_eq!(got, want, "{position}: every {every}, {rows} rows, window {window}");
        }
        // As many as a context of that length has, and one fewer would not do.
        let context = window + every * rows;
        let globals = Globals::within(context, every, window);
        assert_eq!(globals, Globals { every, rows });
        assert_eq!(globals.departed(context - 1, window), rows);
    }
    assert!(Globals::default().beyond(1000, 1).is_empty());
    assert_eq!(Globals::within(4096, 0, 64), Globals::default());
    // No position overflows.
    let most = Globals { every: 2, rows: 1 << 14 };
    assert_eq!(most.beyond(u32::MAX, 1).len(), 1 << 14);
}

#[test]
fn features_are_those_that_are_used() {
    let bytes = newer().finish().unwrap();
    let file = File::parse(&bytes).unwrap();
    file.verify().unwrap();
    assert_eq!(
        (file.header().minor, file.header().features),
        (1, FEATURES & !(FEATURE_ALPHABET | FEATURE_MEMORY_TITANS | FEATURE_GLOBALS))
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
