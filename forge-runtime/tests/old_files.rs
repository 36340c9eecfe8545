//! Files of every released version give the logits that were recorded when they were made. A version's files are
//! never changed; new ones are added with their lines.

use std::path::{Path, PathBuf};

use forge_formats::header::crc32;
use forge_runtime::{Kernels, Model, Options, Session, Workspace};

/// Path of a file, and the CRC-32 of the bits of all logits of 24 steps, as they were when the version was released.
const RECORDED: [(&str, u32); 7] = [
    ("v1_0/extra.forge", 0x9499_ffcd),
    ("v1_0/full.forge", 0x4aac_dca6),
    ("v1_0/plain.forge", 0x9499_ffcd),
    ("v1_0/searched.forge", 0x4bc4_e501),
    ("v1_1/globals.forge", 0x83ae_194b),
    ("v1_1/newer.forge", 0x7f80_09b8),
    ("v1_1/titans.forge", 0xaf0f_976a),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../formats/tests/golden")
}

/// 24 tokens, past the window of 16, and the checksum of what they give.
fn checksum(bytes: &[u8], options: &Options<'_>) -> u32 {
    let model = Model::parse(bytes).expect("an old file is read");
    model.file().verify().expect("an undamaged one");
    let mut workspace = Workspace::with(&model, options);
    let mut session = Session::with(&model, options, workspace.bytes()).expect("enough memory");
    let mut logits = Vec::new();
    for step in 0..24u32 {
        let token = (step * 37 % model.config().vocab) as u16;
        let given = session.step(token).expect("a token of the vocabulary");
        logits.extend(given.iter().flat_map(|l| l.to_bits().to_le_bytes()));
    }
    crc32(&logits)
}

#[test]
fn old_files_give_the_recorded_logits() {
    for (name, recorded) in RECORDED {
        let bytes = std::fs::read(folder().join(name)).expect("a recorded file stays");
        for kernels in Kernels::all() {
            let found = checksum(&bytes, &Options::default().kernels(kernels));
            assert_eq!(found, recorded, "{name} on {kernels:?}: {found:#010x}");
        }
    }
}

#[test]
fn every_file_has_its_record() {
    let mut names = Vec::new();
    for version in std::fs::read_dir(folder()).expect("the folder of versions") {
        let version = version.expect("it can be listed").path();
        for file in std::fs::read_dir(&version).expect("a version's folder") {
            let file = file.expect("it can be listed").path();
            let name = file.strip_prefix(folder()).expect("below it").to_str().expect("UTF-8").to_owned();
            names.push(name);
        }
    }
    names.sort();
    assert_eq!(names, RECORDED.map(|(name, _)| name));
}

/// Negative control: one weight's last bit shows.
#[test]
fn a_changed_weight_shows() {
    let mut bytes = std::fs::read(folder().join("v1_0/plain.forge")).expect("a recorded file stays");
    let before = Model::parse(&bytes).expect("a model").file().header().data_offset as usize;
    bytes[before] ^= 1;
    let model = Model::parse(&bytes).expect("a weight has no wrong value");
    let mut workspace = Workspace::new(&model);
    let mut session = Session::new(&model, workspace.bytes()).expect("enough memory");
    let changed: Vec<u32> = session.step(0).expect("a token").iter().map(|l| l.to_bits()).collect();
    bytes[before] ^= 1;
    let model = Model::parse(&bytes).expect("a model");
    let mut workspace = Workspace::new(&model);
    let mut session = Session::new(&model, workspace.bytes()).expect("enough memory");
    let right: Vec<u32> = session.step(0).expect("a token").iter().map(|l| l.to_bits()).collect();
    assert_ne!(changed, right);
}
