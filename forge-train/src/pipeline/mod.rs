//! Runs the eight phases in order: sessions, artifacts, checkpoints, handoff contracts, progress and plans.
//!
//! A phase is a function of (its inputs' artifacts, config, seed, data) to artifacts. It keeps no state between
//! runs but what it saves through [`CheckpointDir`], so a run killed at any instant resumes with the same bytes.

pub mod artifact;
pub mod checkpoint;
pub mod disk;
pub mod durable;
pub mod handoff;
pub mod lock;
pub mod memory;
pub mod orchestrator;
pub mod phase;
pub mod plan;
pub mod prepare;
pub mod progress;
pub mod session;
pub mod size;
pub mod stages;
pub mod stop;
pub mod table;
#[cfg(test)]
mod testing;

pub use artifact::ArtifactStore;
pub use checkpoint::{Checkpoint, CheckpointDir};
pub use phase::{
    ArtifactKind, ArtifactRef, Gate, Phase, PhaseContext, PhaseId, PhaseOutput, PreparedData, Progress,
    Silent,
};
pub use session::Session;
pub use stop::StopFlag;
