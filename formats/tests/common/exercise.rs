//! Everything a reader may rely on (`docs/format.md` §7), asserted of one file.

use forge_formats::codec::ternary::unpack4;
use forge_formats::tokenizer::MAX_TOKEN;
use forge_formats::write::Writer;
use forge_formats::{File, Matrix};

use super::patch_header;

/// Parses; when that succeeds, uses everything. Returns whether it did.
pub fn exercise(bytes: &[u8]) -> bool {
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
