//! Lists of any length in bounded memory: what does not fit goes to files without a name, which are mapped.
//!
//! A list that stays below [`BUDGET`] is an ordinary one. A longer one lies in two temporary files beside the run, one
//! record behind the other and where each ends; the operating system keeps as much of them in memory as it can spare,
//! and they are gone when the list is, even if the process is killed.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use super::mapped;
use crate::error::{Error, Result};

/// Bytes of a list from which on it is kept in files.
pub const BUDGET: usize = 4 << 20;

/// What a list may hold: values that can be written as bytes and read back.
pub trait Record: Clone + Send + Sync {
    /// Bytes it takes in memory, about.
    fn size(&self) -> usize;
    /// Appends its bytes.
    fn write(&self, out: &mut Vec<u8>);
    /// The value of these bytes, which [`Record::write`] wrote.
    fn read(bytes: &[u8]) -> Self;
}

/// A list that is read only.
#[derive(Clone, Debug)]
pub struct Store<T> {
    place: Arc<Place<T>>,
    /// Where lists made of this one may be kept.
    scratch: Option<PathBuf>,
}

#[derive(Debug)]
enum Place<T> {
    Memory(Vec<T>),
    Files { bytes: Mmap, ends: Mmap },
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self { place: Arc::new(Place::Memory(Vec::new())), scratch: None }
    }
}

/// A list in memory, whatever its length.
impl<T> From<Vec<T>> for Store<T> {
    fn from(values: Vec<T>) -> Self {
        Self { place: Arc::new(Place::Memory(values)), scratch: None }
    }
}

impl<T: Record> Store<T> {
    /// Number of values.
    pub fn len(&self) -> usize {
        match &*self.place {
            Place::Memory(values) => values.len(),
            Place::Files { ends, .. } => ends.len() / 8,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of an index.
    ///
    /// # Panics
    /// If the index is not below [`Store::len`].
    pub fn get(&self, index: usize) -> Cow<'_, T> {
        match &*self.place {
            Place::Memory(values) => Cow::Borrowed(&values[index]),
            Place::Files { bytes, .. } => Cow::Owned(T::read(&bytes[self.range(index)])),
        }
    }

    /// The values in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Cow<'_, T>> + Clone {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Bytes of the value of an index in the file; `None` for a list in memory.
    pub fn file_bytes(&self, index: usize) -> Option<usize> {
        matches!(&*self.place, Place::Files { .. }).then(|| self.range(index).len())
    }

    /// The values of a list in memory.
    pub fn in_memory(&self) -> Option<&[T]> {
        match &*self.place {
            Place::Memory(values) => Some(values),
            Place::Files { .. } => None,
        }
    }

    /// Begins a list that is kept where this one may be.
    pub fn writer<U: Record>(&self) -> Writer<U> {
        Writer::new(self.scratch.as_deref())
    }

    fn range(&self, index: usize) -> std::ops::Range<usize> {
        let Place::Files { ends, .. } = &*self.place else { return 0..0 };
        let end = |index: usize| {
            let bytes = ends[8 * index..8 * index + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes) as usize
        };
        index.checked_sub(1).map_or(0, end)..end(index)
    }
}

/// Makes a list, one value after the other.
#[derive(Debug)]
pub struct Writer<T> {
    scratch: Option<PathBuf>,
    held: Vec<T>,
    size: usize,
    files: Option<Files<T>>,
}

/// The files of a list that has outgrown memory.
#[derive(Debug)]
struct Files<T> {
    directory: PathBuf,
    bytes: BufWriter<File>,
    ends: BufWriter<File>,
    end: u64,
    buffer: Vec<u8>,
    of: PhantomData<T>,
}

impl<T: Record> Writer<T> {
    /// A list that goes to files in `scratch` once it is large; without, it stays in memory.
    pub fn new(scratch: Option<&Path>) -> Self {
        Self { scratch: scratch.map(Into::into), held: Vec::new(), size: 0, files: None }
    }

