//! Tests of what training is predicted to need.

use forge_formats::config::Globals;

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
        panic!("65536 positions at once do not fit into 6 GB");
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
    assert!(check(&config, &model, Place::Cpu, 1_000_000).unwrap_err().hint().unwrap().contains("no size"));
}

/// What the phases of three 25 M models were given on a device, in bytes.
const BUDGETS: [(PhaseId, u64); 6] = [
    (PhaseId::Cognate, 900_000_000),
    (PhaseId::EvoMerge, 2_300_000_000),
    (PhaseId::QuietStar, 180_000_000),
    (PhaseId::Forge, 212_000_000),
    (PhaseId::Baking, 112_000_000),
    (PhaseId::Edge, 68_500_000),
];

/// A phase takes what it was given, with the smallest micro-batches and recomputation if it has to; or where that is
/// less than weights, gradients and two moments take by themselves, no more than the phase that was given the most for
/// training.
#[test]
fn phases_keep_to_their_budgets_as_far_as_weights_allow() {
    let (config, model) = m25();
    let trained = 4 * 4 * model.parameters();
    for (phase, budget) in BUDGETS {
        let longest = config.data.max_len as u64;
        let least = |stage: &StageKind<'_>| {
            let train =
                TrainConfig { micro_tokens: 2 * longest as usize, recompute: true, ..stage.train.clone() };
            stage_bytes(&model, stage, &train, longest, Place::Gpu)
        };
        let needed = stages(phase, &config).iter().map(least).max().unwrap_or(0);
        println!("{phase}: {needed} bytes beside context and libraries, {budget} given");
        if needed > budget {
            assert!(trained > budget, "{phase} could do with less than {needed}");
            assert!(needed <= 1_250_000_000, "{phase} needs {needed}");
        }
    }
}

/// Evaluation keeps the global positions beside the window; training keeps no more than it did.
#[test]
fn global_positions_take_memory_in_evaluation_alone() {
    let (config, model) = m25();
    let globals = ModelConfig { globals: Globals { every: 16, rows: 16 }, ..model.clone() };
    let grown = evaluation_bytes(&config, &globals) - evaluation_bytes(&config, &model);
    let window = evaluation_bytes(&config, &model) - EVALUATION_BYTES * config.data.eval_examples as u64;
    assert_eq!(grown * u64::from(model.window), window * 16);
    for stage in stages(PhaseId::Cognate, &config) {
        let [with, without] =
            [&globals, &model].map(|m| stage_bytes(m, &stage, stage.train, 512, Place::Gpu));
        assert_eq!(with, without);
    }
}
