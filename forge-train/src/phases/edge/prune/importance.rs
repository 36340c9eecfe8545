//! How much each channel matters, from weights and activations.

use forge_formats::config::ModelConfig;
use forge_formats::role::Role;

use crate::error::{Error, Result};
use crate::weights::Weights;

/// Root mean square of what enters the projections behind the prunable widths, over the tokens and recursions
/// of a calibration set: after the norm, one list of channels for each block.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Activations {
    /// Inputs of `Down`, `ffn` channels.
    pub ffn: Vec<Vec<f32>>,
    /// Inputs of `AttnOut`, `heads * head_dim` channels.
    pub attention: Vec<Vec<f32>>,
    /// Inputs of `MemOut`, `mem_dim` channels; empty for a block without memory.
    pub memory: Vec<Vec<f32>>,
    /// Inputs of `MemGate2`, `mem_gate` channels; empty for a block without memory.
    pub gate: Vec<Vec<f32>>,
    /// Influence of every block, 1 − cos of the angle between its input and output (Men et al. 2024).
    pub blocks: Vec<f32>,
}

impl Activations {
    /// The same for every channel and block: importance by weights alone.
    pub fn even(config: &ModelConfig) -> Self {
        let blocks = config.layers as usize;
        let all = |width: u32| vec![vec![1.0; width as usize]; blocks];
        let memory = |width: u32| {
            let width = |l: u32| if config.has_memory(l) { width as usize } else { 0 };
            (0..config.layers).map(|l| vec![1.0; width(l)]).collect()
        };
        Self {
            ffn: all(config.ffn),
            attention: all(config.attn_dim()),
            memory: memory(config.mem_dim),
            gate: memory(config.mem_gate),
            blocks: vec![1.0; blocks],
        }
    }
}

/// Importance of the input channels of projection `role`, in every block: `‖W[:, j]‖₂ · rms(x_j)`, the root
/// mean square of what channel `j` adds to the output. This is Wanda's `|w_ij| · ‖x_j‖` (Sun et al. 2024)
/// gathered over a column, as fits the removal of whole columns. Blocks that have no such projection get an
/// empty list.
///
/// # Errors
/// When `rms` does not have one number for every input channel of every block.
pub fn column_scores(w: &Weights, role: Role, rms: &[Vec<f32>]) -> Result<Vec<Vec<f32>>> {
    if rms.len() != w.config.layers as usize {
        return Err(Error::Config(format!("activations of {} blocks for {}", rms.len(), w.config.layers)));
    }
    rms.iter()
        .zip(0u32..)
        .map(|(rms, layer)| {
            let Some(m) = w.tensors.get(&(role, layer)) else {
                return Ok(Vec::new());
            };
            if m.cols != rms.len() {
                let (name, have) = (role.name(), rms.len());
                return Err(Error::Config(format!("{name} {layer} has {} inputs, not {have}", m.cols)));
            }
            let square = |c: usize| (0..m.rows).map(|r| f64::from(m.row(r)[c]).powi(2)).sum::<f64>();
            Ok(rms.iter().enumerate().map(|(c, &x)| (square(c).sqrt() * f64::from(x)) as f32).collect())
        })
        .collect()
}

/// Importance of query heads from that of their channels: the root of the sum of squares.
pub(super) fn head_scores(channels: &[Vec<f32>], head_dim: usize) -> Vec<Vec<f32>> {
    let head = |c: &[f32]| c.iter().map(|&s| f64::from(s).powi(2)).sum::<f64>().sqrt() as f32;
    channels.iter().map(|block| block.chunks(head_dim.max(1)).map(head).collect()).collect()
}

/// In every block the `count` channels of highest score, in rising order. Channels in `guard[block]` go
/// first; of equals the earlier. Blocks without scores keep none.
///
/// # Errors
/// When a block has fewer channels, or guards more, than `count`.
pub fn select(scores: &[Vec<f32>], guard: &[Vec<usize>], count: usize) -> Result<Vec<Vec<usize>>> {
    let block = |(layer, scores): (usize, &Vec<f32>)| {
        let guarded = guard.get(layer).map_or(&[][..], Vec::as_slice);
        if scores.is_empty() {
            return Ok(Vec::new());
        }
        if count > scores.len() || guarded.len() > count {
            let (have, bound) = (scores.len(), guarded.len());
            return Err(Error::Config(format!("block {layer}: {count} of {have} channels, {bound} guarded")));
        }
        let rank = |c: usize| if guarded.contains(&c) { f32::INFINITY } else { scores[c] };
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| rank(b).total_cmp(&rank(a)));
        order.truncate(count);
        order.sort_unstable();
        Ok(order)
    };
    scores.iter().enumerate().map(block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phases::edge::prune::reference::{config, model};

    #[test]
    fn scores_are_column_norms_times_activations() {
        let mut w = model(1);
        for layer in 0..3 {
            w.tensors.get_mut(&(Role::Down, layer)).unwrap().data.fill(0.5);
        }
        let mut rms = Activations::even(&config()).ffn;
        rms[1][7] = 3.0;
        let scores = column_scores(&w, Role::Down, &rms).unwrap();
        // 16 rows of 0.5: norm 2.
        assert_eq!((scores[0][7], scores[1][7], scores[1][8]), (2.0, 6.0, 2.0));
        assert_eq!(head_scores(&[vec![3.0, 4.0, 0.0, 1.0]], 2), [[5.0, 1.0]]);
        rms[0].pop();
        assert!(column_scores(&w, Role::Down, &rms).is_err());
        assert!(column_scores(&w, Role::Down, &rms[1..]).is_err());
        let memory = column_scores(&w, Role::MemOut, &Activations::even(&config()).memory).unwrap();
        assert_eq!(memory.iter().map(Vec::len).collect::<Vec<_>>(), [8, 0, 8]);
    }

    #[test]
    fn the_highest_scores_and_the_guarded_are_kept() {
        let scores = [vec![1.0, 3.0, 2.0, 3.0], vec![0.0, 0.0, 0.0, 9.0], vec![]];
        assert_eq!(select(&scores, &[], 2).unwrap(), [vec![1, 3], vec![0, 3], vec![]]);
        assert_eq!(select(&scores, &[vec![0]], 2).unwrap(), [vec![0, 1], vec![0, 3], vec![]]);
        assert!(select(&scores, &[], 5).is_err());
        assert!(select(&scores, &[vec![0, 1, 2]], 2).is_err());
    }
}
