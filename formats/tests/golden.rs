//! Files written by released versions stay readable, and are written the same today, byte for byte.

mod common;

use std::path::PathBuf;

use common::{full_config, globals, model, newer, plain_config, searched, titans};
use forge_formats::write::Writer;
use forge_formats::{File, ModelConfig};

/// Folder and name, and the model it was written from.
fn golden() -> [(&'static str, Vec<u8>); 7] {
    let write = |config: &ModelConfig| model(config).finish().unwrap();
    [
        ("v1_0/plain.forge", write(&plain_config())),
        ("v1_0/full.forge", write(&full_config())),
        ("v1_0/searched.forge", searched().finish().unwrap()),
        ("v1_0/extra.forge", model(&plain_config()).card("").extra(7, *b"later").finish().unwrap()),
        ("v1_1/newer.forge", newer().finish().unwrap()),
        ("v1_1/titans.forge", titans().finish().unwrap()),
        ("v1_1/globals.forge", globals().finish().unwrap()),
    ]
}

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", name].iter().collect()
}

#[test]
fn files_of_every_version_read_and_write_the_same() {
    for (name, today) in golden() {
        let bytes = std::fs::read(path(name)).unwrap();
        let file = File::parse(&bytes).unwrap();
        file.verify().unwrap();
        assert!(Writer::from_file(&file).finish().unwrap() == bytes, "{name}: rewriting changes it");
        assert!(today == bytes, "{name}: the writer or an encoder has changed");
    }
}

/// FNV-1a of every decoded weight's bytes, as a reader in another language, written from `docs/format.md`, found it:
/// so that a decoder that changes is noticed even if writer and reader change alike.
#[test]
fn version_1_0_weights_decode_the_same() {
    for (name, expected) in [("plain", PLAIN), ("full", FULL), ("searched", SEARCHED)] {
        let bytes = std::fs::read(path(&format!("v1_0/{name}.forge"))).unwrap();
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
const SEARCHED: u64 = 0x4d16_0200_7db0_f2c3;
const FULL: u64 = 0x62ea_fb38_ffe6_7bd7;

/// The example of `docs/format.md`, section 3.
#[test]
fn worked_bytes() {
    let bytes = std::fs::read(path("v1_0/plain.forge")).unwrap();
    let header = "89 46 4F 52 47 45 0D 0A  01 00  00 00  00 00 00 00  7F 00 00 00  C0 00 00 00 \
                  0D 10 00 00 00 00 00 00  C9 D0 62 2B  00 00 00 00 00 00 00 00 00 00 00 00 \
                  00 00 00 00 00 00 00 00 00 00 00 00  A7 88 23 B2";
    let head = "8D 02  06  01  01  01  04  07  00  10  6B 9A 54 41  AC C5 27 37  00  01  01  00 \
                00 00 00 3F  00  00  00  08";
    let first = "00  00  00  8D 02  06  01  00  9C 19  B2 A7 B5 AE 05";
    let text = [header, head, first].join(" ");
    let expected: Vec<u8> = text.split_whitespace().map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    assert_eq!(bytes[..expected.len()], expected);
}

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
