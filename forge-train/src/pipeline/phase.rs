//! What a phase is: its identity, what it gets, what it hands on.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::data::Dataset;
use crate::engine::environment::Environment;
use crate::error::{Error, Result};
use crate::pipeline::artifact::ArtifactStore;
use crate::pipeline::checkpoint::CheckpointDir;
use crate::pipeline::stop::StopFlag;
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;

/// One of the eight phases, in the order they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PhaseId {
    /// Trains a trunk and three branches.
    Cognate = 1,
    /// Evolves merges of the branches.
    EvoMerge,
    /// Learns to think before answering.
    QuietStar,
    /// Makes projections ternary.
    BitNet,
    /// Quantisation-aware training.
    Forge,
    /// Bakes prompts into weights.
    Baking,
    /// Fits a device profile.
    Edge,
    /// Chooses the codec of every tensor.
    #[serde(rename = "final_compression")]
    Compression,
}

impl PhaseId {
    /// Every phase in running order.
    pub const ALL: [PhaseId; 8] = [
        PhaseId::Cognate,
        PhaseId::EvoMerge,
        PhaseId::QuietStar,
        PhaseId::BitNet,
        PhaseId::Forge,
        PhaseId::Baking,
        PhaseId::Edge,
        PhaseId::Compression,
    ];

    /// 1 to 8.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The name used in the registry, on the command line and in artifacts.
    pub fn name(self) -> &'static str {
        match self {
            PhaseId::Cognate => "cognate",
            PhaseId::EvoMerge => "evomerge",
            PhaseId::QuietStar => "quietstar",
            PhaseId::BitNet => "bitnet",
            PhaseId::Forge => "forge",
            PhaseId::Baking => "baking",
            PhaseId::Edge => "edge",
            PhaseId::Compression => "final_compression",
        }
    }

    /// The name people read.
    pub fn title(self) -> &'static str {
        match self {
            PhaseId::Cognate => "Cognate",
            PhaseId::EvoMerge => "EvoMerge",
            PhaseId::QuietStar => "Quiet-STaR",
            PhaseId::BitNet => "BitNet",
            PhaseId::Forge => "Forge",
            PhaseId::Baking => "Baking",
            PhaseId::Edge => "Edge",
            PhaseId::Compression => "Compression",
        }
    }

    /// The phase with this number, 1 to 8.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.number() == number)
    }

    /// The phase before this one.
    pub fn previous(self) -> Option<Self> {
        Self::from_number(self.number() - 1)
    }

    /// The phase after this one.
    pub fn next(self) -> Option<Self> {
        Self::from_number(self.number() + 1)
    }
}

impl fmt::Display for PhaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PhaseId {
    type Err = String;

    /// Reads a name (`bitnet`), a title (`Quiet-STaR`), a number (`4`) or `phase4`.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let key: String = text.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
        let number = key.strip_prefix("phase").unwrap_or(&key).parse().ok();
        let plain = |name: &str| name.replace('_', "");
        let named = |phase: &PhaseId| plain(phase.name()) == key || phase.title().to_lowercase() == key;
        number.and_then(Self::from_number).or_else(|| Self::ALL.into_iter().find(named)).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|phase| phase.name()).collect();
            format!("no phase is called `{text}`; phases are {} (or 1 to 8)", names.join(", "))
        })
    }
}

/// What an artifact holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArtifactKind {
    /// f32 parameters as safetensors.
    Weights,
    /// A `.forge` file.
    Forge,
    /// A tokenizer table.
    Tokenizer,
    /// Statistics gathered for quantisation.
    Calibration,
    /// JSON for people and tools.
    Report,
}

impl ArtifactKind {
    /// The name used in the registry.
    pub fn name(self) -> &'static str {
        match self {
            ArtifactKind::Weights => "weights",
            ArtifactKind::Forge => "forge",
            ArtifactKind::Tokenizer => "tokenizer",
            ArtifactKind::Calibration => "calibration",
            ArtifactKind::Report => "report",
        }
    }

    /// File name extension.
    pub fn extension(self) -> &'static str {
        match self {
            ArtifactKind::Weights => "safetensors",
            ArtifactKind::Forge => "forge",
            ArtifactKind::Tokenizer => "tokens",
            ArtifactKind::Calibration => "calibration",
            ArtifactKind::Report => "json",
        }
    }
}

/// Names a stored artifact by the hash of its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactRef {
    /// SHA-256 of the content, lower-case hexadecimal.
    pub hash: String,
    /// What it holds.
    pub kind: ArtifactKind,
    /// Path relative to the session's directory.
    pub file: String,
    /// Length of the content in bytes.
    pub bytes: u64,
}

/// Whether a phase met its rule, and what was done when it did not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// Whether the rule was met.
    pub passed: bool,
    /// The rule in words: "bits per byte ≤ best parent's".
    pub rule: String,
    /// What was measured: "2.31 against 2.35".
    pub measured: String,
    /// The fallback that was taken because the rule was not met; the run goes on with it.
    pub fallback: Option<String>,
}

impl Gate {
    /// Whether the next phase may run: the rule was met or a fallback was taken.
    pub fn open(&self) -> bool {
        self.passed || self.fallback.is_some()
    }

