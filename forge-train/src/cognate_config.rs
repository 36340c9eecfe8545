//! Settings of phase 1: one trunk, three branches.

use serde::{Deserialize, Serialize};

use crate::engine::mixture::Domain;
use crate::error::{Error, Result};
use crate::train_config::TrainConfig;

/// Phase 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CognateConfig {
    /// Training of the shared trunk.
    pub trunk: TrainConfig,
    /// Training of each branch.
    pub branch: TrainConfig,
    /// Weight of each recursion's loss, last entry for the last; shorter lists are padded at the front.
    pub supervision: Vec<f32>,
    /// Weight of the halting head's binary cross-entropy.
    pub halt_weight: f32,
    /// A recursion counts as useful when it lowers the token's loss by more than this (nats).
    pub halt_margin: f32,
    /// Lengths that the trunk begins with, each until a share of its steps; all of `data.max_len` from the last on. Empty
    /// for none.
    #[serde(default)]
    pub length_curriculum: Vec<LengthStage>,
    /// Smallest and largest number of parameters a model may have.
    pub parameters: [u64; 2],
    /// Seeds of the three branches: reasoning, memory_integration, adaptive_computation.
    pub seeds: [u64; 3],
    /// In what the branches differ beside their data.
    #[serde(default)]
    pub branches: Branches,
}

/// A stretch of the trunk's training with short sequences.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LengthStage {
    /// Share of the steps at which it ends.
    pub until: f32,
    /// Longest sequence in tokens. Longer ones wait for their stage; where a source has none so short, they are cut.
    pub max_len: usize,
}

/// The three branches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Branches {
    /// Worked problems.
    #[serde(default)]
    pub reasoning: BranchConfig,
    /// Dialogue and prose.
    #[serde(default)]
    pub memory_integration: BranchConfig,
    /// Commands.
    #[serde(default)]
    pub adaptive_computation: BranchConfig,
}

/// How a branch differs from the trunk. By default it does not, which is what configurations without these settings mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BranchConfig {
    /// Halting probability above which a token stops, in training and in the branch's file: the higher, the later it
    /// stops. 0 takes `model.halt_threshold`.
    pub halt_threshold: f32,
    /// Least gain in nats for which another recursion is worth its while: the larger, the earlier tokens learn to stop.
    /// 0 takes `phase1.halt_margin`.
    pub halt_margin: f32,
    /// Added to what sets how fast the memory changes, before its sigmoid, where the branch begins: of running averages
    /// their rate, of a matrix its forgetting. Below 0 remembers for longer.
    pub memory_shift: f32,
    /// Share of its own domain in what it trains on; the other two keep the rest in equal parts. 0 takes nine tenths. A
    /// domain with few examples repeats more often the larger this is, until they are known by heart.
    #[serde(default)]
    pub share: f32,
}

/// A branch's share of its own domain where [`BranchConfig::share`] is 0.
const OWN_SHARE: f32 = 0.9;

impl Branches {
    /// The settings of the branch that specialises in `domain`.
    pub fn of(&self, domain: Domain) -> &BranchConfig {
        match domain {
            Domain::Reasoning => &self.reasoning,
            Domain::Memory => &self.memory_integration,
            Domain::Adaptive => &self.adaptive_computation,
        }
    }
}

impl BranchConfig {
    /// The threshold, `model`'s where none is set.
    pub fn threshold(&self, model: f32) -> f32 {
        if self.halt_threshold > 0.0 { self.halt_threshold } else { model }
    }

    /// The margin, `phase`'s where none is set.
    pub fn margin(&self, phase: f32) -> f32 {
        if self.halt_margin > 0.0 { self.halt_margin } else { phase }
    }

    /// Shares of the domains in what the branch of `own` trains on.
    pub fn shares(&self, own: Domain) -> [f32; 3] {
        let share = if self.share > 0.0 { self.share } else { OWN_SHARE };
        let mut shares = [(1.0 - share) / 2.0; 3];
        shares[own as usize] = share;
        shares
    }
}

impl CognateConfig {
    /// Refuses settings that cannot work.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the setting and what it may be.
    pub fn check(&self) -> Result<()> {
        let refuse = |key: &str, range: &str| {
            let what = format!("`phase1.{key}` must be {range}");
            Err(Error::Usage { what, hint: format!("set it with `--set phase1.{key}=…`") })
        };
        for domain in Domain::ALL {
            let (name, branch) = (domain.branch(), self.branches.of(domain));
            if !(0.0..=1.0).contains(&branch.halt_threshold) {
                return refuse(&format!("branches.{name}.halt_threshold"), "from 0 to 1");
            }
            if !(branch.halt_margin.is_finite() && branch.halt_margin >= 0.0) {
                return refuse(&format!("branches.{name}.halt_margin"), "a number from 0");
            }
            if !(-10.0..=10.0).contains(&branch.memory_shift) {
                return refuse(&format!("branches.{name}.memory_shift"), "from -10 to 10");
            }
            if !(0.0..=1.0).contains(&branch.share) {
                return refuse(&format!("branches.{name}.share"), "from 0 to 1");
            }
        }
        let stages = &self.length_curriculum;
        let shares = stages.iter().all(|stage| stage.until > 0.0 && stage.until <= 1.0);
        let rising =
            stages.windows(2).all(|pair| pair[0].until < pair[1].until && pair[0].max_len < pair[1].max_len);
        if !shares || !rising || stages.iter().any(|stage| stage.max_len < 2) {
            let range =
                "a list of { until, max_len } whose shares rise from above 0 to 1 at most and lengths from 2";
            return refuse("length_curriculum", range);
        }
        Ok(())
    }
}
