//! The one typed configuration: every figure a run depends on, with the defaults of each preset.
//!
//! Unknown keys are refused. Layering (preset, file, `--set`) lives in `config_load`.

use forge_formats::config::{Activation, CacheKind, Globals, MemoryKind, ModelConfig, limits};
use serde::{Deserialize, Serialize};

pub use crate::cognate_config::{BranchConfig, Branches, CognateConfig, LengthStage};
use crate::device::DeviceChoice;
use crate::error::{Error, Result};
pub use crate::optimizer_presets::OptimizerPreset;
use crate::phases::evomerge::EvolveConfig;
pub use crate::phases::quietstar::QuietStarConfig;
use crate::tokenizer::{CONTROLS, MARKERS};
pub use crate::train_config::{ScheduleKind, TrainConfig};

/// A size of model with everything that follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Preset {
    /// 0.2–0.5 M parameters; all phases in minutes on two CPU cores.
    #[serde(rename = "nano")]
    Nano,
    /// 1–3 M parameters.
    #[serde(rename = "tiny")]
    Tiny,
    /// 22.5–27.5 M parameters, for one GPU.
    #[serde(rename = "25m")]
    M25,
}

/// The whole configuration of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What is run and from which seed.
    pub run: RunConfig,
    /// Shape of the model.
    pub model: ModelShape,
    /// Tokenizer training.
    pub tokenizer: TokenizerConfig,
    /// Data preparation.
    pub data: DataConfig,
    /// Cognate.
    pub phase1: CognateConfig,
    /// EvoMerge.
    pub phase2: EvoMergeConfig,
    /// Quiet-STaR.
    pub phase3: QuietStarConfig,
    /// BitNet.
    pub phase4: BitNetConfig,
    /// Forge training.
    pub phase5: ForgeConfig,
    /// Tool and persona baking.
    pub phase6: BakingConfig,
    /// Edge.
    pub phase7: EdgeConfig,
    /// Final compression.
    pub phase8: CompressionConfig,
}

/// What is run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// The preset the defaults come from.
    pub preset: Preset,
    /// Every random stream of the run derives from it.
    pub seed: u64,
    /// Seconds between checkpoints inside a phase.
    pub checkpoint_seconds: u64,
    /// Where training runs: `auto`, `cpu`, `cuda` or `cuda:N`.
    #[serde(default)]
    pub device: DeviceChoice,
    /// Optimisers of all stages: `adamw`, `muon` or `muon_grokfast`; settings of a stage win over it.
    #[serde(default)]
    pub optimizer: OptimizerPreset,
}

/// The model's sizes; the vocabulary comes from the tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelShape {
    /// Width of the residual stream.
    pub dim: u32,
    /// Blocks stored.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Channels a head.
    pub head_dim: u32,
    /// Feed-forward width.
    pub ffn: u32,
    /// `true`: squared ReLU; `false`: SwiGLU.
    pub relu2: bool,
    /// Attention window in tokens.
    pub window: u32,
    /// Times the block stack is applied.
    pub recursion: u32,
    /// Whether tokens may stop recursing early.
    pub halting: bool,
    /// Halting probability above which a token stops.
    pub halt_threshold: f32,
    /// Memory width, 0 for none.
    pub mem_dim: u32,
    /// Hidden width of the memory gate.
    pub mem_gate: u32,
    /// Blocks with a memory.
    pub mem_layers: Vec<u32>,
    /// What a memory is: `ema`, a vector of running averages, or `titans`, a matrix from keys to values.
    #[serde(default)]
    pub memory: MemoryKind,
    /// Every so many-th position stays in sight beyond the window, from 2 to 256; 0 for none. As many are kept as the
    /// longest sequence of training has.
    #[serde(default)]
    pub global_every: u32,
}

impl ModelShape {
    /// Checks what [`ModelConfig::validate`] could only refuse without a mend.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the key.
    pub fn check(&self) -> Result<()> {
        match self.global_every {
            0 | 2..=limits::EVERY => Ok(()),
            every => Err(Error::Usage {
                what: format!(
                    "`model.global_every` is {every}, which is neither 0 nor from 2 to {}",
                    limits::EVERY
                ),
                hint: "16 keeps every 16th position in sight beyond the window, 0 none".into(),
            }),
        }
    }

    /// The model's configuration once the tokenizer's size is known, for sequences of at most `context` tokens.
    pub fn config(&self, vocab: u32, context: usize) -> ModelConfig {
        let context = u32::try_from(context).unwrap_or(u32::MAX);
        ModelConfig {
            vocab,
            dim: self.dim,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            ffn: self.ffn,
            activation: if self.relu2 { Activation::Relu2 } else { Activation::SwiGlu },
            window: self.window,
            rope_log2_theta: 13.287_712,
            norm_eps: 1e-6,
            norm_gain: true,
            tied: true,
            recursion: self.recursion,
            halting: self.halting && self.recursion > 1,
            halt_threshold: self.halt_threshold,
            mem_dim: self.mem_dim,
            mem_gate: self.mem_gate,
            mem_layers: self.mem_layers.iter().filter(|l| **l < 64).fold(0, |bits, l| bits | 1 << l),
            cache: CacheKind::F32,
            memory: self.memory,
            globals: Globals::within(context, self.global_every, self.window),
        }
    }
}

