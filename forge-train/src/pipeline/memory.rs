//! What training needs in memory, by formulas that follow the operations, and the mildest settings that fit a budget.
//!
//! For a stage: parameters, gradients and the optimiser's state; what the graph keeps for each position between the
//! forward and the backward pass; and what the backward pass holds on top while it is in the widest block. What a formula
//! leaves out (allocator, code, data) is in two constants; `docs/training.md` compares predictions with measurements.

use forge_formats::config::{Activation, ModelConfig};
use forge_formats::role::{Role, RoleKind};

use crate::config::{Config, TrainConfig};
use crate::engine::shards::SHARDS;
use crate::error::{Error, Result};
use crate::pipeline::phase::PhaseId;
use crate::pipeline::stages::{StageKind, stages};
use crate::pipeline::table::bytes as size;

/// Where a stage is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In f32 on the CPU, two shards side by side.
    Cpu,
    /// Activations in bf16 on a GPU, one shard at a time.
    Gpu,
}

/// Memory of the program, in bytes.
const BASE_BYTES: u64 = 40_000_000;
/// What worker threads, their allocators and packed matrices add once it trains, in bytes.
const TRAINING_BYTES: u64 = 75_000_000;
/// What the evaluation behind training adds for each of `data.eval_examples`, in bytes.
const EVALUATION_BYTES: u64 = 60_000;
/// What scoring candidates side by side adds in the search of phase 2, in bytes.
const SEARCH_BYTES: u64 = 60_000_000;
/// Memory of a thousand built-in examples of each kind, in bytes: texts, and sequences encoded for training.
const EXAMPLES_BYTES: u64 = 2_700_000;
/// What a CUDA context and its libraries take on the device, in bytes.
const GPU_BASE_BYTES: u64 = 600_000_000;

/// Bytes that a stage takes beside the program and its data.
pub fn stage_bytes(
    model: &ModelConfig,
    stage: &StageKind<'_>,
    train: &TrainConfig,
    longest: u64,
    place: Place,
) -> u64 {
    let at_once = positions_at_once(stage, train, longest);
    let width = if place == Place::Gpu { 2 } else { 4 };
    let activations =
        at_once * width * (kept(model, train) + widest(model)) + at_once * 4 * logits(model, stage, place);
    parameter_bytes(model, stage, train, place) + activations
}

/// Positions computed at once: a micro-batch, at least one row a shard.
fn positions_at_once(stage: &StageKind<'_>, train: &TrainConfig, longest: u64) -> u64 {
    let batch = stage.positions as u64;
    match train.micro_tokens as u64 {
        0 => batch,
        micro => micro.max(SHARDS as u64 * longest).min(batch.max(longest)),
    }
}

/// Parameters, their quantised forms, gradients and the optimiser's state, and other models in memory.
fn parameter_bytes(model: &ModelConfig, stage: &StageKind<'_>, train: &TrainConfig, place: Place) -> u64 {
    let parameters = model.parameters();
    let projections: u64 =
        sizes(model).filter(|(role, _)| role.kind() == RoleKind::Projection).map(|(_, n)| n).sum();
    let moments = if train.uses_muon() { 2 * parameters - projections } else { 2 * parameters };
    let extras = u64::from(train.grokfast_lambda > 0.0) + u64::from(train.ema > 0.0);
    let shards = if place == Place::Gpu { 1 } else { SHARDS as u64 };
    // A gradient for each shard, and their sum.
    let gradients = (shards + 1) * parameters;
    // Integer values and what they stand for, made for each shard's pass.
    let forms = match (place, stage.ternary) {
        (Place::Cpu, true) => 2 * shards * parameters,
        (Place::Cpu, false) => 0,
        (Place::Gpu, _) => parameters,
    };
    4 * (parameters + moments + extras * parameters + gradients + forms + stage.others * parameters)
}

