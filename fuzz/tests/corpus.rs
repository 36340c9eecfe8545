//! The committed inputs, and once-found failures among them, through their targets without a fuzzer.

use std::fs;
use std::path::{Path, PathBuf};

/// A target and its name.
type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 14] = [
    ("parser", forge_fuzz::parser),
    ("structured", forge_fuzz::structured),
    ("tokenizer", forge_fuzz::tokenizer),
    ("float", forge_fuzz::float),
    ("int8", forge_fuzz::int8),
    ("ternary2b", forge_fuzz::ternary2b),
    ("ternary5x8", forge_fuzz::ternary5x8),
    ("seedlm", forge_fuzz::seedlm),
    ("vptq", forge_fuzz::vptq),
    ("hyper", forge_fuzz::hyper),
    ("tools", forge_fuzz::tools),
    ("rans", forge_fuzz::rans),
    ("sparse", forge_fuzz::sparse),
    ("constrain", forge_fuzz::constrain),
];

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

fn inputs(target: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder(target)).unwrap_or_else(|e| panic!("corpus of {target}: {e}"));
    entries.map(|entry| entry.expect("the folder can be listed").path()).collect()
}

#[test]
fn every_input_keeps_the_promises() {
    for (name, target) in TARGETS {
        let inputs = inputs(name);
        assert!(!inputs.is_empty(), "{name} has no corpus");
        for path in inputs {
            target(&fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
        }
    }
}

#[test]
fn every_target_is_replayed() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets");
    let mut names: Vec<_> = fs::read_dir(sources)
        .expect("the targets' folder")
        .map(|entry| entry.expect("the folder can be listed").path().file_stem().expect("a name").to_owned())
        .collect();
    names.sort();
    let mut known: Vec<_> = TARGETS.map(|(name, _)| name).to_vec();
    known.sort_unstable();
    assert_eq!(names, known);
}

#[test]
fn the_corpora_stay_small() {
    let sizes: Vec<u64> = TARGETS
        .iter()
        .flat_map(|(name, _)| inputs(name))
        .map(|path| path.metadata().expect("a file").len())
        .collect();
    assert!(sizes.len() <= 300, "{} files", sizes.len());
    assert!(sizes.iter().all(|size| *size <= 2048), "an input of {:?} bytes", sizes.iter().max());
}

/// What the parser's fuzzing began with: valid models of every kind. Run when the format gains something.
#[test]
#[ignore = "writes files"]
fn write_seeds() {
    let mut state = 1u64;
    let mut written = 0;
    fs::create_dir_all(folder("parser")).expect("the folder can be made");
    while written < 40 {
        let mut choices = [0; 96];
        for byte in &mut choices {
            state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
        let file = forge_fuzz::model(&choices);
        if file.len() <= 2048 {
            fs::write(folder("parser").join(format!("seed-{written:02}")), file)
                .expect("a file can be written");
            written += 1;
        }
    }
}
