//! Seeded mutants of valid files, with their checksums made right again so that they get past them: a file is
//! refused, or it is canonical and every accessor works on it.

mod common;

use common::exercise::exercise;
use common::{Raw, full_config, globals, join, model, newer, patch_header, plain_config, searched, titans};
use forge_formats::header::{ALIGN, HEADER_LEN, crc32};
use forge_formats::write::Writer;

/// xorshift64 (Marsaglia 2003).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// One small change: a byte replaced, inserted, removed, or a run copied over another.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        let interesting = [0, 1, 2, 0x3F, 0x7F, 0x80, 0xFF];
        match (self.below(5), bytes.is_empty()) {
            (0, false) => bytes[at] ^= 1 << self.below(8),
            (1, false) => bytes[at] = interesting[self.below(interesting.len())],
            (2, false) => drop(bytes.remove(at)),
            (3, false) => {
                let end = bytes.len().min(at + 1 + self.below(16));
                let to = self.below(bytes.len() - (end - at) + 1);
                bytes.copy_within(at..end, to);
            }
            _ => bytes.insert(at, interesting[self.below(interesting.len())]),
        }
    }
}

fn models() -> [Writer; 6] {
    [model(&plain_config()).extra(3, [1]), model(&full_config()), searched(), newer(), titans(), globals()]
}

fn rounds() -> usize {
    std::env::var("FORGE_FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(4_000)
}

#[test]
fn mutants_of_the_manifest() {
    let mut accepted = 0;
    for (seed, writer) in (1..).zip(models()) {
        let raw = Raw::new(&writer.finish().unwrap());
        let good = raw.manifest();
        let mut rng = Rng(0x9E37_79B9_7F4A_7C15 ^ seed);
        for _ in 0..rounds() {
            let mut manifest = good.clone();
            (0..=rng.below(3)).for_each(|_| rng.mutate(&mut manifest));
            accepted += usize::from(exercise(&raw.with_manifest(&manifest)));
        }
    }
    assert!(accepted > 0, "no mutant got through: the test reaches nothing");
}

#[test]
fn mutants_of_the_sections() {
    let mut accepted = 0;
    for (seed, writer) in (10..).zip(models()) {
        let good = writer.finish().unwrap();
        let mut rng = Rng(0x9E37_79B9_7F4A_7C15 ^ seed);
        for _ in 0..rounds() {
            let mut raw = Raw::new(&good);
            for _ in 0..=rng.below(3) {
                // Small sections, the tokenizer table among them, as often as the large ones.
                let at = rng.below(raw.sections.len());
                let payload = raw.payload(at);
                let mut bytes = payload.to_vec();
                rng.mutate(&mut bytes);
                bytes.resize(payload.len(), 0);
                payload.copy_from_slice(&bytes);
            }
            raw.seal();
            accepted += usize::from(exercise(&raw.bytes()));
        }
    }
    assert!(accepted > 0, "no mutant got through: the test reaches nothing");
}

#[test]
fn mutants_of_the_whole_file() {
    let good = model(&plain_config()).finish().unwrap();
    let mut rng = Rng(0x9E37_79B9_7F4A_7C15 ^ 5);
    for _ in 0..rounds() {
        let mut bytes = good.clone();
        (0..=rng.below(3)).for_each(|_| rng.mutate(&mut bytes));
        if rng.below(2) == 0 && bytes.len() > HEADER_LEN {
            // The lengths and checksums of the header follow the damage.
            let manifest_len = u32::from_le_bytes(bytes[16..20].try_into().unwrap()) as usize;
            let end = (HEADER_LEN + manifest_len.min(bytes.len())).min(bytes.len());
            let crc = crc32(&bytes[HEADER_LEN..end]).to_le_bytes();
            let data_len = bytes.len().saturating_sub(end.next_multiple_of(ALIGN)) as u64;
            patch_header(&mut bytes, 24, &data_len.to_le_bytes());
            patch_header(&mut bytes, 32, &crc);
        }
        exercise(&bytes);
    }
}

#[test]
fn noise() {
    let mut rng = Rng(6);
    for _ in 0..rounds() {
        let bytes: Vec<u8> = (0..rng.below(300)).map(|_| rng.next() as u8).collect();
        assert!(!exercise(&bytes));
        assert!(!exercise(&join(&bytes, &[])));
    }
}
