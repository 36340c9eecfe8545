//! Content-addressed artifacts of a session.
//!
//! A stored artifact is acknowledged in one order: temporary file, `fsync`, rename, `fsync` of the directory,
//! registry row. A row therefore always has its file; a file without a row is harmless and taken over.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::pipeline::durable;
use crate::pipeline::phase::{ArtifactKind, ArtifactRef};
use crate::registry::{NewSession, Registry};
use crate::weights::{Key, Matrix, Weights};
use crate::weights_io;

/// Directory of the artifacts inside a session.
const DIRECTORY: &str = "artifacts";

/// SHA-256 of `bytes` in lower-case hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The artifacts of one session.
#[derive(Debug)]
pub struct ArtifactStore {
    directory: PathBuf,
    session: String,
    registry: Arc<Registry>,
}

impl ArtifactStore {
    /// Opens the store of `session`, whose files live in `session_dir/artifacts`, and removes half-written files.
    /// The caller holds the session's lock.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be made or read.
    pub fn open(session_dir: &Path, session: &str, registry: Arc<Registry>) -> Result<Self> {
        let artifacts = session_dir.join(DIRECTORY);
        fs::create_dir_all(&artifacts).map_err(Error::io("create", &artifacts))?;
        durable::clean(&artifacts)?;
        Ok(Self { directory: session_dir.to_owned(), session: session.to_owned(), registry })
    }

    /// A store in `directory` with a registry of its own in memory, for tools and tests that run a phase outside a
    /// session.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be made.
    pub fn scratch(directory: &Path) -> Result<Self> {
        let registry = Arc::new(Registry::in_memory()?);
        let session = NewSession { id: "scratch", preset: "none", seed: 0, config: "" };
        registry.create_session(&session)?;
        Self::open(directory, session.id, registry)
    }

    /// Stores `bytes`; storing the same bytes again is free.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Registry`]; nothing half-written is left.
    pub fn put_bytes(&self, kind: ArtifactKind, bytes: &[u8]) -> Result<ArtifactRef> {
        let hash = sha256_hex(bytes);
        let file = format!("{DIRECTORY}/{hash}.{}", kind.extension());
        let artifact = ArtifactRef { hash, kind, file, bytes: bytes.len() as u64 };
        let path = self.path(&artifact);
        let stored = fs::read(&path).is_ok_and(|old| old == bytes);
        if !stored {
            durable::write(&path, &[bytes])?;
        }
        self.registry.record_artifact(&self.session, &artifact)?;
        Ok(artifact)
    }

    /// Stores f32 parameters.
    ///
    /// # Errors
    /// As [`ArtifactStore::put_bytes`].
    pub fn put_weights(&self, weights: &Weights) -> Result<ArtifactRef> {
        self.put_bytes(ArtifactKind::Weights, &weights_io::to_bytes(weights)?)
    }

    /// The content of an artifact.
    ///
    /// # Errors
    /// [`Error::Artifact`] when it is missing or its hash does not match its content.
    pub fn bytes(&self, artifact: &ArtifactRef) -> Result<Vec<u8>> {
        let path = self.path(artifact);
        let bytes = fs::read(&path)
            .map_err(|source| Error::Artifact(format!("cannot read `{}`: {source}", path.display())))?;
        let found = sha256_hex(&bytes);
        if found != artifact.hash {
            let path = path.display();
            return Err(Error::Artifact(format!("`{path}` is damaged: its SHA-256 is {found}")));
        }
        Ok(bytes)
    }

    /// The f32 parameters of an artifact.
    ///
    /// # Errors
    /// [`Error::Artifact`] when it is missing, damaged or holds something else.
    pub fn weights(&self, artifact: &ArtifactRef) -> Result<Weights> {
        if artifact.kind != ArtifactKind::Weights {
            return Err(Error::Artifact(format!("`{}` does not hold weights", artifact.file)));
        }
        weights_io::from_bytes(&self.bytes(artifact)?)
    }

    /// Stores matrices that are not a whole model: calibration statistics, masks.
    ///
    /// # Errors
    /// As [`ArtifactStore::put_bytes`].
    pub fn put_tensors(&self, kind: ArtifactKind, tensors: &BTreeMap<Key, Matrix>) -> Result<ArtifactRef> {
        self.put_bytes(kind, &weights_io::tensors_to_bytes(tensors)?)
    }

    /// The matrices stored by [`ArtifactStore::put_tensors`].
    ///
    /// # Errors
    /// [`Error::Artifact`] when they are missing, damaged or of another kind.
    pub fn tensors(&self, artifact: &ArtifactRef) -> Result<BTreeMap<Key, Matrix>> {
        weights_io::tensors_from_bytes(&self.bytes(artifact)?)
    }

    /// Where the artifact's file is.
    pub fn path(&self, artifact: &ArtifactRef) -> PathBuf {
        self.directory.join(&artifact.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, ArtifactStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = ArtifactStore::scratch(dir.path()).unwrap();
        (dir, store)
    }

    #[test]
    fn the_hash_is_sha256_of_the_content() {
        let (_dir, store) = store();
        let artifact = store.put_bytes(ArtifactKind::Report, b"abc").unwrap();
        assert_eq!(artifact.hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(artifact.bytes, 3);
        assert_eq!(store.bytes(&artifact).unwrap(), b"abc");
        assert_eq!(store.put_bytes(ArtifactKind::Report, b"abc").unwrap(), artifact);
        assert_eq!(store.registry.artifacts("scratch").unwrap(), [artifact]);
    }

    #[test]
    fn damage_and_absence_are_noticed() {
        let (_dir, store) = store();
        let artifact = store.put_bytes(ArtifactKind::Report, b"abc").unwrap();
        fs::write(store.path(&artifact), b"abd").unwrap();
        assert!(matches!(store.bytes(&artifact), Err(Error::Artifact(_))));
        store.put_bytes(ArtifactKind::Report, b"abc").unwrap();
        assert_eq!(store.bytes(&artifact).unwrap(), b"abc", "storing again mends it");
        fs::remove_file(store.path(&artifact)).unwrap();
        assert!(matches!(store.bytes(&artifact), Err(Error::Artifact(_))));
        assert!(matches!(store.weights(&artifact), Err(Error::Artifact(_))));
    }

    #[test]
    fn a_kill_between_file_and_row_is_repaired() {
        let (dir, store) = store();
        let hash = sha256_hex(b"abc");
        let half = dir.path().join("artifacts/.x.json.1.0.tmp");
        fs::write(&half, b"ab").unwrap();
        fs::write(dir.path().join(format!("artifacts/{hash}.json")), b"abc").unwrap();
        let store = ArtifactStore::open(dir.path(), "scratch", Arc::clone(&store.registry)).unwrap();
        assert!(!half.exists(), "half-written files are removed");
        assert!(store.registry.artifacts("scratch").unwrap().is_empty());
        let artifact = store.put_bytes(ArtifactKind::Report, b"abc").unwrap();
        assert_eq!(store.registry.artifacts("scratch").unwrap(), [artifact]);
    }

    #[test]
    fn no_row_without_a_file() {
        let (dir, store) = store();
        fs::remove_dir_all(dir.path().join("artifacts")).unwrap();
        assert!(matches!(store.put_bytes(ArtifactKind::Report, b"abc"), Err(Error::Io { .. })));
        assert!(store.registry.artifacts("scratch").unwrap().is_empty());
    }
}
