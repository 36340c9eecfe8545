//! How a stage of training optimises: algorithm, schedule, batches and the memory they may take.
//!
//! `docs/training.md` has the formulas and says what each setting is good for.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::nn::Products;
use crate::optim::{AdamWConfig, MuonConfig, MuonScale, Schedule};

/// Shape of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Constant, then linear decay over the last `decay_share` of the steps (warm-up–stable–decay).
    Stable,
    /// Half a cosine from the warm-up to the end.
    Cosine,
}

/// An optimiser and its schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimiser steps.
    pub steps: u64,
    /// Tokens in a batch, padding included.
    pub batch_tokens: usize,
    /// Tokens computed at once; a larger batch is accumulated from parts. 0 computes the whole batch at once.
    pub micro_tokens: usize,
    /// Recompute what a block computed when its gradient is due, instead of keeping it: less memory, about a third
    /// more time, the same bits.
    pub recompute: bool,
    /// Peak learning rate of AdamW.
    pub lr: f32,
    /// Shape of the learning rate: `stable` or `cosine`.
    pub schedule: ScheduleKind,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// Share of the steps at the end over which the rate falls (1 = from the warm-up on); `stable` only.
    pub decay_share: f32,
    /// The rate at the end, as a share of the peak.
    pub floor: f32,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f32,
    /// AdamW's decay of the mean of the gradient.
    pub beta1: f32,
    /// AdamW's decay of the mean of its square.
    pub beta2: f32,
    /// Gradients are scaled down to this global norm.
    pub clip: f32,
    /// Peak learning rate of Muon for projections; 0 trains them with AdamW.
    pub muon_lr: f32,
    /// Decay of Muon's momentum.
    pub muon_momentum: f32,
    /// Newton–Schulz iterations of Muon.
    pub muon_iterations: u32,
    /// Size of Muon's updates: `match_adamw` or `spectral`.
    pub muon_scale: MuonScale,
    /// Grokfast gain λ; 0 switches the filter off.
    pub grokfast_lambda: f32,
    /// Grokfast decay α.
    pub grokfast_alpha: f32,
    /// Largest attention logit τ: heads beyond it have their query and key rows scaled down; 0 is off.
    pub qk_clip: f32,
    /// Steps from one measurement of attention logits to the next.
    pub qk_clip_every: u64,
    /// Share of the embedding and of every residual branch's outcome that is dropped; 0 for none.
    #[serde(default)]
    pub dropout: f32,
    /// What the CPU's matrix products multiply: `f32`, `bf16`, or `auto`, which is bf16 where the processor has it.
    #[serde(default)]
    pub products: Products,
    /// Decay of the weights' exponential average, which is what the stage hands on; 0 is off.
    pub ema: f32,
    /// Average latents of ternary projections all the same, although averages of them round to zero.
    pub ema_ternary: bool,
}

impl TrainConfig {
    /// AdamW with warm-up and linear decay over the whole run.
    pub fn adamw(steps: u64, batch_tokens: usize, lr: f32) -> Self {
        Self {
            steps,
            batch_tokens,
            micro_tokens: 0,
            recompute: false,
            lr,
            schedule: ScheduleKind::Stable,
            warmup: (steps / 20).clamp(5, 200),
            decay_share: 1.0,
            floor: 0.0,
            weight_decay: 0.05,
            beta1: 0.9,
            beta2: 0.95,
            clip: 1.0,
            muon_lr: 0.0,
            muon_momentum: 0.95,
            muon_iterations: 5,
            muon_scale: MuonScale::MatchAdamW,
            grokfast_lambda: 0.0,
            grokfast_alpha: 0.98,
            qk_clip: 0.0,
            qk_clip_every: 1,
            dropout: 0.0,
            products: Products::F32,
            ema: 0.0,
            ema_ternary: false,
        }
    }

    /// Whether projections are trained with Muon.
    pub fn uses_muon(&self) -> bool {
        self.muon_lr > 0.0
    }

    /// The learning rate over the run, relative to its peak.
    pub fn schedule(&self) -> Schedule {
        let (warmup, total, floor) = (self.warmup, self.steps, self.floor);
        match self.schedule {
            ScheduleKind::Cosine => Schedule::Cosine { warmup, total, floor },
            ScheduleKind::Stable => {
                let decay = (self.decay_share.clamp(0.0, 1.0) * total as f32) as u64;
                Schedule::Stable { warmup, total, decay, floor }
            }
        }
    }

    /// Settings of AdamW, for all parameters or for those that Muon leaves to it.
    pub fn adamw_config(&self) -> AdamWConfig {
        let (beta1, beta2) = (self.beta1, self.beta2);
        AdamWConfig { beta1, beta2, weight_decay: self.weight_decay, ..AdamWConfig::default() }
    }

    /// Settings of Muon, whose learning rate is `muon_lr`.
    pub fn muon_config(&self) -> MuonConfig {
        MuonConfig {
            beta: self.muon_momentum,
            iterations: self.muon_iterations,
            scale: self.muon_scale,
            weight_decay: self.weight_decay,
            rest_rate: self.lr / self.muon_lr,
            rest: self.adamw_config(),
        }
    }

    /// Refuses values that cannot work; `stage` names the place and `ternary` says whether projections are.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the value and what it may be.
    pub fn check(&self, stage: &str, ternary: bool) -> Result<()> {
        let share = |v: f32| (0.0..1.0).contains(&v);
        let rules = [
            ("batch_tokens", self.batch_tokens > 0, "at least 1"),
            ("lr", self.lr.is_finite() && self.lr >= 0.0, "a number from 0"),
            ("muon_lr", self.muon_lr.is_finite() && self.muon_lr >= 0.0, "a number from 0"),
            ("floor", (0.0..=1.0).contains(&self.floor), "from 0 to 1"),
            ("decay_share", (0.0..=1.0).contains(&self.decay_share), "from 0 to 1"),
            ("clip", self.clip > 0.0, "above 0"),
            ("beta1", share(self.beta1), "from 0 to below 1"),
            ("beta2", share(self.beta2), "from 0 to below 1"),
            ("muon_momentum", share(self.muon_momentum), "from 0 to below 1"),
            ("muon_iterations", (1..=20).contains(&self.muon_iterations), "from 1 to 20"),
            ("grokfast_lambda", self.grokfast_lambda >= 0.0, "a number from 0"),
            ("grokfast_alpha", share(self.grokfast_alpha), "from 0 to below 1"),
            ("qk_clip", self.qk_clip.is_finite() && self.qk_clip >= 0.0, "a number from 0"),
            ("qk_clip_every", self.qk_clip_every > 0, "at least 1"),
            ("dropout", share(self.dropout), "from 0 to below 1"),
            ("ema", share(self.ema), "from 0 to below 1"),
        ];
        for (name, holds, range) in rules {
            if !holds {
                let what = format!("`{stage}.{name}` must be {range}");
                return Err(Error::Usage { what, hint: format!("set it with `--set {stage}.{name}=…`") });
            }
        }
        if ternary && self.ema > 0.0 && !self.ema_ternary {
            return Err(Error::Usage {
                what: format!("`{stage}.ema` averages latents of ternary projections, which then round to 0"),
                hint: format!("set `{stage}.ema=0`, or `{stage}.ema_ternary=true` to do it all the same"),
            });
        }
        Ok(())
    }
}
