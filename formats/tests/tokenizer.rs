//! The tokenizer table and the pre-tokeniser.

mod common;

use common::spec;
use forge_formats::tokenizer::{MAX_SPECIALS, MAX_TOKEN, SpecialKind, TokenizerSpec, TokenizerTable};
use forge_formats::{Alphabet, Error, pretokens};
use proptest::prelude::*;

#[test]
fn lookups() {
    let bytes = spec().to_bytes().unwrap();
    let table = TokenizerTable::parse(&bytes).unwrap();
    assert_eq!(table.vocab(), 9 + 256 + 4);
    assert_eq!(table.special_count(), 9);
    assert_eq!(table.special(SpecialKind::Control, "<pad>"), Some(0));
    assert_eq!(table.special(SpecialKind::Tool, "timer"), Some(7));
    assert_eq!(table.special(SpecialKind::Slot, "timer"), Some(8));
    assert_eq!(table.special(SpecialKind::Control, "timer"), None);
    assert_eq!(table.special_at(8), Some((SpecialKind::Slot, "timer")));
    assert_eq!(table.special_at(9), None);
    assert_eq!(table.byte_id(b'A'), 9 + 65);
    let (t, h, e, space) =
        (table.byte_id(b't'), table.byte_id(b'h'), table.byte_id(b'e'), table.byte_id(b' '));
    assert_eq!(table.find_merge(t, h), Some(265));
    assert_eq!(table.find_merge(265, e), Some(266));
    assert_eq!(table.find_merge(space, 266), Some(267));
    assert_eq!(table.find_merge(space, t), Some(268));
    assert_eq!(table.find_merge(h, t), None);
    assert_eq!(table.merge(267), Some((space, 266)));
    assert_eq!([0, 8, 9, 264, 269, u16::MAX].map(|id| table.merge(id)), [None; 6]);
    let mut buffer = [0; MAX_TOKEN];
    assert_eq!(table.token_bytes(267, &mut buffer), Some(&b" the"[..]));
    assert_eq!(table.token_bytes(space, &mut buffer), Some(&b" "[..]));
    assert_eq!([8, 269, u16::MAX].map(|id| table.token_bytes(id, &mut [0; MAX_TOKEN]).is_some()), [false; 3]);
}

/// The example of `docs/format.md`, section 6.
#[test]
fn worked_bytes() {
    let specials = vec![(SpecialKind::Control, "<s>".to_string())];
    // "b" + "a" comes first, then "a" + "b": the sorted index turns them round.
    let spec = TokenizerSpec { specials, merges: vec![(99, 98), (98, 99)], ..TokenizerSpec::default() };
    let expected = [
        &[1, 0, 2, 0, 5, 0, 0, 0][..],
        &[99, 0, 98, 0, 98, 0, 99, 0],
        &[1, 0, 0, 0],
        &[0, 3, b'<', b's', b'>'],
    ];
    assert_eq!(spec.to_bytes().unwrap(), expected.concat());
}

fn refusal(change: impl FnOnce(&mut TokenizerSpec)) -> Error {
    let mut spec = spec();
    change(&mut spec);
    spec.to_bytes().unwrap_err()
}

#[test]
fn faulty_specs_are_refused() {
    let later = Error::Tokenizer("merge of a later or special token");
    assert_eq!(refusal(|s| s.merges[0].0 = 265), later);
    assert_eq!(refusal(|s| s.merges[3].1 = 268), later);
    assert_eq!(refusal(|s| s.merges[0].1 = u16::MAX), later);
    assert_eq!(refusal(|s| s.merges[2].0 = 8), later);
    assert_eq!(refusal(|s| s.merges[3] = s.merges[0]), Error::Tokenizer("merge index"));
    assert_eq!(refusal(|s| s.specials[1] = s.specials[0].clone()), Error::Tokenizer("special token twice"));
    assert_eq!(refusal(|s| s.specials[1].1.clear()), Error::Tokenizer("special token"));
    assert_eq!(refusal(|s| s.specials[1].1 = "x".repeat(65)), Error::Tokenizer("special token"));
    assert_eq!(refusal(|s| s.specials[1].1 = "x".repeat(256)), Error::Tokenizer("special token"));
    let tools = |n: usize| TokenizerSpec {
        specials: (0..n).map(|i| (SpecialKind::Tool, format!("{i}"))).collect(),
        ..TokenizerSpec::default()
    };
    assert!(tools(MAX_SPECIALS).to_bytes().is_ok());
    assert_eq!(tools(MAX_SPECIALS + 1).to_bytes(), Err(Error::Tokenizer("too many tokens")));
    assert_eq!(tools(70_000).to_bytes(), Err(Error::Tokenizer("too many tokens")));
    let pairs = (0..=255u16).flat_map(|l| (0..=255).map(move |r| (l, r)));
    let merges =
        |n: usize| TokenizerSpec { merges: pairs.clone().take(n).collect(), ..TokenizerSpec::default() };
    assert_eq!(TokenizerTable::parse(&merges(65_280).to_bytes().unwrap()).unwrap().vocab(), 65_536);
    assert_eq!(merges(65_281).to_bytes(), Err(Error::Tokenizer("too many tokens")));
}

