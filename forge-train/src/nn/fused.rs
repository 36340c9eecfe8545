//! The larger operations of a network that [`Network::for_backward`] made: a whole block, and head with loss.

use std::sync::{Arc, Mutex};

use candle_core::Tensor;
use forge_formats::config::ModelConfig;
use forge_formats::role::Role;

use super::forward::{Layer, parameter};
use super::network::Network;
use super::ops::apply1;
use super::ops::attention::Attention;
use super::ops::block::{Block, Parameter, Projection};
use super::ops::dropout::Mask;
use super::ops::glu::Prologue;
use super::ops::head::HeadCrossEntropy;
use super::ops::loss::{CrossEntropy, Weighting};
use super::ops::sink::Sink;
use crate::error::Result;

/// A block without memory, from `u [b·t, dim]` to the same shape. Unless it is to `keep` what it computes, it computes
/// it again for its backward pass.
pub(super) fn block(
    config: &ModelConfig,
    sink: &Arc<Sink>,
    attention: &Attention,
    layer: &Layer,
    masks: Option<[Mask; 2]>,
    keep: bool,
    u: &Tensor,
) -> Result<Tensor> {
    let projection = |gain: &Option<Parameter>, matrix: &Parameter, prologue| Projection {
        gain: gain.clone(),
        matrix: matrix.clone(),
        prologue,
        eps: config.norm_eps,
    };
    let op = Block {
        qkv: projection(&layer.attn_norm, &layer.qkv, Prologue::Identity),
        attention: attention.clone(),
        attn_out: projection(&None, &layer.attn_out, Prologue::Identity),
        gate_up: projection(&layer.ffn_norm, &layer.gate_up, Prologue::Identity),
        down: projection(&None, &layer.down, Prologue::Gated(config.activation)),
        masks,
        sink: sink.clone(),
        keep,
        kept: Mutex::default(),
        #[cfg(feature = "cuda")]
        kept_on_device: Mutex::default(),
    };
    Ok(apply1(op, u)?)
}

/// Head and loss over `answer [n, dim]`; see [`Network::cross_entropy`].
pub(super) fn cross_entropy(
    net: &Network,
    sink: &Arc<Sink>,
    answer: &Tensor,
    targets: &[u32],
    weights: &[f32],
) -> Result<Tensor> {
    let role = if net.config().tied { Role::Embedding } else { Role::Head };
    let head = Projection {
        gain: Some(parameter(net, Role::FinalNorm, 0)?),
        matrix: parameter(net, role, 0)?,
        prologue: Prologue::Identity,
        eps: net.config().norm_eps,
    };
    let loss = CrossEntropy {
        targets: Arc::new(targets.to_vec().into()),
        weighting: Weighting::new(weights.to_vec()),
    };
    let op = HeadCrossEntropy {
        head,
        loss,
        sink: sink.clone(),
        kept: Mutex::default(),
        #[cfg(feature = "cuda")]
        logits: Mutex::default(),
    };
    Ok(apply1(op, answer)?)
}
