//! Everything a reader may rely on (`docs/format.md` §7), asserted of one file.

use forge_formats::File;
use forge_formats::tokenizer::MAX_TOKEN;
use forge_formats::write::Writer;

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
