//! The tool table: what is written is read, one encoding only, and every fault is refused.

mod common;

use common::{Raw, model, patch_header, plain_config, schema};
use forge_formats::manifest::Content;
use forge_formats::tokenizer::{SpecialKind, TokenizerSpec, TokenizerTable};
use forge_formats::tools::{self, SlotSpec, ToolSpec, ToolTable, Value, ValueSpec, to_bytes};
use forge_formats::write::Writer;
use forge_formats::{Error, File};
use proptest::prelude::*;

/// Ids: 0 control, 1 to 3 tools, 4 to 7 slots.
fn tokenizer() -> Vec<u8> {
    let kinds =
        [SpecialKind::Control; 1].into_iter().chain([SpecialKind::Tool; 3]).chain([SpecialKind::Slot; 4]);
    let specials = kinds.enumerate().map(|(id, kind)| (kind, format!("n{id}"))).collect();
    TokenizerSpec { specials, ..TokenizerSpec::default() }.to_bytes().unwrap()
}

fn slot(token: u16, value: ValueSpec) -> SlotSpec {
    SlotSpec { token, required: false, repeatable: false, value }
}

fn choice(strings: &[&str]) -> ValueSpec {
    ValueSpec::Choice(strings.iter().map(|s| s.to_string()).collect())
}

/// One slot of every kind.
fn sample() -> Vec<ToolSpec> {
    let full = vec![
        SlotSpec { required: true, ..slot(4, choice(&["off", "on"])) },
        SlotSpec { repeatable: true, ..slot(5, ValueSpec::Text) },
        SlotSpec { required: true, repeatable: true, ..slot(6, ValueSpec::Integer { min: -5, max: 300 }) },
        slot(7, ValueSpec::Number),
    ];
    let all = ValueSpec::Integer { min: i64::MIN, max: i64::MAX };
    vec![
        ToolSpec { token: 1, slots: full },
        ToolSpec { token: 2, slots: Vec::new() },
        ToolSpec { token: 3, slots: vec![slot(6, all)] },
    ]
}

/// The example of `docs/format.md`, section 7.
const WORKED: &str = "03 00  01 00 04 00  04 00 41 02 00 03 6F 66 66 02 6F 6E  05 00 80 \
                      06 00 C3 FB FF FF FF FF FF FF FF 2C 01 00 00 00 00 00 00  07 00 04 \
                      02 00 00 00  03 00 01 00  06 00 02";

fn worked() -> Vec<u8> {
    WORKED.split_whitespace().map(|b| u8::from_str_radix(b, 16).unwrap()).collect()
}

fn refusal(bytes: &[u8]) -> Option<Error> {
    let tokenizer = tokenizer();
    ToolTable::parse(bytes, &TokenizerTable::parse(&tokenizer).unwrap()).err()
}

#[test]
fn worked_bytes() {
    let tokenizer = tokenizer();
    let tokenizer = TokenizerTable::parse(&tokenizer).unwrap();
    assert_eq!(to_bytes(&sample(), &tokenizer).unwrap(), worked());
    let bytes = worked();
    let table = ToolTable::parse(&bytes, &tokenizer).unwrap();
    assert_eq!(table.len(), 3);
    assert_eq!(table.tools().map(|t| (t.token(), t.len())).collect::<Vec<_>>(), [(1, 4), (2, 0), (3, 1)]);
    let tool = table.tool(1).unwrap();
    let room = tool.slot(4).unwrap();
    assert!(room.required && !room.repeatable);
    let Value::Choice(choices) = room.value else { panic!("{room:?}") };
    assert_eq!((choices.len(), choices.iter().collect::<Vec<_>>()), (2, vec!["off", "on"]));
    assert_eq!(tool.slot(6).unwrap().value, Value::Integer { min: -5, max: 300 });
    assert_eq!(tool.slots().map(|s| s.token).collect::<Vec<_>>(), [4, 5, 6, 7]);
    assert!(table.tool(2).unwrap().is_empty() && table.tool(0).is_none() && tool.slot(3).is_none());
    assert_eq!(table.to_spec(), sample());
}

