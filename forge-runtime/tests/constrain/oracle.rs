//! What a completion must be, said a second time: of the whole completion, without any state.

use forge_formats::tokenizer::{MAX_TOKEN, SpecialKind};
use forge_formats::tools::{Slot, Tool, ToolTable, Value};
use forge_runtime::Tokenizer;
use forge_runtime::call::Call;

use crate::worlds::MARKERS;

/// Checks a completion, without its `<eos>`, as a call of one of the tools.
pub(crate) fn call(tokenizer: Tokenizer<'_>, tools: ToolTable<'_>, ids: &[u16]) -> Result<(), &'static str> {
    let call = Call::parse(tokenizer, ids).ok_or("does not parse")?;
    let by_name =
        |tool: &Tool<'_>| tokenizer.special_at(tool.token()) == Some((SpecialKind::Tool, call.tool()));
    let tool = tools.tools().find(by_name).ok_or("unknown tool")?;
    let name = |slot: &Slot<'_>| tokenizer.special_at(slot.token).map_or("", |(_, name)| name);
    for slot in tool.slots() {
        let times = call.arguments().filter(|(n, _)| *n == name(&slot)).count();
        if slot.required && times == 0 {
            return Err("a required slot is missing");
        }
        if !slot.repeatable && times > 1 {
            return Err("a slot repeats");
        }
    }
    for (argument, value) in call.arguments() {
        let slot = tool.slots().find(|slot| name(slot) == argument).ok_or("not a slot of this tool")?;
        let bytes = bytes(&tokenizer, value);
        let text = bytes.strip_prefix(b" ").unwrap_or(&bytes);
        let text = std::str::from_utf8(text).map_err(|_| "a value is not UTF-8")?;
        if !is_value(slot.value, text) {
            return Err("a value is not of its kind");
        }
    }
    Ok(())
}

/// Checks a completion, without its `<eos>`, as a text with or without a thought, whose markers are [`MARKERS`] and
/// cut no character.
pub(crate) fn text(tokenizer: Tokenizer<'_>, ids: &[u16]) -> Result<(), &'static str> {
    let control = |name| tokenizer.control(name).unwrap();
    let segments: Vec<&[u16]> = match ids.split_first() {
        Some((first, rest)) if *first == control("<think>") => {
            let at = rest.iter().position(|id| *id == control("</think>")).ok_or("a thought does not end")?;
            let marker =
                |id: &u16| tokenizer.special_at(*id).is_some_and(|(_, name)| MARKERS.contains(&name));
            rest[..at].split(marker).chain([&rest[at + 1..]]).collect()
        }
        _ => vec![ids],
    };
    for segment in segments {
        if segment.iter().any(|id| tokenizer.special_at(*id).is_some()) {
            return Err("a special token in a text");
        }
        std::str::from_utf8(&bytes(&tokenizer, segment)).map_err(|_| "a text is not UTF-8")?;
    }
    Ok(())
}

fn bytes(tokenizer: &Tokenizer<'_>, ids: &[u16]) -> Vec<u8> {
    let mut buffer = [0; MAX_TOKEN];
    ids.iter().flat_map(|id| tokenizer.decode(*id, &mut buffer).to_vec()).collect()
}

fn is_value(value: Value<'_>, text: &str) -> bool {
    match value {
        Value::Text => !text.is_empty(),
        Value::Choice(choices) => choices.iter().any(|choice| choice == text),
        Value::Integer { min, max } => {
            text.parse::<i64>().is_ok_and(|n| (min..=max).contains(&n) && n.to_string() == text)
        }
        Value::Number => {
            let unsigned = text.strip_prefix('-').unwrap_or(text);
            let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
            let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            digits(whole) && digits(fraction) && (whole == "0" || !whole.starts_with('0'))
        }
    }
}

#[cfg(test)]
mod tests {
    use forge_formats::tools::ValueSpec;

    use super::*;
    use crate::worlds::World;

    /// Every rule refuses what breaks it, so that what passes kept it.
    #[test]
    fn the_oracle_refuses_what_it_should() {
        let one = ValueSpec::Choice(vec!["on".into(), "off".into()]);
        let range = ValueSpec::Integer { min: -5, max: 20 };
        let world = World::of(
            &[
                &[(true, false, one), (false, true, range), (false, false, ValueSpec::Number)],
                &[(false, false, ValueSpec::Text)],
            ],
            &[],
        );
        let (tokenizer, tools) = (world.tokenizer(), world.tools().unwrap());
        let said = |text: &str| call(tokenizer, tools, &ids(tokenizer, text));
        for good in [
            "<t0><s0> on",
            "<t0><s0>off<s1>-5<s1> 20<s2> -0.50",
            "<t1>",
            "<t1><s0>  é\n",
            "<t0><s1> 0<s0> on",
        ] {
            assert_eq!(said(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("on", "does not parse"),
            ("<t0>on<s0> on", "does not parse"),
            ("<t0><s0> on<think>", "does not parse"),
            ("<t0>", "a required slot is missing"),
            ("<t0><s0> on<s0> on", "a slot repeats"),
            ("<t1><s0> a<s1> 3", "not a slot of this tool"),
            ("<t1><s0>\\ff", "a value is not UTF-8"),
            ("<t1><s0> \\c3", "a value is not UTF-8"),
            ("<t1><s0>", "a value is not of its kind"),
            ("<t1><s0> ", "a value is not of its kind"),
            ("<t0><s0> o", "a value is not of its kind"),
            ("<t0><s0>  on", "a value is not of its kind"),
            ("<t0><s0> on<s1> 21", "a value is not of its kind"),
            ("<t0><s0> on<s1> 07", "a value is not of its kind"),
            ("<t0><s0> on<s2> 1.", "a value is not of its kind"),
            ("<t0><s0> on<s2> .5", "a value is not of its kind"),
        ] {
            assert_eq!(said(bad), Err(why), "{bad}");
        }
        let said = |line: &str| text(tokenizer, &ids(tokenizer, line));
        assert_eq!((said(""), said(" é"), said("<think> a</think> b")), (Ok(()), Ok(()), Ok(())));
        assert_eq!(said("<think> a"), Err("a thought does not end"));
        assert_eq!(said("<think><step> a<doubt><step> é</think> b"), Ok(()));
        assert_eq!(said("<think> a</think> b<step>"), Err("a special token in a text"));
        assert_eq!(said("<think><sep> a</think> b"), Err("a special token in a text"));
        assert_eq!(said("a<s0>"), Err("a special token in a text"));
        assert_eq!(said("a\\e2\\82"), Err("a text is not UTF-8"));
    }

    /// Tokens of a line in which `<…>` is a special token, `\hh` a byte, and anything else itself.
    fn ids(tokenizer: Tokenizer<'_>, line: &str) -> Vec<u16> {
        let special = |name: &str| {
            let mut specials = (0..).zip(tokenizer.table().specials());
            specials.find(|(_, (_, n))| n.trim_matches(['<', '>']) == name).unwrap().0
        };
        let mut out = Vec::new();
        let mut rest = line;
        while let Some(c) = rest.chars().next() {
            if c == '<' {
                let end = rest.find('>').unwrap();
                out.push(special(&rest[1..end]));
                rest = &rest[end + 1..];
            } else if c == '\\' {
                out.push(tokenizer.table().byte_id(u8::from_str_radix(&rest[1..3], 16).unwrap()));
                rest = &rest[3..];
            } else {
                out.extend(c.to_string().bytes().map(|b| tokenizer.table().byte_id(b)));
                rest = &rest[c.len_utf8()..];
            }
        }
        out
    }
}