    /// Appends a value.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be written.
    pub fn push(&mut self, value: T) -> Result<()> {
        if let Some(files) = &mut self.files {
            return files.push(&value);
        }
        self.size += value.size();
        self.held.push(value);
        match &self.scratch {
            Some(directory) if self.size > BUDGET => {
                let mut files = Files::create(directory)?;
                std::mem::take(&mut self.held).iter().try_for_each(|value| files.push(value))?;
                self.files = Some(files);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Appends values.
    ///
    /// # Errors
    /// As [`Writer::push`].
    pub fn extend(&mut self, values: impl IntoIterator<Item = T>) -> Result<()> {
        values.into_iter().try_for_each(|value| self.push(value))
    }

    /// The list.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be written or mapped.
    pub fn finish(self) -> Result<Store<T>> {
        let place = match self.files {
            None => Place::Memory(self.held),
            Some(files) => files.finish()?,
        };
        Ok(Store { place: Arc::new(place), scratch: self.scratch })
    }
}

impl<T: Record> Files<T> {
    fn create(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).map_err(Error::io("create", directory))?;
        let file = || tempfile::tempfile_in(directory).map(BufWriter::new);
        let io = || Error::io("create a temporary file in", directory);
        let (bytes, ends) = (file().map_err(io())?, file().map_err(io())?);
        Ok(Self { directory: directory.into(), bytes, ends, end: 0, buffer: Vec::new(), of: PhantomData })
    }

    fn push(&mut self, value: &T) -> Result<()> {
        self.buffer.clear();
        value.write(&mut self.buffer);
        self.end += self.buffer.len() as u64;
        let written = self.bytes.write_all(&self.buffer);
        written
            .and_then(|()| self.ends.write_all(&self.end.to_le_bytes()))
            .map_err(Error::io("write a temporary file in", &self.directory))
    }

    fn finish(self) -> Result<Place<T>> {
        let io = || Error::io("write a temporary file in", &self.directory);
        let whole = |file: BufWriter<File>| file.into_inner().map_err(|e| io()(e.into_error()));
        let (bytes, ends) = (whole(self.bytes)?, whole(self.ends)?);
        Ok(Place::Files {
            bytes: mapped::unnamed(&bytes, &self.directory)?,
            ends: mapped::unnamed(&ends, &self.directory)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Completion, Example, Sequence, Slice};

    fn written<T: Record>(scratch: Option<&Path>, values: &[T]) -> Store<T> {
        let mut writer = Writer::new(scratch);
        writer.extend(values.iter().cloned()).unwrap();
        writer.finish().unwrap()
    }

    fn examples(n: usize) -> Vec<Example> {
        let completion = |i: usize| match i % 3 {
            0 => Completion::Text(format!("réponse {i}")),
            1 => Completion::Reasoned { thought: "t".repeat(i % 90), answer: i.to_string() },
            _ => Completion::Tool { tool: "t".into(), args: vec![("a".into(), i.to_string()); i % 4] },
        };
        (0..n)
            .map(|i| Example {
                system: (i % 2 == 0).then(|| format!("system {i}")),
                prompt: format!("prompt {i}"),
                completion: completion(i),
                slice: Slice::ALL[i % 4],
                level: (i % 11) as u8,
            })
            .collect()
    }

    #[test]
    fn long_lists_lie_in_files_and_say_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let values = examples(60_000);
        let (filed, held) = (written(Some(dir.path()), &values), written(None, &values));
        assert!(filed.in_memory().is_none() && held.in_memory().is_some());
        assert_eq!(filed.len(), values.len());
        assert!(filed.iter().zip(&values).all(|(a, b)| *a == *b));
        assert_eq!(*filed.get(59_999), values[59_999]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "files without a name");
        let short = written(Some(dir.path()), &values[..10]);
        assert!(short.in_memory().is_some() && short.iter().zip(&values).all(|(a, b)| *a == *b));
    }

    #[test]
    fn sequences_come_back_to_the_bit() {
        let dir = tempfile::tempdir().unwrap();
        let sequence = |i: usize| Sequence {
            ids: (0..i as u16 % 300).collect(),
            weights: (0..i % 300).map(|t| 0.1 * t as f32).collect(),
        };
        let values: Vec<Sequence> = (0..9000).map(sequence).collect();
        let store = written(Some(dir.path()), &values);
        assert!(store.in_memory().is_none());
        assert!(store.iter().zip(&values).all(|(a, b)| *a == *b));
    }

    #[test]
    fn a_place_that_cannot_be_written_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let mut writer = Writer::new(Some(file.as_path()));
        assert!(matches!(writer.extend(examples(60_000)), Err(Error::Io { .. })));
    }
}
