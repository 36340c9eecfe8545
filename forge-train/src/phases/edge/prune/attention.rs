//! Removal of attention heads, together with the key/value heads they share.

use forge_formats::config::ModelConfig;
use forge_formats::role::Role;

use super::{both_halves, columns, compensation, rebuild, rows};
use crate::error::{Error, Result};
use crate::weights::{Matrix, Weights};

/// The query heads kept in one block: a list for each key/value head kept, in rising order. Query head `h`
/// reads key/value head `h / (heads / kv_heads)`.
pub type HeadGroups = Vec<Vec<usize>>;

/// Keeps the query heads `keep[block]` and the key/value heads they read: their rows of `Qkv` and columns of
/// `AttnOut`; in a block with memory also their channels of what the memory is read into and gated by (rows
/// of `MemOut` and `MemGate2`, columns of both halves of `MemGate1`).
///
/// # Errors
/// When a block keeps another number of groups or of heads a group than the others, or a head that does not
/// exist or belongs to another group.
pub fn keep_attention(w: &Weights, keep: &[HeadGroups]) -> Result<Weights> {
    let old = &w.config;
    let [groups, members] = check(keep, old)?;
    let (d, share) = (old.head_dim as usize, (old.heads / old.kv_heads) as usize);
    let config = ModelConfig { heads: (groups * members) as u32, kv_heads: groups as u32, ..old.clone() };
    let scale = compensation(old.attn_dim() as usize, config.attn_dim() as usize);
    let spread = |heads: &[usize]| -> Vec<usize> { heads.iter().flat_map(|h| h * d..(h + 1) * d).collect() };
    rebuild(config, |role, layer| {
        let m = w.get(role, layer);
        let queries = || spread(&keep[layer as usize].concat());
        match role {
            Role::Qkv => {
                let kv: Vec<usize> = keep[layer as usize].iter().map(|g| g[0] / share).collect();
                qkv_rows(m, old, &queries(), &spread(&kv))
            }
            Role::AttnOut => columns(m, &queries(), scale),
            Role::MemOut | Role::MemGate2 => rows(m, &queries()),
            Role::MemGate1 => columns(m, &both_halves(&queries(), old.attn_dim() as usize), scale),
            _ => m.clone(),
        }
    })
}

/// The rows of the fused projection for these channels of queries and of keys and values.
fn qkv_rows(m: &Matrix, old: &ModelConfig, queries: &[usize], kv: &[usize]) -> Matrix {
    let (keys, values) = (old.attn_dim() as usize, (old.attn_dim() + old.kv_dim()) as usize);
    let shifted = |by: usize| kv.iter().map(move |c| c + by);
    let chosen: Vec<usize> = queries.iter().copied().chain(shifted(keys)).chain(shifted(values)).collect();
    rows(m, &chosen)
}

/// Checks the choice and returns how many groups, and heads a group, every block keeps.
fn check(keep: &[HeadGroups], config: &ModelConfig) -> Result<[usize; 2]> {
    let share = (config.heads / config.kv_heads) as usize;
    let sizes = |block: &HeadGroups| [block.len(), block.first().map_or(0, Vec::len)];
    let first = keep.first().map_or([0, 0], sizes);
    let fail = |what: String| Err(Error::Config(what));
    if keep.len() != config.layers as usize || first.contains(&0) {
        return fail(format!("each of {} blocks must keep at least one head", config.layers));
    }
    for (layer, block) in keep.iter().enumerate() {
        if sizes(block) != first || block.iter().any(|g| g.len() != first[1]) {
            return fail(format!("block {layer}: every block must keep as many heads in as many groups"));
        }
        let heads = block.concat();
        let rising = heads.windows(2).all(|h| h[0] < h[1])
            && block.windows(2).all(|g| g[0][0] / share < g[1][0] / share);
        let home = block.iter().all(|g| g.iter().all(|h| h / share == g[0] / share));
        if !rising || !home || heads.last().is_some_and(|&h| h >= config.heads as usize) {
            return fail(format!("block {layer}: heads must exist, rise, and share their group's keys"));
        }
    }
    Ok(first)
}

