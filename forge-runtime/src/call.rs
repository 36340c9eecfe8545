//! Completions as text: a tool call becomes JSON.
//!
//! The texts of a completion are trained with one space in front, so that a word has the same tokens in a value as in
//! the prompt it is copied from. Here they are given without it.
#![forbid(unsafe_code)]

use core::fmt::{self, Write};

use forge_formats::tokenizer::{MAX_TOKEN, SpecialKind};

use crate::tokenizer::Tokenizer;

/// A well-formed tool call: a tool token, then arguments, each a slot token and its value's text.
#[derive(Clone, Copy, Debug)]
pub struct Call<'t, 'a> {
    tokenizer: Tokenizer<'a>,
    tool: &'a str,
    /// Empty, or beginning with a slot.
    arguments: &'t [u16],
}

impl<'t, 'a> Call<'t, 'a> {
    /// Reads a completion up to its `<eos>`, if it has one. `None` when it is not a tool call: when it does not
    /// begin with a tool, has text before the first slot, or any other special token.
    pub fn parse(tokenizer: Tokenizer<'a>, completion: &'t [u16]) -> Option<Self> {
        let (first, arguments) = until_end(&tokenizer, completion).split_first()?;
        let Some((SpecialKind::Tool, tool)) = tokenizer.special_at(*first) else {
            return None;
        };
        let is_slot = |id: &u16| matches!(tokenizer.special_at(*id), Some((SpecialKind::Slot, _)));
        let is_text = |id: &u16| tokenizer.special_at(*id).is_none();
        let well_formed =
            arguments.first().is_none_or(is_slot) && arguments.iter().all(|t| is_slot(t) || is_text(t));
        well_formed.then_some(Self { tokenizer, tool, arguments })
    }

    /// The tool's name.
    pub fn tool(&self) -> &'a str {
        self.tool
    }

    /// Slot names and the tokens of their values, in order; a slot may occur more than once.
    pub fn arguments(&self) -> impl Iterator<Item = (&'a str, &'t [u16])> + Clone {
        let (tokenizer, mut rest) = (self.tokenizer, self.arguments);
        core::iter::from_fn(move || {
            let (slot, after) = rest.split_first()?;
            let (_, name) = tokenizer.special_at(*slot)?;
            let len = after.iter().take_while(|t| tokenizer.special_at(**t).is_none()).count();
            let (value, next) = after.split_at_checked(len)?;
            rest = next;
            Some((name, value))
        })
    }

    /// Writes `{"tool":"set_light","args":{"room":"bedroom","level":"20"}}`; a slot that occurs more than once
    /// becomes an array in the place of its first occurrence.
    ///
    /// # Errors
    /// What `out` returns.
    pub fn write_json(&self, out: &mut impl Write) -> fmt::Result {
        out.write_str("{\"tool\":\"")?;
        self.tool.chars().try_for_each(|c| write_escaped(c, out))?;
        out.write_str("\",\"args\":{")?;
        let mut opening = "\"";
        for (i, (name, _)) in self.arguments().enumerate() {
            if self.arguments().take(i).any(|(earlier, _)| earlier == name) {
                continue;
            }
            out.write_str(opening)?;
            opening = ",\"";
            name.chars().try_for_each(|c| write_escaped(c, out))?;
            out.write_str("\":")?;
            self.write_values(name, out)?;
        }
        out.write_str("}}")
    }

    /// Writes the value of a slot, or the array of its values.
    fn write_values(&self, name: &str, out: &mut impl Write) -> fmt::Result {
        let values = self.arguments().filter(|(n, _)| *n == name);
        let array = values.clone().nth(1).is_some();
        out.write_str(if array { "[\"" } else { "\"" })?;
        for (i, (_, value)) in values.enumerate() {
            if i > 0 {
                out.write_str("\",\"")?;
            }
            text(&self.tokenizer, value, &mut |c| write_escaped(c, out))?;
        }
        out.write_str(if array { "\"]" } else { "\"" })
    }
}

