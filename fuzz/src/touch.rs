//! Uses everything a file offers.

use forge_formats::manifest::Content;
use forge_formats::tokenizer::{MAX_TOKEN, TokenizerTable};
use forge_formats::write::Writer;
use forge_runtime::Model;

/// Parses; when that succeeds, uses every section and asserts what `docs/format.md` §7 promises. Returns whether it
/// did.
pub(crate) fn touch(bytes: &[u8]) -> bool {
    let Ok(model) = Model::parse(bytes) else { return false };
    let file = model.file();
    let verified = file.verify();
    let mut row = Vec::new();
    let (mut tensors, mut sections) = (file.config().tensors(), 0usize);
    for section in file.sections() {
        sections += 1;
        let payload = file.section_bytes(&section);
        assert_eq!(payload.len(), section.len as usize);
        assert!(!section.content.name().is_empty());
        let Content::Tensor { role, layer, shape, codec } = section.content else { continue };
        assert_eq!(tensors.next(), Some((role, layer, shape)));
        let matrix = file.tensor(role, layer).expect("every tensor of the config is present");
        assert_eq!(
            (matrix.codec(), matrix.rows(), matrix.cols()),
            (codec, shape[0] as usize, shape[1] as usize)
        );
        row.resize(matrix.cols(), f32::NAN);
        for r in [0, matrix.rows() / 2, matrix.rows() - 1] {
            matrix.decode_row(r, &mut row);
            assert!(row.iter().all(|w| w.is_finite()), "{} {layer} row {r}", role.name());
        }
    }
    assert_eq!(sections, file.sections().count());
    assert!(tensors.next().is_none());
    assert!(model.workspace().is_multiple_of(4) || model.workspace() == usize::MAX);
    table(file.tokenizer());
    // Rewriting costs more than all of the above, so not every file is.
    if verified.is_ok() && file.header().manifest_crc % 8 == 0 {
        let rewritten = Writer::from_file(file).finish().expect("what is read can be written");
        assert!(
            bytes[12..60] == rewritten[12..60] && bytes[64..] == rewritten[64..],
            "two encodings of one file"
        );
    }
    true
}

/// Looks up every token of a table, and some ids past its end.
pub(crate) fn table(table: TokenizerTable<'_>) {
    let specials = table.special_count();
    assert_eq!(table.specials().count(), usize::from(specials));
    let mut buffer = [0; MAX_TOKEN];
    let vocab = table.vocab();
    // The bytes between are all alike.
    let from = u32::from(specials) + 255;
    for id in (0..u32::from(specials) + 2).chain(from..vocab + 2).filter_map(|id| u16::try_from(id).ok()) {
        let ordinary = id >= specials && u32::from(id) < vocab;
        assert_eq!(table.token_bytes(id, &mut buffer).is_some(), ordinary);
        assert_eq!(table.special_at(id).is_some(), id < specials);
        if let Some((left, right)) = table.merge(id) {
            assert_eq!(table.find_merge(left, right), Some(id));
        }
    }
    for (id, (kind, name)) in table.specials().enumerate().take(4) {
        assert_eq!(table.special(kind, name), Some(id as u16));
    }
}
