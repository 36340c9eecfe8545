//! What a run would do: steps, tokens, memory, time and file sizes, with nothing written.
//!
//! Time comes from a short measured probe of training and scaling by tokens. Memory and file sizes are formulas, stated
//! where they are.

use std::time::Instant;

use candle_core::{Device, Tensor};
use forge_formats::codec::payload_len;
use forge_formats::config::ModelConfig;
use forge_formats::header::ALIGN;
use rayon::current_num_threads;
use serde::Serialize;

use crate::config::{Config, TrainConfig};
use crate::engine::emit::{CodecPlan, float32, ternary_f16, ternary_int8};
use crate::error::Result;
use crate::nn::{ForwardOptions, Network, Precision, loss};
use crate::pipeline::disk::{phase_checkpoint_bytes, session_bytes};
use crate::pipeline::memory::{Place, phase_bytes};
use crate::pipeline::phase::PhaseId;
use crate::tokenizer::{CONTROLS, MARKERS};
use crate::weights::Weights;

/// Header, manifest and card of a file, rounded up: a 64-byte header, about 20 bytes of manifest a section, about
/// 3 kB of provenance and measures.
const FILE_OVERHEAD: u64 = 4096;
/// Bytes of a special token's name in the tokenizer table, with its two bytes of kind and length.
const SPECIAL_BYTES: u64 = 10;
/// Multiplications and additions a parameter takes per token, forward and backward.
const FLOPS_PER_PARAMETER: f64 = 6.0;
/// Work of one probe: a second or less on two cores.
const PROBE_FLOPS: f64 = 2e10;
/// Sequences of a probe on a GPU, which fewer would not fill.
const GPU_ROWS: usize = 128;
/// A forward pass without gradients takes this share of a training step.
const FORWARD_SHARE: f64 = 1.0 / 3.0;

/// What one phase would do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PhasePlan {
    /// Which phase.
    pub phase: PhaseId,
    /// Optimiser steps of all its stages.
    pub steps: u64,
    /// Tokens trained on, padding included.
    pub training_tokens: u64,
    /// Tokens of search and distillation that only pass forward.
    pub forward_tokens: u64,
    /// Estimated largest memory of the process on the CPU, in bytes.
    pub peak_memory: u64,
    /// Estimated largest memory of a GPU, in bytes.
    pub gpu_memory: u64,
    /// Most that its checkpoints take on disk at once, in bytes.
    pub checkpoint_bytes: u64,
    /// Estimated time in seconds, evaluations not counted.
    pub seconds: f64,
    /// Length of the emitted file in bytes; at most the budget in phase 8.
    pub file_bytes: u64,
}

/// What a run would do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Version of this document.
    pub schema: u32,
    /// Parameters of a phase-1 model with the configured vocabulary.
    pub parameters: u64,
    /// Parameters its preset allows.
    pub parameter_range: [u64; 2],
    /// Length of phase 1's FP32 file.
    pub fp32_bytes: u64,
    /// Length of phase 4's ternary file.
    pub ternary_bytes: u64,
    /// One over the other.
    pub ratio: f64,
    /// What phase 4's gate asks for.
    pub min_ratio: f64,
    /// Most that the session takes on disk, in bytes.
    pub disk_bytes: u64,
    /// Threads the estimate is for.
    pub threads: usize,
    /// Tokens trained per second in f32 and in ternary, as probed here.
    pub tokens_per_second: [f64; 2],
    /// The phases, in order.
    pub phases: Vec<PhasePlan>,
}

impl Plan {
    /// Plans a run of the whole pipeline and probes the speed of the device it would train on.
    ///
    /// # Errors
    /// [`crate::error::Error::Format`] for a model that cannot be, [`crate::error::Error::Usage`] for a device that is
    /// not there, [`crate::error::Error::Tensor`] when the probe fails.
    pub fn new(config: &Config) -> Result<Self> {
        let model = config.model_config(config.tokenizer.planned_vocab());
        model.validate()?;
        let device = config.run.device.open()?;
        let speed = [probe(&model, Precision::FLOAT, &device)?, probe(&model, Precision::TERNARY, &device)?];
        Ok(Self::with_speed(config, &model, speed))
    }

    /// Plans with known speeds, in tokens trained per second in f32 and in ternary.
    pub fn with_speed(config: &Config, model: &ModelConfig, speed: [f64; 2]) -> Self {
        let fp32_bytes = file_bytes(model, &float32);
        let ternary_bytes = file_bytes(model, &ternary_f16);
        let phases = PhaseId::ALL.into_iter().map(|phase| plan_phase(phase, config, model, speed)).collect();
        Self {
            schema: 1,
            parameters: model.parameters(),
            parameter_range: config.parameter_range(),
            fp32_bytes,
            ternary_bytes,
            ratio: fp32_bytes as f64 / ternary_bytes as f64,
            min_ratio: config.phase4.min_ratio,
            disk_bytes: session_bytes(config, model),
            threads: current_num_threads(),
            tokens_per_second: speed,
            phases,
        }
    }

