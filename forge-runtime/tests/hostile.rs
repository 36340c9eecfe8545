//! A file that parses can be run, whatever its bytes say: two tokens of every damaged file, without a panic.

use std::path::{Path, PathBuf};

use forge_formats::header::{HEADER_LEN, crc32};
use forge_formats::manifest::Content;
use forge_formats::write::Writer;
use forge_formats::{Codec, File, Role};
use forge_runtime::testing::Noise;
use forge_runtime::{Error, Model, Sampler, Session};

/// The largest workspace that is tried; a damaged window may ask for gigabytes, which a caller would not lend.
const MEMORY: usize = 1 << 22;

fn files() -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../formats/tests/golden");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .flat_map(|version| std::fs::read_dir(version.unwrap().path()).unwrap())
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    assert!(files.len() >= 5);
    files
}

/// What became of a damaged file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Refused,
    TooLarge,
    Ran,
}

/// Parses, and runs two tokens and a draw.
fn outcome(bytes: &[u8], memory: &mut [u64]) -> Outcome {
    let model = match Model::parse(bytes) {
        Ok(model) => model,
        Err(Error::Format(_)) => return Outcome::Refused,
        Err(other) => panic!("parsing may only find the format wrong: {other}"),
    };
    let need = model.workspace();
    if need > MEMORY {
        return Outcome::TooLarge;
    }
    let vocab = model.config().vocab;
    let memory = bytemuck::cast_slice_mut::<u64, u8>(memory);
    let mut session = Session::new(&model, &mut memory[..need]).expect("as much memory as it asks for");
    session.step(0).expect("every vocabulary has a first token");
    let logits = session.step_mut((vocab - 1) as u16).expect("and a last");
    assert_eq!(logits.len(), vocab as usize);
    assert!(u32::from(Sampler::new(1.0, 1).sample(logits, &[])) < vocab);
    Outcome::Ran
}

fn memory() -> Vec<u64> {
    vec![0x7FC0_0001_FF80_0001; MEMORY / 8]
}

/// Makes the checksums of manifest and header right. (The sections' own are `File::verify`'s, which guards nothing
/// here: running does not need it.)
fn seal(bytes: &mut [u8], manifest_len: usize) {
    let crc = crc32(&bytes[HEADER_LEN..HEADER_LEN + manifest_len]);
    bytes[32..36].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32(&bytes[..HEADER_LEN - 4]);
    bytes[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn every_flipped_bit_is_refused_or_runs() {
    // The files share the processors. (One of them differs from another in an extra section only.)
    std::thread::scope(|scope| {
        for (path, good) in files().into_iter().filter(|(path, _)| !path.ends_with("extra.forge")) {
            scope.spawn(move || flip_every_bit(&path, &good));
        }
    });
}

fn flip_every_bit(path: &Path, good: &[u8]) {
    let mut memory = memory();
    let manifest_len = File::parse(good).unwrap().header().manifest_len as usize;
    let (mut refused, mut ran) = (0, 0);
    let mut bytes = good.to_vec();
    for at in 0..good.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            seal(&mut bytes, manifest_len);
            match outcome(&bytes, &mut memory) {
                Outcome::Refused => refused += 1,
                Outcome::Ran => ran += 1,
                Outcome::TooLarge => assert!(at < HEADER_LEN + manifest_len, "{}", path.display()),
            }
            bytes[at] ^= 1 << bit;
            seal(&mut bytes, manifest_len);
        }
    }
    assert_eq!(bytes, good);
    assert!(refused > 500 && ran > 500, "{}: {refused} refused, {ran} ran", path.display());
}

#[test]
fn several_bytes_changed_at_once_are_refused_or_run() {
    let (mut memory, mut noise, mut ran) = (memory(), Noise(3), 0);
    for (_, good) in files() {
        let header = *File::parse(&good).unwrap().header();
        for round in 0..3000 {
            let mut bytes = good.clone();
            // In turn: the config, the records, the payloads.
            let (from, to) = match round % 3 {
                0 => (HEADER_LEN, HEADER_LEN + 40),
                1 => (HEADER_LEN, HEADER_LEN + header.manifest_len as usize),
                _ => (header.data_offset as usize, good.len()),
            };
            for _ in 0..1 + noise.below(4) {
                bytes[from + noise.below(to - from)] = noise.next_u64() as u8;
            }
            seal(&mut bytes, header.manifest_len as usize);
            ran += usize::from(outcome(&bytes, &mut memory) == Outcome::Ran);
        }
    }
    assert!(ran > 1000, "only {ran} of the files ran");
}

/// Payloads that are valid and as extreme as the format allows: sums overflow to infinity and on to what is no number,
/// and the session still returns a logit for each token.
#[test]
fn the_largest_weights_run() {
    let mut memory = memory();
    let mut not_finite = 0;
    for (path, good) in files() {
        for (largest, smallest) in [(0x7Fu8, 0x7Bu8), (0xFF, 0xFB)] {
            let file = File::parse(&good).unwrap();
            let mut writer = Writer::from_file(&file);
            for section in file.sections() {
                let Content::Tensor { role, layer, codec, .. } = section.content else { continue };
                let mut payload = file.section_bytes(&section).to_vec();
                match codec {
                    // ±3.4e38 and ±65504.
                    Codec::F32 => {
                        payload
                            .as_chunks_mut::<4>()
                            .0
                            .iter_mut()
                            .for_each(|w| *w = [0xFF, 0xFF, 0x7F, largest]);
                    }
                    Codec::F16 => {
                        payload.as_chunks_mut::<2>().0.iter_mut().for_each(|w| *w = [0xFF, smallest]);
                    }
                    _ => continue,
                }
                writer = writer.replace(role, layer, codec, payload);
            }
            let bytes = writer.finish().expect("finite weights are valid");
            assert_eq!(outcome(&bytes, &mut memory), Outcome::Ran, "{}", path.display());
            let model = Model::parse(&bytes).unwrap();
            let need = model.workspace();
            let lent = &mut bytemuck::cast_slice_mut::<u64, u8>(&mut memory)[..need];
            let mut session = Session::new(&model, lent).unwrap();
            not_finite += session.step(1).unwrap().iter().filter(|logit| !logit.is_finite()).count();
        }
    }
    assert!(not_finite > 0, "the weights were not large enough to mean anything");
}

/// A token that is in the vocabulary by the config but not by the tokenizer cannot be: the two agree, or the file is
/// refused.
#[test]
fn every_id_of_every_file_can_be_stepped() {
    let mut memory = memory();
    for (_, good) in files() {
        let model = Model::parse(&good).unwrap();
        let vocab = model.config().vocab;
        assert_eq!(model.tokenizer().vocab(), vocab);
        assert_eq!(model.file().tensor(Role::Embedding, 0).unwrap().rows(), vocab as usize);
        let lent = &mut bytemuck::cast_slice_mut::<u64, u8>(&mut memory)[..model.workspace()];
        let mut session = Session::new(&model, lent).unwrap();
        for id in 0..=u16::MAX {
            let known = u32::from(id) < vocab;
            assert_eq!(session.feed(id).is_ok(), known, "{id}");
            if id > 2 * vocab as u16 {
                break;
            }
        }
        assert_eq!(session.position(), vocab);
    }
}