/// Tokenizer training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerConfig {
    /// What a token is.
    pub kind: TokenizerKind,
    /// Vocabulary of [`TokenizerKind::Bpe`], special tokens and bytes included; the other kinds follow from the text.
    pub vocab: u32,
}

impl TokenizerConfig {
    /// A byte-pair encoding of `vocab` tokens.
    pub fn bpe(vocab: u32) -> Self {
        Self { kind: TokenizerKind::Bpe, vocab }
    }

    /// Tokens to plan with before the text is known: of characters, about as many as English prose has.
    pub fn planned_vocab(&self) -> u32 {
        match self.kind {
            TokenizerKind::Bpe => self.vocab,
            TokenizerKind::Byte => 256 + (CONTROLS.len() + MARKERS.len()) as u32,
            TokenizerKind::Char => 100 + (CONTROLS.len() + MARKERS.len()) as u32,
        }
    }
}

/// What a token of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenizerKind {
    /// A byte, or bytes that often occur together (byte-pair encoding).
    Bpe,
    /// A byte.
    Byte,
    /// A character of the training text; any other is one unknown token.
    Char,
}

/// Data preparation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Longest sequence in tokens; longer ones are cut.
    pub max_len: usize,
    /// Loss weight of prompt tokens (completion tokens weigh 1).
    pub prompt_weight: f32,
    /// Built-in training examples of each kind, in thousands, before mixing.
    pub builtin_thousands: usize,
    /// Probability that a slot's value in a user's command is swapped for another training value of the slot; 0
    /// trains on the commands as they are.
    pub augment: f32,
    /// Examples an evaluation uses at most, of each kind.
    pub eval_examples: usize,
}

/// Phase 2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvoMergeConfig {
    /// Held-out examples the fitness is measured on.
    pub fitness_examples: usize,
    /// Weight in the fitness of the share of these answered wrongly, beside the loss in nats; 0 is the loss alone.
    #[serde(default)]
    pub accuracy_weight: f64,
    /// The search.
    pub search: EvolveConfig,
}

/// Phase 4.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BitNetConfig {
    /// Calibration examples for activation ranges and importances.
    pub calibration_examples: usize,
    /// Smallest ratio of phase 1's FP32 file to this phase's file.
    pub min_ratio: f64,
    /// Largest file in bytes.
    pub max_bytes: u64,
}

/// Phase 5.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForgeConfig {
    /// Quantisation-aware training.
    pub train: TrainConfig,
    /// Share of the steps over which quantisation is faded in.
    pub lambda_share: f32,
    /// Accuracy on a level at which the curriculum advances.
    pub advance_at: f64,
    /// Steps between curriculum measurements.
    pub assess_every: u64,
    /// Steps of the no-straight-through control; 0 skips it.
    pub control_steps: u64,
}

/// Phase 6.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BakingConfig {
    /// Distillation training of a cycle.
    pub train: TrainConfig,
    /// Most cycles (tools, then persona).
    pub cycles: u32,
    /// Trajectories sampled from the prompted model in a cycle.
    pub trajectories: usize,
    /// Sampling temperature of trajectories.
    pub temperature: f32,
    /// Share of the way from unbaked to baked weights that is kept (1 = full, 0.5 = half-baking).
    pub strength: f32,
    /// Share of a batch that replays training data, against forgetting.
    pub replay: f32,
    /// Largest allowed rise of bits per byte, as a ratio.
    pub max_forgetting: f64,
}

/// Phase 7.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeConfig {
    /// Device profile: a shipped name or a path to a TOML file.
    pub profile: String,
    /// Share of the feed-forward channels removed.
    pub prune_ffn: f32,
    /// Distillation from the unpruned model.
    pub train: TrainConfig,
    /// Weight of the teacher's distribution against the data.
    pub distil_weight: f32,
    /// Smallest share of phase 6's frame accuracy that must remain.
    pub min_retention: f64,
}

/// Phase 8.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompressionConfig {
    /// Largest file in bytes.
    pub budget: u64,
    /// Smallest share of phase 7's frame accuracy that must remain after each stage.
    pub min_retention: f64,
    /// Largest ratio of bits per byte, after to before, for data without checkable accuracy.
    pub max_bpb_ratio: f64,
}

impl Config {
    /// The model's configuration once the tokenizer's size is known.
    pub fn model_config(&self, vocab: u32) -> ModelConfig {
        self.model.config(vocab, self.data.max_len)
    }

    /// Parameters a phase-1 model may have.
    pub fn parameter_range(&self) -> [u64; 2] {
        self.phase1.parameters
    }
}
