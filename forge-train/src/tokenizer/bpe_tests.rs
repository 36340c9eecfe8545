use super::*;

/// The same definition, written plainly: recount every pair before each merge.
fn naive(texts: &[&str], specials: u16, wanted: usize) -> Vec<Pair> {
    let mut words: Vec<Vec<u16>> = texts
        .iter()
        .flat_map(|t| pretokens(t.as_bytes()))
        .map(|w| w.iter().map(|b| specials + u16::from(*b)).collect())
        .collect();
    let mut bytes: Vec<Vec<u8>> = (0..=255u8).map(|b| vec![b]).collect();
    let mut merges = Vec::new();
    while merges.len() < wanted {
        let mut counts: BTreeMap<Pair, u64> = BTreeMap::new();
        words.iter().flat_map(|w| w.windows(2)).for_each(|w| *counts.entry((w[0], w[1])).or_default() += 1);
        let of = |id: u16| &bytes[usize::from(id - specials)];
        let fits = |(l, r): &Pair| of(*l).len() + of(*r).len() <= MAX_MERGED_BYTES;
        let best = counts
            .into_iter()
            .filter(|(pair, count)| *count >= 2 && fits(pair))
            .max_by_key(|(pair, count)| (*count, Reverse((of(pair.0), of(pair.1))), Reverse(*pair)));
        let Some((pair, _)) = best else { break };
        let id = specials + bytes.len() as u16;
        words.iter_mut().for_each(|w| *w = replace(w, pair, id));
        let merged = [of(pair.0).as_slice(), of(pair.1)].concat();
        bytes.push(merged);
        merges.push(pair);
    }
    merges
}

fn noise(seed: u64) -> String {
    let mut rng = crate::rng::Rng::new(seed, &["bpe"]);
    (0..400).map(|_| *rng.pick(&['a', 'b', 'c', ' ', 'é', '1', '.'])).collect()
}

#[test]
fn merges_equal_those_of_a_plain_trainer() {
    let prose = "the cat sat on the mat, the cats sat on the mats; banana bandana aaaa aaaaaaaa";
    for texts in [vec![prose], vec!["aaaaaaa aaa"], vec![prose, "the other cat"], vec![""]] {
        assert_eq!(train(texts.iter(), 9, 60), naive(&texts, 9, 60), "{texts:?}");
    }
    for seed in 0..20 {
        let text = noise(seed);
        assert_eq!(train([&text].into_iter(), 3, 80), naive(&[&text], 3, 80), "seed {seed}");
    }
}

#[test]
fn the_order_of_texts_does_not_matter_but_their_content_does() {
    let (a, b) = (noise(1), noise(2));
    assert_eq!(train([&a, &b].into_iter(), 3, 80), train([&b, &a].into_iter(), 3, 80));
    assert_ne!(train([&a].into_iter(), 3, 80), train([&b].into_iter(), 3, 80));
}

#[test]
fn tokens_stay_short() {
    let text = "abcdefghijklmnopqrstuvwxyz ".repeat(50);
    let merges = train([&text].into_iter(), 0, 500);
    let mut lengths = vec![1; 256];
    for (l, r) in &merges {
        lengths.push(lengths[usize::from(*l)] + lengths[usize::from(*r)]);
    }
    assert_eq!(lengths.iter().max(), Some(&MAX_MERGED_BYTES));
}

#[test]
fn rare_pairs_are_not_merged() {
    assert!(train(["abc def"].into_iter(), 0, 10).is_empty());
}
