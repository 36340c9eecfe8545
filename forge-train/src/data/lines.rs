//! Text files read through a bounded buffer: lines of JSONL, pieces of running text.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Take};
use std::path::{Path, PathBuf};

use forge_formats::pretokens;

use crate::error::{Error, Result};

/// Longest line in bytes: what a line may take of memory.
const MAX_LINE: usize = 16 << 20;
/// Bytes of running text read at a time. A piece longer than this is cut.
pub const CHUNK: usize = 1 << 18;

/// The lines of a file, without blank ones, one in memory at a time.
#[derive(Debug)]
pub struct Lines {
    reader: BufReader<File>,
    path: PathBuf,
    line: usize,
    bytes: Vec<u8>,
}

impl Lines {
    /// Opens a file.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        Ok(Self { reader: BufReader::new(file), path: path.into(), line: 0, bytes: Vec::new() })
    }

    /// The next line that is not blank, trimmed, with its number from 1; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Data`] for a line that is not UTF-8 or longer than 16 MiB.
    #[expect(clippy::should_implement_trait, reason = "lends its buffer, which an iterator cannot")]
    pub fn next(&mut self) -> Result<Option<(usize, &str)>> {
        loop {
            self.bytes.clear();
            self.line += 1;
            let mut limited = self.reader.by_ref().take(MAX_LINE as u64 + 1);
            let read = limited.read_until(b'\n', &mut self.bytes).map_err(Error::io("read", &self.path))?;
            if read == 0 {
                return Ok(None);
            }
            if read > MAX_LINE {
                return Err(
                    self.wrong(format!("a line of more than {MAX_LINE} bytes; expected an example a line"))
                );
            }
            let text = std::str::from_utf8(&self.bytes)
                .map_err(|e| self.wrong(format!("not UTF-8 text after byte {}", e.valid_up_to())))?;
            if !trimmed(text).is_empty() {
                break;
            }
        }
        let text = std::str::from_utf8(&self.bytes).unwrap_or_default();
        Ok(Some((self.line, trimmed(text))))
    }

    fn wrong(&self, what: String) -> Error {
        Error::Data { path: self.path.clone(), line: self.line, what }
    }
}

/// Without white space around it, and without a byte-order mark.
fn trimmed(text: &str) -> &str {
    text.trim_start_matches('\u{feff}').trim()
}

/// A range of a file's bytes as running text, in chunks that end where a paragraph does, or else a piece of [`pretokens`],
/// so that the chunks' tokens are the text's. Only one chunk is in memory.
#[derive(Debug)]
pub struct Chunks {
    reader: Take<File>,
    path: PathBuf,
    /// Where the range begins.
    start: u64,
    /// Read, but not given out yet.
    buffer: Vec<u8>,
    /// Line ends given out.
    lines: usize,
    ended: bool,
}

impl Chunks {
    /// The bytes `start..end` of a file.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read.
    pub fn open(path: &Path, start: u64, end: u64) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io("read", path))?;
        file.seek(SeekFrom::Start(start)).map_err(Error::io("read", path))?;
        let reader = file.take(end.saturating_sub(start));
        Ok(Self { reader, path: path.into(), start, buffer: Vec::new(), lines: 0, ended: false })
    }

    /// The next chunk; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Data`] naming the line that is not UTF-8.
    #[expect(clippy::should_implement_trait, reason = "other parts of the crate stop at the first error")]
    pub fn next(&mut self) -> Result<Option<String>> {
        while !self.ended && self.buffer.len() < CHUNK {
            let wanted = (CHUNK - self.buffer.len()) as u64;
            let read = self.reader.by_ref().take(wanted).read_to_end(&mut self.buffer);
            self.ended = read.map_err(Error::io("read", &self.path))? == 0;
        }
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let len = if self.ended { self.buffer.len() } else { whole_pieces(&self.buffer) };
        let rest = self.buffer.split_off(len);
        let bytes = std::mem::replace(&mut self.buffer, rest);
        let text = String::from_utf8(bytes).map_err(|e| {
            let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
            self.not_text(before)
        })?;
        self.lines += line_ends(text.as_bytes());
        Ok(Some(text))
    }

    /// The error of bytes that are not text behind `before` of the present chunk.
    fn not_text(&self, before: &[u8]) -> Error {
        let earlier = match lines_before(&self.path, self.start) {
            Ok(earlier) => earlier,
            Err(error) => return error,
        };
        let line = 1 + earlier + self.lines + line_ends(before);
        Error::Data { path: self.path.clone(), line, what: "not UTF-8 text; expected plain text".into() }
    }
}

fn line_ends(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

/// Line ends before a place in a file.
fn lines_before(path: &Path, end: u64) -> Result<usize> {
    let mut reader = BufReader::new(File::open(path).map_err(Error::io("read", path))?.take(end));
    let mut lines = 0;
    loop {
        let buffer = reader.fill_buf().map_err(Error::io("read", path))?;
        if buffer.is_empty() {
            return Ok(lines);
        }
        lines += line_ends(buffer);
        let len = buffer.len();
        reader.consume(len);
    }
}

/// Length of the paragraphs that more text cannot change, or of the pieces: all but the last one. Where there is only one
/// piece, it is cut between two characters.
fn whole_pieces(bytes: &[u8]) -> usize {
    let space = |byte: u8| matches!(byte, b' ' | 0x09..=0x0D);
    let ends = |at: &usize| bytes[*at - 2..*at] == *b"\n\n" && !space(bytes[*at]);
    if let Some(at) = (bytes.len() / 2 + 2..bytes.len()).rev().find(ends) {
        return at;
    }
    let last = pretokens(bytes).last().map_or(0, <[u8]>::len);
    if last < bytes.len() {
        return bytes.len() - last;
    }
    let begins = |byte: &u8| byte & 0xC0 != 0x80;
    bytes.iter().rposition(begins).filter(|at| *at > 0).unwrap_or(bytes.len())
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;
