use super::*;
use crate::data::builtin::{Sizes, generate};
use proptest::prelude::*;

fn tokenizer() -> Tokenizer {
    Tokenizer::for_dataset(&generate(5, &Sizes { train: 400, eval: 10 }), &TokenizerConfig::bpe(512)).unwrap()
}

#[test]
fn the_vocabulary_has_the_stated_order_and_size() {
    let t = tokenizer();
    assert_eq!(t.vocab(), 512);
    assert_eq!((t.control("<pad>"), t.control("</think>")), (0, 6));
    assert_eq!(t.tool("add_event"), Some(13), "tools follow the controls, by name");
    assert_eq!(t.tool("room"), None);
    assert!(t.slot("artist").unwrap() > t.tool("set_timer").unwrap());
    assert_eq!(Tokenizer::from_bytes(t.table()).unwrap(), t);
}

#[test]
fn encoding_with_the_memo_is_the_runtimes() {
    let t = tokenizer();
    for text in ["dim the bedroom lights to 20", " x  y\n\n z", "", "Ünïcödé, 12:30!", "\t"] {
        let mut ids = vec![0; text.len()];
        let len = t.runtime().encode(text.as_bytes(), &mut ids).unwrap();
        assert_eq!(t.encode(text), ids[..len], "{text:?}");
        assert_eq!(t.encode(text), ids[..len], "{text:?} remembered");
    }
}

#[test]
fn merges_shorten_text() {
    let t = tokenizer();
    let text = "please set the lights in the kitchen to 40 percent";
    assert!(t.encode(text).len() * 2 < text.len(), "{}", t.encode(text).len());
}

#[test]
fn vocabularies_out_of_range_are_refused() {
    let data = generate(5, &Sizes { train: 40, eval: 4 });
    for size in [0, 256, 70_000] {
        let error = Tokenizer::for_dataset(&data, &TokenizerConfig::bpe(size)).unwrap_err();
        assert!(error.to_string().contains("out of range") && error.hint().is_some(), "{error}");
    }
}

#[test]
fn a_table_without_controls_is_refused() {
    let spec =
        TokenizerSpec { specials: vec![(SpecialKind::Control, "<pad>".into())], ..TokenizerSpec::default() };
    assert!(Tokenizer::from_spec(spec).is_err());
}

fn of_kind(kind: TokenizerKind, text: &str) -> Tokenizer {
    Tokenizer::train([text].into_iter(), controls(), &TokenizerConfig { kind, vocab: 0 }).unwrap()
}

#[test]
fn a_character_is_a_token_and_the_table_holds_no_other() {
    let text = "First Citizen: “naïve” 日本, 🦀\n";
    let t = of_kind(TokenizerKind::Char, text);
    let ids = t.encode(text);
    assert_eq!(ids.len(), text.chars().count());
    assert_eq!(t.decode(&ids), text);
    assert_eq!(Tokenizer::from_bytes(t.table()).unwrap(), t);
    let ascii = of_kind(TokenizerKind::Char, "hello, world\n");
    assert_eq!(ascii.vocab(), 14 + 10, "thirteen controls, the unknown and ten characters");
    assert_eq!((ascii.control("<pad>"), ascii.control("</think>"), ascii.control("<unk>")), (0, 6, 13));
}

#[test]
fn other_characters_are_the_unknown_token() {
    let t = of_kind(TokenizerKind::Char, "abc é");
    let unknown = t.control("<unk>");
    let ids = t.encode("aXb");
    assert_eq!((ids[1], ids.len(), t.decode(&ids).as_str()), (unknown, 3, "ab"));
    assert_eq!(t.encode("è"), [t.encode("é")[0] - 1, unknown], "a byte that is known, and one that is not");
}

#[test]
fn no_characters_make_no_tokenizer() {
    let config = TokenizerConfig { kind: TokenizerKind::Char, vocab: 0 };
    let refused = Tokenizer::train([""].into_iter(), controls(), &config).unwrap_err();
    assert!(refused.hint().is_some(), "{refused}");
}

#[test]
fn a_byte_is_a_token() {
    let t = of_kind(TokenizerKind::Byte, "whatever");
    assert_eq!(t.vocab(), 13 + 256);
    let ids: Vec<u16> = "né".bytes().map(|b| 13 + u16::from(b)).collect();
    assert_eq!(t.encode("né"), ids);
    assert_eq!(t.decode(&ids), "né");
}

#[test]
fn characters_of_examples_that_no_merge_is_learnt_from_count() {
    let data = generate(5, &Sizes { train: 400, eval: 10 });
    let kind = TokenizerKind::Char;
    let t = Tokenizer::for_dataset(&data, &TokenizerConfig { kind, vocab: 0 }).unwrap();
    let unknown = t.control("<unk>");
    assert!(data.all_texts().all(|text| !t.encode(&text).contains(&unknown)));
    assert!(t.vocab() < 140, "{}", t.vocab());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decoding_gives_the_text_back(text in ".{0,80}") {
        static TOKENIZER: std::sync::LazyLock<Tokenizer> = std::sync::LazyLock::new(tokenizer);
        prop_assert_eq!(TOKENIZER.decode(&TOKENIZER.encode(&text)), text);
    }

    #[test]
    fn any_text_is_as_many_tokens_as_characters(text in ".{1,60}") {
        let t = of_kind(TokenizerKind::Char, &text);
        let ids = t.encode(&text);
        prop_assert_eq!(ids.len(), text.chars().count());
        prop_assert_eq!(t.decode(&ids), text);
    }
}
