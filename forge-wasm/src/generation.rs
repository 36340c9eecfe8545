//! The answer to a prompt, a token at a time.

use std::rc::Rc;

use forge_formats::tokenizer::{MAX_TOKEN, SpecialKind};
use forge_runtime::call::Call;
use forge_runtime::constrain::Mode;
use forge_runtime::{Constraint, Error, Generator, Model, Sampler, Thinking, generate};
use wasm_bindgen::prelude::*;

use crate::owned::{BLOCK, OwnedGenerator, OwnedModel};

/// What an answer is held to.
#[wasm_bindgen]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constrained {
    /// A call of a tool the file lists, or text; nothing where it lists none.
    Auto,
    /// A call of a tool the file lists.
    Call,
    /// Nothing.
    Off,
}

/// Whether thoughts are part of an answer's text.
#[wasm_bindgen]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thoughts {
    /// With their marks.
    Shown,
    /// Not at all.
    Hidden,
}

/// How an answer is generated.
#[wasm_bindgen]
#[derive(Clone, Debug)]
pub struct Options {
    /// Most tokens to generate.
    pub max_tokens: u32,
    /// 0 always takes the likeliest token.
    pub temperature: f32,
    /// Samples among the k likeliest tokens only; 0 for all.
    pub top_k: u32,
    /// Samples among the likeliest tokens that hold this much probability together; 1 for all.
    pub top_p: f32,
    /// Leaves out tokens with less than this share of the likeliest token's probability; 0 for none.
    pub min_p: f32,
    /// Makes recent tokens less likely; 1 for no change.
    pub repetition_penalty: f32,
    /// Start of the random stream.
    pub seed: u64,
    /// Continue the prompt as running text instead of answering it.
    pub plain: bool,
    /// What the answer is held to, unless it is plain.
    pub constrained: Constrained,
    /// Most tokens of a thought, 0 for none, unless the answer is plain; without, the model thinks as long as it likes.
    pub think: Option<u32>,
    /// Whether thoughts are part of the text.
    pub thoughts: Thoughts,
}

#[wasm_bindgen]
impl Options {
    /// At most 256 tokens, always the likeliest one.
    #[allow(clippy::new_without_default, reason = "the constructor of the JavaScript class")]
    #[wasm_bindgen(constructor)]
    pub fn new() -> Options {
        Self {
            max_tokens: 256,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
            plain: false,
            constrained: Constrained::Auto,
            think: None,
            thoughts: Thoughts::Shown,
        }
    }

    /// What the answers of a model are held to.
    fn constraint<'a>(&self, model: &Model<'a>) -> Result<Option<Constraint<'a>>, Error> {
        let mode = match self.constrained {
            _ if self.plain => None,
            Constrained::Auto => model.file().tools().map(|_| Mode::Any),
            Constrained::Call => Some(Mode::Call),
            Constrained::Off => None,
        };
        mode.map(|mode| Constraint::new(model, mode, self.max_tokens)).transpose()
    }

    /// What the thoughts of a model are held to.
    fn thinking(&self, model: &Model<'_>) -> Result<Option<Thinking>, Error> {
        let budget = self.think.filter(|_| !self.plain);
        budget.map(|budget| Thinking::new(&model.tokenizer(), budget)).transpose()
    }

    fn sampler(&self) -> Sampler {
        let mut sampler = Sampler::new(self.temperature, self.seed);
        sampler.top_k = self.top_k;
        sampler.top_p = self.top_p;
        sampler.min_p = self.min_p;
        sampler.repetition_penalty = self.repetition_penalty;
        sampler
    }
}

/// An answer being generated: `feed` until it returns false, then `next` until it returns undefined.
#[wasm_bindgen]
pub struct Generation {
    generator: OwnedGenerator,
    prompt: Vec<u16>,
    /// How much of the prompt has been read.
    read: usize,
    completion: Vec<u16>,
    max_tokens: usize,
    /// Bytes of a character that is not complete yet.
    pending: Vec<u8>,
    /// Whether the next text begins a segment: an answer's segments have a space in front that is not theirs.
    begins: bool,
    plain: bool,
    /// Where thoughts begin and end, when they are hidden.
    marks: Option<(u16, u16)>,
    /// Whether the last token is left out, and whether the next is unless it is the mark.
    hidden: bool,
    thinks: bool,
    ended: bool,
}

