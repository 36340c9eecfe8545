//! Step 2: REINFORCE on sampled thoughts (Zelikman et al. 2024, section 4.4).
//!
//! The reward of a thought is the log-likelihood of the true tokens behind it, under the mixed prediction, less the
//! mean over the thoughts of its place. Thoughts below the mean are dropped, as in the paper. The loss is
//! `NLL(mixed) + policy_weight · Σ r⁺ · NLL(thought) + kl · KL(π ‖ π₀) − entropy · H(π)`, where π predicts the
//! thought's tokens and π₀ is the model step 2 began with.

use candle_core::{DType, Device, Tensor};
use candle_nn::ops::log_softmax;

use super::mixing::{MixingHead, mix, slopes};
use super::rollout::{Place, Rollout, sample};
use crate::data::Examples;
use crate::data::batch::{Batch, collate};
use crate::engine::emit::Card;
use crate::engine::objective::batch_ids;
use crate::engine::split::Split;
use crate::engine::trainer::{Objective, Shard};
use crate::error::Result;
use crate::nn::{ForwardOptions, Network, Precision, loss};
use crate::pipeline::PhaseContext;
use crate::rng::Rng;
use crate::weights::Weights;

/// What was seen while training.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Thoughts sampled.
    pub(super) thoughts: usize,
    /// Of those, closed by the model itself.
    pub(super) closed: usize,
    /// Mean mixing weight of the newest step.
    pub(super) influence: f32,
    /// Mean gain of the newest step's likelihood over the prediction without a thought, in nats a token.
    pub(super) gain: f32,
}

/// The objective.
pub(super) struct Reinforce<'a> {
    ctx: &'a PhaseContext<'a>,
    card: Card,
    worked: &'a Examples,
    /// The model that step 2 began with.
    reference: Network,
    head: MixingHead,
    pub(super) tally: Tally,
}

impl<'a> Reinforce<'a> {
    /// Reinforces thoughts on `worked` examples, held near `start`.
    ///
    /// # Errors
    /// If the weights make no network.
    pub(super) fn new(
        ctx: &'a PhaseContext<'a>,
        card: Card,
        worked: &'a Examples,
        start: &Weights,
    ) -> Result<Self> {
        let reference = Network::new(start, Precision::FLOAT, ctx.device)?.detached();
        let head = MixingHead::new(start.config.dim as usize, ctx.config.phase3.mixing_lr, ctx.seed);
        Ok(Self { ctx, card, worked, reference, head, tally: Tally::default() })
    }

    fn places(&mut self, network: &Network, step: u64) -> Result<Vec<Place>> {
        let config = &self.ctx.config.phase3;
        let mut rng = Rng::at_step(self.ctx.seed, "phase3.prompts", step);
        let chosen: Vec<_> =
            (0..config.prompts).map(|_| self.worked.get(rng.below(self.worked.len())).into_owned()).collect();
        let places = sample(network, &self.ctx.data.tokenizer, &self.card, &chosen, config, &mut rng)?;
        let thoughts = || places.iter().flat_map(|p| &p.thoughts);
        self.tally.thoughts += thoughts().count();
        self.tally.closed += thoughts().filter(|t| t.closed).count();
        Ok(places)
    }

    /// Rewards the thoughts and teaches the mixing head.
    fn judge(&mut self, network: &Network, places: &[Place], pad: u16) -> Result<Vec<Judged>> {
        let view = View::new(network, places, pad)?;
        let states = [view.base.clone(), view.thought.clone()];
        let pairs = Tensor::cat(&states, 1)?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
        let weights = self.head.weights(&pairs)?;
        let (base, thought) = (logits(network, &view.base)?, logits(network, &view.thought)?);
        let mixed = mix(&base, &thought, &weights)?;
        let score = |logits: &Tensor| -> Result<Vec<f32>> {
            Ok(loss::token_scores(logits, &view.targets)?.iter().map(|s| s.loss).collect())
        };
        let (plain, talked) = (score(&base)?, score(&mixed)?);
        let count = weights.len().max(1) as f32;
        let slopes: Vec<f32> =
            slopes(&base, &thought, &mixed, &view.targets)?.iter().map(|s| s / count).collect();
        self.head.learn(&pairs, &slopes)?;
        self.tally.influence = weights.iter().sum::<f32>() / count;
        self.tally.gain = plain.iter().zip(&talked).map(|(p, t)| p - t).sum::<f32>() / count;
        Ok(judged(places, &weights, &talked))
    }
}

