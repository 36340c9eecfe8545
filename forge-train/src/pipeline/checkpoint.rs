//! Checkpoints inside a phase.
//!
//! A file is the magic `FORGECK1`, the header's length as u32, the header as JSON (stage, step, names and lengths
//! of the values), the f32 values in that order, and the SHA-256 of everything before it.
//! All numbers are little-endian.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::pipeline::durable;

/// First bytes of a checkpoint; the last one is its version.
const MAGIC: &[u8; 8] = b"FORGECK1";
/// Length of the hash at the end.
const HASH: usize = 32;
/// Checkpoints kept of each stage.
pub const KEEP: usize = 5;

/// State saved inside a stage of a phase.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The part of the phase it belongs to.
    pub stage: String,
    /// Steps done.
    pub step: u64,
    /// Values by name: weights, optimiser state, averages.
    pub state: BTreeMap<String, Vec<f32>>,
    /// What the user should know: newer checkpoints that were damaged and skipped.
    pub note: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    stage: String,
    step: u64,
    values: Vec<(String, u64)>,
}

/// The checkpoints of one phase of a session.
#[derive(Clone, Debug)]
pub struct CheckpointDir {
    directory: PathBuf,
}

impl CheckpointDir {
    /// The checkpoints in `directory`, which is made on the first save. Removes half-written files; the caller
    /// holds the session's lock.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory exists and cannot be read.
    pub fn open(directory: &Path) -> Result<Self> {
        if directory.exists() {
            durable::clean(directory)?;
        }
        Ok(Self { directory: directory.to_owned() })
    }

    /// Saves the state after `step` of `stage` and removes all but the newest [`KEEP`] of the stage.
    ///
    /// # Errors
    /// [`Error::Config`] when `stage` is not made of `a-z 0-9 _`, [`Error::Io`] when the file cannot be written; the
    /// earlier checkpoints are untouched then.
    pub fn save(&self, stage: &str, step: u64, state: &BTreeMap<String, Vec<f32>>) -> Result<()> {
        check_stage(stage)?;
        fs::create_dir_all(&self.directory).map_err(Error::io("create", &self.directory))?;
        let values = state.iter().map(|(name, values)| (name.clone(), values.len() as u64)).collect();
        let header = Header { stage: stage.to_owned(), step, values };
        durable::write(&self.path(stage, step), &[&encode(&header, state)?])?;
        for old in self.steps(stage)?.into_iter().skip(KEEP) {
            let path = self.path(stage, old);
            fs::remove_file(&path).map_err(Error::io("remove", path))?;
        }
        Ok(())
    }

    /// The newest checkpoint of `stage` that is whole, or `None`. Damaged newer ones are named in
    /// [`Checkpoint::note`].
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be read.
    pub fn latest(&self, stage: &str) -> Result<Option<Checkpoint>> {
        check_stage(stage)?;
        let mut damaged = Vec::new();
        for step in self.steps(stage)? {
            let path = self.path(stage, step);
            let found = fs::read(&path).map_err(|e| e.to_string()).and_then(|bytes| decode(&bytes));
            match found {
                Ok(found) if found.stage == stage && found.step == step => {
                    return Ok(Some(Checkpoint { note: note(&damaged, step), ..found }));
                }
                Ok(_) => damaged.push(format!("`{}` belongs elsewhere", path.display())),
                Err(why) => damaged.push(format!("`{}`: {why}", path.display())),
            }
        }
        Ok(None)
    }

    /// Removes every checkpoint of the phase.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be removed.
    pub fn clear(&self) -> Result<()> {
        match fs::remove_dir_all(&self.directory) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", &self.directory)(e))
            }
            _ => Ok(()),
        }
    }

    fn path(&self, stage: &str, step: u64) -> PathBuf {
        self.directory.join(format!("{stage}-{step:010}.ckpt"))
    }

    /// Steps that have a file, newest first.
    fn steps(&self, stage: &str) -> Result<Vec<u64>> {
        if !self.directory.exists() {
            return Ok(Vec::new());
        }
        let mut steps = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(Error::io("read", &self.directory))? {
            let name = entry.map_err(Error::io("read", &self.directory))?.file_name();
            let name = name.to_string_lossy();
            let step = name.strip_suffix(".ckpt").and_then(|n| n.rsplit_once('-'));
            steps.extend(step.filter(|(s, _)| *s == stage).and_then(|(_, n)| n.parse::<u64>().ok()));
        }
        steps.sort_unstable_by(|a, b| b.cmp(a));
        Ok(steps)
    }
}

fn check_stage(stage: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if stage.is_empty() || !stage.chars().all(plain) {
        return Err(Error::Config(format!("checkpoint stage `{stage}` must be made of a-z, 0-9 and _")));
    }
    Ok(())
}