    /// What cannot work as configured.
    pub fn problems(&self) -> Vec<String> {
        let [low, high] = self.parameter_range;
        let mut problems = Vec::new();
        if !(low..=high).contains(&self.parameters) {
            problems.push(format!("{} parameters, the preset allows {low}–{high}", self.parameters));
        }
        if self.ratio < self.min_ratio {
            let (ratio, least) = (self.ratio, self.min_ratio);
            problems.push(format!("phase 4's file is {ratio:.2}× smaller than phase 1's, not ≥ {least}×"));
        }
        problems
    }

    /// Time of all phases in seconds.
    pub fn seconds(&self) -> f64 {
        self.phases.iter().map(|phase| phase.seconds).sum()
    }
}

/// Length of the file of a model: every tensor's payload and the tokenizer table, each from a multiple of [`ALIGN`],
/// and an allowance of a few kilobytes for header, manifest and card.
pub fn file_bytes(model: &ModelConfig, codecs: CodecPlan<'_>) -> u64 {
    let aligned = |bytes: u64| bytes.next_multiple_of(ALIGN as u64);
    let tensors: u64 = model
        .tensors()
        .map(|(role, layer, shape)| {
            aligned(payload_len(&codecs((role, layer)), shape).unwrap_or(u64::MAX / 64))
        })
        .sum();
    // 4 bytes a merge and 2 for its place in the sorted order; names of the special tokens.
    let controls = (CONTROLS.len() + MARKERS.len()) as u64;
    let merges = u64::from(model.vocab).saturating_sub(256 + controls);
    tensors + aligned(8 + 6 * merges + SPECIAL_BYTES * controls) + FILE_OVERHEAD
}

/// Steps and tokens of a phase: `(steps, tokens trained, tokens only passed forward)`.
fn work(phase: PhaseId, config: &Config) -> (u64, u64, u64) {
    let tokens = |train: &TrainConfig, steps: u64| steps * train.batch_tokens as u64;
    // Examples outside training batches are not padded; on average they are about half the longest.
    let length = config.data.max_len as u64 / 2;
    match phase {
        PhaseId::Cognate => {
            let (trunk, branch) = (&config.phase1.trunk, &config.phase1.branch);
            let branches = 3 * branch.steps;
            (trunk.steps + branches, tokens(trunk, trunk.steps) + tokens(branch, branches), 0)
        }
        PhaseId::EvoMerge => {
            let c = &config.phase2;
            let candidates = c.search.evaluations(3) as u64;
            (0, 0, candidates * c.fitness_examples as u64 * length)
        }
        PhaseId::QuietStar => {
            // Each of the two controls trains as long as what it is compared with.
            let c = &config.phase3;
            let (bake, reinforce) = (c.bake.steps, c.reinforce.steps);
            let supervised = bake + 2 * (bake + reinforce);
            let thoughts = reinforce * (c.prompts * c.thoughts) as u64 * length;
            (supervised + reinforce, tokens(&c.bake, supervised) + thoughts, thoughts)
        }
        PhaseId::BitNet => (0, 0, config.phase4.calibration_examples as u64 * length),
        PhaseId::Forge => {
            let c = &config.phase5;
            let steps = c.train.steps + 2 * c.control_steps;
            (steps, tokens(&c.train, steps), 0)
        }
        PhaseId::Baking => {
            let c = &config.phase6;
            let steps = u64::from(c.cycles) * c.train.steps;
            let sampled = u64::from(c.cycles) * c.trajectories as u64 * length;
            (steps, tokens(&c.train, steps), tokens(&c.train, steps) + sampled)
        }
        PhaseId::Edge => {
            let train = &config.phase7.train;
            (train.steps, tokens(train, train.steps), tokens(train, train.steps))
        }
        PhaseId::Compression => (0, 0, 0),
    }
}

fn plan_phase(phase: PhaseId, config: &Config, model: &ModelConfig, speed: [f64; 2]) -> PhasePlan {
    let (steps, training_tokens, forward_tokens) = work(phase, config);
    let [float, ternary] = speed;
    let speed = if phase < PhaseId::BitNet { float } else { ternary };
    let seconds = (training_tokens as f64 + FORWARD_SHARE * forward_tokens as f64) / speed.max(1e-9);
    let codecs: CodecPlan<'_> = match phase {
        PhaseId::Cognate | PhaseId::EvoMerge | PhaseId::QuietStar => &float32,
        PhaseId::BitNet => &ternary_f16,
        _ => &ternary_int8,
    };
    let mut shape = model.clone();
    if phase >= PhaseId::Edge {
        let kept = (1.0 - config.phase7.prune_ffn) * model.ffn as f32;
        shape.ffn = (kept / 4.0).round().max(1.0) as u32 * 4;
    }
    let file = file_bytes(&shape, codecs);
    let file_bytes = if phase == PhaseId::Compression { file.min(config.phase8.budget) } else { file };
    let peak_memory = phase_bytes(phase, config, model, Place::Cpu);
    let gpu_memory = phase_bytes(phase, config, model, Place::Gpu);
    let checkpoint_bytes = phase_checkpoint_bytes(phase, config, model);
    PhasePlan {
        phase,
        steps,
        training_tokens,
        forward_tokens,
        peak_memory,
        gpu_memory,
        checkpoint_bytes,
        seconds,
        file_bytes,
    }
}

