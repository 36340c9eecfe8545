use super::*;
use crate::data::builtin::{Sizes, generate};
use proptest::prelude::*;

fn tokenizer() -> Tokenizer {
    Tokenizer::for_dataset(&generate(5, &Sizes { train: 400, eval: 10 }), 512).unwrap()
}

#[test]
fn the_vocabulary_has_the_stated_order_and_size() {
    let t = tokenizer();
    assert_eq!(t.vocab(), 512);
    assert_eq!((t.control("<pad>"), t.control("</think>")), (0, 6));
    assert_eq!(t.tool("add_event"), Some(7), "tools follow the controls, by name");
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
        let error = Tokenizer::for_dataset(&data, size).unwrap_err();
        assert!(error.to_string().contains("out of range") && error.hint().is_some(), "{error}");
    }
}

#[test]
fn a_table_without_controls_is_refused() {
    let spec = TokenizerSpec { specials: vec![(SpecialKind::Control, "<pad>".into())], merges: Vec::new() };
    assert!(Tokenizer::from_spec(spec).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decoding_gives_the_text_back(text in ".{0,80}") {
        static TOKENIZER: std::sync::LazyLock<Tokenizer> = std::sync::LazyLock::new(tokenizer);
        prop_assert_eq!(TOKENIZER.decode(&TOKENIZER.encode(&text)), text);
    }
}
