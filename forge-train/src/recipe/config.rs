//! What a single training run depends on, with the recipes that are shipped.

use forge_formats::config::{MemoryKind, ModelConfig};
use serde::{Deserialize, Serialize};

use crate::config::{ModelShape, TokenizerConfig, TokenizerKind, TrainConfig};
use crate::config_load;
use crate::engine::objective::Supervision;
use crate::error::{Error, Result};
use crate::nn::Precision;

/// Settings of one training run outside the pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Seeds, checkpoints and evaluations.
    pub run: RecipeRun,
    /// Shape of the model.
    pub model: ModelShape,
    /// Tokenizer.
    pub tokenizer: TokenizerConfig,
    /// Data preparation.
    pub data: RecipeData,
    /// Optimiser and schedule.
    pub train: TrainConfig,
    /// Arithmetic trained for and written to the file.
    pub precision: RecipePrecision,
    /// Losses of the recursions.
    pub supervision: RecipeSupervision,
    /// A larger model to learn from.
    pub teacher: Teacher,
}

/// What is run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeRun {
    /// Every random stream of the run derives from it.
    pub seed: u64,
    /// Seconds between checkpoints.
    pub checkpoint_seconds: u64,
    /// Steps between measurements on held-out data; the best measured weights are the result. 0 measures at the end only.
    pub evaluate_every: u64,
    /// Held-out tokens a measurement reads at most while training; the last one reads everything.
    pub evaluate_tokens: usize,
}

/// How data becomes batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeData {
    /// Tokens a sequence predicts at most; running text is cut into blocks of exactly this many.
    pub block: usize,
    /// Share of the data, at its end, that validates where no validation file is given.
    pub valid_share: f64,
    /// Whether paragraphs that share most of their words with the held-out text are left out of training.
    pub clean: bool,
    /// Loss weight of prompt tokens (completion tokens weigh 1).
    pub prompt_weight: f32,
    /// Probability that a slot's value is swapped for another training value of the slot.
    pub augment: f32,
}

/// Arithmetic of the forward pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipePrecision {
    /// Ternary projections, int8 activations and int8 tables; otherwise f32.
    pub ternary: bool,
    /// Share of the steps over which quantisation is faded in; 0 is fully on from the first.
    pub lambda_share: f32,
    /// Codec of the ternary projections in the file.
    pub codec: TernaryCodec,
}

/// What later recursions and the halting head are taught.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeSupervision {
    /// Weight of each recursion's loss, last entry for the last; shorter lists are padded at the front.
    pub recursions: Vec<f32>,
    /// Weight of the halting head's binary cross-entropy.
    pub halt_weight: f32,
    /// A recursion counts as useful when it lowers the token's loss by more than this (nats).
    pub halt_margin: f32,
}

/// How ternary weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TernaryCodec {
    /// Two bits a weight: the fastest.
    #[serde(rename = "2b")]
    TwoBits,
    /// Five weights a byte.
    #[serde(rename = "5x8")]
    FiveInAByte,
    /// Entropy-coded, each tensor as it comes out smallest.
    #[serde(rename = "smallest")]
    Smallest,
}

/// Distillation (Hinton et al. 2015, arXiv 1503.02531) from a model with the same tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Teacher {
    /// Directory of a finished run of this command; empty for none.
    pub run: String,
    /// Share of the divergence from the teacher in the loss; the rest is the data's.
    pub weight: f32,
}

/// Name, purpose and settings of the recipes in this program.
const SHIPPED: [(&str, &str, &str); 4] = [
    (
        "char-cpu",
        "characters, 0.8 M parameters in f32, two CPU cores, minutes",
        include_str!("../../recipes/char-cpu.toml"),
    ),
    (
        "char-10m",
        "characters, 10.7 M ternary parameters, one GPU, minutes",
        include_str!("../../recipes/char-10m.toml"),
    ),
    (
        "char-small",
        "characters, ternary in at most 0.37 MB, one GPU, minutes",
        include_str!("../../recipes/char-small.toml"),
    ),
    (
        "modular",
        "addition modulo 97 from examples, the grokking task",
        include_str!("../../recipes/modular.toml"),
    ),
];

