//! Settings of the phase.

use serde::{Deserialize, Serialize};

use crate::config::TrainConfig;
use crate::error::{Error, Result};

/// Phase 3.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuietStarConfig {
    /// Supervised training on reasoning traces.
    pub bake: TrainConfig,
    /// Shares of worked problems, of dialogue and prose, and of commands while traces are learned.
    #[serde(default = "shares")]
    pub shares: [f32; 3],
    /// Policy-gradient training on sampled thoughts.
    pub reinforce: TrainConfig,
    /// Prompts sampled from in each policy-gradient step.
    pub prompts: usize,
    /// Thoughts sampled per prompt.
    pub thoughts: usize,
    /// Longest thought in tokens.
    pub thought_tokens: usize,
    /// Sampling temperature of thoughts.
    pub temperature: f32,
    /// Weight of the policy-gradient loss beside the likelihood of the true tokens.
    pub policy_weight: f32,
    /// True tokens behind a thought that its reward counts; 0 for all of the answer.
    #[serde(default = "ahead")]
    pub ahead: usize,
    /// Weight of the divergence from the model that policy-gradient training begins with.
    #[serde(default = "kl")]
    pub kl: f32,
    /// Weight of the entropy bonus.
    #[serde(default = "entropy")]
    pub entropy: f32,
    /// Learning rate of the mixing head.
    #[serde(default = "mixing_lr")]
    pub mixing_lr: f32,
}

fn shares() -> [f32; 3] {
    [0.5, 0.15, 0.35]
}

fn ahead() -> usize {
    8
}

fn kl() -> f32 {
    0.1
}

fn entropy() -> f32 {
    0.01
}

fn mixing_lr() -> f32 {
    1e-2
}

impl QuietStarConfig {
    /// The settings of the specification around two trainings: 4 thoughts a prompt, KL 0.1, entropy 0.01.
    pub fn of(bake: TrainConfig, reinforce: TrainConfig) -> Self {
        Self {
            bake,
            shares: shares(),
            reinforce,
            prompts: 16,
            thoughts: 4,
            thought_tokens: 32,
            temperature: 1.0,
            policy_weight: 1.0,
            ahead: ahead(),
            kl: kl(),
            entropy: entropy(),
            mixing_lr: mixing_lr(),
        }
    }

    /// Checks the numbers of the phase's own.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the first one out of range.
    pub fn validate(&self) -> Result<()> {
        let size = |v: f32| v.is_finite() && v >= 0.0;
        let checks = [
            (
                self.shares.iter().all(|s| size(*s)) && self.shares.iter().any(|s| *s > 0.0),
                "shares must not be negative, and not all 0",
                "[0.5, 0.15, 0.35] is half worked problems",
            ),
            (self.prompts >= 1, "prompts must be at least 1", "16 is the default"),
            (self.thoughts >= 1, "thoughts must be at least 1", "4 is the default"),
            (self.temperature > 0.0, "temperature must be above 0", "1.0 samples as the model does"),
            (
                size(self.policy_weight),
                "policy_weight must not be negative",
                "0 trains by the true tokens alone",
            ),
            (size(self.kl), "kl must not be negative", "0 lets the model go where it will"),
            (self.entropy.is_finite(), "entropy must be finite", "0.01 is the default"),
            (size(self.mixing_lr), "mixing_lr must not be negative", "0 leaves the mixing head as it is"),
        ];
        match checks.iter().find(|(ok, _, _)| !ok) {
            Some((_, what, hint)) => {
                Err(Error::Usage { what: format!("phase3.{what}"), hint: (*hint).to_owned() })
            }
            None => Ok(()),
        }
    }
}