/// Writes a completion up to its `<eos>`: a tool call as JSON, anything else as its text, with special tokens by
/// name and each text between them without the space in front. Bytes that are not UTF-8 become U+FFFD.
///
/// # Errors
/// What `out` returns.
pub fn render(tokenizer: &Tokenizer<'_>, completion: &[u16], out: &mut impl Write) -> fmt::Result {
    if let Some(call) = Call::parse(*tokenizer, completion) {
        return call.write_json(out);
    }
    let mut rest = until_end(tokenizer, completion);
    while !rest.is_empty() {
        let len = rest.iter().take_while(|t| tokenizer.special_at(**t).is_none()).count();
        let (plain, after) = rest.split_at_checked(len).unwrap_or((rest, &[]));
        text(tokenizer, plain, &mut |c| out.write_char(c))?;
        rest = match after.split_first() {
            Some((special, next)) => {
                out.write_str(tokenizer.special_at(*special).map_or("", |(_, name)| name))?;
                next
            }
            None => &[],
        };
    }
    Ok(())
}

/// The tokens before the first `<eos>`.
fn until_end<'t>(tokenizer: &Tokenizer<'_>, completion: &'t [u16]) -> &'t [u16] {
    let end = tokenizer.special(SpecialKind::Control, "<eos>");
    let len = completion.iter().take_while(|t| Some(**t) != end).count();
    completion.get(..len).unwrap_or(completion)
}

/// Passes on the characters of ordinary tokens' bytes without the one space in front, U+FFFD for each maximal part that
/// is not UTF-8.
fn text(tokenizer: &Tokenizer<'_>, tokens: &[u16], out: &mut impl FnMut(char) -> fmt::Result) -> fmt::Result {
    let mut first = true;
    let mut out = |c| if core::mem::take(&mut first) && c == ' ' { Ok(()) } else { out(c) };
    // The bytes of one token, after those of a character the tokens before it left unfinished.
    let mut pending = [0u8; MAX_TOKEN + 4];
    let mut len = 0;
    for token in tokens {
        let mut buffer = [0; MAX_TOKEN];
        let bytes = tokenizer.decode(*token, &mut buffer);
        for (place, byte) in pending.iter_mut().skip(len).zip(bytes) {
            *place = *byte;
        }
        let all = pending.get(..len + bytes.len()).unwrap_or(&[]);
        let unfinished = characters(all, &mut out)?;
        let mut kept = [0; 4];
        let tail = all.get(all.len().saturating_sub(unfinished)..).unwrap_or(&[]);
        kept.iter_mut().zip(tail).for_each(|(place, byte)| *place = *byte);
        pending.iter_mut().zip(kept).for_each(|(place, byte)| *place = byte);
        len = unfinished;
    }
    if len > 0 { out(char::REPLACEMENT_CHARACTER) } else { Ok(()) }
}

/// Passes on the characters of `bytes`; returns how many bytes at the end are an unfinished one (at most 3).
fn characters(bytes: &[u8], out: &mut impl FnMut(char) -> fmt::Result) -> Result<usize, fmt::Error> {
    let mut unfinished = 0;
    let mut chunks = bytes.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        chunk.valid().chars().try_for_each(&mut *out)?;
        let invalid = chunk.invalid();
        if chunks.peek().is_none() && may_continue(invalid) {
            unfinished = invalid.len();
        } else if !invalid.is_empty() {
            out(char::REPLACEMENT_CHARACTER)?;
        }
    }
    Ok(unfinished)
}

/// Whether bytes are a proper beginning of a character.
fn may_continue(bytes: &[u8]) -> bool {
    core::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}

/// Writes a character of a JSON string (RFC 8259, section 7).
fn write_escaped(c: char, out: &mut impl Write) -> fmt::Result {
    match c {
        '"' => out.write_str("\\\""),
        '\\' => out.write_str("\\\\"),
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        c if u32::from(c) < 0x20 => {
            // Without `write!`, which would bring all of the formatting machinery.
            out.write_str(if u32::from(c) < 0x10 { "\\u000" } else { "\\u001" })?;
            out.write_char(char::from_digit(u32::from(c) % 16, 16).unwrap_or('0'))
        }
        c => out.write_char(c),
    }
}