fn note(damaged: &[String], step: u64) -> Option<String> {
    let went_back = format!("went back to step {step} because newer checkpoints are damaged");
    (!damaged.is_empty()).then(|| format!("{went_back}: {}", damaged.join("; ")))
}

fn encode(header: &Header, state: &BTreeMap<String, Vec<f32>>) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(header).map_err(|e| Error::Artifact(format!("checkpoint header: {e}")))?;
    let count: usize = state.values().map(Vec::len).sum();
    let mut bytes = Vec::with_capacity(MAGIC.len() + 4 + json.len() + 4 * count + HASH);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&(json.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&json);
    for values in state.values() {
        values.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
    }
    let hash = Sha256::digest(&bytes);
    bytes.extend_from_slice(&hash);
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> std::result::Result<Checkpoint, String> {
    let (content, hash) = bytes.split_last_chunk::<HASH>().ok_or("too short")?;
    if Sha256::digest(content).as_slice() != hash {
        return Err("its checksum does not match".into());
    }
    let rest = content.strip_prefix(MAGIC).ok_or("not a checkpoint of this version")?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or("no header")?;
    let (json, mut rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or("no header")?;
    let header: Header = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    let mut state = BTreeMap::new();
    for (name, count) in header.values {
        let length =
            usize::try_from(count).ok().and_then(|n| n.checked_mul(4)).ok_or("a value is too long")?;
        let (values, after) = rest.split_at_checked(length).ok_or("a value is cut off")?;
        let value = |chunk: &[u8; 4]| f32::from_le_bytes(*chunk);
        state.insert(name, values.as_chunks::<4>().0.iter().map(value).collect());
        rest = after;
    }
    if !rest.is_empty() {
        return Err("bytes after the last value".into());
    }
    Ok(Checkpoint { stage: header.stage, step: header.step, state, note: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(value: f32) -> BTreeMap<String, Vec<f32>> {
        BTreeMap::from([("m".into(), vec![value, f32::NAN, -0.0]), ("empty".into(), Vec::new())])
    }

    fn saved(steps: &[u64]) -> (tempfile::TempDir, CheckpointDir) {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = CheckpointDir::open(&dir.path().join("phase1")).unwrap();
        for &step in steps {
            checkpoints.save("trunk", step, &state(step as f32)).unwrap();
        }
        (dir, checkpoints)
    }

    #[test]
    fn what_is_saved_is_loaded_bit_for_bit() {
        let (_dir, checkpoints) = saved(&[7]);
        let found = checkpoints.latest("trunk").unwrap().unwrap();
        assert_eq!((found.step, found.note), (7, None));
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found.state["m"]), bits(&state(7.0)["m"]));
        assert!(found.state["empty"].is_empty());
        assert_eq!(checkpoints.latest("branch").unwrap(), None);
    }

    #[test]
    fn the_newest_five_of_each_stage_are_kept() {
        let (_dir, checkpoints) = saved(&[1, 2, 30, 4, 5, 6, 100]);
        checkpoints.save("branch", 1, &state(0.0)).unwrap();
        assert_eq!(checkpoints.steps("trunk").unwrap(), [100, 30, 6, 5, 4]);
        assert_eq!(checkpoints.steps("branch").unwrap(), [1]);
        checkpoints.clear().unwrap();
        checkpoints.clear().unwrap();
        assert_eq!(checkpoints.latest("trunk").unwrap(), None);
    }

    #[test]
    fn damage_of_any_kind_falls_back_to_the_one_before() {
        let (_dir, checkpoints) = saved(&[1, 2]);
        let path = checkpoints.path("trunk", 2);
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        for damaged in [&flipped[..], &whole[..whole.len() - 1], &whole[..10], b""] {
            fs::write(&path, damaged).unwrap();
            let found = checkpoints.latest("trunk").unwrap().unwrap();
            assert_eq!(found.step, 1);
            assert!(found.note.unwrap().contains("trunk-0000000002"));
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(checkpoints.latest("trunk").unwrap().unwrap().step, 2, "the whole file is taken again");
        fs::copy(&path, checkpoints.path("trunk", 3)).unwrap();
        assert_eq!(checkpoints.latest("trunk").unwrap().unwrap().step, 2, "a renamed file is not believed");
    }

    #[test]
    fn stages_cannot_leave_the_directory() {
        let (_dir, checkpoints) = saved(&[]);
        assert!(checkpoints.save("../trunk", 1, &state(0.0)).is_err());
        assert!(checkpoints.latest("").is_err());
    }

    #[test]
    fn opening_removes_half_written_files() {
        let (_dir, checkpoints) = saved(&[1]);
        let half = checkpoints.directory.join(".trunk-0000000002.ckpt.9.0.tmp");
        fs::write(&half, b"FORGE").unwrap();
        let again = CheckpointDir::open(&checkpoints.directory).unwrap();
        assert!(!half.exists());
        assert_eq!(again.latest("trunk").unwrap().unwrap().step, 1);
    }
}