fn sizes(model: &ModelConfig) -> impl Iterator<Item = (Role, u64)> + '_ {
    model.tensors().map(|(role, _, [rows, cols])| (role, u64::from(rows) * u64::from(cols)))
}

/// Width of the feed-forward network's first result.
fn hidden(model: &ModelConfig) -> u64 {
    u64::from(model.ffn) * if model.activation == Activation::SwiGlu { 2 } else { 1 }
}

/// Values the graph keeps for each position.
fn kept(model: &ModelConfig, train: &TrainConfig) -> u64 {
    let dim = u64::from(model.dim);
    let attention = u64::from(model.heads * model.head_dim);
    let wide = attention + 2 * u64::from(model.kv_heads * model.head_dim);
    let recursions = u64::from(model.recursion);
    let mut values = dim;
    for layer in 0..model.layers {
        let memory = model.has_memory(layer);
        // In halting steps all recursions but the last hand their keys and values on.
        let handed_on = if model.halting { wide } else { 0 };
        values += if memory { attention } else { 0 };
        let each = if train.recompute {
            dim
        } else {
            let gate = if memory { 4 * attention + u64::from(model.mem_gate) } else { 0 };
            wide + attention + dim + hidden(model) + dim + gate
        };
        values += recursions * each + (recursions - 1) * handed_on;
    }
    // The sums that enter a recursion, its answer, and what its loss keeps.
    values + (recursions - 1) * 3 * dim + recursions * 3 * dim
}

/// Values the backward pass holds for each position in a block: gradients of its widest part and, where candle adds them
/// up, their sums.
fn widest(model: &ModelConfig) -> u64 {
    let attention = u64::from(model.heads * model.head_dim);
    let wide = attention + 2 * u64::from(model.kv_heads * model.head_dim);
    3 * hidden(model).max(wide) + 2 * u64::from(model.dim)
}

/// Logits for each position that exist at once: none where head and loss are one operation, and all recursions' and
/// their gradient where the halting head is taught, which needs each token's loss.
fn logits(model: &ModelConfig, stage: &StageKind<'_>, place: Place) -> u64 {
    let taught = model.halting || place == Place::Gpu;
    let own = if taught { u64::from(model.recursion) + 2 } else { 0 };
    let teacher = if stage.distils { 3 } else { 0 };
    (own + teacher) * u64::from(model.vocab)
}

/// Estimated largest memory of a phase, in bytes: on the CPU the whole process, on a GPU what lies there.
pub fn phase_bytes(phase: PhaseId, config: &Config, model: &ModelConfig, place: Place) -> u64 {
    let longest = config.data.max_len as u64;
    let training = stages(phase, config).iter().map(|s| stage_bytes(model, s, s.train, longest, place)).max();
    let data = EXAMPLES_BYTES * config.data.builtin_thousands as u64;
    match (place, training) {
        (Place::Gpu, training) => GPU_BASE_BYTES + training.unwrap_or(0),
        (Place::Cpu, Some(training)) => {
            let evaluation = EVALUATION_BYTES * config.data.eval_examples as u64;
            BASE_BYTES + data + TRAINING_BYTES + training + evaluation
        }
        (Place::Cpu, None) if phase == PhaseId::EvoMerge => {
            let candidates = 4 + (config.phase2.search.elite + config.phase2.search.mutants) as u64;
            BASE_BYTES + data + SEARCH_BYTES + 4 * candidates * model.parameters()
        }
        (Place::Cpu, None) => BASE_BYTES + data + 4 * 2 * model.parameters(),
    }
}

