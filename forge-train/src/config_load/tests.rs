use forge_formats::config::Globals;

use super::*;
use crate::recipe::Recipe;

fn set(assignments: &[&str]) -> Result<Config> {
    let set: Vec<String> = assignments.iter().map(ToString::to_string).collect();
    load(&Layers { set: &set, ..Layers::default() })
}

fn with_file(text: &str, preset: Option<Preset>, assignments: &[&str]) -> Result<Config> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("forge.toml");
    fs::write(&path, text).unwrap();
    let set: Vec<String> = assignments.iter().map(ToString::to_string).collect();
    load(&Layers { preset, file: Some(&path), set: &set })
}

#[track_caller]
fn complaint(result: Result<Config>) -> (String, String) {
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), 2);
    (error.to_string(), error.hint().unwrap())
}

#[test]
fn presets_survive_toml() {
    for preset in [Preset::Nano, Preset::Tiny, Preset::M25] {
        let config = Config::preset(preset);
        assert_eq!(finish::<Config>(to_table(&config).unwrap()).unwrap(), config);
        assert_eq!(parse_preset(preset_name(preset)), Ok(preset));
        assert_eq!(load(&Layers { preset: Some(preset), ..Layers::default() }).unwrap(), config);
    }
    assert!(to_toml(&Config::preset(Preset::Nano)).unwrap().contains("lr = 0.003\n"), "short floats");
}

#[test]
fn later_layers_win() {
    let file = "[run]\npreset = \"tiny\"\nseed = 5\n[phase5.train]\nsteps = 10\nlr = 1\n";
    let config = with_file(file, None, &["phase5.train.steps=20"]).unwrap();
    assert_eq!(config.run.preset, Preset::Tiny);
    assert_eq!((config.run.seed, config.phase5.train.steps, config.phase5.train.lr), (5, 20, 1.0));
    assert_eq!(config.model, Config::preset(Preset::Tiny).model);
    let config = with_file(file, Some(Preset::Nano), &[]).unwrap();
    assert_eq!((config.run.preset, config.run.seed), (Preset::Nano, 5));
    assert_eq!(config.model, Config::preset(Preset::Nano).model);
}

#[test]
fn a_key_may_leave_out_the_only_table_that_holds_it() {
    assert_eq!(set(&["phase5.steps=2000"]).unwrap().phase5.train.steps, 2000);
    assert_eq!(with_file("[phase5]\nsteps = 7\n", None, &[]).unwrap().phase5.train.steps, 7);
    let (what, hint) = complaint(set(&["phase1.steps=1"]));
    assert!(what.contains("`phase1.steps` is ambiguous"), "{what}");
    assert!(hint.contains("`phase1.trunk.steps`") && hint.contains("`phase1.branch.steps`"), "{hint}");
}

#[test]
fn values_take_the_type_of_the_default() {
    let config =
        set(&["phase7.profile=browser", "model.relu2=true", "model.mem_layers=[0, 1]", "run.seed = 9"]);
    let config = config.unwrap();
    assert_eq!((&*config.phase7.profile, config.model.relu2, config.run.seed), ("browser", true, 9));
    assert_eq!(config.model.mem_layers, [0, 1]);
    for (assignment, expected) in [
        ("phase5.steps=many", "`phase5.steps` must be an integer, not a string"),
        ("phase5.steps=1.5", "must be an integer, not a number"),
        ("phase5.steps=-1", "an integer from 0"),
        ("model.relu2=1", "true or false"),
        ("phase8.budget=\"9\"", "not a string"),
    ] {
        let (what, hint) = complaint(set(&[assignment]));
        assert!(what.contains(expected), "{what}");
        assert!(hint.contains("default is"), "{hint}");
    }
    assert!(set(&["model.mem_layers=[true]"]).is_err());
    assert!(set(&["model.dim=99999999999"]).is_err(), "does not fit u32");
}

#[test]
fn unknown_keys_get_a_path_and_a_suggestion() {
    for (assignment, path, near) in [
        ("phase5.train.stepz=1", "phase5.train.stepz", "did you mean `phase5.train.steps`?"),
        ("phase5.stepz=1", "phase5.stepz", "did you mean `phase5.train.steps`?"),
        ("phas5.steps=1", "phas5.steps", "did you mean `phase5`?"),
        ("phase4.min_ration=1", "phase4.min_ration", "did you mean `phase4.min_ratio`?"),
        ("phase4.zebra=1", "phase4.zebra", "known here: "),
        ("steps=1", "steps", "known here: "),
        ("phase4.min_ratio.x=1", "phase4.min_ratio.x", ""),
    ] {
        let (what, hint) = complaint(set(&[assignment]));
        assert!(what.contains(&format!("`{path}`")), "{what}");
        assert!(hint.contains(near), "{assignment}: {hint}");
    }
    let (what, _) = complaint(with_file("[phase9]\nsteps = 1\n", None, &[]));
    assert!(what.contains("forge.toml: unknown key `phase9.steps`"), "{what}");
}

