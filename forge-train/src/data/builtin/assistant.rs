//! The home-and-office assistant: ten tools, many phrasings, held-out phrasings and values.

use std::sync::LazyLock;

use super::template::{Sink, Template};
use super::templates::{TOOLS, ToolTemplates};
use super::values;
use crate::data::{Completion, Example, Slice, SlotSchema, Split, System, TOOL_SYSTEM, ToolSchema};
use crate::rng::Rng;

/// Politeness in front of a request; the empty one is the most likely.
const BEFORE: [&str; 12] = [
    "",
    "",
    "",
    "",
    "please ",
    "please ",
    "could you ",
    "can you ",
    "would you ",
    "i want you to ",
    "hey, ",
    "could you please ",
];
/// Politeness behind a request.
const AFTER: [&str; 10] = ["", "", "", "", "", "", " please", " for me", " thanks", " now"];
/// Share of prompts that begin with a capital.
const CAPITAL: f32 = 0.03;
/// Share of prompts that end with a full stop or question mark.
const PUNCTUATION: f32 = 0.1;

/// A parsed phrasing.
struct Phrase {
    template: Template,
    polite: bool,
}

/// A tool with parsed phrasings.
struct Tool {
    source: &'static ToolTemplates,
    prompts: [Vec<Phrase>; 3],
    replies: Vec<Template>,
}

static PARSED: LazyLock<Vec<Tool>> = LazyLock::new(|| {
    static SOURCES: [ToolTemplates; 10] = TOOLS;
    let phrase = |source: &&'static str| Phrase {
        template: Template::parse(source.trim_start_matches('!')),
        polite: !source.starts_with('!'),
    };
    let tool = |source: &'static ToolTemplates| Tool {
        source,
        prompts: source.prompts.map(|list| list.iter().map(phrase).collect()),
        replies: source.replies.iter().map(|reply| Template::parse(reply)).collect(),
    };
    SOURCES.iter().map(tool).collect()
});

/// The tools with their slots, sorted by name. A slot is required when every phrasing of the tool has it.
pub(super) fn schemas() -> Vec<ToolSchema> {
    let schema = |tool: &Tool| ToolSchema {
        name: tool.source.tool.into(),
        slots: tool.source.slots.iter().map(|name| slot(tool, name)).collect(),
    };
    let mut schemas: Vec<ToolSchema> = PARSED.iter().map(schema).collect();
    schemas.sort_by(|a, b| a.name.cmp(&b.name));
    schemas
}

fn slot(tool: &Tool, name: &str) -> SlotSchema {
    let counts = || tool.prompts.iter().flatten().map(|phrase| phrase.template.occurrences(name));
    SlotSchema {
        name: name.into(),
        required: counts().all(|(least, _)| least > 0),
        repeatable: counts().any(|(_, most)| most > 1),
        value: values::kind(name),
    }
}

/// A random example of the split: the call under [`TOOL_SYSTEM`], or the acknowledgement without.
pub(super) fn example(split: Split, system: System, rng: &mut Rng) -> Example {
    let tool = rng.pick(&PARSED);
    let phrase = rng.pick(&tool.prompts[split.index()]);
    let mut request = Filled { split, rng, text: String::new(), args: Vec::new() };
    phrase.template.expand(&mut request);
    let (core, mut args) = (request.text, request.args);
    let order = |slot: &str| tool.source.slots.iter().position(|s| *s == slot);
    args.sort_by_key(|(slot, _)| order(slot));
    let prompt = dress(core, phrase.polite, rng);
    let (system, completion) = match system {
        System::With => {
            let args = args.into_iter().map(|(slot, value)| (slot.to_string(), value)).collect();
            (Some(TOOL_SYSTEM.to_string()), Completion::Tool { tool: tool.source.tool.into(), args })
        }
        System::Without => (None, Completion::Text(reply(tool, &args))),
    };
    Example { system, prompt, completion, slice: Slice::Tool, level: 0 }
}

/// Adds politeness, and now and then a capital or punctuation.
fn dress(core: String, polite: bool, rng: &mut Rng) -> String {
    let mut prompt = core;
    if polite {
        prompt = format!("{}{prompt}{}", rng.pick(&BEFORE), rng.pick(&AFTER));
    }
    if rng.chance(CAPITAL) {
        let first = prompt.remove(0).to_ascii_uppercase();
        prompt.insert(0, first);
    }
    if rng.chance(PUNCTUATION) {
        let asks = ["what", "how", "will", "is ", "do ", "could", "can", "would"];
        let question = asks.iter().any(|word| prompt.to_ascii_lowercase().starts_with(word));
        prompt.push(if question { '?' } else { '.' });
    }
    prompt
}

/// The acknowledgement that names exactly the call's slots.
fn reply(tool: &Tool, args: &[(&'static str, String)]) -> String {
    let fill = |template: &Template| {
        let mut given = Given { args, text: String::new(), used: 0, complete: true };
        template.expand(&mut given);
        (given.complete && given.used == args.len()).then_some(given.text)
    };
    tool.replies.iter().find_map(fill).expect("a reply for every set of slots (checked by a test)")
}

/// Fills slots with random values of a split.
struct Filled<'r> {
    split: Split,
    rng: &'r mut Rng,
    text: String,
    args: Vec<(&'static str, String)>,
}

impl Sink for Filled<'_> {
    fn choose(&mut self, n: usize) -> usize {
        self.rng.below(n)
    }

    fn text(&mut self, text: &str) {
        self.text += text;
    }

    fn slot(&mut self, name: &'static str) {
        let value = values::pool(name).pick(self.split, self.rng);
        self.text += value;
        self.args.push((name, value.to_string()));
    }
}

/// Fills slots with the values of a call.
struct Given<'a> {
    args: &'a [(&'static str, String)],
    text: String,
    used: usize,
    complete: bool,
}

impl Sink for Given<'_> {
    fn choose(&mut self, _: usize) -> usize {
        0
    }

    fn text(&mut self, text: &str) {
        self.text += text;
    }

    fn slot(&mut self, name: &'static str) {
        match self.args.iter().find(|(slot, _)| *slot == name) {
            Some((_, value)) => {
                self.text += value;
                self.used += 1;
            }
            None => self.complete = false,
        }
    }
}

#[cfg(test)]
#[path = "assistant_tests.rs"]
mod tests;
