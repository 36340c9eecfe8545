//! Removal of hidden channels: of the feed-forward network, the memory, and the memory's gate.

use forge_formats::config::{MemoryKind, ModelConfig};
use forge_formats::role::Role;

use super::{both_halves, check_choice, columns, compensation, rebuild, rows};
use crate::error::Result;
use crate::weights::Weights;

/// Keeps the feed-forward channels `keep[block]`, rising: rows of the gate and of the up half of `GateUp`,
/// columns of `Down`.
///
/// # Errors
/// When the choice does not fit the model, or differs in number between blocks.
pub fn keep_ffn(w: &Weights, keep: &[Vec<usize>]) -> Result<Weights> {
    let before = w.config.ffn;
    let ffn = check_choice(keep, &w.config, before, |_| true)?;
    let scale = compensation(before as usize, ffn as usize);
    rebuild(ModelConfig { ffn, ..w.config.clone() }, |role, layer| {
        let m = w.get(role, layer);
        let chosen = || &keep[layer as usize];
        match role {
            Role::GateUp => rows(m, &both_halves(chosen(), before as usize)),
            Role::Down => columns(m, chosen(), scale),
            _ => m.clone(),
        }
    })
}

/// Keeps the memory channels `keep[block]`, rising, none for a block without memory: rows of every part of
/// `MemIn` but the gates of a matrix, entries of `MemBias` where there is one a channel, columns of `MemOut`.
///
/// # Errors
/// As [`keep_ffn`].
pub fn keep_memory(w: &Weights, keep: &[Vec<usize>]) -> Result<Weights> {
    let before = w.config.mem_dim;
    let titans = w.config.memory == MemoryKind::Titans;
    let mem_dim = check_choice(keep, &w.config, before, |l| w.config.has_memory(l))?;
    let scale = compensation(before as usize, mem_dim as usize);
    rebuild(ModelConfig { mem_dim, ..w.config.clone() }, |role, layer| {
        let m = w.get(role, layer);
        let chosen = || &keep[layer as usize];
        match role {
            Role::MemIn if titans => {
                let part = |i: usize| chosen().iter().map(move |c| c + i * before as usize);
                rows(
                    m,
                    &part(0)
                        .chain(part(1))
                        .chain(part(2))
                        .chain(3 * before as usize..m.rows)
                        .collect::<Vec<_>>(),
                )
            }
            Role::MemIn => rows(m, &both_halves(chosen(), before as usize)),
            Role::MemBias if titans => m.clone(),
            Role::MemBias => columns(m, chosen(), 1.0),
            Role::MemOut => columns(m, chosen(), scale),
            _ => m.clone(),
        }
    })
}

