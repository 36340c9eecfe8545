//! One token a distinct character.
//!
//! An ASCII character is a byte, so its token is the byte's. Any other is merged from its UTF-8 bytes, from the left:
//! the merges of `“` (E2 80 9C) are E2 with 80, and that with 9C. Every merge begins with a leading byte and goes on with
//! continuation bytes, so none joins two characters, and characters with a common beginning share it.

use std::collections::{BTreeMap, BTreeSet};

use forge_formats::Alphabet;

/// The bytes of the characters, and the merges that make one token of each; ids as in the file's table with `specials`
/// special tokens. `None` when there are more tokens than ids.
pub(super) fn table(characters: &BTreeSet<char>, specials: u16) -> Option<(Alphabet, Vec<(u16, u16)>)> {
    let texts: Vec<String> = characters.iter().map(char::to_string).collect();
    let alphabet = Alphabet::of(texts.iter().flat_map(|text| text.bytes()));
    let byte = |byte: u8| alphabet.rank(byte).map(|rank| specials + rank);
    let mut merges = Vec::new();
    // Beginnings of characters, of two bytes and more, with their tokens.
    let mut known: BTreeMap<&[u8], u16> = BTreeMap::new();
    for text in &texts {
        let text = text.as_bytes();
        let mut token = byte(text[0])?;
        for len in 2..=text.len() {
            token = match known.get(&text[..len]) {
                Some(known) => *known,
                None => {
                    merges.push((token, byte(text[len - 1])?));
                    let id = usize::from(specials) + usize::from(alphabet.len()) + merges.len() - 1;
                    let id = u16::try_from(id).ok()?;
                    known.insert(&text[..len], id);
                    id
                }
            };
        }
    }
    Some((alphabet, merges))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascii_needs_no_merge() {
        let (alphabet, merges) = table(&"to be, or\n".chars().collect(), 8).unwrap();
        assert_eq!((alphabet.len(), merges.len()), (8, 0), "as many tokens as characters");
    }

    #[test]
    fn beginnings_are_shared() {
        let (alphabet, merges) = table(&"“”é".chars().collect(), 8).unwrap();
        // Bytes 80 9C 9D A9 C3 E2 are ids 8 to 13.
        assert_eq!(alphabet.len(), 6);
        assert_eq!(merges, [(12, 11), (13, 8), (15, 9), (15, 10)], "é, E2 80, “, ”");
    }

    #[test]
    fn more_characters_than_ids_are_refused() {
        let many: BTreeSet<char> = ('\u{10000}'..='\u{2FFFF}').collect();
        assert!(table(&many, 8).is_none());
    }
}