impl Recipe {
    /// Names of the shipped recipes with what they are for.
    pub fn shipped() -> impl Iterator<Item = (&'static str, &'static str)> {
        SHIPPED.into_iter().map(|(name, purpose, _)| (name, purpose))
    }

    /// A shipped recipe by its name, or settings in a TOML file, over the defaults; then assignments `a.b=c`.
    ///
    /// # Errors
    /// [`Error::Usage`] naming an unknown recipe or key, [`Error::Io`] when a file cannot be read.
    pub fn load(name: &str, set: &[String]) -> Result<Self> {
        let shipped = SHIPPED.into_iter().find(|(known, ..)| *known == name);
        let text = match shipped {
            Some((_, _, text)) => text.to_owned(),
            None if name.ends_with(".toml") => {
                std::fs::read_to_string(name).map_err(Error::io("read", name))?
            }
            None => {
                let known: Vec<_> = Self::shipped().map(|(name, _)| name).collect();
                return Err(Error::Usage {
                    what: format!("no recipe is called `{name}`"),
                    hint: format!("recipes are {}; or give the path of a .toml file", known.join(", ")),
                });
            }
        };
        let recipe: Self = config_load::layered(&Self::default(), &[(name, text)], set)?;
        recipe.check()?;
        Ok(recipe)
    }

    /// The model's configuration once the tokenizer's size is known.
    pub fn model_config(&self, vocab: u32) -> ModelConfig {
        self.model.config(vocab, self.data.block)
    }

    /// The arithmetic trained for.
    pub fn precision(&self) -> Precision {
        if self.precision.ternary { Precision::TERNARY } else { Precision::FLOAT }
    }

    /// The losses of the recursions, as the objective takes them.
    pub fn supervision(&self) -> Supervision {
        let RecipeSupervision { recursions, halt_weight, halt_margin } = self.supervision.clone();
        Supervision { recursions, halt_weight, halt_margin }
    }

    fn check(&self) -> Result<()> {
        let wrong = |what: &str, hint: &str| Err(Error::Usage { what: what.into(), hint: hint.into() });
        if self.data.block == 0 {
            return wrong("`data.block` is 0", "set it to the tokens of a sequence, such as 256");
        }
        if !(0.0..1.0).contains(&self.data.valid_share) {
            return wrong("`data.valid_share` is not in [0, 1)", "0.1 holds out the last tenth");
        }
        if self.train.steps == 0 {
            return wrong("`train.steps` is 0", "set it to at least 1");
        }
        self.model.check()
    }
}

impl Default for Recipe {
    /// The settings that every recipe starts from: a small model of characters, in f32.
    fn default() -> Self {
        Self {
            run: RecipeRun {
                seed: 1337,
                checkpoint_seconds: 60,
                evaluate_every: 250,
                evaluate_tokens: 1 << 16,
            },
            model: ModelShape {
                dim: 128,
                layers: 4,
                heads: 4,
                kv_heads: 4,
                head_dim: 32,
                ffn: 344,
                relu2: false,
                window: 64,
                recursion: 1,
                halting: false,
                halt_threshold: 0.9,
                mem_dim: 0,
                mem_gate: 0,
                mem_layers: Vec::new(),
                memory: MemoryKind::Ema,
                global_every: 0,
            },
            tokenizer: TokenizerConfig { kind: TokenizerKind::Char, vocab: 512 },
            data: RecipeData { block: 64, valid_share: 0.1, clean: true, prompt_weight: 0.0, augment: 0.0 },
            train: TrainConfig::adamw(2000, 768, 2e-3),
            precision: RecipePrecision { ternary: false, lambda_share: 0.0, codec: TernaryCodec::Smallest },
            supervision: RecipeSupervision {
                recursions: vec![0.5, 1.0],
                halt_weight: 0.1,
                halt_margin: 0.005,
            },
            teacher: Teacher { run: String::new(), weight: 0.5 },
        }
    }
}
