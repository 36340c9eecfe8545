//! What a program takes that is built with some codecs only. `./test nostd` runs this with two of them; with all of
//! them, as by default, every file is taken.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use forge_formats::codec::linked;
use forge_formats::manifest::Content;
use forge_formats::{Error, File};

/// Every codec that can be left out.
const CODECS: [(&str, bool); 8] = [
    ("int8", linked::INT8),
    ("ternary2b", linked::TERNARY_2B),
    ("ternary5x8", linked::TERNARY_5X8),
    ("ternary_rans", linked::TERNARY_RANS),
    ("ternary_sparse", linked::TERNARY_SPARSE),
    ("seedlm", linked::SEEDLM),
    ("vptq", linked::VPTQ),
    ("hyper", linked::HYPER),
];

#[test]
fn a_file_of_another_codec_is_refused_by_name() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let (mut taken, mut refused) = (0, BTreeSet::new());
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "forge") {
            continue;
        }
        match File::parse(&fs::read(&path).unwrap()) {
            Ok(file) => {
                taken += 1;
                for section in file.sections() {
                    if let Content::Tensor { codec, .. } = section.content {
                        assert!(codec.is_linked(), "{path:?} was taken with {}", codec.name());
                    }
                }
            }
            Err(Error::Feature(codec)) => _ = refused.insert(codec),
            Err(other) => panic!("{path:?}: {other}"),
        }
    }
    let left_out: BTreeSet<_> = CODECS.iter().filter(|(_, linked)| !linked).map(|(name, _)| *name).collect();
    assert_eq!(refused, left_out, "every codec is in some golden file, of which one has this as its first");
    assert!(taken > 0);
}