    /// A gate whose rule was not met and whose fallback was taken. `outcome` says what was measured and, behind its
    /// last semicolon, what was done instead: `"2.41 against 2.35; the best parent is kept"`.
    pub fn fell_back(rule: &str, outcome: &str) -> Self {
        let (measured, fallback) = outcome.rsplit_once("; ").unwrap_or((outcome, outcome));
        Self {
            passed: false,
            rule: rule.to_owned(),
            measured: measured.to_owned(),
            fallback: Some(fallback.to_owned()),
        }
    }
}

/// What a phase hands on: a pure function of its inputs, config, data and seed. It holds no times, paths or
/// host names, so that a resumed run records the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseOutput {
    /// Labelled artifacts. `model` is the `.forge` file that was evaluated, `latent` the f32 weights handed on;
    /// phase 1 hands on `trunk`, `reasoning`, `memory_integration` and `adaptive_computation`.
    pub artifacts: Vec<(String, ArtifactRef)>,
    /// Handoff metadata and measures by name; all finite.
    pub metrics: BTreeMap<String, f64>,
    /// What the phase did, in one line.
    pub summary: String,
    /// Whether its rule was met.
    pub gate: Gate,
}

impl PhaseOutput {
    /// The artifact with this label.
    pub fn artifact(&self, label: &str) -> Option<&ArtifactRef> {
        self.artifacts.iter().find(|(name, _)| name == label).map(|(_, artifact)| artifact)
    }

    /// The artifact with this label.
    ///
    /// # Errors
    /// [`Error::Artifact`] naming the label when the phase handed on no such artifact.
    pub fn expect(&self, label: &str) -> Result<&ArtifactRef> {
        self.artifact(label).ok_or_else(|| Error::Artifact(format!("the phase handed on no `{label}`")))
    }
}

/// Where a phase reports how far it is.
pub trait Progress: Sync {
    /// A task of `total` units begins and replaces the one before.
    fn start(&self, what: &str, total: u64);
    /// `done` units of the task are finished.
    fn tick(&self, done: u64, message: &str);
    /// The task is over.
    fn finish(&self);
    /// A line the user should read.
    fn note(&self, line: &str);
}

/// Progress that nobody sees.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _what: &str, _total: u64) {}
    fn tick(&self, _done: u64, _message: &str) {}
    fn finish(&self) {}
    fn note(&self, _line: &str) {}
}

/// The data of a run, ready for training.
#[derive(Clone, Debug)]
pub struct PreparedData {
    /// Examples of every split.
    pub dataset: Dataset,
    /// The tokenizer trained on the training split.
    pub tokenizer: Tokenizer,
}

/// Everything a phase may use.
pub struct PhaseContext<'a> {
    /// The resolved configuration.
    pub config: &'a Config,
    /// The run's seed; phases derive their own streams from it.
    pub seed: u64,
    /// The data.
    pub data: &'a PreparedData,
    /// Outputs of all earlier phases.
    pub inputs: &'a BTreeMap<PhaseId, PhaseOutput>,
    /// Where artifacts are kept.
    pub store: &'a ArtifactStore,
    /// Where this phase keeps its checkpoints.
    pub checkpoints: CheckpointDir,
    /// Where it reports progress.
    pub progress: &'a dyn Progress,
    /// Polled between steps; on a request the phase saves a checkpoint and returns [`Error::Interrupted`].
    pub stop: &'a StopFlag,
    /// Where networks are trained and evaluated.
    pub device: &'a Device,
}

impl PhaseContext<'_> {
    /// What the phase's stages train in.
    pub fn environment(&self) -> Environment<'_> {
        Environment {
            checkpoints: &self.checkpoints,
            checkpoint_seconds: self.config.run.checkpoint_seconds,
            progress: self.progress,
            stop: self.stop,
            device: self.device.clone(),
        }
    }

    /// The output of an earlier phase.
    ///
    /// # Errors
    /// [`Error::Artifact`] when that phase has not run.
    pub fn input(&self, phase: PhaseId) -> Result<&PhaseOutput> {
        self.inputs.get(&phase).ok_or_else(|| Error::Artifact(format!("phase {phase} has not run yet")))
    }

    /// The weights an earlier phase handed on under `label`.
    ///
    /// # Errors
    /// [`Error::Artifact`] when there are none or they are damaged.
    pub fn input_weights(&self, phase: PhaseId, label: &str) -> Result<Weights> {
        self.store.weights(self.input(phase)?.expect(label)?)
    }
}

/// One step from data to a model on a device.
pub trait Phase {
    /// Which phase it is.
    fn id(&self) -> PhaseId;

    /// Runs it from its start or its latest checkpoint.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after a stop request, with state saved. A gate that fails is not an error: it is
    /// reported in [`PhaseOutput::gate`].
    fn run(&self, ctx: &PhaseContext<'_>) -> Result<PhaseOutput>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_found_by_name_title_and_number() {
        for phase in PhaseId::ALL {
            for text in
                [phase.name().to_owned(), phase.number().to_string(), format!("phase{}", phase.number())]
            {
                assert_eq!(text.parse(), Ok(phase), "{text}");
            }
            assert_eq!(serde_json::to_string(&phase).unwrap(), format!("\"{}\"", phase.name()));
        }
        assert_eq!("Quiet-STaR".parse(), Ok(PhaseId::QuietStar));
        assert_eq!("compression".parse(), Ok(PhaseId::Compression));
        for wrong in ["", "0", "9", "bit", "phase"] {
            assert!(wrong.parse::<PhaseId>().is_err(), "{wrong}");
        }
        assert_eq!(PhaseId::Cognate.previous(), None);
        assert_eq!(PhaseId::Compression.next(), None);
    }
}
