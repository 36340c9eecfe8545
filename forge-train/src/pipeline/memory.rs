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
use crate::eval::TOGETHER;
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
/// What the evaluation behind training adds for each of `data.eval_examples`, beside the caches, in bytes.
const EVALUATION_BYTES: u64 = 60_000;
/// Positions of candidates that are scored side by side in the search of phase 2.
const SEARCH_POSITIONS: u64 = 5_300;
/// Memory of a thousand built-in examples of each kind, in bytes.
const EXAMPLES_BYTES: u64 = 1_500_000;
/// Memory of the sequences that a thousand of them are encoded to for training, in bytes.
const SEQUENCES_BYTES: u64 = 1_200_000;
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
        at_once * (width * (kept(model, train, place) + widest(model)) + logits_bytes(model, stage, place));
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
    // What integers stand for, made once a step for all shards.
    let forms = if stage.ternary || place == Place::Gpu { parameters } else { 0 };
    // On a GPU only a teacher, its parameters and their forms, lies beside the one that is trained.
    let others = match place {
        Place::Cpu => stage.others,
        Place::Gpu if stage.distils => 2,
        Place::Gpu => 0,
    };
    4 * (parameters + moments + extras * parameters + gradients + forms + others * parameters)
}

fn sizes(model: &ModelConfig) -> impl Iterator<Item = (Role, u64)> + '_ {
    model.tensors().map(|(role, _, [rows, cols])| (role, u64::from(rows) * u64::from(cols)))
}

/// Width of the feed-forward network's first result.
fn hidden(model: &ModelConfig) -> u64 {
    u64::from(model.ffn) * if model.activation == Activation::SwiGlu { 2 } else { 1 }
}

/// Values the graph keeps for each position. The residual stream is in f32 everywhere, twice the width of what a GPU
/// keeps of the rest.
fn kept(model: &ModelConfig, train: &TrainConfig, place: Place) -> u64 {
    let dim = u64::from(model.dim) * if place == Place::Gpu { 2 } else { 1 };
    let attention = u64::from(model.heads * model.head_dim);
    let wide = attention + 2 * u64::from(model.kv_heads * model.head_dim);
    let recursions = u64::from(model.recursion);
    let mut values = dim;
    for layer in 0..model.layers {
        let memory = model.has_memory(layer);
        // In halting steps all recursions but the last hand their keys and values on, on a GPU as tensors of their own.
        let copies = if place == Place::Gpu { dim } else { 0 };
        let handed_on = if model.halting { wide + copies } else { 0 };
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

/// Logits for each position that exist at once, in bytes: none where head and loss are one operation, and all recursions'
/// and their gradient where the halting head is taught, which needs each token's loss. On a GPU always all recursions',
/// in f32, and a gradient in bf16.
fn logits_bytes(model: &ModelConfig, stage: &StageKind<'_>, place: Place) -> u64 {
    let recursions = u64::from(model.recursion);
    let own = match place {
        Place::Cpu if model.halting => 4 * (recursions + 2),
        Place::Cpu => 0,
        Place::Gpu => 4 * recursions + 2,
    };
    let teacher = if stage.distils { 4 * 3 } else { 0 };
    (own + teacher) * u64::from(model.vocab)
}

/// What the evaluation of an emitted file takes: its examples, and the keys and values of those read side by side.
fn evaluation_bytes(config: &Config, model: &ModelConfig) -> u64 {
    let examples = config.data.eval_examples as u64;
    let caches = 4 * 2 * u64::from(model.recursion) * u64::from(model.layers);
    let heads = u64::from(model.kv_heads * model.head_dim);
    let caches = caches * u64::from(model.window + model.globals.rows);
    EVALUATION_BYTES * examples + caches * heads * examples.min((SHARDS * TOGETHER) as u64)
}

/// Estimated largest memory of a phase, in bytes: on the CPU the whole process, on a GPU what lies there.
pub fn phase_bytes(phase: PhaseId, config: &Config, model: &ModelConfig, place: Place) -> u64 {
    let longest = config.data.max_len as u64;
    let training = stages(phase, config).iter().map(|s| stage_bytes(model, s, s.train, longest, place)).max();
    let training = training.map(|training| beside_training(phase, config, model, place) + training);
    if place == Place::Gpu {
        return training.unwrap_or(GPU_BASE_BYTES);
    }
    let others = match phase {
        PhaseId::EvoMerge => {
            let search = &config.phase2.search;
            let candidates = search.held(3) as u64;
            let scoring = 10 * u64::from(model.dim) + 3 * u64::from(model.vocab);
            4 * (candidates * model.parameters() + SEARCH_POSITIONS * scoring)
        }
        _ => 4 * 2 * model.parameters(),
    };
    let evaluated = BASE_BYTES + examples_bytes(config) + others + evaluation_bytes(config, model);
    training.unwrap_or(0).max(evaluated)
}

/// What a phase holds while one of its stages trains.
fn beside_training(phase: PhaseId, config: &Config, model: &ModelConfig, place: Place) -> u64 {
    if place == Place::Gpu {
        return GPU_BASE_BYTES;
    }
    let sequences = SEQUENCES_BYTES * config.data.builtin_thousands as u64;
    // Calls have lost their system text there.
    let sequences = if phase == PhaseId::Edge { sequences / 2 } else { sequences };
    // Between their stages these measure files, with everything for training at hand.
    let measures = matches!(phase, PhaseId::QuietStar | PhaseId::Baking);
    let evaluation = if measures { evaluation_bytes(config, model) } else { 0 };
    BASE_BYTES + examples_bytes(config) + TRAINING_BYTES + sequences + evaluation
}

fn examples_bytes(config: &Config) -> u64 {
    EXAMPLES_BYTES * config.data.builtin_thousands as u64
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
            let hint = smaller(phase, config, model, place, budget).unwrap_or_else(nothing_fits);
            return Err(Error::Usage { what, hint });
        }
    }
    Ok(())
}