impl Objective for Reinforce<'_> {
    fn shards(&mut self, network: &Network, step: u64, split: Split) -> Result<Vec<Shard<'_>>> {
        let places = self.places(network, step)?;
        let pad = self.ctx.data.tokenizer.control("<pad>");
        let judged = self.judge(&network.detached(), &places, pad)?;
        let longest =
            places.iter().flat_map(|p| &p.thoughts).map(|r| r.sequence.ids.len()).max().unwrap_or(0);
        let parts = split.parts(places.len(), longest * self.ctx.config.phase3.thoughts);
        let mut dealt: Vec<(Vec<Place>, Vec<Judged>)> = (0..parts).map(|_| Default::default()).collect();
        for (i, (place, judged)) in places.into_iter().zip(judged).enumerate() {
            dealt[i % parts].0.push(place);
            dealt[i % parts].1.push(judged);
        }
        let (config, reference) = (&self.ctx.config.phase3, &self.reference);
        let shard = |(places, judged): (Vec<Place>, Vec<Judged>)| Shard {
            weight: places.len() as f32,
            tokens: places.len() * longest * config.thoughts,
            work: Box::new(move |network: &Network| {
                let view = View::new(network, &places, pad)?;
                let terms = Terms { policy: config.policy_weight, kl: config.kl, entropy: config.entropy };
                view.loss(network, reference, &judged, terms)
            }),
        };
        Ok(dealt.into_iter().map(shard).collect())
    }

    fn state(&self) -> Vec<f32> {
        let t = self.tally;
        let mut state = vec![t.thoughts as f32, t.closed as f32, t.influence, t.gain];
        state.extend(self.head.state());
        state
    }

    fn restore(&mut self, state: &[f32]) {
        if let [thoughts, closed, influence, gain, head @ ..] = state
            && self.head.restore(head)
        {
            self.tally = Tally {
                thoughts: *thoughts as usize,
                closed: *closed as usize,
                influence: *influence,
                gain: *gain,
            };
        }
    }
}

/// The verdict on a place's thoughts.
struct Judged {
    /// Reward of each thought over the mean, 0 below it.
    advantages: Vec<f32>,
    /// Mixing weight of each true token behind each thought.
    weights: Vec<f32>,
}

/// Cuts per-token figures, in the order of a [`View`], into places, and turns losses into advantages.
fn judged(places: &[Place], weights: &[f32], losses: &[f32]) -> Vec<Judged> {
    let mut at = 0;
    places
        .iter()
        .map(|place| {
            let from = at;
            let rewards: Vec<f32> = place
                .thoughts
                .iter()
                .map(|thought| {
                    let tokens = at..at + thought.ahead.len();
                    at = tokens.end;
                    -losses[tokens].iter().sum::<f32>()
                })
                .collect();
            let mean = rewards.iter().sum::<f32>() / rewards.len().max(1) as f32;
            let advantages = rewards.iter().map(|r| (r - mean).max(0.0)).collect();
            Judged { advantages, weights: weights[from..at].to_vec() }
        })
        .collect()
}

/// Weights of the loss's terms.
#[derive(Clone, Copy)]
struct Terms {
    policy: f32,
    kl: f32,
    entropy: f32,
}

/// The states of places that predict thoughts and true tokens.
struct View {
    batch: Batch,
    /// Rows of states that predict a thought's tokens.
    inside: Vec<u32>,
    /// The thought's tokens.
    thoughts: Vec<u32>,
    /// Number of tokens of each thought.
    lengths: Vec<usize>,
    /// All states of the sequences with thoughts, `[rows · cols, dim]`.
    states: Tensor,
    /// States that predict the true tokens without and with the thought, `[n, dim]`.
    base: Tensor,
    thought: Tensor,
    /// The true tokens, `n` of them.
    targets: Vec<u32>,
}

/// Rows of the states that predict `range` of row `row` in a batch of `cols` columns.
fn predicting(row: usize, cols: usize, range: std::ops::Range<usize>) -> impl Iterator<Item = u32> {
    range.map(move |i| (row * cols + i - 1) as u32)
}