#[test]
fn order_of_adding_does_not_matter() {
    let tokenizer = tokenizer();
    let tokenizer = TokenizerTable::parse(&tokenizer).unwrap();
    let mut tools = sample();
    tools.reverse();
    for tool in &mut tools {
        tool.slots.reverse();
        for slot in &mut tool.slots {
            if let ValueSpec::Choice(choices) = &mut slot.value {
                choices.reverse();
            }
        }
    }
    assert_ne!(tools, sample());
    assert_eq!(to_bytes(&tools, &tokenizer).unwrap(), worked());
}

#[test]
fn what_a_writer_is_given_wrong_is_refused() {
    let tokenizer = tokenizer();
    let tokenizer = TokenizerTable::parse(&tokenizer).unwrap();
    let one = |slots: Vec<SlotSpec>| to_bytes(&[ToolSpec { token: 1, slots }], &tokenizer).err();
    let value = |value| one(vec![slot(4, value)]);
    assert_eq!(value(ValueSpec::Text), None);
    assert_eq!(to_bytes(&[], &tokenizer).err(), Some(Error::Tools("no tool")));
    let tool = |token| ToolSpec { token, slots: Vec::new() };
    for tokens in [vec![1, 1], vec![0], vec![4], vec![8], vec![300], vec![u16::MAX]] {
        let tools: Vec<_> = tokens.iter().map(|t| tool(*t)).collect();
        assert_eq!(to_bytes(&tools, &tokenizer).err(), Some(Error::Tools("tool's token")), "{tokens:?}");
    }
    for tokens in [vec![4, 4], vec![0], vec![1], vec![8], vec![u16::MAX]] {
        let slots = tokens.iter().map(|t| slot(*t, ValueSpec::Text)).collect();
        assert_eq!(one(slots), Some(Error::Tools("slot's token")), "{tokens:?}");
    }
    assert_eq!(value(choice(&[])), Some(Error::Tools("slot")));
    assert_eq!(value(choice(&["a", "b", "a"])), Some(Error::Tools("string")));
    assert_eq!(value(choice(&["", "b"])), Some(Error::Tools("string")));
    assert_eq!(value(choice(&[&"x".repeat(256)])), Some(Error::Tools("string")));
    assert_eq!(value(choice(&[&"x".repeat(255)])), None);
    assert_eq!(value(choice(&["on", "on off"])), None);
    assert_eq!(value(ValueSpec::Integer { min: 1, max: 0 }), Some(Error::Tools("slot")));
    assert_eq!(value(ValueSpec::Integer { min: 1, max: 1 }), None);
    assert_eq!(value(ValueSpec::Integer { min: i64::MIN, max: i64::MAX }), None);
}