/// Keeps the memory gate's hidden channels `keep[block]`, rising, none for a block without memory: rows of
/// `MemGate1`, columns of `MemGate2`.
///
/// # Errors
/// As [`keep_ffn`].
pub fn keep_gate(w: &Weights, keep: &[Vec<usize>]) -> Result<Weights> {
    let before = w.config.mem_gate;
    let mem_gate = check_choice(keep, &w.config, before, |l| w.config.has_memory(l))?;
    let scale = compensation(before as usize, mem_gate as usize);
    rebuild(ModelConfig { mem_gate, ..w.config.clone() }, |role, layer| {
        let m = w.get(role, layer);
        match role {
            Role::MemGate1 => rows(m, &keep[layer as usize]),
            Role::MemGate2 => columns(m, &keep[layer as usize], scale),
            _ => m.clone(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phases::edge::prune::reference::{Mask, config, logits, model, worst_difference};

    const TOKENS: [usize; 7] = [3, 1, 4, 1, 5, 9, 2];

    fn everything(width: u32) -> Vec<usize> {
        (0..width as usize).collect()
    }

    #[test]
    fn removing_ffn_channels_is_masking_them() {
        let w = model(1);
        let keep = vec![vec![0, 3, 4, 11, 20], vec![1, 2, 5, 8, 13], vec![0, 1, 2, 3, 23]];
        let pruned = keep_ffn(&w, &keep).unwrap();
        let masked = logits(&w, &TOKENS, &Mask { ffn: Some(keep), ..Mask::default() });
        let whole = logits(&w, &TOKENS, &Mask::default());
        let got = logits(&pruned, &TOKENS, &Mask::default());
        assert!(worst_difference(&got, &masked) < 1e-4, "{}", worst_difference(&got, &masked));
        assert!(worst_difference(&got, &whole) > 1e-2, "the mask must matter");
        // Three blocks lose 19 channels of 2 rows and 1 column of `dim` each.
        assert_eq!(w.parameters() - pruned.parameters(), 3 * 19 * 3 * w.config.dim as usize);
        assert_eq!(pruned.parameters() as u64, pruned.config.parameters());
    }

    #[test]
    fn removing_zero_channels_preserves_the_function_only_with_compensation() {
        let mut w = model(2);
        let ffn = w.config.ffn as usize;
        for layer in 0..3 {
            let up = w.tensors.get_mut(&(Role::GateUp, layer)).unwrap();
            (10..ffn).for_each(|c| up.row_mut(ffn + c).fill(0.0));
        }
        let keep = vec![(0..10).collect::<Vec<_>>(); 3];
        let whole = logits(&w, &TOKENS, &Mask::default());
        let mut pruned = keep_ffn(&w, &keep).unwrap();
        assert!(worst_difference(&logits(&pruned, &TOKENS, &Mask::default()), &whole) < 1e-4);
        let undo = (10.0 / ffn as f32).sqrt();
        for layer in 0..3 {
            pruned.tensors.get_mut(&(Role::Down, layer)).unwrap().data.iter_mut().for_each(|v| *v *= undo);
        }
        assert!(worst_difference(&logits(&pruned, &TOKENS, &Mask::default()), &whole) > 1e-2);
    }

    #[test]
    fn removing_memory_channels_is_masking_them() {
        let w = model(3);
        let keep = vec![vec![0, 2, 7], vec![], vec![1, 2, 3]];
        let pruned = keep_memory(&w, &keep).unwrap();
        let masked = logits(&w, &TOKENS, &Mask { memory: Some(keep), ..Mask::default() });
        let got = logits(&pruned, &TOKENS, &Mask::default());
        assert!(worst_difference(&got, &masked) < 1e-4, "{}", worst_difference(&got, &masked));
        assert!(worst_difference(&got, &logits(&w, &TOKENS, &Mask::default())) > 1e-3);
        let per_channel = 2 * w.config.dim + 1 + w.config.attn_dim();
        assert_eq!(w.parameters() - pruned.parameters(), 2 * 5 * per_channel as usize);
    }

    #[test]
    fn removing_gate_channels_is_masking_them() {
        let w = model(4);
        let keep = vec![vec![0, 1], vec![], vec![2, 3]];
        let pruned = keep_gate(&w, &keep).unwrap();
        let masked = logits(&w, &TOKENS, &Mask { gate: Some(keep), ..Mask::default() });
        let got = logits(&pruned, &TOKENS, &Mask::default());
        assert!(worst_difference(&got, &masked) < 1e-4, "{}", worst_difference(&got, &masked));
        assert!(worst_difference(&got, &logits(&w, &TOKENS, &Mask::default())) > 1e-4);
        assert_eq!(w.parameters() - pruned.parameters(), 2 * 2 * 3 * w.config.attn_dim() as usize);
    }

    #[test]
    fn keeping_everything_changes_nothing() {
        let w = model(5);
        let c = config();
        let mem = |width| (0..3).map(|l| if c.has_memory(l) { everything(width) } else { vec![] }).collect();
        let memory: Vec<Vec<usize>> = mem(c.mem_dim);
        let gate: Vec<Vec<usize>> = mem(c.mem_gate);
        assert_eq!(keep_ffn(&w, &vec![everything(c.ffn); 3]).unwrap(), w);
        assert_eq!(keep_memory(&w, &memory).unwrap(), w);
        assert_eq!(keep_gate(&w, &gate).unwrap(), w);
    }

    #[test]
    fn choices_that_do_not_fit_are_refused() {
        let w = model(6);
        assert!(keep_ffn(&w, &[vec![0], vec![0]]).is_err(), "a block too few");
        assert!(keep_ffn(&w, &[vec![0], vec![0, 1], vec![0]]).is_err(), "uneven");
        assert!(keep_ffn(&w, &[vec![1, 0], vec![0, 1], vec![0, 1]]).is_err(), "falling");
        assert!(keep_ffn(&w, &[vec![24], vec![0], vec![0]]).is_err(), "outside");
        assert!(keep_ffn(&w, &[vec![], vec![], vec![]]).is_err(), "none left");
        assert!(keep_memory(&w, &[vec![0], vec![0], vec![0]]).is_err(), "block 1 has no memory");
    }
}
