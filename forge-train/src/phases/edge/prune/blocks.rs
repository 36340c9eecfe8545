//! Removal of whole blocks.

use forge_formats::config::ModelConfig;

use super::rebuild;
use crate::error::{Error, Result};
use crate::weights::Weights;

/// Keeps the blocks `keep`, in rising order, with their memories.
///
/// # Errors
/// When no block is left, or one does not exist or is out of order.
pub fn keep_blocks(w: &Weights, keep: &[u32]) -> Result<Weights> {
    let rising = keep.windows(2).all(|k| k[0] < k[1]);
    if !rising || keep.last().is_none_or(|&last| last >= w.config.layers) {
        return Err(Error::Config(format!(
            "of {} blocks, some must be kept, in rising order",
            w.config.layers
        )));
    }
    let memory = |(new, &old): (usize, &u32)| u64::from(w.config.has_memory(old)) << new;
    let mem_layers = keep.iter().enumerate().map(memory).sum();
    let config = ModelConfig { layers: keep.len() as u32, mem_layers, ..w.config.clone() };
    rebuild(config, |role, layer| {
        let source = if role.per_layer() { keep[layer as usize] } else { 0 };
        w.get(role, source).clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phases::edge::prune::reference::{Mask, logits, model, worst_difference};
    use forge_formats::role::Role;

    const TOKENS: [usize; 5] = [3, 1, 4, 1, 5];

    #[test]
    fn a_block_that_adds_nothing_can_go() {
        let mut w = model(1);
        for role in [Role::AttnOut, Role::Down] {
            w.tensors.get_mut(&(role, 1)).unwrap().data.fill(0.0);
        }
        let pruned = keep_blocks(&w, &[0, 2]).unwrap();
        let whole = logits(&w, &TOKENS, &Mask::default());
        assert_eq!(logits(&pruned, &TOKENS, &Mask::default()), whole);
        assert_eq!((pruned.config.layers, pruned.config.mem_layers), (2, 0b11));
        let wrong = keep_blocks(&w, &[0, 1]).unwrap();
        assert_eq!(wrong.config.mem_layers, 0b01);
        assert!(worst_difference(&logits(&wrong, &TOKENS, &Mask::default()), &whole) > 1e-2);
        let block: usize =
            w.tensors.iter().filter(|((r, l), _)| r.per_layer() && *l == 1).map(|(_, m)| m.data.len()).sum();
        assert_eq!(w.parameters() - pruned.parameters(), block);
    }

    #[test]
    fn choices_that_do_not_fit_are_refused() {
        let w = model(1);
        assert!(keep_blocks(&w, &[]).is_err());
        assert!(keep_blocks(&w, &[1, 0]).is_err());
        assert!(keep_blocks(&w, &[0, 3]).is_err());
        assert_eq!(keep_blocks(&w, &[0, 1, 2]).unwrap(), w);
    }
}
