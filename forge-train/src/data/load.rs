//! A user's data: JSONL of examples, or plain running text.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::hygiene::{self, Hygiene, Overlap, paragraphs};
use super::jsonl::{self, FORMS};
use super::lines::Lines;
use super::{Completion, Dataset, Example, Slice, schema};
use crate::error::{Error, Result};
use crate::rng::Rng;

/// Share of a user's tool prompts that also occur without the system text, answered by an acknowledgement.
const ACKNOWLEDGED: f32 = 0.25;
/// What an acknowledgement of a user's prompt begins with; the prompt follows.
pub const ACKNOWLEDGEMENT: &str = "okay: ";
/// Share of the training examples that become the validation split where none is given.
const HELD_OUT: usize = 10;
/// Share of a text that is held out at its end, unless a run says otherwise.
pub const VALID_SHARE: f64 = 0.1;

/// Reads a JSONL file; blank lines are skipped.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::Data`] naming the line that is not an example, or line 1
/// of a file without any.
pub fn jsonl(path: &Path) -> Result<Vec<Example>> {
    let wrong = |line: usize, what: String| Error::Data { path: path.into(), line, what };
    let mut lines = Lines::open(path)?;
    let mut examples = Vec::new();
    while let Some((number, line)) = lines.next()? {
        examples.push(jsonl::example(line).map_err(|what| wrong(number, what))?);
    }
    if examples.is_empty() {
        return Err(wrong(1, format!("the file holds no example; {FORMS}")));
    }
    Ok(examples)
}

/// The data set of a JSONL file, with a validation file or with a tenth of the prompts (chosen by a hash of
/// their text, so equal prompts stay together) held out. Duplicates, and what is held out, are taken out of training
/// ([`hygiene::clean`]). Tool prompts get [`System::With`](super::System)
/// calls, and a quarter of them an acknowledgement without the system text as well.
///
/// # Errors
/// As [`jsonl`]; [`Error::Config`] when the file is too small to hold anything out.
pub fn dataset(train: &Path, valid: Option<&Path>) -> Result<Dataset> {
    let examples = jsonl(train)?;
    let (mut train_examples, valid_examples) = match valid {
        Some(path) => (examples, jsonl(path)?),
        None => examples.into_iter().partition(|e| !held_out(&e.prompt)),
    };
    let hygiene = hygiene::clean(&mut train_examples, &valid_examples);
    if train_examples.is_empty() || valid_examples.is_empty() {
        return Err(Error::Usage {
            what: format!("`{}` has too few examples to split into train and valid", train.display()),
            hint: "add examples, or give a validation file with --valid".into(),
        });
    }
    Ok(Dataset {
        tools: schema::of_calls(&train_examples, &valid_examples),
        train: with_acknowledgements(train_examples),
        valid: with_acknowledgements(valid_examples),
        test: Vec::new(),
        name: train.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default(),
        corpus: None,
        hygiene,
    })
}

fn held_out(prompt: &str) -> bool {
    Rng::new(0, &["held out", prompt]).below(HELD_OUT) == 0
}

/// Adds the unprompted acknowledgement of a part of the tool prompts behind the examples.
fn with_acknowledgements(mut examples: Vec<Example>) -> Vec<Example> {
    let acknowledged = |e: &&Example| {
        e.slice == Slice::Tool && Rng::new(0, &["acknowledged", &e.prompt]).chance(ACKNOWLEDGED)
    };
    let extra: Vec<Example> = examples.iter().filter(acknowledged).map(acknowledgement).collect();
    examples.extend(extra);
    examples
}

fn acknowledgement(call: &Example) -> Example {
    let reply = format!("{ACKNOWLEDGEMENT}{}", call.prompt);
    Example { system: None, completion: Completion::Text(reply), ..call.clone() }
}

/// Where the last `share` of a text file begins, in bytes, at a character: the part that is held out.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read.
pub fn held_out_from(path: &Path, share: f64) -> Result<u64> {
    let read = || Error::io("read", path);
    let mut file = File::open(path).map_err(read())?;
    let cut = ((1.0 - share) * file.metadata().map_err(read())?.len() as f64) as u64;
    file.seek(SeekFrom::Start(cut)).map_err(read())?;
    // A character has three continuation bytes at most.
    let mut next = Vec::new();
    file.take(3).read_to_end(&mut next).map_err(read())?;
    Ok(cut + next.iter().take_while(|byte| **byte & 0xC0 == 0x80).count() as u64)
}

/// The text of a file.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Data`] naming the line that is not UTF-8.
pub fn text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    String::from_utf8(bytes).map_err(|e| {
        let valid = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = valid.split(|b| *b == b'\n').count();
        Error::Data { path: path.into(), line, what: "not UTF-8 text; expected plain text".into() }
    })
}

/// The data set of a text file: the first 90 % of its bytes to train on in windows, the rest to validate on, cut
/// into excerpts of at most `excerpt` bytes at paragraph or line ends where there are any. The training text is
/// also there as excerpts, for calibration; paragraphs that leak the held-out text are taken out of it.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::Data`] when it is not UTF-8 or too short to split.
pub fn corpus(path: &Path, excerpt: usize) -> Result<Dataset> {
    let text = text(path)?;
    let wrong = |line: usize, what: &str| Error::Data { path: path.into(), line, what: what.into() };
    let (train, valid) = text.split_at(held_out_from(path, VALID_SHARE)? as usize);
    if train.trim().is_empty() || valid.trim().is_empty() {
        return Err(wrong(1, "too little text to split into train and valid"));
    }
    let (train, hygiene) = without_leaks(train, valid);
    if train.trim().is_empty() {
        return Err(wrong(1, "all of the training text repeats what is held out at the end"));
    }
    let excerpts = |text: &str| chunks(text, excerpt).into_iter().map(excerpt_of).collect();
    Ok(Dataset {
        train: excerpts(&train),
        valid: excerpts(valid),
        test: Vec::new(),
        tools: Vec::new(),
        name: path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default(),
        corpus: Some(train),
        hygiene,
    })
}

/// A training text without the paragraphs that leak the held-out one.
fn without_leaks(train: &str, valid: &str) -> (String, Hygiene) {
    let mut overlap = Overlap::default();
    paragraphs(valid).for_each(|paragraph| overlap.add(paragraph));
    let mut report = Hygiene::default();
    let kept = paragraphs(train).filter(|paragraph| {
        let leaks = overlap.leaks(paragraph);
        report.seen += 1;
        report.leaks += usize::from(leaks);
        !leaks
    });
    (kept.collect(), report)
}

fn excerpt_of(text: &str) -> Example {
    Example {
        system: None,
        prompt: String::new(),
        completion: Completion::Text(text.into()),
        slice: Slice::Prose,
        level: 0,
    }
}

/// Cuts text into pieces of at most `limit` bytes that together are the text: after the last blank line that
/// fits in the second half of a piece, else after the last line end, space, or character.
fn chunks(text: &str, limit: usize) -> Vec<&str> {
    let mut rest = text;
    let mut out = Vec::new();
    while rest.len() > limit.max(4) {
        let mut end = limit.max(4);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let window = &rest[..end];
        let after = |mark: &str| window.rfind(mark).map(|at| at + mark.len()).filter(|at| *at > end / 2);
        let cut = after("\n\n").or_else(|| after("\n")).or_else(|| after(" ")).unwrap_or(end);
        let (chunk, tail) = rest.split_at(cut);
        out.push(chunk);
        rest = tail;
    }
    if !rest.is_empty() {
        out.push(rest);
    }
    out
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