impl Generation {
    pub(crate) fn new(
        model: &Rc<OwnedModel>,
        prompt: &str,
        system: Option<&str>,
        options: &Options,
    ) -> Result<Self, Error> {
        let tokenizer = model.model().tokenizer();
        let end = tokenizer.control("<eos>")?;
        let mark = |name| tokenizer.special(SpecialKind::Control, name);
        let hides = options.thoughts == Thoughts::Hidden && !options.plain;
        Ok(Self {
            generator: OwnedGenerator::new(model, |session, model| {
                let mut generator = Generator::new(session, options.sampler(), end);
                if let Some(constraint) = options.constraint(model)? {
                    generator = generator.constrained(constraint);
                }
                Ok(match options.thinking(model)? {
                    Some(thinking) => generator.thinking(thinking),
                    None => generator,
                })
            })?,
            marks: mark("<think>").zip(mark("</think>")).filter(|_| hides),
            hidden: false,
            thinks: false,
            prompt: encode(model.model(), prompt, system, options.plain)?,
            read: 0,
            completion: Vec::new(),
            max_tokens: options.max_tokens as usize,
            pending: Vec::new(),
            begins: !options.plain,
            plain: options.plain,
            ended: false,
        })
    }

    /// Reads what is left of the prompt; the last token starts the generator.
    fn finish_prompt(&mut self) -> Result<(), Error> {
        let rest = self.prompt.get(self.read..).unwrap_or(&[]);
        self.read = self.prompt.len();
        let Some((last, before)) = rest.split_last() else { return Ok(()) };
        self.generator.with(|g| {
            g.session_mut().prefill(before)?;
            g.start(&[*last])
        })
    }

    fn next_token(&mut self) -> Result<Option<u16>, Error> {
        if self.read < self.prompt.len() {
            self.finish_prompt()?;
        }
        if self.completion.len() >= self.max_tokens {
            return Ok(None);
        }
        self.generator.with(|g| g.next_token())
    }

    /// As [`Generation::text_of`], without what is hidden.
    fn shown(&mut self, token: u16) -> String {
        let Some((open, close)) = self.marks else { return self.text_of(token) };
        let begins = token == open && !self.thinks;
        self.hidden = self.thinks || begins;
        self.thinks = self.hidden && token != close;
        // A character that the thought cuts off belongs to the text before it.
        let before = if begins { flush(&mut self.pending, true) } else { String::new() };
        let text = self.text_of(token);
        if self.hidden { before } else { text }
    }

    /// What a token adds to the text: its name if it is special, otherwise its bytes as far as they are whole
    /// characters.
    fn text_of(&mut self, token: u16) -> String {
        let tokenizer = self.generator.model().tokenizer();
        if let Some((_, name)) = tokenizer.special_at(token) {
            self.begins = !self.plain;
            return flush(&mut self.pending, true) + name;
        }
        self.pending.extend(tokenizer.decode(token, &mut [0; MAX_TOKEN]));
        let text = flush(&mut self.pending, false);
        if text.is_empty() || !std::mem::take(&mut self.begins) {
            return text;
        }
        text.strip_prefix(' ').map(String::from).unwrap_or(text)
    }
}

#[wasm_bindgen]
impl Generation {
    /// Reads some tokens of the prompt; false when only the last one is left, which `next` reads.
    pub fn feed(&mut self) -> Result<bool, JsError> {
        let last = self.prompt.len().saturating_sub(1);
        let end = last.min(self.read + BLOCK);
        if let Some(tokens) = self.prompt.get(self.read..end) {
            self.generator.with(|g| g.session_mut().prefill(tokens))?;
            self.read = end;
        }
        Ok(self.read < last)
    }

