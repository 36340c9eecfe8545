//! Seeded mutants of valid files, with their checksums made right again so that they get past them: a file is
//! refused, or it is canonical and every accessor works on it.

mod common;

use common::{Raw, full_config, join, model, newer, patch_header, plain_config, searched};
use forge_formats::codec::ternary::unpack4;
use forge_formats::header::{ALIGN, HEADER_LEN, crc32};
use forge_formats::tokenizer::MAX_TOKEN;
use forge_formats::write::Writer;
use forge_formats::{File, Matrix};

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

/// Parses; when that succeeds, uses everything. Returns whether it did.
fn exercise(bytes: &[u8]) -> bool {
    let Ok(file) = File::parse(bytes) else {
        return false;
    };
    let _ = file.verify();
    for (role, layer, [rows, cols]) in file.config().tensors() {
        let matrix = file.tensor(role, layer).expect("every tensor is present");
        assert_eq!((matrix.rows(), matrix.cols()), (rows as usize, cols as usize));
        let mut row = vec![f32::NAN; matrix.cols()];
        for r in 0..matrix.rows() {
            matrix.decode_row(r, &mut row);
            assert!(row.iter().all(|w| w.is_finite()));
            packed_rows_agree(&matrix, r, &row);
        }
    }
    let table = file.tokenizer();
    for id in 0..=u16::MAX {
        let mut buffer = [0; MAX_TOKEN];
        let ordinary = id >= table.special_count() && u32::from(id) < table.vocab();
        assert_eq!(table.token_bytes(id, &mut buffer).is_some(), ordinary);
        if let Some((l, r)) = table.merge(id) {
            assert_eq!(table.find_merge(l, r), Some(id));
        }
        if u32::from(id) > table.vocab() + 1000 {
            break;
        }
    }
    // Canonical: but for checksums nobody asked to verify and a newer minor, rewriting gives the same bytes.
    let mut same = Writer::from_file(&file).finish().unwrap();
    patch_header(&mut same, 10, &file.header().minor.to_le_bytes());
    if file.verify().is_ok() {
        assert!(same == bytes, "two encodings of one file");
    }
    true
}

/// What a ternary codec packs is what it decodes.
fn packed_rows_agree(matrix: &Matrix<'_>, r: usize, decoded: &[f32]) {
    let mut packed = vec![0xAA; matrix.packed_2b_bytes()];
    matrix.pack_row_2b(r, &mut packed);
    let mut trits = vec![9i8; matrix.cols()];
    matrix.row_trits(r, &mut trits);
    if !matrix.codec().is_ternary() {
        assert!(packed.iter().all(|b| *b == 0xAA) && trits.iter().all(|t| *t == 9));
        return;
    }
    let unpacked = packed.iter().flat_map(|b| unpack4(*b));
    for (i, trit) in unpacked.enumerate() {
        assert_eq!(trit, trits.get(i).copied().unwrap_or(0));
        assert!(i >= decoded.len() || decoded[i] == f32::from(trit) * matrix.scale(r));
    }
}

fn models() -> [Writer; 4] {
    [model(&plain_config()).extra(3, [1]), model(&full_config()), searched(), newer()]
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
