//! What the commands that run a model share.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use forge_formats::file::File;
use forge_formats::tokenizer::SpecialKind;
use forge_runtime::constrain::Mode;
use forge_runtime::generate::Counts;
use forge_runtime::{Constraint, Generator, Model, Sampler, Session, Thinking, Tokenizer, generate};
use forge_train::data::Completion;
use forge_train::error::{Error, Result};
use forge_train::eval;
use serde_json::{Value, json};

use super::output::say;

/// How text is generated.
#[derive(Clone, Debug, Args)]
pub(crate) struct Generation {
    /// System text in front of the prompt; models before phase 6 call tools only with "use tools"
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Most tokens to write
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_tokens: usize,
    /// Randomness: 0 takes the likeliest token, 1 samples the model's own distribution
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f32,
    /// Sample from the K likeliest tokens only; 0 for all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: u32,
    /// Sample from the fewest tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// Seed of the sampling
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Continue PROMPT as running text instead of answering it
    #[arg(long, conflicts_with = "system")]
    plain: bool,
    /// Hold the answer to the tools the file lists: `auto` to a call of one of them or to text, `call` to a call,
    /// `off` to nothing
    #[arg(long, value_name = "HOW", default_value = "auto", default_missing_value = "call",
          num_args = 0..=1, require_equals = true)]
    constrained: Constrained,
    /// Most tokens of a thought before the answer; 0 answers at once. Unless told, the model thinks as long as it likes
    #[arg(long, value_name = "N", conflicts_with = "plain")]
    think: Option<u32>,
    /// Print the thought too, as `<think> thought </think> answer`
    #[arg(long, conflicts_with = "plain")]
    show_thoughts: bool,
}

/// What an answer is held to.
///
/// `auto` is the default because it takes nothing away: an answer that was right stays as it is, and whatever is
/// printed as a call can be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Constrained {
    /// A call or text, where the file lists tools
    Auto,
    /// A call
    Call,
    /// Nothing
    Off,
}

impl Constrained {
    /// The constraint's mode for a file.
    pub(crate) fn mode(self, file: &File<'_>) -> Option<Mode> {
        match self {
            Constrained::Auto => file.tools().map(|_| Mode::Any),
            Constrained::Call => Some(Mode::Call),
            Constrained::Off => None,
        }
    }
}

/// A completion with what it cost.
#[derive(Debug)]
pub(crate) struct Answer {
    completion: Completion,
    /// Whether it ends within its thought.
    unfinished: bool,
    tokens: usize,
    counts: Counts,
}

/// Reads a model file and checks every byte of it.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let damaged = |source| Error::Model { path: PathBuf::from(path), source };
    File::parse(&bytes).map_err(damaged)?.verify().map_err(damaged)?;
    Ok(bytes)
}

/// A checked file as a model.
pub(crate) fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<Model<'a>> {
    Model::parse(bytes).map_err(|error| match error {
        forge_runtime::Error::Format(source) => Error::Model { path: PathBuf::from(path), source },
        other => unusable(other),
    })
}

fn unusable(error: forge_runtime::Error) -> Error {
    Error::Usage { what: format!("the model cannot go on: {error}"), hint: error.hint().into() }
}

/// Answers a prompt in a fresh session.
pub(crate) fn answer(model: &Model<'_>, prompt: &str, how: &Generation) -> Result<Answer> {
    if !(how.temperature.is_finite() && (0.0..=1.0).contains(&how.top_p)) {
        return Err(Error::Usage {
            what: "`--temperature` must be a number and `--top-p` between 0 and 1".into(),
            hint: "for example `--temperature 0.8 --top-p 0.95`".into(),
        });
    }
    let tokenizer = model.tokenizer();
    let ids = encode(&tokenizer, prompt, how)?;
    let mut workspace = eval::workspace(model)?;
    let mut session = Session::new(model, workspace.bytes()).map_err(unusable)?;
    let mut generator = generator(model, &mut session, how)?;
    let mut written = vec![0; how.max_tokens];
    let tokens = generator.complete(&ids, &mut written).map_err(unusable)?;
    let (written, counts) = (&written[..tokens], generator.counts());
    let unfinished = if how.plain { None } else { unfinished(&tokenizer, written) };
    let completion = match unfinished {
        _ if how.plain => Completion::Text(forge_train::tokenizer::decode(&tokenizer, written)),
        None => eval::read(&tokenizer, written),
        Some(at) => {
            say(
                "the answer ended within the model's thought; `--think N` bounds thoughts, `--max-tokens N` makes room",
            );
            let (before, thought) = written.split_at(at);
            Completion::Reasoned { thought: words(&tokenizer, thought), answer: words(&tokenizer, before) }
        }
    };
    Ok(Answer { completion, unfinished: unfinished.is_some(), tokens, counts })
}

/// What the model is asked with, as tokens.
fn encode(tokenizer: &Tokenizer<'_>, prompt: &str, how: &Generation) -> Result<Vec<u16>> {
    let system = how.system.as_deref().filter(|text| !text.is_empty());
    let mut ids = vec![0; prompt.len() + system.map_or(0, str::len) + 3];
    let length = if how.plain {
        ids[0] = tokenizer.control("<bos>").map_err(unusable)?;
        1 + tokenizer.encode(prompt.as_bytes(), &mut ids[1..]).map_err(unusable)?
    } else {
        generate::prompt(tokenizer, system.map(str::as_bytes), prompt.as_bytes(), &mut ids)
            .map_err(unusable)?
    };
    ids.truncate(length);
    Ok(ids)
}