fn select(states: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let rows = Tensor::from_slice(rows, rows.len(), states.device())?;
    Ok(states.index_select(&rows, 0)?)
}

/// Logits in f32, whatever the device keeps them in.
fn logits(network: &Network, states: &Tensor) -> Result<Tensor> {
    Ok(network.logits(states)?.to_dtype(DType::F32)?)
}

fn states(network: &Network, batch: &Batch) -> Result<Tensor> {
    let forward = network.forward(&batch_ids(batch)?, ForwardOptions::default())?;
    let width = network.config().dim as usize;
    Ok(forward.answer().reshape((batch.rows * batch.cols, width))?)
}

impl View {
    fn new(network: &Network, places: &[Place], pad: u16) -> Result<Self> {
        let rollouts: Vec<&Rollout> = places.iter().flat_map(|p| &p.thoughts).collect();
        let with = collate(&rollouts.iter().map(|r| &r.sequence).collect::<Vec<_>>(), pad);
        let without = collate(&places.iter().map(|p| &p.plain.sequence).collect::<Vec<_>>(), pad);
        let (mut inside, mut thoughts, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        let (mut behind, mut plain) = (Vec::new(), Vec::new());
        let owner = places.iter().enumerate().flat_map(|(i, p)| p.thoughts.iter().map(move |_| i));
        for ((row, rollout), place) in rollouts.iter().enumerate().zip(owner) {
            let ids = |range: std::ops::Range<usize>| {
                rollout.sequence.ids[range].iter().copied().map(u32::from).collect::<Vec<u32>>()
            };
            inside.extend(predicting(row, with.cols, rollout.thought.clone()));
            thoughts.extend(ids(rollout.thought.clone()));
            behind.extend(predicting(row, with.cols, rollout.ahead.clone()));
            targets.extend(ids(rollout.ahead.clone()));
            plain.extend(predicting(place, without.cols, places[place].plain.ahead.clone()));
        }
        let states = states(network, &with)?;
        let base = select(&self::states(network, &without)?, &plain)?;
        let thought = select(&states, &behind)?;
        let lengths = rollouts.iter().map(|r| r.thought.len()).collect();
        Ok(Self { batch: with, inside, thoughts, lengths, states, base, thought, targets })
    }

    /// The loss of the module's head, per true token and per thought token.
    fn loss(
        &self,
        network: &Network,
        reference: &Network,
        judged: &[Judged],
        terms: Terms,
    ) -> Result<Tensor> {
        let weights: Vec<f32> = judged.iter().flat_map(|j| j.weights.iter().copied()).collect();
        let mixed = mix(&logits(network, &self.base)?, &logits(network, &self.thought)?, &weights)?;
        let mut total = loss::weighted_cross_entropy(&mixed, &self.targets, &vec![1.0; self.targets.len()])?;
        let own = logits(network, &select(&self.states, &self.inside)?)?;
        let advantages: Vec<f32> = judged
            .iter()
            .flat_map(|j| &j.advantages)
            .zip(&self.lengths)
            .flat_map(|(advantage, length)| std::iter::repeat_n(*advantage, *length))
            .collect();
        let mean = advantages.iter().sum::<f32>() / advantages.len().max(1) as f32;
        if mean > 0.0 {
            let policy = loss::weighted_cross_entropy(&own, &self.thoughts, &advantages)?;
            total = (total + (policy * f64::from(mean * terms.policy))?)?;
        }
        let first = states(reference, &self.batch)?;
        let first = logits(reference, &select(&first, &self.inside)?)?;
        let (kl, entropy) = divergence(&own, &first)?;
        Ok(((total + (kl * f64::from(terms.kl))?)? - (entropy * f64::from(terms.entropy))?)?)
    }
}

/// Mean KL divergence of the first logits' distribution from the second's, and mean entropy of the first, in nats a row.
fn divergence(own: &Tensor, first: &Tensor) -> Result<(Tensor, Tensor)> {
    let (log_p, log_q) = (log_softmax(own, 1)?, log_softmax(&first.detach(), 1)?);
    let p = log_p.exp()?;
    let kl = (&p * (&log_p - log_q)?)?.sum(1)?.mean(0)?;
    let entropy = (p * log_p)?.sum(1)?.mean(0)?.neg()?;
    Ok((kl, entropy))
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
