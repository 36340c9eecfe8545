//! Settings of the phase.

use serde::{Deserialize, Serialize};

use crate::config::TrainConfig;

/// Phase 3.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuietStarConfig {
    /// Supervised training on reasoning traces.
    pub bake: TrainConfig,
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
}
