//! One run at a time on a session.
//!
//! The lock is the operating system's (`flock`, `LockFileEx`): it vanishes with its process, however that ends, and
//! cannot be mistaken for another process that was given the same number. The file's text only names the owner.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// The held lock of a session; dropping it lets go.
#[derive(Debug)]
pub struct SessionLock {
    _file: File,
}

impl SessionLock {
    /// Takes the lock at `path`, making the file if needed. A lock whose owner is dead is taken over.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the owner when another process holds it, [`Error::Io`] when the file cannot be made.
    pub fn acquire(path: &Path) -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(Error::io("create", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(refusal(&mut file, path)),
            Err(TryLockError::Error(source)) => return Err(Error::io("lock", path)(source)),
        }
        let owner = format!("process {} on {}\n", std::process::id(), host());
        file.set_len(0).and_then(|()| file.rewind()).map_err(Error::io("write", path))?;
        file.write_all(owner.as_bytes()).and_then(|()| file.sync_all()).map_err(Error::io("write", path))?;
        Ok(Self { _file: file })
    }
}

fn refusal(file: &mut File, path: &Path) -> Error {
    let mut owner = String::new();
    // The text may be unreadable on systems whose locks are mandatory; the refusal stands all the same.
    let _ = file.read_to_string(&mut owner);
    let owner = if owner.trim().is_empty() { "another process" } else { owner.trim() };
    let session = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    Error::Usage {
        what: format!("session {session} is in use by {owner}"),
        hint: "wait for it or stop it, then resume; or start a session of its own".into(),
    }
}

/// The machine's name, for people who share a file system.
fn host() -> String {
    let system = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let variable = || std::env::var("HOSTNAME").or_else(|_| std::env::var("COMPUTERNAME")).ok();
    let name = system.or_else(variable).unwrap_or_default();
    if name.trim().is_empty() { "this machine".into() } else { name.trim().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_is_refused_and_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = SessionLock::acquire(&path).unwrap();
        let error = SessionLock::acquire(&path).unwrap_err();
        let owner = format!("process {}", std::process::id());
        assert!(error.to_string().contains(&owner), "{error}");
        assert_eq!(error.exit_code(), 2);
        drop(held);
        SessionLock::acquire(&path).unwrap();
    }

    #[test]
    fn the_lock_of_a_dead_process_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::fs::write(&path, "process 4194304 on a machine with a rather long name that is gone\n").unwrap();
        let _held = SessionLock::acquire(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("process {} on {}\n", std::process::id(), host()));
    }
}