/// Refuses a run that does not fit into `budget` bytes.
///
/// # Errors
/// [`Error::Usage`] naming the phase, what it needs, and the mildest settings with which it would fit.
pub fn check(config: &Config, model: &ModelConfig, place: Place, budget: u64) -> Result<()> {
    for phase in PhaseId::ALL {
        let needed = phase_bytes(phase, config, model, place);
        if needed > budget {
            let what = format!("phase {phase} needs about {}, the budget is {}", size(needed), size(budget));
            let hint = smaller(phase, config, model, place, budget).unwrap_or_else(|| {
                "no size of micro-batch fits; choose a smaller preset or a larger `--memory`".into()
            });
            return Err(Error::Usage { what, hint });
        }
    }
    Ok(())
}

/// Settings with which a phase fits, smallest change first: micro-batches cost nothing, recomputation a third more time.
fn smaller(
    phase: PhaseId,
    config: &Config,
    model: &ModelConfig,
    place: Place,
    budget: u64,
) -> Option<String> {
    let longest = config.data.max_len as u64;
    let rest = phase_bytes(phase, config, model, place)
        - stages(phase, config).iter().map(|s| stage_bytes(model, s, s.train, longest, place)).max()?;
    let mut settings = Vec::new();
    for stage in stages(phase, config) {
        let fits = |train: &TrainConfig| rest + stage_bytes(model, &stage, train, longest, place) <= budget;
        if fits(stage.train) {
            continue;
        }
        let micro = |recompute: bool| {
            let halves = (0..20).map(|i| stage.positions >> i).take_while(|m| *m as u64 >= 2 * longest);
            halves.map(move |micro_tokens| TrainConfig { micro_tokens, recompute, ..stage.train.clone() })
        };
        let chosen = micro(stage.train.recompute).chain(micro(true)).find(fits)?;
        settings.push(format!("--set {}.micro_tokens={}", stage.section, chosen.micro_tokens));
        if chosen.recompute && !stage.train.recompute {
            settings.push(format!("--set {}.recompute=true", stage.section));
        }
    }
    Some(format!("it would fit with {}", settings.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    fn m25() -> (Config, ModelConfig) {
        let config = Config::preset(Preset::M25);
        let model = config.model_config(config.tokenizer.vocab);
        (config, model)
    }

    #[test]
    fn smaller_parts_and_recomputation_need_less() {
        let (mut config, model) = m25();
        let bytes = |config: &Config| phase_bytes(PhaseId::Cognate, config, &model, Place::Cpu);
        let whole = bytes(&config);
        for train in [&mut config.phase1.trunk, &mut config.phase1.branch] {
            train.micro_tokens = 4096;
        }
        let parts = bytes(&config);
        for train in [&mut config.phase1.trunk, &mut config.phase1.branch] {
            train.recompute = true;
        }
        assert!(bytes(&config) < parts && parts < whole);
        let gpu = phase_bytes(PhaseId::Cognate, &config, &model, Place::Gpu);
        assert!(gpu < parts, "{gpu}");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_settings_that_do() {
        let (config, model) = m25();
        let budget = 6_000_000_000;
        let Err(Error::Usage { what, hint }) = check(&config, &model, Place::Cpu, budget) else {
            panic!("32768 positions at once do not fit into 6 GB");
        };
        assert!(what.contains("phase cognate"), "{what}");
        let set: Vec<String> = hint.split("--set ").skip(1).map(|s| s.trim().to_owned()).collect();
        assert!(!set.is_empty(), "{hint}");
        let mut mended = crate::config_load::override_with(&config, &set).unwrap();
        assert!(phase_bytes(PhaseId::Cognate, &mended, &model, Place::Cpu) <= budget);
        // Following every hint in turn ends with a run that fits.
        while let Err(Error::Usage { hint, .. }) = check(&mended, &model, Place::Cpu, budget) {
            let set: Vec<String> = hint.split("--set ").skip(1).map(|s| s.trim().to_owned()).collect();
            assert!(!set.is_empty(), "{hint}");
            mended = crate::config_load::override_with(&mended, &set).unwrap();
        }
        assert!(
            check(&config, &model, Place::Cpu, 1_000_000).unwrap_err().hint().unwrap().contains("no size")
        );
    }
}
