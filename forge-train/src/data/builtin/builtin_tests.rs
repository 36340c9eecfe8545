use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::data::{Completion, Examples, Slice};

fn small() -> Dataset {
    generate(7, &Sizes { train: 2000, eval: 100 })
}

/// Every `(slot, value)` of the calls of a split.
fn values_of(examples: &Examples) -> BTreeSet<(String, String)> {
    let args = |e: &Example| match &e.completion {
        Completion::Tool { args, .. } => args.clone(),
        _ => Vec::new(),
    };
    examples.iter().flat_map(|e| args(&e)).collect()
}

#[test]
fn the_same_seed_gives_the_same_data_and_another_seed_other_data() {
    assert_eq!(small(), small());
    assert_ne!(small().train, generate(8, &Sizes { train: 2000, eval: 100 }).train);
}

#[test]
fn larger_sizes_keep_what_smaller_ones_had() {
    let (small, large) = (small(), generate(7, &Sizes { train: 3000, eval: 100 }));
    let calls = |d: &Dataset| d.tool_examples(Split::Train, System::With);
    assert_eq!(calls(&small), calls(&large)[..calls(&small).len()]);
}

#[test]
fn splits_share_no_value_and_no_prompt() {
    let data = small();
    let [train, valid, test] = [&data.train, &data.valid, &data.test].map(values_of);
    assert!(train.is_disjoint(&valid) && train.is_disjoint(&test) && valid.is_disjoint(&test));
    let leaking: BTreeSet<_> = train.iter().take(1).chain(&test).cloned().collect();
    assert!(!train.is_disjoint(&leaking), "a leaked value would be found");
    let prompts = |examples: &Examples| -> BTreeSet<String> {
        examples.iter().filter(|e| !e.prompt.is_empty()).map(|e| e.prompt.clone()).collect()
    };
    let [train, valid, test] = [&data.train, &data.valid, &data.test].map(prompts);
    assert!(train.is_disjoint(&valid) && train.is_disjoint(&test) && valid.is_disjoint(&test));
}

#[test]
fn splits_are_disjoint_across_seeds() {
    let (a, b) = (small(), generate(99, &Sizes { train: 2000, eval: 100 }));
    assert!(values_of(&a.train).is_disjoint(&values_of(&b.test)));
    assert!(values_of(&b.train).is_disjoint(&values_of(&a.test)));
}

#[test]
fn training_has_many_values_to_copy() {
    let values = values_of(&generate(7, &Sizes::default()).train);
    let mut of_slot: BTreeMap<&str, usize> = BTreeMap::new();
    values.iter().for_each(|(slot, _)| *of_slot.entry(slot).or_default() += 1);
    for slot in ["contact", "task", "city", "artist", "item", "label", "day", "room", "text"] {
        assert!(of_slot[slot] >= 180, "{slot}: {}", of_slot[slot]);
    }
    assert!(values.len() > 3000, "{}", values.len());
}

#[test]
fn shares_are_as_stated() {
    let data = generate(1, &Sizes { train: 400, eval: 100 });
    let count = |split, system| data.tool_examples(split, system).len();
    assert_eq!(count(Split::Train, System::With), 300);
    assert_eq!(count(Split::Train, System::Without), 100);
    assert_eq!(count(Split::Test, System::With), 100);
    assert_eq!(data.persona_examples(Split::Train, System::With).len(), 200);
    assert_eq!(data.persona_examples(Split::Valid, System::Without).len(), 50);
    assert_eq!(data.slice(Split::Train, Slice::Prose).len(), 100);
    assert_eq!(data.arithmetic_examples(Split::Train, None).len(), 400);
    assert_eq!(data.arithmetic_examples(Split::Train, Some(3)).len(), 40);
    assert_eq!(data.tools.len(), 10);
}

#[test]
fn every_level_can_be_assessed() {
    let data = generate(3, &Sizes::default());
    for level in 1..=LEVELS {
        let n = data.arithmetic_examples(Split::Valid, Some(level)).len();
        assert!(n >= 15, "level {level}: {n}");
    }
}

#[test]
fn the_schemas_cover_every_call() {
    let data = small();
    for (tool, args) in data.train.iter().filter_map(|e| match e.into_owned().completion {
        Completion::Tool { tool, args } => Some((tool, args)),
        _ => None,
    }) {
        let schema = data.tools.iter().find(|t| t.name == tool).expect("a known tool");
        assert!(args.iter().all(|(slot, _)| schema.slot(slot).is_some()));
    }
}