/// Tokens double in length: 64 bytes is the sixth doubling. A chain that adds one byte at a time goes as deep.
#[test]
fn tokens_may_be_64_bytes_long_and_no_longer() {
    let doubling = |n: u16| TokenizerSpec {
        merges: (0..n).map(|i| if i == 0 { (97, 97) } else { (255 + i, 255 + i) }).collect(),
        ..TokenizerSpec::default()
    };
    let left = |n: u16| TokenizerSpec {
        merges: (0..n).map(|i| if i == 0 { (97, 98) } else { (255 + i, 98) }).collect(),
        ..TokenizerSpec::default()
    };
    let right = |n: u16| TokenizerSpec {
        merges: (0..n).map(|i| if i == 0 { (97, 98) } else { (97, 255 + i) }).collect(),
        ..TokenizerSpec::default()
    };
    for (spec, longest) in [(doubling(6), 261), (left(63), 318), (right(63), 318)] {
        let bytes = spec.to_bytes().unwrap();
        let table = TokenizerTable::parse(&bytes).unwrap();
        let mut buffer = [0; MAX_TOKEN];
        assert_eq!(table.token_bytes(longest, &mut buffer).unwrap().len(), MAX_TOKEN);
    }
    for spec in [doubling(7), doubling(40), left(64), right(64)] {
        assert_eq!(spec.to_bytes(), Err(Error::Tokenizer("token too long")));
    }
}

#[test]
fn damaged_tables_are_refused() {
    let good = spec().to_bytes().unwrap();
    for len in 0..good.len() {
        assert!(TokenizerTable::parse(&good[..len]).is_err());
    }
    assert_eq!(TokenizerTable::parse(&[&good[..], &[0]].concat()), Err(Error::Tokenizer("length")));
    let patched = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        TokenizerTable::parse(&bytes).unwrap_err()
    };
    let (index, names) = (8 + 4 * 4, 8 + 4 * 6);
    assert_eq!(patched(index, 9), Error::Tokenizer("merge index"));
    assert_eq!(patched(index, good[index + 2]), Error::Tokenizer("merge index"));
    assert_eq!(patched(names, 3), Error::Tokenizer("special token"));
    assert_eq!(patched(names + 1, 0), Error::Tokenizer("special token"));
    assert_eq!(patched(names + 2, 0xFF), Error::Tokenizer("special token"));
    // One special fewer than there are names.
    assert_eq!(patched(0, 8), Error::Tokenizer("special token"));
}

/// A table of five letters and one merge of the last two.
fn reduced() -> TokenizerSpec {
    let specials = ["<s>", "<unk>"].map(|name| (SpecialKind::Control, name.to_string())).to_vec();
    TokenizerSpec { specials, alphabet: Alphabet::of(*b"Hello"), merges: vec![(5, 5)] }
}

#[test]
fn a_table_may_have_tokens_of_some_bytes_only() {
    let bytes = reduced().to_bytes().unwrap();
    let table = TokenizerTable::parse(&bytes).unwrap();
    assert_eq!((table.vocab(), table.alphabet()), (2 + 4 + 1, Alphabet::of(*b"Hello")));
    assert_eq!(b"Helo".map(|b| table.byte_id(b)), [2, 3, 4, 5]);
    assert_eq!(table.byte_id(b'x'), 1, "the unknown token");
    assert_eq!([1, 2, 5, 6].map(|id| table.byte_at(id)), [None, Some(b'H'), Some(b'o'), None]);
    assert_eq!((table.merge(6), table.find_merge(5, 5)), (Some((5, 5)), Some(6)));
    assert_eq!(table.token_bytes(6, &mut [0; MAX_TOKEN]), Some(&b"oo"[..]));
    assert_eq!(table.to_spec(), reduced());
    // `docs/format.md`, section 6: the top bit of the number of specials, and 32 bytes behind the front.
    assert_eq!(bytes[..8], [2, 0x80, 1, 0, 12, 0, 0, 0]);
    let set: Vec<usize> = (0..256).filter(|b| bytes[8 + b / 8] >> (b % 8) & 1 == 1).collect();
    assert_eq!(set, b"Helo".map(usize::from));
}