#[test]
fn malformed_layers_are_named() {
    for bad in ["phase5.steps", "=3", "phase5.steps=", "phase5=3", "phase5.train=3", "run.preset=tiny"] {
        complaint(set(&[bad]));
    }
    let (what, _) = complaint(with_file("[run]\nseed = 1\nseed =\n", None, &[]));
    assert!(what.contains("forge.toml:3"), "{what}");
    complaint(with_file("[run]\npreset = \"huge\"\n", None, &[]));
    let missing = load(&Layers { file: Some(Path::new("/nowhere/forge.toml")), ..Layers::default() });
    assert!(matches!(missing, Err(Error::Io { .. })));
}

#[test]
fn changes_are_told_by_section() {
    let a = Config::preset(Preset::Nano);
    let b = override_with(&a, &["phase5.steps=1".into(), "run.seed=1".into()]).unwrap();
    assert_eq!(changed_sections(&a, &b).unwrap(), ["phase5", "run"]);
    assert!(changed_sections(&a, &a).unwrap().is_empty());
}

#[test]
fn distance_counts_edits() {
    for (a, b, edits) in [("", "", 0), ("steps", "stepz", 1), ("steps", "step", 1), ("kitten", "sitting", 3)]
    {
        assert_eq!(distance(a, b), edits);
        assert_eq!(distance(b, a), edits);
    }
}

#[test]
fn optimisers_are_set_for_all_stages_and_single_settings_win() {
    let set = ["run.optimizer=muon_grokfast".to_owned(), "phase5.grokfast_lambda=0.5".to_owned()];
    let config = load(&Layers { set: &set, ..Layers::default() }).unwrap();
    assert_eq!((config.phase1.trunk.muon_lr, config.phase1.trunk.qk_clip), (config.phase1.trunk.lr, 30.0));
    assert_eq!((config.phase5.train.grokfast_lambda, config.phase7.train.grokfast_lambda), (0.5, 0.15));
    assert_eq!(load(&Layers::default()).unwrap().phase1.trunk.muon_lr, 0.0);
    let large = Layers { preset: Some(Preset::M25), ..Layers::default() };
    let config_large = load(&large).unwrap();
    assert_eq!(config_large.phase5.train.muon_lr, config_large.phase5.train.lr, "the default of 25m");
    let adamw = load(&Layers { set: &["run.optimizer=adamw".to_owned()], ..large }).unwrap();
    assert_eq!(adamw.phase5.train.muon_lr, 0.0);
    let wrong = ["run.optimizer=sgd".to_owned()];
    assert!(load(&Layers { set: &wrong, ..Layers::default() }).is_err());
    assert!(override_with(&config, &set[..1]).is_err(), "it would reach stages that are done");
    let bad = ["phase5.ema=0.99".to_owned()];
    assert!(override_with(&config, &bad).unwrap_err().hint().unwrap().contains("ema_ternary"));
}

#[test]
fn branches_and_lengths_are_settings() {
    let config = set(&[
        "phase1.branches.reasoning.halt_threshold=0.99",
        "phase1.branches.adaptive_computation.halt_margin=0.5",
        "phase1.length_curriculum=[{ until = 0.25, max_len = 32 }, { until = 0.5, max_len = 64 }]",
    ])
    .unwrap();
    assert_eq!(config.phase1.branches.reasoning.halt_threshold, 0.99);
    assert_eq!(config.phase1.branches.adaptive_computation.halt_margin, 0.5);
    let lengths: Vec<_> = config.phase1.length_curriculum.iter().map(|s| (s.until, s.max_len)).collect();
    assert_eq!(lengths, [(0.25, 32), (0.5, 64)]);
    assert_eq!(finish::<Config>(to_table(&config).unwrap()).unwrap(), config);
    for (bad, named) in [
        ("phase1.branches.reasoning.halt_threshold=1.5", "reasoning.halt_threshold"),
        ("phase1.branches.reasoning.halt_margin=-1", "reasoning.halt_margin"),
        ("phase1.branches.memory_integration.memory_shift=11", "memory_integration.memory_shift"),
        ("phase1.branches.reasoning.share=1.5", "reasoning.share"),
        ("phase1.length_curriculum=[{ until = 0.0, max_len = 32 }]", "length_curriculum"),
        ("phase1.length_curriculum=[{ until = 0.5, max_len = 1 }]", "length_curriculum"),
        (
            "phase1.length_curriculum=[{ until = 0.5, max_len = 32 }, { until = 0.6, max_len = 16 }]",
            "length_curriculum",
        ),
    ] {
        let (what, _) = complaint(set(&[bad]));
        assert!(what.contains(named), "{bad}: {what}");
    }
}

