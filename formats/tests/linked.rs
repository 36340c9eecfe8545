//! What a program takes that is built with some codecs only. `./test nostd` runs this with two of them; with all of
//! them, as by default, every file is taken.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use forge_formats::codec::{HyperParams, SeedLmParams, VptqParams};
use forge_formats::config::{Globals, MemoryKind};
use forge_formats::manifest::Content;
use forge_formats::{Codec, Error, File, Matrix};

/// Every codec that can be left out.
const CODECS: [Codec; 8] = [
    Codec::Int8Row,
    Codec::Ternary2b,
    Codec::Ternary5x8,
    Codec::TernaryRans,
    Codec::TernarySparse,
    Codec::SeedLm(SeedLmParams { block: 8, coeffs: 3, bits: 16, exponent: 0 }),
    Codec::Vptq(VptqParams { dim: 4, index_bits: 4, residual_bits: 0 }),
    Codec::Hyper(HyperParams { nodes: 16, rings: 1 }),
];

#[test]
fn a_matrix_of_another_codec_is_refused_by_name() {
    for codec in CODECS {
        // No payload is empty, so what was linked says that this one is invalid.
        let refused = Matrix::new(codec, [1, 16], &[]).unwrap_err();
        let want = if codec.is_linked() { Error::Codec(codec.name()) } else { Error::Feature(codec.name()) };
        assert_eq!(refused, want);
    }
}

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
    let mut left_out: BTreeSet<_> = CODECS.iter().filter(|c| !c.is_linked()).map(Codec::name).collect();
    if !MemoryKind::Titans.is_linked() {
        left_out.insert("titans");
        assert!(refused.contains("titans"));
    }
    if !Globals::LINKED {
        left_out.insert("globals");
        assert!(refused.contains("globals"));
    }
    // A file that uses several is refused for the first of them.
    assert!(refused.is_subset(&left_out), "{refused:?} were refused, {left_out:?} are left out");
    assert_eq!(refused.is_empty(), left_out.is_empty(), "{refused:?}, {left_out:?}");
    assert!(taken > 0);
}