#[test]
fn faulty_alphabets_are_refused() {
    let refusal = |change: &dyn Fn(&mut TokenizerSpec)| {
        let mut spec = reduced();
        change(&mut spec);
        spec.to_bytes().unwrap_err()
    };
    let alphabet = Error::Tokenizer("alphabet");
    assert_eq!(
        refusal(&|s| s.specials[1].1 = "<other>".into()),
        alphabet,
        "nothing to write other bytes with"
    );
    assert_eq!(refusal(&|s| s.specials[1].0 = SpecialKind::Tool), alphabet);
    assert_eq!(refusal(&|s| (s.alphabet, s.merges) = (Alphabet::of([]), Vec::new())), alphabet);
    assert_eq!(refusal(&|s| s.merges[0].1 = 6), Error::Tokenizer("merge of a later or special token"));
    // All bytes are said by leaving the alphabet out, and by nothing else.
    let mut full = reduced().to_bytes().unwrap();
    full[8..40].fill(0xFF);
    assert_eq!(TokenizerTable::parse(&full), Err(alphabet));
    let good = reduced().to_bytes().unwrap();
    assert!((0..good.len()).all(|len| TokenizerTable::parse(&good[..len]).is_err()));
}

#[test]
fn pieces_of_text() {
    let cut = |text: &'static str| -> Vec<&str> {
        pretokens(text.as_bytes()).map(|p| std::str::from_utf8(p).unwrap()).collect()
    };
    assert_eq!(cut(""), [""; 0]);
    assert_eq!(cut("turn on the light"), ["turn", " on", " the", " light"]);
    assert_eq!(
        cut("7:30am, x_1 = \"é\"!"),
        ["7", ":", "3", "0", "am", ",", " x_", "1", " =", " \"", "é", "\"!"]
    );
    assert_eq!(cut(" 42"), [" 4", "2"]);
    assert_eq!(cut("a  b"), ["a", " ", " b"]);
    assert_eq!(cut("a\n\n  b"), ["a", "\n\n ", " b"]);
    assert_eq!(cut("a \nb"), ["a", " \n", "b"]);
    assert_eq!(cut("\tb  "), ["\t", "b", "  "]);
    assert_eq!(cut(" "), [" "]);
    assert_eq!(cut("don't"), ["don", "'", "t"]);
    assert_eq!(cut("{\"a\":1}"), ["{\"", "a", "\":", "1", "}"]);
    assert_eq!(cut("日本 語"), ["日本", " 語"]);
    assert_eq!(cut("\0\u{7f}"), ["\0\u{7f}"]);
}

proptest! {
    #[test]
    fn pieces_join_to_the_text(text in prop::collection::vec(any::<u8>(), 0..80)) {
        prop_assert_eq!(pretokens(&text).collect::<Vec<_>>().concat(), text.clone());
        prop_assert!(pretokens(&text).all(|p| !p.is_empty()));
    }

    /// Cutting after a piece and starting anew there gives the same pieces: a streaming reader may stop at any.
    #[test]
    fn pieces_do_not_depend_on_what_came_before(text in "[ a-c0-2.\n_é]{0,40}") {
        let pieces: Vec<&[u8]> = pretokens(text.as_bytes()).collect();
        let mut at = 0;
        for (n, piece) in pieces.iter().enumerate() {
            let again: Vec<&[u8]> = pretokens(&text.as_bytes()[at..]).collect();
            prop_assert_eq!(&again, &pieces[n..]);
            at += piece.len();
        }
    }

    #[test]
    fn random_tables_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = TokenizerTable::parse(&bytes);
    }

    /// A random chain of valid merges is written, read and looked up again.
    #[test]
    fn specs_survive(picks in prop::collection::vec((any::<u16>(), any::<u16>()), 0..60)) {
        let mut merges: Vec<(u16, u16)> = Vec::new();
        for (a, b) in picks {
            // Ids below 256 + 8 only, so that no token grows past the limit: depth three at most.
            let bound = 256 + merges.len().min(3) as u16;
            let pair = (a % bound, b % bound);
            if !merges.contains(&pair) {
                merges.push(pair);
            }
        }
        let spec = TokenizerSpec { merges, ..TokenizerSpec::default() };
        let bytes = spec.to_bytes().unwrap();
        let table = TokenizerTable::parse(&bytes).unwrap();
        prop_assert_eq!(table.to_spec(), spec.clone());
        for (id, (l, r)) in (256u16..).zip(&spec.merges) {
            prop_assert_eq!(table.find_merge(*l, *r), Some(id));
            prop_assert_eq!(table.merge(id), Some((*l, *r)));
        }
    }
}
