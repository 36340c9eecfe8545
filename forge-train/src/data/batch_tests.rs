use super::*;

/// Sequences whose second token names them.
fn sequences(n: usize) -> Arc<Vec<Sequence>> {
    let sequence = |i: usize| {
        let len = 3 + (i * 7919) % 50;
        let mut ids: Vec<u16> = (0..len as u16).map(|t| 5 + t).collect();
        ids[1] = 1000 + i as u16;
        let mut weights = vec![1.0; len];
        weights[0] = 0.0;
        Sequence { ids, weights }
    };
    Arc::new((0..n).map(sequence).collect())
}

fn batcher(seed: u64) -> Batcher {
    Batcher::new(sequences(1000), 512, 128, seed, "test")
}

fn names(batch: &Batch) -> Vec<u32> {
    (0..batch.rows).map(|r| batch.ids[r * batch.cols + 1]).collect()
}

#[test]
fn a_batch_is_a_pure_function_of_seed_label_and_step() {
    let (a, b) = (batcher(1), batcher(1));
    let steps = [0, 7, 500, 3, 7, 0, 499];
    let forward: Vec<Batch> = steps.iter().map(|s| a.batch(*s)).collect();
    let backward: Vec<Batch> = steps.iter().rev().map(|s| b.batch(*s)).collect();
    assert!(forward.iter().eq(backward.iter().rev()));
    assert_ne!(batcher(2).batch(0), a.batch(0));
    assert_ne!(Batcher::new(sequences(1000), 512, 128, 1, "other").batch(0), a.batch(0));
}

#[test]
fn an_epoch_has_every_sequence_exactly_once_and_epochs_differ() {
    let batcher = batcher(3);
    let steps = batcher.steps_per_epoch();
    let epoch =
        |e: u64| -> Vec<u32> { (0..steps).flat_map(|s| names(&batcher.batch(e * steps + s))).collect() };
    for e in 0..3 {
        let mut seen = epoch(e);
        seen.sort_unstable();
        assert_eq!(seen, (1000..2000).collect::<Vec<u32>>());
    }
    assert_ne!(epoch(0), epoch(1));
}

#[test]
fn batches_keep_to_their_size_and_pad_little() {
    let batcher = batcher(4);
    let (mut used, mut padded) = (0, 0);
    for step in 0..batcher.steps_per_epoch() {
        let batch = batcher.batch(step);
        assert!(batch.rows * batch.cols <= 512 && batch.cols.is_multiple_of(WIDTH));
        assert_eq!(batch.ids.len(), batch.rows * batch.cols);
        used += batch.weights.iter().filter(|w| **w > 0.0).count();
        padded += batch.weights.len();
    }
    assert!(used as f64 > 0.75 * padded as f64, "{used} of {padded} positions carry a target");
}

#[test]
fn targets_follow_inputs_and_padding_weighs_nothing() {
    let sequences = Arc::new(vec![
        Sequence { ids: vec![1, 9, 8], weights: vec![0.0, 0.1, 1.0] },
        Sequence { ids: vec![1, 7, 6, 5], weights: vec![0.0, 0.1, 1.0, 1.0] },
    ]);
    let batch = collate(&sequences.iter().collect::<Vec<_>>(), 0);
    assert_eq!((batch.rows, batch.cols), (2, 3));
    assert_eq!(batch.ids, [1, 9, 0, 1, 7, 6]);
    assert_eq!(batch.targets, [9, 8, 0, 7, 6, 5]);
    assert_eq!(batch.weights, [0.1, 1.0, 0.0, 0.1, 1.0, 1.0]);
}

#[test]
fn long_sequences_are_cut_and_empty_ones_left_out() {
    let sequence = |len: usize| Sequence { ids: vec![3; len], weights: vec![1.0; len] };
    let batcher = Batcher::new(Arc::new(vec![sequence(100), sequence(1), sequence(0)]), 64, 20, 1, "cut");
    assert_eq!(batcher.steps_per_epoch(), 1);
    let batch = batcher.batch(0);
    assert_eq!((batch.rows, batch.weights.iter().filter(|w| **w > 0.0).count()), (1, 19));
    assert_eq!(Batcher::new(Arc::new(Vec::new()), 64, 20, 1, "none").steps_per_epoch(), 0);
}

#[test]
fn the_last_bucket_is_cut_evenly() {
    let items: Vec<u32> = (0..10).collect();
    let parts: Vec<usize> = evenly(&items, 4).map(<[u32]>::len).collect();
    assert_eq!(parts, [3, 3, 4]);
    assert_eq!(evenly(&[], 4).count(), 0);
}

/// In shards, too, an epoch has every sequence once, in an order that an epoch and a seed choose.
#[test]
fn shards_of_many_sequences_have_each_once() {
    let sharded = |seed| Batcher::with_shards(sequences(1000), 150, [512, 128], seed, "shards");
    let (a, b) = (sharded(1), sharded(1));
    assert_eq!(a.batches.len(), 7);
    let steps = a.steps_per_epoch();
    let epoch = |e: u64| -> Vec<u32> { (0..steps).flat_map(|s| names(&a.batch(e * steps + s))).collect() };
    for e in 0..3 {
        let mut seen = epoch(e);
        seen.sort_unstable();
        assert_eq!(seen, (1000..2000).collect::<Vec<u32>>());
    }
    assert_ne!(epoch(0), epoch(1));
    assert!([steps + 3, 0, 7].iter().all(|s| a.batch(*s) == b.batch(*s)), "a pure function of the step");
    assert_ne!(sharded(2).batch(0), a.batch(0));
    let first: Vec<u32> = (0..steps / 7).flat_map(|s| names(&a.batch(s))).collect();
    let early = first.iter().filter(|name| **name < 1500).count();
    assert!((first.len() / 4..3 * first.len() / 4).contains(&early), "a shard is an even share: {early}");
}