/// A generator of answers as they are asked for.
fn generator<'m, 's>(
    model: &Model<'m>,
    session: &'s mut Session<'m>,
    how: &Generation,
) -> Result<Generator<'m, &'s mut Session<'m>>> {
    let tokenizer = model.tokenizer();
    let mut sampler = Sampler::new(how.temperature, how.seed);
    (sampler.top_k, sampler.top_p) = (how.top_k, how.top_p);
    let end = tokenizer.control("<eos>").map_err(unusable)?;
    let mut generator = Generator::new(session, sampler, end);
    if let Some(mode) = how.constrained.mode(model.file()).filter(|_| !how.plain) {
        generator = generator.constrained(Constraint::new(model, mode, u32::MAX).map_err(unusable)?);
    }
    if how.think.is_none() && !how.show_thoughts {
        return Ok(generator);
    }
    let thinking =
        Thinking::new(&tokenizer, how.think.unwrap_or(u32::MAX)).map_err(|error| Error::Usage {
            what: format!("this model cannot think: {error}"),
            hint: "leave `--think` and `--show-thoughts` out; it answers at once".into(),
        })?;
    Ok(if how.think.is_some() { generator.thinking(thinking) } else { generator })
}

/// Where the thought begins that a completion ends in.
fn unfinished(tokenizer: &Tokenizer<'_>, written: &[u16]) -> Option<usize> {
    let last = |name| {
        let marker = tokenizer.special(SpecialKind::Control, name)?;
        written.iter().rposition(|id| *id == marker)
    };
    last("<think>").filter(|open| last("</think>").is_none_or(|close| close < *open))
}

/// The text of tokens without the space a segment begins with.
fn words(tokenizer: &Tokenizer<'_>, ids: &[u16]) -> String {
    let text = forge_train::tokenizer::decode(tokenizer, ids);
    text.strip_prefix(' ').map(String::from).unwrap_or(text)
}

impl Answer {
    /// A tool call as JSON, anything else as its text; with the thought that led to it where that is to be shown.
    pub(crate) fn text(&self, how: &Generation) -> String {
        match &self.completion {
            Completion::Tool { tool, args } => call(tool, args),
            Completion::Text(text) => text.clone(),
            Completion::Reasoned { answer, .. } if !how.show_thoughts => answer.clone(),
            Completion::Reasoned { thought, answer } if self.unfinished => {
                format!("{answer}<think> {thought}")
            }
            Completion::Reasoned { thought, answer } => format!("<think> {thought} </think> {answer}"),
        }
    }

    /// Everything as JSON.
    pub(crate) fn json(&self) -> Value {
        let mut value = match &self.completion {
            Completion::Tool { tool, args } => json!({"tool": tool, "args": arguments(args)}),
            Completion::Text(text) => json!({ "text": text }),
            Completion::Reasoned { thought, answer } => {
                json!({"thought": thought, "answer": answer, "text": answer})
            }
        };
        value["schema"] = 1.into();
        value["tokens"] = self.tokens.into();
        value["steps"] = json!({ "passes": self.counts.passes, "forced": self.counts.forced });
        value
    }
}

/// `{"tool":"set_light","args":{"room":"bedroom"}}`, slots in the order they were written.
fn call(tool: &str, args: &[(String, String)]) -> String {
    let mut seen = BTreeSet::new();
    let first = |slot: &&(String, String)| seen.insert(slot.0.clone());
    let fields: Vec<String> = args
        .iter()
        .filter(first)
        .map(|(slot, _)| format!("{}:{}", json!(slot), values(args, slot)))
        .collect();
    format!("{{\"tool\":{},\"args\":{{{}}}}}", json!(tool), fields.join(","))
}

/// The value of a slot, or the list of its values.
fn values(args: &[(String, String)], slot: &str) -> Value {
    let all: Vec<&str> = args.iter().filter(|(name, _)| name == slot).map(|(_, value)| &**value).collect();
    match &all[..] {
        [one] => json!(one),
        _ => json!(all),
    }
}

fn arguments(args: &[(String, String)]) -> Value {
    args.iter().map(|(slot, _)| (slot.clone(), values(args, slot))).collect::<serde_json::Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(slot, value)| ((*slot).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn calls_keep_the_order_of_slots_and_gather_repeated_ones() {
        let args = pairs(&[("room", "bed \"room\""), ("level", "20"), ("room", "hall")]);
        assert_eq!(
            call("set_light", &args),
            r#"{"tool":"set_light","args":{"room":["bed \"room\"","hall"],"level":"20"}}"#
        );
        assert_eq!(call("stop", &[]), r#"{"tool":"stop","args":{}}"#);
        let parsed: Value = serde_json::from_str(&call("set_light", &args)).unwrap();
        assert_eq!(parsed["args"], arguments(&args));
    }

    #[test]
    fn a_thought_is_shown_where_it_is_asked_for() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            how: Generation,
        }
        let how = |arguments: &[&str]| Line::try_parse_from([&["-"], arguments].concat()).unwrap().how;
        let completion = Completion::Reasoned { thought: "1 + 1".into(), answer: "2".into() };
        let counts = Counts { passes: 6, forced: 2 };
        let mut answer = Answer { completion, unfinished: false, tokens: 7, counts };
        assert_eq!(answer.text(&how(&[])), "2");
        assert_eq!(answer.text(&how(&["--show-thoughts"])), "<think> 1 + 1 </think> 2");
        let steps = json!({"passes": 6, "forced": 2});
        let expected = json!({
            "schema": 1, "thought": "1 + 1", "answer": "2", "text": "2", "tokens": 7, "steps": steps
        });
        assert_eq!(answer.json(), expected);
        answer.unfinished = true;
        answer.completion = Completion::Reasoned { thought: "1 + 1".into(), answer: String::new() };
        assert_eq!(answer.text(&how(&[])), "");
        assert_eq!(answer.text(&how(&["--show-thoughts"])), "<think> 1 + 1");
    }
}
