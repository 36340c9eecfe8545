//! Files written by released versions stay readable, and are written the same today, byte for byte.

mod common;

use std::path::PathBuf;

use common::{full_config, model, plain_config};
use forge_formats::write::Writer;
use forge_formats::{File, ModelConfig};

/// Name, and the model it was written from.
fn golden() -> [(&'static str, Vec<u8>); 3] {
    let write = |config: &ModelConfig| model(config).finish().unwrap();
    [
        ("plain.forge", write(&plain_config())),
        ("full.forge", write(&full_config())),
        ("extra.forge", model(&plain_config()).card("").extra(7, *b"later").finish().unwrap()),
    ]
}

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", "v1_0", name].iter().collect()
}

#[test]
fn version_1_0_files_read_and_write_the_same() {
    for (name, today) in golden() {
        let bytes = std::fs::read(path(name)).unwrap();
        let file = File::parse(&bytes).unwrap();
        file.verify().unwrap();
        assert!(Writer::from_file(&file).finish().unwrap() == bytes, "{name}: rewriting changes it");
        assert!(today == bytes, "{name}: the writer or an encoder has changed");
    }
}

/// FNV-1a of every decoded weight, so that a decoder that changes is noticed even if writer and reader change alike.
#[test]
fn version_1_0_weights_decode_the_same() {
    for (name, expected) in [("plain.forge", PLAIN), ("full.forge", FULL)] {
        let bytes = std::fs::read(path(name)).unwrap();
        let file = File::parse(&bytes).unwrap();
        let mut hash = 0xCBF2_9CE4_8422_2325u64;
        for (role, layer, [rows, cols]) in file.config().tensors() {
            let matrix = file.tensor(role, layer).unwrap();
            let mut row = vec![0.0; cols as usize];
            for r in 0..rows as usize {
                matrix.decode_row(r, &mut row);
                for byte in row.iter().flat_map(|w| w.to_le_bytes()) {
                    hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
                }
            }
        }
        assert_eq!(hash, expected, "{name}: {hash:#018x}");
    }
}

const PLAIN: u64 = 0x1879_be37_1462_5351;
const FULL: u64 = 0x62ea_fb38_ffe6_7bd7;

/// Run once when a version is released; files that exist are never touched.
#[test]
#[ignore = "writes files"]
fn write_missing_golden_files() {
    for (name, bytes) in golden() {
        if !path(name).exists() {
            std::fs::write(path(name), bytes).unwrap();
        }
    }
}
