//! Generation held to any tools.

use forge_formats::tokenizer::{MAX_TOKEN, TokenizerTable};
use forge_formats::tools::{Tool, ToolTable, Value, to_bytes};
use forge_runtime::call::{Call, render};
use forge_runtime::constrain::Mode;
use forge_runtime::{Constraint, Error, Sampler, Tokenizer};

use crate::input::Input;
use crate::tools::{TOKENIZER, assemble};

/// The most tokens of a completion.
const BUDGET: usize = 40;

/// Writes a completion: tokens of the input's choice where they are allowed, then the likeliest that are. However it
/// goes, it ends within its budget and is a call of the table, or a text. Serves P2 for the constrained decoder.
pub fn constrain(data: &[u8]) {
    let mut input = Input::new(data);
    TOKENIZER.with(|bytes| {
        let table = TokenizerTable::parse(bytes).expect("a valid table");
        let tokenizer = Tokenizer::new(table);
        let Ok(tools) = to_bytes(&assemble(&mut input), &table) else { return };
        let tools = ToolTable::parse(&tools, &table).expect("what is written is read");
        let mode = if input.byte() & 1 == 0 { Mode::Call } else { Mode::Any };
        let budget = input.below(BUDGET) as u32;
        match Constraint::with_tools(tokenizer, Some(tools), mode, budget) {
            Ok(constraint) => complete(constraint, tokenizer, tools, mode, &mut input),
            Err(error) => assert!(matches!(error, Error::Budget(least) if least > budget)),
        }
    });
}

fn complete(
    mut constraint: Constraint<'_>,
    tokenizer: Tokenizer<'_>,
    tools: ToolTable<'_>,
    mode: Mode,
    input: &mut Input<'_>,
) {
    let mut ids = [0u16; BUDGET + 1];
    let mut len = 0;
    let mut put = |constraint: &mut Constraint<'_>, token: u16| {
        constraint.advance(token).expect("an allowed token");
        ids[len] = token;
        len += 1;
    };
    // A special token, a merge, or a byte; refused ones change nothing.
    while let (false, [first, ..]) = (constraint.ended(), input.rest()) {
        let token = match input.byte() {
            special @ 0..16 => u16::from(special) % 8,
            merge @ 0x80..0xC0 => 263 + u16::from(merge) % 6,
            _ => tokenizer.table().byte_id(*first),
        };
        if let Some(forced) = constraint.forced() {
            assert!(constraint.allows(forced));
            put(&mut constraint, forced);
        } else if constraint.allows(token) {
            put(&mut constraint, token);
        } else {
            assert_eq!(constraint.clone().advance(token), Err(Error::Refused(token)));
        }
    }
    // Now and then by mask and sampler; else by the question they ask, which is many times as fast.
    let masked = input.byte() % 16 == 5;
    let mut sampler = Sampler::greedy();
    while !constraint.ended() {
        let token = if masked {
            let mut logits = [0.0; 280];
            let logits = &mut logits[..tokenizer.vocab() as usize];
            assert!(constraint.mask(logits) > 0, "nothing may come next");
            // The end where it is allowed, and where it is not what a model would like best.
            logits.iter_mut().rev().zip(0u16..).for_each(|(l, i)| *l += f32::from(i));
            constraint.pick(&mut sampler, logits, &[])
        } else {
            let ids = core::iter::once(constraint.end()).chain((0..tokenizer.vocab() as u16).rev());
            ids.into_iter().find(|id| constraint.allows(*id)).expect("nothing may come next")
        };
        put(&mut constraint, token);
    }
    let ids = &ids[..len];
    assert!(ids.last() == Some(&constraint.end()) && len as u32 <= constraint.budget() + 1);
    let mut text = String::new();
    render(&tokenizer, ids, &mut text).expect("a string takes everything");
    match Call::parse(tokenizer, ids) {
        Some(call) => judge(&tokenizer, tools, ids[0], &call),
        None => assert_eq!(mode, Mode::Any, "no call: {text}"),
    }
}

/// Asserts that a call is one of the tool's.
fn judge(tokenizer: &Tokenizer<'_>, tools: ToolTable<'_>, token: u16, call: &Call<'_, '_>) {
    let tool: Tool<'_> = tools.tool(token).expect("a tool of the table");
    for slot in tool.slots() {
        let (_, name) = tokenizer.special_at(slot.token).expect("a slot has a name");
        let mut values = 0;
        for (_, value) in call.arguments().filter(|(n, _)| *n == name) {
            values += 1;
            let mut bytes = Vec::new();
            let mut buffer = [0; MAX_TOKEN];
            value.iter().for_each(|id| bytes.extend(tokenizer.decode(*id, &mut buffer)));
            let text = std::str::from_utf8(&bytes).expect("a value is whole characters");
            let text = text.strip_prefix(' ').unwrap_or(text);
            let fits = match slot.value {
                Value::Text => true,
                Value::Choice(choices) => choices.iter().any(|choice| choice == text),
                Value::Integer { min, max } => text.parse::<i64>().is_ok_and(|n| (min..=max).contains(&n)),
                Value::Number => text.parse::<f64>().is_ok_and(f64::is_finite),
            };
            assert!(fits, "{text:?} is no value of {name}");
        }
        assert!(values > 0 || !slot.required, "{name} is missing");
        assert!(values < 2 || slot.repeatable, "{name} is repeated");
    }
    for (name, _) in call.arguments() {
        let known = |token: u16| tokenizer.special_at(token).is_some_and(|(_, n)| n == name);
        assert!(tool.slots().any(|slot| known(slot.token)), "{name} is no slot of the tool");
    }
}
