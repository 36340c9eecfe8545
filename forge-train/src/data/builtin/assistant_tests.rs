use std::collections::BTreeSet;

use super::*;

/// Every prompt pattern of a split, with slots left as `{slot}` and all alternatives spelt out.
fn patterns(split: Split) -> BTreeSet<String> {
    PARSED
        .iter()
        .flat_map(|tool| tool.prompts[split.index()].iter().flat_map(|p| p.template.patterns()))
        .collect()
}

#[test]
fn every_tool_has_enough_phrasings() {
    for tool in PARSED.iter() {
        let [train, valid, test] = &tool.prompts;
        assert!(train.len() >= 12, "{}: {} training phrasings", tool.source.tool, train.len());
        assert!(valid.len() >= 3 && test.len() >= 3, "{}", tool.source.tool);
    }
}

#[test]
fn no_expansion_of_a_template_is_in_two_splits() {
    let [train, valid, test] = Split::ALL.map(patterns);
    assert!(train.is_disjoint(&valid), "{:?}", train.intersection(&valid).collect::<Vec<_>>());
    assert!(train.is_disjoint(&test), "{:?}", train.intersection(&test).collect::<Vec<_>>());
    assert!(valid.is_disjoint(&test), "{:?}", valid.intersection(&test).collect::<Vec<_>>());
    // The check can fail: a training pattern smuggled into test is found.
    let mut leaking = test.clone();
    leaking.insert(train.first().unwrap().clone());
    assert!(!train.is_disjoint(&leaking));
}

#[test]
fn politeness_does_not_make_one_pattern_another() {
    let train = patterns(Split::Train);
    let dressed = |pattern: &String| {
        BEFORE.iter().flat_map(|b| AFTER.iter().map(move |a| format!("{b}{pattern}{a}"))).collect::<Vec<_>>()
    };
    let all: BTreeSet<String> = train.iter().flat_map(dressed).collect();
    for split in [Split::Valid, Split::Test] {
        let leaked: Vec<String> =
            patterns(split).iter().flat_map(dressed).filter(|p| all.contains(p)).collect();
        assert!(leaked.is_empty(), "{leaked:?}");
    }
}

#[test]
fn every_set_of_slots_has_a_reply() {
    for tool in PARSED.iter() {
        for split in Split::ALL {
            for pattern in tool.prompts[split.index()].iter().flat_map(|p| p.template.patterns()) {
                let used = |slot: &&&str| pattern.contains(&format!("{{{slot}}}"));
                let args: Vec<(&'static str, String)> =
                    tool.source.slots.iter().filter(used).map(|s| (*s, "x".to_string())).collect();
                assert!(!args.is_empty(), "{pattern}");
                assert!(reply(tool, &args).starts_with("okay, i will "), "{pattern}");
            }
        }
    }
}

#[test]
fn calls_copy_their_values_from_the_prompt() {
    for seed in 0..2000 {
        let example = example(Split::ALL[seed % 3], System::With, &mut Rng::new(seed as u64, &["t"]));
        let Completion::Tool { args, .. } = &example.completion else { panic!("a call") };
        for (_, value) in args {
            let prompt = example.prompt.to_ascii_lowercase();
            assert!(prompt.contains(value.as_str()), "{value} in {prompt}");
        }
    }
}

#[test]
fn the_demonstration_prompt_is_a_held_out_one() {
    let core = "dim the {room} lights to {level}";
    assert!(patterns(Split::Test).contains(core) && !patterns(Split::Train).contains(core));
}