/// The best heads: from `scores[block][query head]` (higher is more important), in every key/value group the
/// `members` best heads, and of the groups the `groups` whose chosen heads have the largest sum of squares. A
/// group that holds a head in `guard[block]` goes first, and so does that head in it. Of equals the earlier
/// stays.
///
/// # Errors
/// When there are not `heads` scores for every block, or more is asked for than there is.
pub fn select_heads(
    config: &ModelConfig,
    scores: &[Vec<f32>],
    guard: &[Vec<usize>],
    groups: usize,
    members: usize,
) -> Result<Vec<HeadGroups>> {
    let (kv, share) = (config.kv_heads as usize, (config.heads / config.kv_heads) as usize);
    let fits = scores.len() == config.layers as usize && scores.iter().all(|s| s.len() == kv * share);
    if !fits || !(1..=kv).contains(&groups) || !(1..=share).contains(&members) {
        return Err(Error::Config(format!(
            "cannot keep {groups} groups of {members} out of {kv} of {share} heads"
        )));
    }
    let block = |(layer, scores): (usize, &Vec<f32>)| {
        let guarded = |h: usize| guard.get(layer).is_some_and(|g| g.contains(&h));
        let rank = |h: usize| if guarded(h) { f64::INFINITY } else { f64::from(scores[h]) };
        let mut chosen: Vec<(f64, Vec<usize>)> = (0..kv)
            .map(|g| {
                let mut heads: Vec<usize> = (g * share..(g + 1) * share).collect();
                heads.sort_by(|&a, &b| rank(b).total_cmp(&rank(a)));
                heads.truncate(members);
                heads.sort_unstable();
                (heads.iter().map(|&h| rank(h) * rank(h)).sum(), heads)
            })
            .collect();
        chosen.sort_by(|a, b| b.0.total_cmp(&a.0));
        chosen.truncate(groups);
        chosen.sort_by(|a, b| a.1.cmp(&b.1));
        chosen.into_iter().map(|(_, heads)| heads).collect()
    };
    Ok(scores.iter().enumerate().map(block).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phases::edge::prune::reference::{Mask, config, logits, model, worst_difference};

    const TOKENS: [usize; 7] = [3, 1, 4, 1, 5, 9, 2];

    /// Pruning must equal masking the heads that go, and differ from the whole model.
    fn check_against_mask(keep: Vec<HeadGroups>) {
        let w = model(1);
        let pruned = keep_attention(&w, &keep).unwrap();
        let heads: Vec<Vec<usize>> = keep.iter().map(|b| b.concat()).collect();
        let kept = heads[0].len();
        let masked = logits(&w, &TOKENS, &Mask { heads: Some(heads), ..Mask::default() });
        let got = logits(&pruned, &TOKENS, &Mask::default());
        assert!(worst_difference(&got, &masked) < 1e-4, "{}", worst_difference(&got, &masked));
        assert!(worst_difference(&got, &logits(&w, &TOKENS, &Mask::default())) > 1e-2);
        let (c, d) = (&w.config, w.config.head_dim as usize);
        let (dim, gate, mem) = (c.dim as usize, c.mem_gate as usize, c.mem_dim as usize);
        let groups = c.kv_heads as usize - keep[0].len();
        let gone = (c.heads as usize - kept) * d;
        let attention = 3 * (gone * 2 * dim + groups * d * 2 * dim);
        let memory = 2 * gone * (mem + 2 * gate + gate);
        assert_eq!(w.parameters() - pruned.parameters(), attention + memory);
    }

    #[test]
    fn removing_groups_is_masking_their_heads() {
        check_against_mask(vec![vec![vec![2, 3]], vec![vec![0, 1]], vec![vec![2, 3]]]);
    }

    #[test]
    fn removing_query_heads_is_masking_them() {
        check_against_mask(vec![vec![vec![0], vec![3]], vec![vec![1], vec![2]], vec![vec![0], vec![2]]]);
    }

    #[test]
    fn removing_heads_within_one_group() {
        check_against_mask(vec![vec![vec![3]], vec![vec![0]], vec![vec![1]]]);
    }

    #[test]
    fn keeping_all_heads_changes_nothing() {
        let w = model(2);
        assert_eq!(keep_attention(&w, &vec![vec![vec![0, 1], vec![2, 3]]; 3]).unwrap(), w);
    }

    #[test]
    fn choices_that_do_not_fit_are_refused() {
        let w = model(2);
        let all = |block: HeadGroups| keep_attention(&w, &vec![block; 3]);
        assert!(all(vec![vec![0, 2]]).is_err(), "heads of two groups");
        assert!(all(vec![vec![2], vec![0]]).is_err(), "falling");
        assert!(all(vec![vec![0], vec![1]]).is_err(), "one group twice");
        assert!(all(vec![vec![4]]).is_err(), "no such head");
        assert!(all(vec![vec![0, 1], vec![2]]).is_err(), "uneven groups");
        assert!(all(vec![]).is_err(), "none left");
        assert!(keep_attention(&w, &vec![vec![vec![0]]; 2]).is_err(), "a block too few");
        let uneven = [vec![vec![0]], vec![vec![0], vec![2]], vec![vec![0]]];
        assert!(keep_attention(&w, &uneven).is_err(), "uneven blocks");
    }

    #[test]
    fn the_best_heads_are_kept_and_guarded_ones_first() {
        let scores = [vec![1.0, 5.0, 4.0, 4.0], vec![9.0, 0.0, 1.0, 2.0], vec![0.0, 1.0, 0.0, 2.0]];
        let best = select_heads(&config(), &scores, &[], 1, 2).unwrap();
        assert_eq!(best, [vec![vec![2, 3]], vec![vec![0, 1]], vec![vec![2, 3]]]);
        let single = select_heads(&config(), &scores, &[], 2, 1).unwrap();
        assert_eq!(single, [vec![vec![1], vec![2]], vec![vec![0], vec![3]], vec![vec![1], vec![3]]]);
        let guarded = select_heads(&config(), &scores, &[vec![0], vec![2]], 1, 1).unwrap();
        assert_eq!(guarded, [vec![vec![0]], vec![vec![2]], vec![vec![3]]]);
        assert!(select_heads(&config(), &scores, &[], 3, 1).is_err());
        assert!(select_heads(&config(), &scores[..2], &[], 1, 1).is_err());
    }
}