/// Tokens a second that training gets through here: the fastest of three steps, since other work can only slow one.
fn probe(model: &ModelConfig, precision: Precision, device: &Device) -> Result<f64> {
    let work = FLOPS_PER_PARAMETER * model.parameters() as f64 * f64::from(model.recursion);
    let cols = 64usize;
    let rows = match device.is_cpu() {
        true => ((PROBE_FLOPS / work) as usize / cols).clamp(1, 64),
        false => GPU_ROWS,
    };
    let ids: Vec<u32> =
        (0..rows * cols).map(|i| (i as u32).wrapping_mul(2_654_435_761) % model.vocab).collect();
    let input = Tensor::from_slice(&ids, (rows, cols), &Device::Cpu)?;
    let network = Network::new(&Weights::init(model, 0), precision, device)?;
    let weights = vec![1.0; ids.len()];
    let mut seconds = f64::INFINITY;
    for _ in 0..3 {
        let began = Instant::now();
        let forward = network.forward(&input, ForwardOptions::default())?;
        let mut total = Tensor::new(0f32, device)?;
        for answer in &forward.answers {
            total = (total + loss::weighted_cross_entropy(&network.logits(answer)?, &ids, &weights)?)?;
        }
        total.backward()?;
        // A GPU is waited for only when something is read.
        total.to_scalar::<f32>()?;
        seconds = seconds.min(began.elapsed().as_secs_f64());
    }
    Ok(ids.len() as f64 / seconds.max(1e-9))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;
    use crate::engine::emit::{Card, emit};
    use crate::tokenizer::Tokenizer;

    fn plan(preset: Preset) -> Plan {
        let config = Config::preset(preset);
        Plan::with_speed(&config, &config.model_config(config.tokenizer.planned_vocab()), [1000.0, 500.0])
    }

    #[test]
    fn every_preset_is_of_its_size_and_small_enough_after_phase_4() {
        for preset in [Preset::Nano, Preset::Tiny, Preset::M25] {
            let plan = plan(preset);
            assert_eq!(plan.problems(), [""; 0], "{preset:?}: {plan:#?}");
        }
        assert!(plan(Preset::M25).ratio >= 8.0);
        assert!(plan(Preset::Nano).ratio >= 6.0);
    }

    #[test]
    fn what_cannot_work_is_said() {
        let mut plan = plan(Preset::Nano);
        plan.min_ratio = plan.ratio + 0.01;
        plan.parameters = plan.parameter_range[1] + 1;
        let problems = plan.problems();
        assert!(problems.len() == 2 && problems[1].contains("not ≥"), "{problems:?}");
    }

    #[test]
    fn file_lengths_are_those_of_emitted_files() {
        let text: Vec<String> = (0..4000).map(|i| format!("number {} is {}", i, i * i)).collect();
        let specials = crate::tokenizer::controls();
        let tokenizer =
            Tokenizer::train(text.iter(), specials, &crate::config::TokenizerConfig::bpe(400)).unwrap();
        let model = Config::preset(Preset::Nano).model_config(tokenizer.vocab());
        let weights = Weights::init(&model, 1);
        let card = Card {
            forge: "0",
            phase: "bitnet".into(),
            chain: Vec::new(),
            seed: 0,
            data: String::new(),
            tools: Vec::new(),
            eval: serde_json::json!({}),
        };
        let plans: [CodecPlan<'_>; 3] = [&float32, &ternary_f16, &ternary_int8];
        for codecs in plans {
            let length = emit(&weights, &tokenizer, &card, codecs).unwrap().len() as u64;
            let planned = file_bytes(&model, codecs);
            assert!(length <= planned && planned - length < FILE_OVERHEAD, "{length} {planned}");
        }
    }

    #[test]
    fn work_follows_the_configuration() {
        let mut config = Config::preset(Preset::Nano);
        let before = work(PhaseId::Forge, &config);
        config.phase5.train.steps += 10;
        let after = work(PhaseId::Forge, &config);
        assert_eq!(after.0 - before.0, 10);
        assert_eq!(after.1 - before.1, 10 * config.phase5.train.batch_tokens as u64);
        let slow = plan(Preset::Nano);
        let forge = &slow.phases[4];
        assert!((forge.seconds - forge.training_tokens as f64 / 500.0).abs() < 1e-6);
        assert!(slow.phases.iter().all(|p| p.peak_memory > 4 * slow.parameters && p.file_bytes > 0));
    }

    #[test]
    fn the_probe_measures_something() {
        let mut model = Config::preset(Preset::Nano).model_config(300);
        (model.dim, model.ffn) = (32, 16);
        for precision in [Precision::FLOAT, Precision::TERNARY] {
            let speed = probe(&model, precision, &Device::Cpu).unwrap();
            assert!(speed.is_finite() && speed > 1.0, "{speed}");
        }
    }
}
