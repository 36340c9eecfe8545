//! The tools a file lists, for people and as JSON.

use forge_formats::file::File;
use forge_formats::tools::{Slot, Tool, Value as Kind};
use serde_json::{Value, json};

/// Strings of an enumeration that are shown to people.
const SHOWN: usize = 6;

/// A line a tool: `set_light(room, level: 1 to 100)`; `?` behind what may be left out, `*` behind what may repeat.
pub(super) fn lines(file: &File<'_>) -> Vec<String> {
    let line = |tool: Tool<'_>| {
        let slots: Vec<String> = tool.slots().map(|slot| argument(file, &slot)).collect();
        format!("{}({})", name(file, tool.token()), slots.join(", "))
    };
    file.tools().map(|table| table.tools().map(line).collect()).unwrap_or_default()
}

/// The whole table; `null` when the file has none.
pub(super) fn document(file: &File<'_>) -> Value {
    let slot = |slot: Slot<'_>| {
        let mut value = json!({
            "name": name(file, slot.token), "required": slot.required, "repeatable": slot.repeatable,
        });
        match slot.value {
            Kind::Text => value["type"] = "text".into(),
            Kind::Number => value["type"] = "number".into(),
            Kind::Choice(choices) => {
                value["type"] = "choice".into();
                value["values"] = choices.iter().collect();
            }
            Kind::Integer { min, max } => {
                value["type"] = "integer".into();
                (value["min"], value["max"]) = (min.into(), max.into());
            }
        }
        value
    };
    let tool = |tool: Tool<'_>| json!({ "name": name(file, tool.token()), "slots": tool.slots().map(slot).collect::<Vec<_>>() });
    file.tools().map_or(Value::Null, |table| table.tools().map(tool).collect())
}

fn argument(file: &File<'_>, slot: &Slot<'_>) -> String {
    let marks = [(!slot.required, "?"), (slot.repeatable, "*")];
    let marks: String = marks.into_iter().filter(|(set, _)| *set).map(|(_, mark)| mark).collect();
    let kind = match slot.value {
        Kind::Text => String::new(),
        Kind::Number => ": number".into(),
        Kind::Integer { min: i64::MIN, max: i64::MAX } => ": integer".into(),
        Kind::Integer { min, max } => format!(": {min} to {max}"),
        Kind::Choice(choices) => {
            let shown: Vec<&str> = choices.iter().take(SHOWN).collect();
            let more = if choices.len() > SHOWN {
                format!(" | {} more", choices.len() - SHOWN)
            } else {
                String::new()
            };
            format!(": {}{more}", shown.join(" | "))
        }
    };
    format!("{}{marks}{kind}", name(file, slot.token))
}

fn name<'a>(file: &File<'a>, token: u16) -> &'a str {
    file.tokenizer().special_at(token).map_or("", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use forge_formats::codec::encode::Simple;
    use forge_formats::tokenizer::SpecialKind;
    use forge_formats::tools::{SlotSpec, ToolSpec, ValueSpec, to_bytes};
    use forge_formats::write::Writer;
    use forge_train::config::Preset;

    use super::*;

    fn file() -> Vec<u8> {
        let mut config = forge_train::config::Config::preset(Preset::Nano).model_config(300);
        (config.dim, config.ffn) = (8, 4);
        forge_runtime::testing::random_model(&config, 1, Simple::Int8Row)
    }

    #[test]
    fn tools_read_as_signatures_and_as_json() {
        let bytes = file();
        let file = File::parse(&bytes).unwrap();
        assert_eq!((lines(&file), document(&file)), (Vec::new(), Value::Null), "no table");
        let id = |kind, name| file.tokenizer().special(kind, name).unwrap();
        let slot = |name, required, repeatable, value| SlotSpec {
            token: id(SpecialKind::Slot, name),
            required,
            repeatable,
            value,
        };
        let rooms = ValueSpec::Choice((0..8).map(|i| format!("r{i}")).collect());
        let range = ValueSpec::Integer { min: 1, max: 100 };
        let slots = vec![slot("room", true, true, rooms), slot("level", false, false, range)];
        let tools = [ToolSpec { token: id(SpecialKind::Tool, "set_light"), slots }];
        let table = to_bytes(&tools, &file.tokenizer()).unwrap();
        let bytes = Writer::from_file(&file).tools(table).finish().unwrap();
        let file = File::parse(&bytes).unwrap();
        let line = "set_light(room*: r0 | r1 | r2 | r3 | r4 | r5 | 2 more, level?: 1 to 100)";
        assert_eq!(lines(&file), [line]);
        let json = document(&file);
        assert_eq!(json[0]["slots"][0]["values"][7], "r7");
        let level = json!({"name": "level", "required": false, "repeatable": false, "type": "integer", "min": 1, "max": 100});
        assert_eq!(json[0]["slots"][1], level);
    }
}
