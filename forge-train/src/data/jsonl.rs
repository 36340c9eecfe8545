//! One line of a JSONL file to one example.

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::{Completion, Example, Slice, TOOL_SYSTEM};

/// The forms a line may have, for error messages.
pub(super) const FORMS: &str = "expected one of {\"prompt\",\"completion\"}, {\"prompt\",\"tool\",\"args\"}, \
    {\"question\",\"choices\",\"answer\"}, {\"question\",\"answer\"}";

/// Letters that name the choices of a question.
const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz";

/// An object that keeps the order of its keys.
struct Object(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Object;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Object(entries))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

/// A line with the fields of all forms; absent ones are `None`.
#[derive(Deserialize)]
struct Line {
    system: Option<Value>,
    prompt: Option<Value>,
    completion: Option<Value>,
    tool: Option<Value>,
    args: Option<Args>,
    question: Option<Value>,
    choices: Option<Value>,
    answer: Option<Value>,
}

/// The `args` field: an object in its own order, or something else.
#[derive(Deserialize)]
#[serde(untagged)]
enum Args {
    Slots(Object),
    Other(Value),
}

/// Parses one line.
///
/// # Errors
/// What is wrong, naming the field and what was expected.
pub(super) fn example(line: &str) -> Result<Example, String> {
    let value: Value = serde_json::from_str(line).map_err(|e| format!("not valid JSON ({e}); {FORMS}"))?;
    if !value.is_object() {
        return Err(format!("not a JSON object; {FORMS}"));
    }
    let line: Line = serde_json::from_str(line).map_err(|e| format!("{e}; {FORMS}"))?;
    let system = line.system.as_ref().map(|v| text("system", Some(v))).transpose()?;
    let mut example = match (&line.tool, &line.choices, &line.question, &line.prompt) {
        (Some(_), ..) => call(&line)?,
        (_, Some(_), ..) => multiple_choice(&line)?,
        (_, _, Some(_), _) => question(&line)?,
        (_, _, _, Some(_)) => completion(&line)?,
        _ => return Err(format!("has neither `prompt` nor `question`; {FORMS}")),
    };
    if system.is_some() {
        example.system = system;
    }
    Ok(example)
}

fn completion(line: &Line) -> Result<Example, String> {
    let completion = match (&line.completion, &line.args) {
        (None, Some(_)) => return Err("field `args` without field `tool`".into()),
        (field, _) => text("completion", field.as_ref())?,
    };
    let prompt = filled("prompt", line.prompt.as_ref())?;
    Ok(Example {
        system: None,
        prompt,
        completion: Completion::Text(completion),
        slice: Slice::Dialogue,
        level: 0,
    })
}

fn call(line: &Line) -> Result<Example, String> {
    let tool = filled("tool", line.tool.as_ref())?;
    let prompt = filled("prompt", line.prompt.as_ref())?;
    let entries = match &line.args {
        Some(Args::Slots(object)) => &object.0,
        Some(Args::Other(other)) => {
            return Err(format!("field `args` is {}; expected an object of values", kind(other)));
        }
        None => return Err("field `args` is missing; expected an object of values".into()),
    };
    let mut args = Vec::new();
    for (slot, value) in entries {
        match value {
            Value::Array(values) => {
                for value in values {
                    args.push((slot.clone(), argument(slot, value)?));
                }
            }
            single => args.push((slot.clone(), argument(slot, single)?)),
        }
    }
    Ok(Example {
        system: Some(TOOL_SYSTEM.into()),
        prompt,
        completion: Completion::Tool { tool, args },
        slice: Slice::Tool,
        level: 0,
    })
}

/// One argument as text.
fn argument(slot: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(truth) => Ok(truth.to_string()),
        other => Err(format!(
            "argument `{slot}` is {}; expected a string, number, boolean or a list of these",
            kind(other)
        )),
    }
}

fn multiple_choice(line: &Line) -> Result<Example, String> {
    let question = filled("question", line.question.as_ref())?;
    let choices = match &line.choices {
        Some(Value::Array(choices)) if (2..=LETTERS.len()).contains(&choices.len()) => choices,
        Some(other) => {
            return Err(format!("field `choices` is {}; expected a list of 2 to 26 texts", kind(other)));
        }
        None => return Err("field `choices` is missing; expected a list of 2 to 26 texts".into()),
    };
    let index = match &line.answer {
        Some(Value::Number(n)) => n.as_u64().and_then(|n| usize::try_from(n).ok()),
        _ => None,
    };
    let index = index.filter(|i| *i < choices.len()).ok_or_else(|| {
        format!("field `answer` must be the index of the right choice, 0 to {}", choices.len() - 1)
    })?;
    let mut prompt = question;
    for (letter, choice) in LETTERS.iter().zip(choices) {
        prompt += &format!("\n({}) {}", char::from(*letter), text("choices", Some(choice))?);
    }
    let answer = char::from(LETTERS[index]).to_string();
    Ok(Example {
        system: None,
        prompt,
        completion: Completion::Text(answer),
        slice: Slice::Arithmetic,
        level: 0,
    })
}

/// GSM8K: the worked solution, `####`, the answer. An answer without the mark has no trace.
fn question(line: &Line) -> Result<Example, String> {
    let prompt = filled("question", line.question.as_ref())?;
    let worked = match &line.answer {
        Some(Value::Number(n)) => n.to_string(),
        other => filled("answer", other.as_ref())?,
    };
    let completion = match worked.rsplit_once("####") {
        Some((_, answer)) if answer.trim().is_empty() => {
            return Err("field `answer` has nothing after `####`; expected the final answer there".into());
        }
        Some((thought, answer)) => {
            // A line of the solution is a step; its calculator marks `<<48/2=24>>` stay as they are.
            let lines = thought.lines().map(str::trim).filter(|line| !line.is_empty());
            let thought = lines.map(|line| format!("<step> {line}")).collect::<Vec<_>>().join(" ");
            Completion::Reasoned { thought, answer: answer.trim().into() }
        }
        None => Completion::Text(worked),
    };
    Ok(Example { system: None, prompt, completion, slice: Slice::Arithmetic, level: 0 })
}

/// A field that must be text.
fn text(field: &str, value: Option<&Value>) -> Result<String, String> {
    match value {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(format!("field `{field}` is {}; expected text", kind(other))),
        None => Err(format!("field `{field}` is missing; {FORMS}")),
    }
}

/// A field that must be text and not blank.
fn filled(field: &str, value: Option<&Value>) -> Result<String, String> {
    let text = text(field, value)?;
    if text.trim().is_empty() { Err(format!("field `{field}` is empty; expected text")) } else { Ok(text) }
}

/// What a JSON value is, for messages.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
