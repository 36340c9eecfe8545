//! Tokenised text in a file, mapped into memory: training holds no corpus.
//!
//! A file's name is the hash of all its tokens depend on: the text, the tokenizer, how the text was filtered. It
//! therefore never needs to be written twice, and never means anything else.
//!
//! ```text
//! 0   magic `FORGETOK`         8   version, u32        12  CRC-32 of the tokens
//! 16  number of tokens, u64    24  key, 32 bytes       56  zeros
//! 64  tokens, u16 each; all numbers little-endian
//! ```

use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use super::blocks::Tokens;
use super::mapped;
use crate::error::{Error, Result};
use crate::pipeline::durable;

const MAGIC: [u8; 8] = *b"FORGETOK";
const VERSION: u32 = 1;
const HEADER: usize = 64;
/// Bytes read at a time when a file is checked or hashed.
const BUFFER: usize = 1 << 18;

// Tokens are used as they lie in the file.
const _: () = assert!(cfg!(target_endian = "little"), "the token cache is little-endian");

/// What the tokens of a file depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Key {
    /// The key of these parts, in this order.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    fn file(&self, directory: &Path) -> PathBuf {
        let name: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        directory.join(format!("{name}.tokens"))
    }
}

/// SHA-256 of a file's content, read through a bounded buffer.
///
/// # Errors
/// [`Error::Io`] when it cannot be read.
pub fn hash_file(path: &Path) -> Result<[u8; 32]> {
    let mut hash = Sha256::new();
    each_buffer(path, File::open(path).map_err(Error::io("read", path))?, |bytes| hash.update(bytes))?;
    Ok(hash.finalize().into())
}

/// Shows the rest of a file, a buffer at a time.
fn each_buffer(path: &Path, mut file: File, mut show: impl FnMut(&[u8])) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer).map_err(Error::io("read", path))? {
            0 => return Ok(()),
            read => show(&buffer[..read]),
        }
    }
}

/// Tokens of a text, mapped from a file.
#[derive(Debug)]
pub struct TokenFile {
    map: Mmap,
}

impl Tokens for TokenFile {
    fn tokens(&self) -> &[u16] {
        bytemuck::cast_slice(&self.map[HEADER..])
    }
}

impl TokenFile {
    /// The tokens of `key` in `directory`, written by `fill` if they are not there yet, or not undamaged.
    ///
    /// # Errors
    /// [`Error::Io`], or what `fill` fails with; nothing half-written is left.
    pub fn open_or(
        directory: &Path,
        key: Key,
        fill: impl FnOnce(&mut TokenWriter<'_>) -> Result<()>,
    ) -> Result<Self> {
        let path = key.file(directory);
        if !is_whole(&path, key)? {
            fs::create_dir_all(directory).map_err(Error::io("create", directory))?;
            durable::write_with(&path, |file| write(&path, file, key, fill))?;
        }
        Ok(Self { map: mapped::map(&path)? })
    }
}

/// Takes tokens in the order of the text.
pub struct TokenWriter<'f> {
    out: BufWriter<&'f mut File>,
    path: &'f Path,
    crc: crc32fast::Hasher,
    count: u64,
}

impl TokenWriter<'_> {
    /// Appends tokens.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn push(&mut self, tokens: &[u16]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(tokens);
        self.crc.update(bytes);
        self.count += tokens.len() as u64;
        self.out.write_all(bytes).map_err(Error::io("write", self.path))
    }
}

fn write(
    path: &Path,
    file: &mut File,
    key: Key,
    fill: impl FnOnce(&mut TokenWriter<'_>) -> Result<()>,
) -> Result<()> {
    let io = || Error::io("write", path);
    file.write_all(&[0; HEADER]).map_err(io())?;
    let (crc, count) = write_tokens(path, file, fill)?;
    file.seek(SeekFrom::Start(0)).map_err(io())?;
    file.write_all(&header(crc, count, key)).map_err(io())
}

/// Writes the tokens; returns their checksum and number.
fn write_tokens(
    path: &Path,
    file: &mut File,
    fill: impl FnOnce(&mut TokenWriter<'_>) -> Result<()>,
) -> Result<(u32, u64)> {
    let out = BufWriter::new(file);
    let mut writer = TokenWriter { out, path, crc: crc32fast::Hasher::new(), count: 0 };
    fill(&mut writer)?;
    writer.out.flush().map_err(Error::io("write", path))?;
    Ok((writer.crc.finalize(), writer.count))
}

fn header(crc: u32, count: u64, key: Key) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    let fields = MAGIC
        .into_iter()
        .chain(VERSION.to_le_bytes())
        .chain(crc.to_le_bytes())
        .chain(count.to_le_bytes())
        .chain(key.0);
    out.iter_mut().zip(fields).for_each(|(out, byte)| *out = byte);
    out
}

/// Whether a file is there and holds the tokens of `key` undamaged. Read through a buffer, not through the map, so that
/// its pages do not count as this process's memory.
fn is_whole(path: &Path, key: Key) -> Result<bool> {
    let Ok(mut file) = File::open(path) else { return Ok(false) };
    let mut head = [0; HEADER];
    if file.read_exact(&mut head).is_err() {
        return Ok(false);
    }
    let (mut crc, mut count) = (crc32fast::Hasher::new(), 0);
    each_buffer(path, file, |bytes| {
        crc.update(bytes);
        count += bytes.len() as u64;
    })?;
    Ok(count % 2 == 0 && head == header(crc.finalize(), count / 2, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(directory: &Path, key: Key, tokens: &[u16]) -> Result<TokenFile> {
        TokenFile::open_or(directory, key, |out| tokens.chunks(7).try_for_each(|part| out.push(part)))
    }

    #[test]
    fn tokens_are_written_once_and_read_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("cache");
        let (key, tokens) = (Key::of(&[b"text", b"table"]), (0..1000).collect::<Vec<u16>>());
        assert_eq!(open(&directory, key, &tokens).unwrap().tokens(), tokens);
        let again = TokenFile::open_or(&directory, key, |_| panic!("written twice")).unwrap();
        assert_eq!(again.tokens(), tokens);
        let other = open(&directory, Key::of(&[b"tex", b"ttable"]), &[1]).unwrap();
        assert_eq!((other.tokens(), fs::read_dir(&directory).unwrap().count()), (&[1][..], 2));
    }

    #[test]
    fn damage_is_noticed_and_mended() {
        let dir = tempfile::tempdir().unwrap();
        let (key, tokens) = (Key::of(&[b"text"]), [5u16, 6, 7]);
        drop(open(dir.path(), key, &tokens).unwrap());
        let path = key.file(dir.path());
        let good = fs::read(&path).unwrap();
        assert_eq!(good.len(), HEADER + 6);
        for at in [0, 9, 13, 17, 30, HEADER, HEADER + 5] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, bad).unwrap();
            assert!(!is_whole(&path, key).unwrap(), "{at}");
        }
        for len in [0, 10, HEADER, HEADER + 5] {
            fs::write(&path, &good[..len]).unwrap();
            assert!(!is_whole(&path, key).unwrap(), "{len}");
        }
        assert_eq!(open(dir.path(), key, &tokens).unwrap().tokens(), tokens);
        assert!(is_whole(&path, key).unwrap());
    }

    #[test]
    fn a_failure_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let failed = TokenFile::open_or(dir.path(), Key::of(&[]), |out| {
            out.push(&[1, 2, 3])?;
            Err(Error::Interrupted)
        });
        assert!(matches!(failed, Err(Error::Interrupted)));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
