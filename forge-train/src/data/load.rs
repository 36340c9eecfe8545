//! A user's data: JSONL of examples, or plain running text.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::dataset::SAMPLE_BYTES;
use super::examples::{Examples, Part};
use super::hygiene::{self, Hygiene, Overlap, paragraphs};
use super::jsonl::{self, FORMS};
use super::lines::{Chunks, Lines};
use super::sample::Sample;
use super::store::{Store, Writer};
use super::{Completion, Dataset, Example, Running, Slice, schema};
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
    let mut examples = Vec::new();
    each_example(path, |example| {
        examples.push(example);
        Ok(())
    })?;
    Ok(examples)
}

/// Shows the examples of a JSONL file, one in memory at a time.
fn each_example(path: &Path, mut show: impl FnMut(Example) -> Result<()>) -> Result<()> {
    let wrong = |line: usize, what: String| Error::Data { path: path.into(), line, what };
    let mut lines = Lines::open(path)?;
    let mut found = false;
    while let Some((number, line)) = lines.next()? {
        show(jsonl::example(line).map_err(|what| wrong(number, what))?)?;
        found = true;
    }
    if found { Ok(()) } else { Err(wrong(1, format!("the file holds no example; {FORMS}"))) }
}

/// Files of one run, each with its weight, and how they are read.
#[derive(Clone, Debug, Default)]
pub struct Files<'a> {
    /// Examples, one JSON object a line.
    pub examples: Vec<(&'a Path, u64)>,
    /// Examples to validate on; a tenth of the others without.
    pub valid: Option<&'a Path>,
    /// Running text.
    pub texts: Vec<(&'a Path, u64)>,
    /// Bytes of an excerpt of running text at most.
    pub excerpt: usize,
    /// Where lists that are too large for memory may be kept; without, all are in memory.
    pub scratch: Option<&'a Path>,
}

/// The data set of all `files`, a part of [`Dataset::train`] each: examples as [`dataset`] reads them, text as [`corpus`]
/// does. What one file holds out is not trained on from another.
///
/// # Errors
/// As [`dataset`] and [`corpus`].
pub fn mixed(files: &Files<'_>) -> Result<Dataset> {
    let held_out = held_out_ngrams(&files.texts)?;
    let mut data = match files.examples.is_empty() {
        true => Dataset::default(),
        false => example_files(files, &held_out)?,
    };
    if !files.texts.is_empty() {
        let mut overlap = held_out;
        if !files.examples.is_empty() {
            data.valid.iter().for_each(|example| overlap.add(&said(&example)));
        }
        text_files(files, &overlap, &mut data)?;
    }
    let stem = |(path, _): &(&Path, u64)| path.file_stem().map(|s| s.to_string_lossy().into_owned());
    let names: Vec<String> = files.examples.iter().chain(&files.texts).filter_map(stem).collect();
    data.name = names.join("+");
    Ok(data)
}

/// The data set of a JSONL file, with a validation file or with a tenth of the prompts (chosen by a hash of
/// their text, so equal prompts stay together) held out. Duplicates, and what is held out, are taken out of training
/// ([`hygiene::clean`]). Tool prompts get [`System::With`](super::System)
/// calls, and a quarter of them an acknowledgement without the system text as well.
///
/// # Errors
/// As [`jsonl`]; [`Error::Usage`] when the file is too small to hold anything out.
pub fn dataset(train: &Path, valid: Option<&Path>) -> Result<Dataset> {
    mixed(&Files { examples: vec![(train, 1)], valid, ..Files::default() })
}

fn example_files(files: &Files<'_>, held_out_text: &Overlap) -> Result<Dataset> {
    let mut valid = Writer::new(files.scratch);
    let (mut lists, mut said_in_text) = (Vec::new(), 0);
    for (path, _) in &files.examples {
        let mut train = Writer::new(files.scratch);
        each_example(path, |example| match files.valid.is_none() && held_out(&example.prompt) {
            true => valid.push(example),
            // Text that is held out may be said in an example, too.
            false if held_out_text.leaks(&said(&example)) => {
                said_in_text += 1;
                Ok(())
            }
            false => train.push(example),
        })?;
        lists.push(train.finish()?);
    }
    if let Some(path) = files.valid {
        each_example(path, |example| valid.push(example))?;
    }
    let valid = valid.finish()?;
    let (lists, mut hygiene) = hygiene::clean(&lists, std::slice::from_ref(&valid))?;
    check_left(files, &lists, &valid)?;
    hygiene.seen += said_in_text;
    hygiene.leaks += said_in_text;
    let tools = schema::of_calls(lists.iter().flat_map(Store::iter), valid.iter());
    let weights = files.examples.iter().map(|(_, weight)| *weight);
    let part =
        |(list, weight): (&Store<Example>, u64)| Ok(Part { weight, examples: with_acknowledgements(list)? });
    let parts = lists.iter().zip(weights).map(part).collect::<Result<_>>()?;
    Ok(Dataset {
        train: Examples::mixed(parts),
        valid: Examples::one(with_acknowledgements(&valid)?),
        tools,
        hygiene,
        ..Dataset::default()
    })
}

/// Whether every file has something to train on, and there is something to validate on.
fn check_left(files: &Files<'_>, lists: &[Store<Example>], valid: &Store<Example>) -> Result<()> {
    for ((path, _), list) in files.examples.iter().zip(lists) {
        let refused = |what: String, hint: &str| Err(Error::Usage { what, hint: hint.into() });
        let path = path.display();
        if valid.is_empty() {
            return refused(
                format!("`{path}` has too few examples to split into train and valid"),
                "add examples, or give a validation file with --valid",
            );
        }
        if list.is_empty() {
            return refused(
                format!(
                    "nothing is left of `{path}` to train on: every row is held out, or said by an earlier one"
                ),
                "add other examples, or leave the file out",
            );
        }
    }
    Ok(())
}

/// What an example says, as running text would.
fn said(example: &Example) -> String {
    format!("{} {}", example.prompt, example.completion.canonical())
}

fn held_out(prompt: &str) -> bool {
    Rng::new(0, &["held out", prompt]).below(HELD_OUT) == 0
}

/// Adds the unprompted acknowledgement of a part of the tool prompts behind the examples.
fn with_acknowledgements(examples: &Store<Example>) -> Result<Store<Example>> {
    let acknowledged = |e: &Example| {
        e.slice == Slice::Tool && Rng::new(0, &["acknowledged", &e.prompt]).chance(ACKNOWLEDGED)
    };
    let mut out = examples.writer();
    out.extend(examples.iter().map(Cow::into_owned))?;
    out.extend(examples.iter().filter(|e| acknowledged(e)).map(|e| acknowledgement(&e)))?;
    out.finish()
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

/// The data set of a text file: the first 90 % of its bytes to train on, the rest to validate on, both cut into excerpts
/// of at most `excerpt` bytes at paragraph or line ends where there are any. Paragraphs that leak the held-out text are
/// taken out of training.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::Data`] when it is not UTF-8 or too short to split.
pub fn corpus(path: &Path, excerpt: usize) -> Result<Dataset> {
    mixed(&Files { texts: vec![(path, 1)], excerpt, ..Files::default() })
}

/// The n-grams of the ends of some texts.
fn held_out_ngrams(texts: &[(&Path, u64)]) -> Result<Overlap> {
    let mut overlap = Overlap::default();
    for (path, _) in texts {
        let mut chunks = Chunks::open(path, held_out_from(path, VALID_SHARE)?, u64::MAX)?;
        while let Some(text) = chunks.next()? {
            paragraphs(&text).for_each(|paragraph| overlap.add(paragraph));
        }
    }
    Ok(overlap)
}

/// Adds the excerpts of texts to a data set, and what a tokenizer learns from them.
fn text_files(files: &Files<'_>, overlap: &Overlap, data: &mut Dataset) -> Result<()> {
    let (mut parts, mut running) = (data.train.parts().to_vec(), Learnt::default());
    let mut valid = Writer::new(files.scratch);
    valid.extend(data.valid.iter().map(Cow::into_owned))?;
    for (path, weight) in &files.texts {
        let mut train = Writer::new(files.scratch);
        let report = one_text(path, files.excerpt, overlap, &mut running, [&mut train, &mut valid])?;
        data.hygiene.seen += report.seen;
        data.hygiene.leaks += report.leaks;
        parts.push(Part { weight: *weight, examples: train.finish()? });
    }
    data.train = Examples::mixed(parts);
    data.valid = Examples::one(valid.finish()?);
    data.running = Some(running.finish());
    Ok(())
}

/// What a tokenizer learns from text while it is read.
struct Learnt {
    sample: Sample,
    characters: BTreeSet<char>,
}

impl Default for Learnt {
    fn default() -> Self {
        Self { sample: Sample::new(SAMPLE_BYTES, 0), characters: BTreeSet::new() }
    }
}

impl Learnt {
    fn finish(self) -> Running {
        let characters = self.characters.into_iter().collect();
        Running { sample: self.sample.into_texts().collect(), characters }
    }
}

fn one_text(
    path: &Path,
    excerpt: usize,
    overlap: &Overlap,
    learnt: &mut Learnt,
    [train, valid]: [&mut Writer<Example>; 2],
) -> Result<Hygiene> {
    let wrong = |what: &str| Err(Error::Data { path: path.into(), line: 1, what: what.into() });
    let cut = held_out_from(path, VALID_SHARE)?;
    let (mut report, mut written, mut blank) = (Hygiene::default(), false, true);
    let mut excerpts = Excerpts::new(excerpt);
    let mut chunks = Chunks::open(path, 0, cut)?;
    while let Some(text) = chunks.next()? {
        blank &= text.trim().is_empty();
        for paragraph in paragraphs(&text) {
            report.seen += 1;
            if overlap.leaks(paragraph) {
                report.leaks += 1;
                continue;
            }
            written |= !paragraph.trim().is_empty();
            learnt.sample.offer(paragraph);
            learnt.characters.extend(paragraph.chars());
            excerpts.add(paragraph, train)?;
        }
    }
    excerpts.finish(train)?;
    let mut excerpts = Excerpts::new(excerpt);
    let (mut chunks, mut empty) = (Chunks::open(path, cut, u64::MAX)?, true);
    while let Some(text) = chunks.next()? {
        empty &= text.trim().is_empty();
        excerpts.add(&text, valid)?;
    }
    excerpts.finish(valid)?;
    match (blank || empty, written) {
        (true, _) => wrong("too little text to split into train and valid"),
        (_, false) => wrong("all of the training text repeats what is held out at the end"),
        _ => Ok(report),
    }
}

/// Cuts text that comes in pieces as [`next_cut`] cuts a whole one: what has come is cut as long as an excerpt's length of
/// it is left, for a cut depends on no more.
struct Excerpts {
    limit: usize,
    rest: String,
}

impl Excerpts {
    fn new(limit: usize) -> Self {
        Self { limit, rest: String::new() }
    }

    fn add(&mut self, text: &str, out: &mut Writer<Example>) -> Result<()> {
        self.rest.push_str(text);
        let mut from = 0;
        while let Some(len) = next_cut(&self.rest[from..], self.limit) {
            out.push(excerpt_of(&self.rest[from..from + len]))?;
            from += len;
        }
        self.rest.drain(..from);
        Ok(())
    }

    fn finish(self, out: &mut Writer<Example>) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { out.push(excerpt_of(&self.rest)) }
    }
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

/// Where a piece of at most `limit` bytes ends: behind the last blank line that fits in its second half, else behind the
/// last line end, space, or character. `None` for text that is no longer than a piece. Pieces together are the text.
fn next_cut(text: &str, limit: usize) -> Option<usize> {
    let mut end = limit.max(4);
    if text.len() <= end {
        return None;
    }
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let window = &text[..end];
    let after = |mark: &str| window.rfind(mark).map(|at| at + mark.len()).filter(|at| *at > end / 2);
    Some(after("\n\n").or_else(|| after("\n")).or_else(|| after(" ")).unwrap_or(end))
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