    /// Generates a token and returns its text, undefined at the end. The text is empty while the bytes of a
    /// character are incomplete, and for thoughts that are hidden; the name of a special token is its text.
    #[allow(clippy::should_implement_trait, reason = "the name of the JavaScript method")]
    pub fn next(&mut self) -> Result<Option<String>, JsError> {
        if self.ended {
            return Ok(None);
        }
        let token = self.next_token()?;
        if let Some(token) = token {
            self.completion.push(token);
            return Ok(Some(self.shown(token)));
        }
        self.ended = true;
        if self.thinks {
            self.pending.clear();
        }
        let rest = flush(&mut self.pending, true);
        Ok(Some(rest).filter(|r| !r.is_empty()))
    }

    /// Id of the last token, undefined before the first.
    #[wasm_bindgen(getter)]
    pub fn token(&self) -> Option<u16> {
        self.completion.last().copied()
    }

    /// Kind of the last token: `text`, `tool`, `slot` or `control`.
    #[wasm_bindgen(getter)]
    pub fn kind(&self) -> String {
        let special = self.token().and_then(|token| self.generator.model().tokenizer().special_at(token));
        String::from(match special {
            None => "text",
            Some((SpecialKind::Tool, _)) => "tool",
            Some((SpecialKind::Slot, _)) => "slot",
            Some((SpecialKind::Control, _)) => "control",
        })
    }

    /// Whether the last token is part of a thought that is hidden.
    #[wasm_bindgen(getter)]
    pub fn hidden(&self) -> bool {
        self.hidden
    }

    /// Number of tokens generated so far.
    #[wasm_bindgen(getter)]
    pub fn count(&self) -> usize {
        self.completion.len()
    }

    /// The ids generated so far.
    #[wasm_bindgen(getter)]
    pub fn tokens(&self) -> Vec<u16> {
        self.completion.clone()
    }

    /// What has been generated as the JSON of a tool call; undefined when it is none.
    pub fn call(&self) -> Option<String> {
        let call = Call::parse(self.generator.model().tokenizer(), &self.completion)?;
        let mut out = String::new();
        call.write_json(&mut out).ok()?;
        Some(out)
    }
}

/// `<bos> [system <sys>] prompt <sep>`, or `<bos> prompt` to be continued.
fn encode(model: &Model<'_>, prompt: &str, system: Option<&str>, plain: bool) -> Result<Vec<u16>, Error> {
    let tokenizer = model.tokenizer();
    let mut ids = vec![0; prompt.len() + system.map_or(0, str::len) + 3];
    let len = if plain {
        let (first, rest) = ids.split_at_mut(1);
        first.fill(tokenizer.control("<bos>")?);
        1 + tokenizer.encode(prompt.as_bytes(), rest)?
    } else {
        generate::prompt(&tokenizer, system.map(str::as_bytes), prompt.as_bytes(), &mut ids)?
    };
    ids.truncate(len);
    Ok(ids)
}

/// Takes the text of `pending`, all of it at the `end`, otherwise leaving the beginning of a character whose other
/// bytes may follow. What is not UTF-8 becomes U+FFFD.
fn flush(pending: &mut Vec<u8>, end: bool) -> String {
    let last = pending.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    let unfinished = !end && std::str::from_utf8(last).is_err_and(|e| e.error_len().is_none());
    let rest = pending.split_off(pending.len() - if unfinished { last.len() } else { 0 });
    let text = String::from_utf8_lossy(pending).into_owned();
    *pending = rest;
    text
}

#[cfg(test)]
mod tests {
    use super::flush;

    #[test]
    fn characters_are_given_whole() {
        let mut pending = vec![b'a', 0xE2, 0x82];
        assert_eq!(flush(&mut pending, false), "a");
        pending.extend([0xAC, b'b', 0xFF]);
        assert_eq!(flush(&mut pending, false), "€b\u{FFFD}");
        assert!(pending.is_empty());
        pending.extend([0xF0, 0x9F]);
        assert_eq!(flush(&mut pending, false), "");
        assert_eq!(flush(&mut pending, true), "\u{FFFD}");
    }
}
