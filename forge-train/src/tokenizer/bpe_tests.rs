use std::collections::BTreeMap;

use forge_formats::pretokens;
use proptest::prelude::*;
use tokenizers::Model;

use super::*;
use crate::config::TokenizerConfig;
use crate::tokenizer::{Tokenizer, controls};

/// The definition, written plainly: recount every pair before each merge, stop before a token that is there already.
fn naive(texts: &[&str], specials: u16, wanted: usize) -> Vec<Pair> {
    let mut words: Vec<Vec<u16>> = texts
        .iter()
        .flat_map(|t| pretokens(t.as_bytes()))
        .map(|w| w.iter().map(|b| specials + u16::from(*b)).collect())
        .collect();
    let mut lengths = vec![1; 256];
    let mut merges = Vec::new();
    while merges.len() < wanted {
        let mut counts: BTreeMap<Pair, u64> = BTreeMap::new();
        words.iter().flat_map(|w| w.windows(2)).for_each(|w| *counts.entry((w[0], w[1])).or_default() += 1);
        let length = |(l, r): &Pair| lengths[usize::from(l - specials)] + lengths[usize::from(r - specials)];
        let best = counts
            .iter()
            .filter(|(pair, count)| **count >= 2 && length(pair) <= MAX_MERGED_BYTES)
            .max_by_key(|(pair, count)| (**count, std::cmp::Reverse(**pair)));
        let Some((pair, _)) = best else { break };
        let id = specials + lengths.len() as u16;
        words.iter_mut().for_each(|w| *w = replace(w, *pair, id));
        lengths.push(length(pair));
        merges.push(*pair);
    }
    merges
}

fn replace(tokens: &[u16], pair: Pair, id: u16) -> Vec<u16> {
    let mut out: Vec<u16> = Vec::new();
    let mut open = None;
    for token in tokens {
        match open.take() {
            Some(left) if (left, *token) == pair => out.push(id),
            left => {
                out.extend(left);
                open = Some(*token);
            }
        }
    }
    out.extend(open);
    out
}

fn noise(seed: u64) -> String {
    let mut rng = crate::rng::Rng::new(seed, &["bpe"]);
    (0..400).map(|_| *rng.pick(&['a', 'b', 'c', ' ', 'é', '1', '.'])).collect()
}

#[test]
fn merges_equal_those_of_a_plain_trainer() {
    let prose = "the cat sat on the mat, the cats sat on the mats; cabbage bandana";
    for texts in [vec![prose], vec![prose, "the other cat"], vec![""]] {
        assert_eq!(train(texts.iter(), 9, 60).unwrap(), naive(&texts, 9, 60), "{texts:?}");
    }
}

#[test]
fn the_order_of_texts_does_not_matter_but_their_content_does() {
    let (a, b) = (noise(1), noise(2));
    let train = |texts: &[&String]| train(texts.iter(), 3, 80).unwrap();
    assert_eq!(train(&[&a, &b]), train(&[&b, &a]));
    assert_ne!(train(&[&a]), train(&[&b]));
}

#[test]
fn tokens_stay_short() {
    let text = "abcdefghijklmnopqrstuvwxyz ".repeat(50);
    let merges = train([&text].into_iter(), 0, 500).unwrap();
    let mut lengths = vec![1; 256];
    for (l, r) in &merges {
        lengths.push(lengths[usize::from(*l)] + lengths[usize::from(*r)]);
    }
    assert_eq!(lengths.iter().max(), Some(&MAX_MERGED_BYTES));
}

#[test]
fn rare_pairs_are_not_merged() {
    assert!(train(["abc def"].into_iter(), 0, 10).unwrap().is_empty());
}

/// The crate's model of a table's merges.
fn model(tokenizer: &Tokenizer) -> BPE {
    let specials = controls().len();
    let mut tokens: Vec<String> = (0..=255).map(|byte| character(byte).to_string()).collect();
    let mut merges = Vec::new();
    for (l, r) in &tokenizer.spec().merges {
        let pair = [l, r].map(|id| tokens[usize::from(*id) - specials].clone());
        tokens.push(pair.concat());
        let [l, r] = pair;
        merges.push((l, r));
    }
    let vocab: std::collections::HashMap<String, u32> = tokens.into_iter().zip(specials as u32..).collect();
    BPE::builder()
        .vocab_and_merges(vocab.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
        .build()
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_runtime_and_the_crate_encode_alike(
        learnt in "[a-d é“1. \n]{0,300}",
        text in prop_oneof!["[a-d é“1. \n]{0,80}", ".{0,80}"],
    ) {
        let tokenizer = Tokenizer::train([&learnt].into_iter(), controls(), &TokenizerConfig::bpe(340)).unwrap();
        let model = model(&tokenizer);
        let crates: Vec<u16> = pretokens(text.as_bytes())
            .flat_map(|piece| model.tokenize(&characters(piece)).unwrap())
            .map(|token| token.id as u16)
            .collect();
        prop_assert_eq!(tokenizer.encode(&text), crates);
    }
}