/// Refuses a single stage that does not fit into `budget` bytes beside `rest` bytes of models and data.
///
/// # Errors
/// As [`check`].
pub fn check_stage(
    model: &ModelConfig,
    stage: &StageKind<'_>,
    longest: u64,
    place: Place,
    rest: u64,
    budget: u64,
) -> Result<()> {
    let rest = rest + if place == Place::Gpu { GPU_BASE_BYTES } else { BASE_BYTES + TRAINING_BYTES };
    let needed = rest + stage_bytes(model, stage, stage.train, longest, place);
    if needed <= budget {
        return Ok(());
    }
    let settings = budget.checked_sub(rest).and_then(|left| milder(model, stage, longest, place, left));
    Err(Error::Usage {
        what: format!("training needs about {}, the budget is {}", size(needed), size(budget)),
        hint: settings.map_or_else(nothing_fits, |settings| would_fit(&settings)),
    })
}

fn nothing_fits() -> String {
    "no size of micro-batch fits; choose a smaller model or a larger `--memory`".into()
}

fn would_fit(settings: &[String]) -> String {
    format!("it would fit with {}", settings.join(" "))
}

/// Settings with which a phase fits.
fn smaller(
    phase: PhaseId,
    config: &Config,
    model: &ModelConfig,
    place: Place,
    budget: u64,
) -> Option<String> {
    let longest = config.data.max_len as u64;
    let left = budget.checked_sub(beside_training(phase, config, model, place))?;
    let stages = stages(phase, config);
    let tight = stages.iter().filter(|s| stage_bytes(model, s, s.train, longest, place) > left);
    let settings =
        tight.map(|stage| milder(model, stage, longest, place, left)).collect::<Option<Vec<_>>>()?;
    (!settings.is_empty()).then(|| would_fit(&settings.concat()))
}

/// Settings with which a stage takes at most `budget` bytes, smallest change first: micro-batches cost nothing,
/// recomputation a third more time.
fn milder(
    model: &ModelConfig,
    stage: &StageKind<'_>,
    longest: u64,
    place: Place,
    budget: u64,
) -> Option<Vec<String>> {
    let micro = |recompute: bool| {
        let halves = (0..20).map(|i| stage.positions >> i).take_while(|m| *m as u64 >= 2 * longest);
        halves.map(move |micro_tokens| TrainConfig { micro_tokens, recompute, ..stage.train.clone() })
    };
    let fits = |train: &TrainConfig| stage_bytes(model, stage, train, longest, place) <= budget;
    let chosen = micro(stage.train.recompute).chain(micro(true)).find(fits)?;
    let mut settings = vec![format!("--set {}.micro_tokens={}", stage.section, chosen.micro_tokens)];
    if chosen.recompute && !stage.train.recompute {
        settings.push(format!("--set {}.recompute=true", stage.section));
    }
    Some(settings)
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
