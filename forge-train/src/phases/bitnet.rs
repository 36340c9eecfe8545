//! Phase 4, BitNet b1.58 (Ma et al. 2024, arXiv 2402.17764): ternary projections, everything else preserved by
//! role, packed and measured as a file. The latent weights are handed on untouched for phase 5.

use std::collections::BTreeMap;

use forge_formats::codec::encode::ternary_row;
use forge_formats::file::File;
use forge_formats::role::{Role, RoleKind};

use crate::data::{Sequence, encode};
use crate::engine::emit::ternary_f16;
use crate::error::Result;
use crate::nn::Precision;
use crate::phases::calibration::input_moments;
use crate::phases::common::{self, Prompting};
use crate::pipeline::{ArtifactKind, Gate, Phase, PhaseContext, PhaseId, PhaseOutput};
use crate::weights::{Key, Matrix, Weights};

/// The phase.
pub struct BitNet;

impl Phase for BitNet {
    fn id(&self) -> PhaseId {
        PhaseId::BitNet
    }

    fn run(&self, ctx: &PhaseContext<'_>) -> Result<PhaseOutput> {
        let latent = common::latent(ctx, PhaseId::BitNet)?;
        let emitted = common::emit_measured(ctx, PhaseId::BitNet, &latent, &ternary_f16, Prompting::With)?;
        let first = &ctx.inputs[&PhaseId::Cognate];
        let fp32 = first.artifact("model").map_or(0, |a| a.bytes);
        let ratio = fp32 as f64 / emitted.bytes.len() as f64;
        let specials = special_rows_identical(&latent, &emitted.bytes)?;
        let zeros = zero_share(&latent);
        let sequences = calibration_sequences(ctx);
        let calibration = input_moments(ctx, &latent, Precision::FLOAT, &sequences)?;
        let before =
            ctx.inputs[&PhaseId::QuietStar].metrics.get("bits_per_byte").copied().unwrap_or(f64::NAN);
        let mut metrics = common::metrics(&latent, &emitted);
        metrics.insert("compression_ratio".into(), ratio);
        metrics.insert("zero_share".into(), zeros);
        metrics.insert("accuracy_retention".into(), before / emitted.report.bits_per_byte);
        metrics.insert("special_rows_identical".into(), f64::from(u8::from(specials)));
        let cfg = &ctx.config.phase4;
        let artifacts = vec![
            ("model".into(), emitted.artifact),
            ("latent".into(), ctx.store.put_weights(&latent)?),
            (
                "calibration".into(),
                ctx.store.put_bytes(ArtifactKind::Calibration, &calibration_json(&calibration))?,
            ),
        ];
        Ok(PhaseOutput {
            artifacts,
            metrics,
            summary: format!("ternary, {:.0} % zeros; tables kept in f16", 100.0 * zeros),
            gate: Gate {
                passed: ratio >= cfg.min_ratio && emitted.bytes.len() as u64 <= cfg.max_bytes && specials,
                rule: format!("≥ {}× smaller than the FP32 file, special rows bit-identical", cfg.min_ratio),
                measured: format!(
                    "{ratio:.2}×, special rows {}",
                    if specials { "identical" } else { "differ" }
                ),
                fallback: None,
            },
        })
    }
}

/// Whether the embedding rows of all special tokens survive in the file to the bit.
///
/// # Errors
/// If `bytes` is not a valid file.
pub fn special_rows_identical(weights: &Weights, bytes: &[u8]) -> Result<bool> {
    let file = File::parse(bytes)?;
    let specials = file.tokenizer().specials().count();
    let master = weights.get(Role::Embedding, 0);
    let Some(stored) = file.tensor(Role::Embedding, 0) else {
        return Ok(false);
    };
    let mut row = vec![0.0; master.cols];
    Ok((0..specials).all(|r| {
        stored.decode_row(r, &mut row);
        row.iter().zip(master.row(r)).all(|(a, b)| a.to_bits() == b.to_bits())
    }))
}

/// Share of zero trits over all projections.
fn zero_share(weights: &Weights) -> f64 {
    let (mut zeros, mut total) = (0usize, 0usize);
    for ((role, _), m) in &weights.tensors {
        if role.kind() == RoleKind::Projection {
            let mut trits = vec![0i8; m.cols];
            for r in 0..m.rows {
                ternary_row(m.row(r), &mut trits);
                zeros += trits.iter().filter(|t| **t == 0).count();
                total += m.cols;
            }
        }
    }
    zeros as f64 / total.max(1) as f64
}

/// The moments as JSON: `{"qkv.0": [...], ...}`.
fn calibration_json(moments: &BTreeMap<Key, Matrix>) -> Vec<u8> {
    let named: BTreeMap<String, &[f32]> =
        moments.iter().map(|((role, l), m)| (format!("{}.{l}", role.name()), m.data.as_slice())).collect();
    serde_json::to_vec(&named).expect("finite numbers are JSON")
}

/// Training sequences that activations are observed on.
fn calibration_sequences(ctx: &PhaseContext<'_>) -> Vec<Sequence> {
    let examples = ctx.data.dataset.train.iter().take(ctx.config.phase4.calibration_examples);
    examples.map(|e| encode::encode(&ctx.data.tokenizer, &e, 1.0)).collect()
}
