//! Data: what an example is, where examples come from, and how they become batches of tokens.
//!
//! [`builtin`] generates the default task from a seed, [`load`] reads a user's files, [`hygiene`] takes out what is
//! said twice or held out, [`augment`] varies slot values, [`encode`] turns examples into token sequences and [`batch`]
//! turns those into batches. What is too large for memory lies in a [`store`]. Running text of any size goes through
//! [`lines`] and [`corpus`] into [`cache`] files, of which [`blocks`] makes batches. All batches come from a
//! [`BatchSource`]; [`mix`] mixes them. The formats are described
//! in docs/data.md.

pub mod augment;
pub mod batch;
pub mod blocks;
pub mod builtin;
pub mod cache;
pub mod corpus;
mod dataset;
pub mod encode;
pub mod examples;
pub mod export;
pub mod hygiene;
mod jsonl;
pub mod lines;
pub mod load;
mod mapped;
pub mod mix;
pub mod permutation;
mod records;
mod sample;
pub mod schema;
pub mod sequences;
pub mod source;
pub mod store;
pub mod trace;

pub use dataset::{Dataset, Running, Split, System};
pub use encode::Sequence;
pub use examples::Examples;
pub use schema::{SlotSchema, ToolSchema};
pub use sequences::{Mix, Sequences};
pub use source::BatchSource;

/// System text under which a tool prompt is answered with a call.
pub const TOOL_SYSTEM: &str = "use tools";

/// System text under which a dialogue prompt is answered in the persona's manner.
pub const PERSONA_SYSTEM: &str = "talk like a pirate";

/// What the model is to produce after a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// A tool call: the tool and its arguments `(slot, value)`; a slot that repeats occurs several times.
    Tool {
        /// The tool's name.
        tool: String,
        /// Arguments in the order they are written.
        args: Vec<(String, String)>,
    },
    /// Plain text.
    Text(String),
    /// An answer with the trace that leads to it.
    Reasoned {
        /// Text between `<think>` and `</think>`.
        thought: String,
        /// The checkable answer.
        answer: String,
    },
}

impl Completion {
    /// The text whose bytes a bits-per-byte figure counts: `tool|slot=value|…` of a call, the text itself, or
    /// thought, newline, answer.
    pub fn canonical(&self) -> String {
        match self {
            Completion::Tool { tool, args } => {
                args.iter().fold(tool.clone(), |line, (slot, value)| format!("{line}|{slot}={value}"))
            }
            Completion::Text(text) => text.clone(),
            Completion::Reasoned { thought, answer } => format!("{thought}\n{answer}"),
        }
    }

    /// Whether two completions are the same frame: equal tool and, for every slot, equal values in equal order;
    /// the order *between* different slots does not matter. Other completions compare as they are.
    pub fn same_frame(&self, other: &Completion) -> bool {
        let (Completion::Tool { tool: a, args: x }, Completion::Tool { tool: b, args: y }) = (self, other)
        else {
            return self == other;
        };
        // A stable sort by slot keeps the order of a repeated slot's values.
        let sorted = |args: &[(String, String)]| {
            let mut args = args.to_vec();
            args.sort_by(|p, q| p.0.cmp(&q.0));
            args
        };
        a == b && sorted(x) == sorted(y)
    }
}

/// Which skill an example belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slice {
    /// Tool prompts: a call with [`TOOL_SYSTEM`], an acknowledgement without.
    Tool,
    /// Questions with a checkable answer: arithmetic, logic, word problems, multiple choice.
    Arithmetic,
    /// Dialogue: a neutral reply, or the persona's with [`PERSONA_SYSTEM`].
    Dialogue,
    /// Text without a prompt: complete short texts, or excerpts of running text.
    Prose,
}

impl Slice {
    /// Every slice, in a fixed order.
    pub const ALL: [Slice; 4] = [Slice::Tool, Slice::Arithmetic, Slice::Dialogue, Slice::Prose];

    /// Name used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Slice::Tool => "tool",
            Slice::Arithmetic => "arithmetic",
            Slice::Dialogue => "dialogue",
            Slice::Prose => "prose",
        }
    }
}

/// One prompt with its completion. Prose has an empty prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// System text in front of the prompt.
    pub system: Option<String>,
    /// What the user says.
    pub prompt: String,
    /// What the model is to produce.
    pub completion: Completion,
    /// The skill.
    pub slice: Slice,
    /// Difficulty 1–10; 0 where levels do not apply.
    pub level: u8,
}

impl Example {
    /// The same question answered without its trace; other examples are returned unchanged.
    pub fn without_thought(&self) -> Example {
        let mut out = self.clone();
        if let Completion::Reasoned { answer, .. } = &self.completion {
            out.completion = Completion::Text(answer.clone());
        }
        out
    }

    /// The same example without its system text.
    pub fn without_system(&self) -> Example {
        Example { system: None, ..self.clone() }
    }

    /// Whether the completion has a trace.
    pub fn is_reasoned(&self) -> bool {
        matches!(self.completion, Completion::Reasoned { .. })
    }

    /// The checkable answer, of a [`Completion::Reasoned`] or of a plain text in [`Slice::Arithmetic`].
    pub fn answer(&self) -> Option<&str> {
        match &self.completion {
            Completion::Reasoned { answer, .. } => Some(answer),
            Completion::Text(text) if self.slice == Slice::Arithmetic => Some(text),
            _ => None,
        }
    }

    /// Whether this is text without a prompt, encoded as `<bos> text` with no `<sep>`.
    pub fn is_plain(&self) -> bool {
        self.slice == Slice::Prose && self.prompt.is_empty()
    }

    /// Whether this is an excerpt that running text goes on behind: plain text that ends in white space. It is
    /// encoded without `<eos>`.
    pub fn goes_on(&self) -> bool {
        let open = |text: &str| text.ends_with(char::is_whitespace);
        self.is_plain() && matches!(&self.completion, Completion::Text(text) if open(text))
    }
}