/// What a session wrote before phase 1 had these settings means what it meant then.
#[test]
fn configurations_without_branches_and_lengths_still_load() {
    let mut table = to_table(&Config::preset(Preset::Nano)).unwrap();
    let phase1 = table["phase1"].as_table_mut().unwrap();
    assert!(phase1.remove("branches").is_some() && phase1.remove("length_curriculum").is_some());
    let config = finish::<Config>(table).unwrap().phase1;
    assert_eq!((config.branches, config.length_curriculum), (Default::default(), Vec::new()));
    let plain = crate::config::BranchConfig::default();
    assert_eq!((plain.threshold(0.9), plain.margin(0.005)), (0.9, 0.005));
    assert_eq!(
        plain.shares(crate::engine::mixture::Domain::Memory).map(|s| (s * 100.0).round()),
        [5.0, 90.0, 5.0]
    );
}

#[test]
fn global_positions_are_off_until_they_are_asked_for_and_then_reach_as_far_as_sequences() {
    for preset in [Preset::Nano, Preset::Tiny, Preset::M25] {
        assert_eq!(Config::preset(preset).model_config(300).globals, Globals::default());
    }
    let config = set(&["model.global_every=16", "model.window=40"]).unwrap();
    let globals = config.model_config(300).globals;
    assert_eq!(globals, Globals { every: 16, rows: (config.data.max_len as u32 - 40).div_ceil(16) });
    config.model_config(300).validate().unwrap();
    for bad in ["1", "257", "4294967295"] {
        let (what, hint) = complaint(set(&[&format!("model.global_every={bad}")]));
        assert!(what.contains("model.global_every") && what.contains(bad) && hint.contains("16"), "{what}");
        let recipe = Recipe::load("char-cpu", &[format!("model.global_every={bad}")]);
        assert!(recipe.unwrap_err().to_string().contains("model.global_every"));
    }
    let recipe = Recipe::load("char-cpu", &["model.global_every=4".into(), "model.window=8".into()]).unwrap();
    let rows = (recipe.data.block as u32 - 8).div_ceil(4);
    assert_eq!(recipe.model_config(90).globals, Globals { every: 4, rows });
    // What a session wrote before there were any.
    let mut table = to_table(&Config::preset(Preset::Nano)).unwrap();
    assert!(table["model"].as_table_mut().unwrap().remove("global_every").is_some());
    assert_eq!(finish::<Config>(table).unwrap().model.global_every, 0);
}

#[test]
fn a_search_that_cannot_work_is_refused_before_anything_runs() {
    let crowd = ["phase2.search.elite=4", "phase2.search.mutants=3", "phase2.search.groups=4"];
    assert_eq!(set(&crowd).unwrap().phase2.search.population(), 20);
    let refused = set(&["phase2.search.elite=6", "phase2.search.mutants=3"]).unwrap_err();
    assert!(refused.to_string().contains("at most 20"), "{refused}");
    let (what, _) = complaint(set(&["phase2.accuracy_weight=-0.5"]));
    assert!(what.contains("phase2.accuracy_weight"), "{what}");
    let cmaes = set(&["phase2.search.strategy=cmaes"]).unwrap();
    assert_eq!(cmaes.phase2.search.strategy, crate::phases::evomerge::Strategy::Cmaes);
}

#[test]
fn thoughts_that_cannot_be_learned_are_refused_before_anything_runs() {
    assert_eq!(set(&["phase3.shares=[1, 0, 0]"]).unwrap().phase3.shares, [1.0, 0.0, 0.0]);
    for (bad, named) in [
        ("phase3.shares=[0, 0, 0]", "phase3.shares"),
        ("phase3.shares=[1, -0.1, 0]", "phase3.shares"),
        ("phase3.prompts=0", "phase3.prompts"),
        ("phase3.thoughts=0", "phase3.thoughts"),
        ("phase3.temperature=0", "phase3.temperature"),
        ("phase3.kl=-1", "phase3.kl"),
    ] {
        let (what, _) = complaint(set(&[bad]));
        assert!(what.contains(named), "{bad}: {what}");
    }
}
