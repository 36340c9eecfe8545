use super::*;
use crate::data::Slice;

fn of_calls(train: &[Example], valid: &[Example]) -> Vec<ToolSchema> {
    super::of_calls(train.iter().map(Cow::Borrowed), valid.iter().map(Cow::Borrowed))
}

fn call(tool: &str, args: &[(&str, &str)]) -> Example {
    let args = args.iter().map(|(s, v)| (s.to_string(), v.to_string())).collect();
    let completion = Completion::Tool { tool: tool.into(), args };
    Example { system: None, prompt: "p".into(), completion, slice: Slice::Tool, level: 0 }
}

/// The kind of the slot `s` after calls with these values, `repeat` times each, and one held-out call.
fn kind(values: &[&str], repeat: usize, held_out: &str) -> ValueSpec {
    let train: Vec<Example> =
        (0..repeat).flat_map(|_| values.iter().map(|value| call("t", &[("s", value)]))).collect();
    let schema = of_calls(&train, &[call("t", &[("s", held_out)])]);
    schema[0].slots[0].value.clone()
}

#[test]
fn slots_are_required_and_repeatable_as_seen() {
    let train = [
        call("b", &[("x", "1"), ("y", "2"), ("x", "3")]),
        call("b", &[("x", "1")]),
        call("a", &[]),
        call("b", &[("z", "1"), ("x", "1")]),
    ];
    let schema = of_calls(&train, &[call("b", &[("x", "1")])]);
    assert_eq!(schema.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(schema[0].slots.is_empty());
    let flags = |name| schema[1].slot(name).map(|s| (s.required, s.repeatable)).unwrap();
    assert_eq!((flags("x"), flags("y"), flags("z")), ((true, true), (false, false), (false, false)));
    let schema = of_calls(&train, &[call("b", &[("y", "1")])]);
    assert!(!schema[1].slot("x").unwrap().required, "a held-out call does without");
}

#[test]
fn few_values_that_recur_are_an_enumeration() {
    let rooms = ["hall", "attic", "2"];
    assert_eq!(kind(&rooms, 10, "hall"), ValueSpec::Choice(["2", "attic", "hall"].map(String::from).into()));
    assert_eq!(kind(&rooms, 9, "hall"), ValueSpec::Text, "too few calls to tell");
    assert_eq!(kind(&rooms, 10, "loft"), ValueSpec::Text, "there are others");
    let many: Vec<String> = (0..33).map(|i| format!("room {i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(kind(&many, 10, "room 1"), ValueSpec::Text);
    assert!(matches!(kind(&many[..32], 10, "room 1"), ValueSpec::Choice(values) if values.len() == 32));
    let mut train: Vec<Example> = (0..100).map(|_| call("t", &[("s", "hall")])).collect();
    train.push(call("t", &[("s", "loft")]));
    assert_eq!(of_calls(&train, &[])[0].slots[0].value, ValueSpec::Text, "a value that occurs once");
    let long = "x".repeat(256);
    assert_eq!(kind(&[&long], 10, &long), ValueSpec::Text, "too long for the table");
    assert_eq!(kind(&[""], 10, ""), ValueSpec::Text, "the table holds no empty string");
}

#[test]
fn numbers_are_told_from_text() {
    let whole = ValueSpec::Integer { min: i64::MIN, max: i64::MAX };
    assert_eq!(kind(&["1", "-20", "0"], 1, "7"), whole);
    assert_eq!(kind(&["1", "-20.5"], 1, "0.25"), ValueSpec::Number);
    assert_eq!(kind(&["1", "2"], 1, "2.5"), ValueSpec::Number);
    for other in ["007", "+1", "1e3", "1.", ".5", "-0x1", "one", " 1", "-"] {
        assert_eq!(kind(&["1", "2"], 1, other), ValueSpec::Text, "{other}");
    }
}

#[test]
fn the_table_of_a_file_says_the_same() {
    let train: Vec<Example> = (0..20).map(|i| call("t", &[("s", "on"), ("n", &i.to_string())])).collect();
    let schema = of_calls(&train, &[]);
    let names = |kind, names: &[&str]| names.iter().map(|n| (kind, n.to_string())).collect::<Vec<_>>();
    let controls = names(SpecialKind::Control, &crate::tokenizer::CONTROLS);
    let own = [names(SpecialKind::Tool, &["t"]), names(SpecialKind::Slot, &["n", "s"])].concat();
    let tokenizer = Tokenizer::train(
        ["a"].iter(),
        [controls.clone(), own].concat(),
        &crate::config::TokenizerConfig::bpe(280),
    )
    .unwrap();
    let bytes = to_bytes(&schema, &tokenizer).unwrap().unwrap();
    let table = tools::ToolTable::parse(&bytes, &tokenizer.runtime().table()).unwrap();
    let slots: Vec<_> = table.tool(tokenizer.tool("t").unwrap()).unwrap().slots().collect();
    assert_eq!(
        slots.iter().map(|s| s.token).collect::<Vec<_>>(),
        ["n", "s"].map(|s| tokenizer.slot(s).unwrap())
    );
    assert!(slots.iter().all(|s| s.required && !s.repeatable));
    assert_eq!(to_bytes(&[], &tokenizer).unwrap(), None);
    let bare = Tokenizer::train(["a"].iter(), controls, &crate::config::TokenizerConfig::bpe(270)).unwrap();
    assert!(matches!(to_bytes(&schema, &bare), Err(Error::Usage { .. })), "a tool without a token");
}