#[test]
fn damaged_tables_are_refused() {
    let good = worked();
    assert_eq!(refusal(&good), None);
    for len in 0..good.len() {
        assert!(refusal(&good[..len]).is_some(), "cut to {len} bytes");
    }
    assert_eq!(refusal(&[&good[..], &[0]].concat()), Some(Error::Tools("length")));
    let changed = |at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        refusal(&bytes)
    };
    assert_eq!(changed(0, &[0xFF, 0xFF]), Some(Error::Tools("length")));
    // The first slot: an unknown kind, an unused bit, a count beyond the bytes, strings that fall, no UTF-8.
    assert_eq!((good[8], &good[12..14]), (0x41, &b"of"[..]));
    for byte in [0x45, 0x7F, 0x49, 0x51, 0x61] {
        assert_eq!(changed(8, &[byte]), Some(Error::Tools("slot")), "{byte:#x}");
    }
    assert_eq!(changed(9, &[0xFF, 0xFF]), Some(Error::Tools("slot")));
    assert_eq!(changed(12, b"z"), Some(Error::Tools("string")));
    assert_eq!(changed(13, &[0xFF]), Some(Error::Tools("string")));
    // A range of everything has an encoding of its own.
    assert_eq!(good[23], 0xC3);
    let everything = [i64::MIN.to_le_bytes(), i64::MAX.to_le_bytes()].concat();
    assert_eq!(changed(24, &everything), Some(Error::Tools("slot")));
    assert_eq!(changed(24, &[i64::MIN.to_le_bytes(), (i64::MAX - 1).to_le_bytes()].concat()), None);
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_canonical(at in 0usize..64, bits in prop::collection::vec(any::<u8>(), 0..6), cut in 0usize..60) {
        let tokenizer = tokenizer();
        let tokenizer = TokenizerTable::parse(&tokenizer).unwrap();
        let mut bytes = worked();
        let at = at.min(bytes.len());
        bytes.splice(at..(at + cut % 4).min(worked().len()), bits);
        if let Ok(table) = ToolTable::parse(&bytes, &tokenizer) {
            prop_assert_eq!(to_bytes(&table.to_spec(), &tokenizer).unwrap(), bytes);
        }
    }

    #[test]
    fn what_is_written_is_read(tools in prop::collection::btree_map(1u16..4, prop::collection::btree_map(4u16..8, value(), 0..5), 1..4)) {
        let tokenizer = tokenizer();
        let tokenizer = TokenizerTable::parse(&tokenizer).unwrap();
        let spec: Vec<ToolSpec> = tools
            .into_iter()
            .map(|(token, slots)| ToolSpec {
                token,
                slots: slots
                    .into_iter()
                    .map(|(token, (value, required, repeatable))| SlotSpec { token, required, repeatable, value })
                    .collect(),
            })
            .collect();
        let bytes = to_bytes(&spec, &tokenizer).unwrap();
        prop_assert_eq!(ToolTable::parse(&bytes, &tokenizer).unwrap().to_spec(), spec);
    }
}

fn value() -> impl Strategy<Value = (ValueSpec, bool, bool)> {
    let kinds = prop_oneof![
        Just(ValueSpec::Text),
        Just(ValueSpec::Number),
        prop::collection::btree_set("[a-zé]{1,9}", 1..5)
            .prop_map(|s| ValueSpec::Choice(s.into_iter().collect())),
        any::<(i64, i64)>().prop_map(|(a, b)| ValueSpec::Integer { min: a.min(b), max: a.max(b) }),
    ];
    (kinds, any::<bool>(), any::<bool>())
}

#[test]
fn a_file_with_tools_is_one_of_version_1_1() {
    let bytes = model(&plain_config()).tools(schema()).extra(9, [1]).finish().unwrap();
    let file = File::parse(&bytes).unwrap();
    file.verify().unwrap();
    assert_eq!((file.header().minor, file.header().features), (1, 0));
    assert_eq!(file.tools().unwrap().to_spec().len(), 1);
    assert_eq!(Writer::from_file(&file).finish().unwrap(), bytes);
    // What is in it is of an extra that a reader of version 1.0 skips.
    let tags = file.sections().filter(|s| matches!(s.content, Content::Extra { tag: tools::TAG | 9 }));
    assert_eq!(tags.count(), 2);
}

#[test]
fn a_wrong_table_spoils_a_file_of_version_1_1_only() {
    let written = model(&plain_config()).tools(*b"nonsense").finish();
    assert!(matches!(written, Err(Error::Tools(_))), "{written:?}");
    let mut raw = Raw::new(&model(&plain_config()).extra(tools::TAG, schema()).finish().unwrap());
    let good = raw.bytes();
    // In a file of version 1.0 the tag had no meaning.
    assert!(File::parse(&good).unwrap().tools().is_none());
    let newer = |mut bytes: Vec<u8>| {
        patch_header(&mut bytes, 10, &[1]);
        File::parse(&bytes).map(|file| file.tools().is_some())
    };
    assert_eq!(newer(good), Ok(true));
    let at = raw.position(Content::Extra { tag: tools::TAG });
    raw.payload(at)[2] ^= 0x0F;
    raw.seal();
    assert!(File::parse(&raw.bytes()).is_ok());
    assert_eq!(newer(raw.bytes()), Err(Error::Tools("tool's token")));
}
