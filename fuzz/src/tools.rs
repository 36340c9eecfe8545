//! Any tool table.

use forge_formats::tokenizer::{SpecialKind, TokenizerSpec, TokenizerTable};
use forge_formats::tools::{SlotSpec, ToolSpec, ToolTable, Value, ValueSpec, to_bytes};

use crate::input::Input;

thread_local! {
    /// The tokenizer whose tools these are.
    pub(crate) static TOKENIZER: Vec<u8> = tokenizer();
}

/// Ids of the tools and of the slots, with strangers before, between and behind.
const TOOLS: [u16; 3] = [1, 2, 4];
const SLOTS: [u16; 3] = [3, 5, 6];

/// Seven special tokens, the bytes, and five merges.
fn tokenizer() -> Vec<u8> {
    use SpecialKind::{Control, Slot, Tool};
    let names = [
        (Control, "<eos>"),
        (Tool, "light"),
        (Tool, "timer"),
        (Slot, "room"),
        (Tool, "music"),
        (Slot, "level"),
        (Slot, "timer"),
    ];
    let specials = names.map(|(kind, name)| (kind, name.to_owned())).to_vec();
    // " o", "on", "of", "off", "12": beginnings and wholes of values.
    let byte = |b: u8| 7 + u16::from(b);
    let merges = vec![
        (byte(b' '), byte(b'o')),
        (byte(b'o'), byte(b'n')),
        (byte(b'o'), byte(b'f')),
        (265, byte(b'f')),
        (byte(b'1'), byte(b'2')),
    ];
    TokenizerSpec { specials, merges, ..TokenizerSpec::default() }.to_bytes().expect("a valid table")
}

/// Parses a table, raw or put together from the input, and uses it. Serves P1.
pub fn tools(data: &[u8]) {
    let mut input = Input::new(data);
    TOKENIZER.with(|bytes| {
        let tokenizer = TokenizerTable::parse(bytes).expect("a valid table");
        if input.byte() & 1 == 0 {
            exercise(input.rest(), &tokenizer);
        } else if let Ok(mut table) = to_bytes(&assemble(&mut input), &tokenizer) {
            assert!(exercise(&table, &tokenizer), "what is written is refused");
            let (at, flip) = (usize::from(input.u16()) % table.len(), input.byte());
            table[at] ^= flip;
            exercise(&table, &tokenizer);
        }
    });
}

/// Tools of the input's choice: valid but for ranges and strings.
pub(crate) fn assemble(input: &mut Input<'_>) -> Vec<ToolSpec> {
    let (tools, mut out) = (1 + input.below(7), Vec::new());
    for (_, token) in TOOLS.iter().enumerate().filter(|(i, _)| tools >> i & 1 == 1) {
        let (chosen, mut slots) = (input.below(8), Vec::new());
        for (_, token) in SLOTS.iter().enumerate().filter(|(i, _)| chosen >> i & 1 == 1) {
            let (flags, kind) = (input.byte(), input.below(5));
            let value = match kind {
                0 => ValueSpec::Text,
                1 => ValueSpec::Choice(strings(input)),
                2 => ValueSpec::Integer { min: i64::MIN, max: i64::MAX },
                3 => {
                    let (a, b) = (i64::from(input.u16().cast_signed()), i64::from(input.u16()));
                    ValueSpec::Integer { min: a, max: a + (b >> (a & 15)) }
                }
                _ => ValueSpec::Number,
            };
            let (required, repeatable) = (flags & 1 == 1, flags & 2 == 2);
            slots.push(SlotSpec { token: *token, required, repeatable, value });
        }
        out.push(ToolSpec { token: *token, slots });
    }
    out
}

/// Strings that share beginnings.
fn strings(input: &mut Input<'_>) -> Vec<String> {
    const PARTS: [&str; 8] = ["o", "on", "off", " ", "12", "é", "kitchen", "of"];
    let mut all: Vec<String> = (0..1 + input.below(4))
        .map(|_| (0..1 + input.below(3)).map(|_| PARTS[input.below(PARTS.len())]).collect())
        .collect();
    all.sort();
    all.dedup();
    all
}

/// Parses; when that succeeds, reads everything. Returns whether it did.
fn exercise(bytes: &[u8], tokenizer: &TokenizerTable<'_>) -> bool {
    let Ok(table) = ToolTable::parse(bytes, tokenizer) else { return false };
    let mut last = None;
    assert_eq!(table.tools().count(), table.len());
    for tool in table.tools() {
        assert!(last < Some(tool.token()) && TOOLS.contains(&tool.token()));
        last = Some(tool.token());
        assert!(table.tool(tool.token()) == Some(tool));
        assert_eq!(tool.slots().count(), tool.len());
        for slot in tool.slots() {
            assert!(SLOTS.contains(&slot.token) && tool.slot(slot.token) == Some(slot));
            match slot.value {
                Value::Choice(choices) => {
                    assert!(choices.iter().count() == choices.len() && !choices.iter().any(str::is_empty));
                    assert!(choices.iter().is_sorted());
                }
                Value::Integer { min, max } => assert!(min <= max),
                Value::Text | Value::Number => {}
            }
        }
    }
    assert!(TOOLS.iter().filter(|t| table.tool(**t).is_some()).count() == table.len());
    let again = to_bytes(&table.to_spec(), tokenizer).expect("what is read can be written");
    assert!(again == bytes, "two encodings of one table");
    true
}
