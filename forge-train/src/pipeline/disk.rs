//! What a run needs on disk, and whether the disk has it.
//!
//! Checkpoints dominate: the newest [`KEEP`] of each stage are kept until the phase is done, and one more exists while it
//! is written. A checkpoint is the parameters, the optimiser's state, and at most a few hundred bytes for each value.

use std::path::Path;

use forge_formats::config::ModelConfig;
use forge_formats::role::RoleKind;

use crate::config::{Config, TrainConfig};
use crate::engine::emit::float32;
use crate::error::{Error, Result};
use crate::pipeline::checkpoint::KEEP;
use crate::pipeline::phase::PhaseId;
use crate::pipeline::plan::file_bytes;
use crate::pipeline::stages::stages;

/// Header of a checkpoint, hash included, for each value it holds.
const HEADER_BYTES: u64 = 64;
/// Registry, settings, reports and tokenizer of a session.
const SESSION_BYTES: u64 = 8_000_000;

/// Bytes of one checkpoint of a stage that trains `model`; an upper bound.
pub fn checkpoint_bytes(model: &ModelConfig, train: &TrainConfig) -> u64 {
    let (mut values, mut names) = (0, 8);
    for (role, _, [rows, cols]) in model.tensors() {
        let size = u64::from(rows) * u64::from(cols);
        let moments = if train.uses_muon() && role.kind() == RoleKind::Projection { 1 } else { 2 };
        let copies = 1 + moments + u64::from(train.grokfast_lambda > 0.0) + u64::from(train.ema > 0.0);
        values += copies * size;
        names += copies;
    }
    4 * values + HEADER_BYTES * names
}

/// Bytes that a phase's checkpoints take at most, all of its stages together.
pub fn phase_checkpoint_bytes(phase: PhaseId, config: &Config, model: &ModelConfig) -> u64 {
    let stages = stages(phase, config);
    let sizes = stages.iter().map(|stage| (checkpoint_bytes(model, stage.train), stage.count));
    let kept: u64 = sizes.clone().map(|(bytes, count)| count * KEEP as u64 * bytes).sum();
    kept + sizes.map(|(bytes, _)| bytes).max().unwrap_or(0) + mixing_bytes(phase, model)
}

/// What the mixing head of phase 3 adds to its checkpoints: three layers of the model's width with two moments each.
fn mixing_bytes(phase: PhaseId, model: &ModelConfig) -> u64 {
    let dim = u64::from(model.dim);
    let head = 3 * 4 * (3 * dim * dim + 3 * dim + 1);
    if phase == PhaseId::QuietStar { (KEEP as u64 + 1) * head } else { 0 }
}

/// Bytes of a whole session at most: what all phases hand on, and the checkpoints of the largest phase.
pub fn session_bytes(config: &Config, model: &ModelConfig) -> u64 {
    // Phase 1 hands on a trunk and three branches, the others one set of weights; each emits a file, and the newest is
    // copied.
    let weights = 4 + (PhaseId::ALL.len() as u64 - 1);
    let files = PhaseId::ALL.len() as u64 + 2;
    let whole = file_bytes(model, &float32);
    let checkpoints =
        PhaseId::ALL.into_iter().map(|phase| phase_checkpoint_bytes(phase, config, model)).max();
    (weights + files) * whole + checkpoints.unwrap_or(0) + SESSION_BYTES
}

/// Refuses a run for which the disk under `directory` has too little room.
///
/// # Errors
/// [`Error::Usage`] with both sizes. A disk that does not say how much is free refuses nothing.
pub fn check(directory: &Path, needed: u64) -> Result<()> {
    match free_bytes(directory) {
        Some(free) if free < needed => Err(Error::Usage {
            what: format!(
                "the run may need {needed} bytes under `{}`, the disk has {free} free",
                directory.display()
            ),
            hint: "free some space, or choose another place with `--out`".into(),
        }),
        _ => Ok(()),
    }
}

/// Bytes free for this user on the disk of the nearest directory that exists.
#[cfg(unix)]
pub fn free_bytes(directory: &Path) -> Option<u64> {
    let here = directory.ancestors().find(|d| d.is_dir()).filter(|d| !d.as_os_str().is_empty());
    let status = nix::sys::statvfs::statvfs(here.unwrap_or(Path::new("."))).ok()?;
    Some(status.blocks_available() as u64 * status.fragment_size() as u64)
}

/// Unknown on this system.
#[cfg(not(unix))]
pub fn free_bytes(_directory: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    #[test]
    fn a_disk_without_room_is_refused_with_both_sizes() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check(&dir.path().join("not/yet/there"), 1).is_ok());
        let error = check(dir.path(), u64::MAX).unwrap_err().to_string();
        assert!(error.contains(&u64::MAX.to_string()) && error.contains("free"), "{error}");
    }

    #[test]
    fn more_state_takes_more_room() {
        let mut config = Config::preset(Preset::Nano);
        let model = config.model_config(512);
        let plain = session_bytes(&config, &model);
        config.phase1.trunk.ema = 0.99;
        assert!(session_bytes(&config, &model) > plain);
        config.phase1.trunk.ema = 0.0;
        config.phase1.trunk.muon_lr = 1e-3;
        config.phase3.bake.muon_lr = 1e-3;
        assert!(session_bytes(&config, &model) < plain);
    }
}
