//! Files that are either whole or absent, whatever kills the process.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Extension of files that are still being written.
const TEMPORARY: &str = "tmp";

/// Removes the temporary file unless it was renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // After the rename there is nothing under this name; an error then means what we want.
        let _ = fs::remove_file(&self.0);
    }
}

/// Writes `parts` one after the other to `path`: temporary file in the same directory, `fsync`, rename, `fsync` of
/// the directory. A reader sees the old content or the new, never a part.
///
/// # Errors
/// [`Error::Io`] naming `path`; nothing is left behind.
pub fn write(path: &Path, parts: &[&[u8]]) -> Result<()> {
    let all = |file: &mut File| parts.iter().try_for_each(|part| file.write_all(part));
    write_with(path, |file| all(file).map_err(Error::io("write", path)))
}

/// As [`write`], with content that `fill` writes, for what does not fit into memory.
///
/// # Errors
/// Whatever `fill` fails with, or [`Error::Io`] naming `path`; nothing is left behind.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
    let temporary = Temporary(directory.join(format!(".{name}.{}.{unique}.{TEMPORARY}", std::process::id())));
    let mut file = File::create(&temporary.0).map_err(Error::io("create", path))?;
    fill(&mut file)?;
    file.sync_all().map_err(Error::io("write", path))?;
    drop(file);
    fs::rename(&temporary.0, path).map_err(Error::io("write", path))?;
    sync_directory(directory)
}

/// Makes renames and removals in `directory` survive a loss of power. Only Unix can open a directory for that;
/// elsewhere the rename itself is journalled.
fn sync_directory(directory: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(directory).and_then(|d| d.sync_all()).map_err(Error::io("write", directory))?;
    #[cfg(not(unix))]
    let _ = directory;
    Ok(())
}

/// Removes what a killed process left half-written in `directory`; returns how many files.
///
/// Call it only while holding the lock of whatever the directory belongs to.
///
/// # Errors
/// [`Error::Io`] when the directory cannot be read or a file not removed.
pub fn clean(directory: &Path) -> Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(directory).map_err(Error::io("read", directory))? {
        let path = entry.map_err(Error::io("read", directory))?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if hidden && path.extension().is_some_and(|e| e == TEMPORARY) {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_write_leaves_the_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        write(&path, &[b"old"]).unwrap();
        write(&path, &[b"ne", b"w"]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["a.bin"]);
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("x"), b"").unwrap();
        let error = write(&path, &[b"new"]).unwrap_err();
        assert!(error.to_string().contains("taken"), "{error}");
        assert_eq!(names(dir.path()), ["taken"]);
    }

    #[test]
    fn cleaning_removes_half_written_files_only() {
        let dir = tempfile::tempdir().unwrap();
        for name in [".a.bin.7.0.tmp", "a.bin", "notes.tmp", ".hidden"] {
            fs::write(dir.path().join(name), b"half").unwrap();
        }
        assert_eq!(clean(dir.path()).unwrap(), 1);
        assert_eq!(names(dir.path()), [".hidden", "a.bin", "notes.tmp"]);
    }
}
