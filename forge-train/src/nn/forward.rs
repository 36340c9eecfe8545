//! The forward pass of `docs/numerics.md`, section 3, over a batch of whole sequences.

use std::cell::RefCell;
use std::sync::Arc;

use candle_core::Tensor;
use forge_formats::role::Role;

use super::network::{Network, Projections};
use super::ops::attention::{Attention, Reach};
use super::ops::block::Parameter;
use super::ops::carry::{Carry, HaltLogit};
use super::ops::dropout::{Dropout, Dropped, Mask};
use super::ops::embedding::Embedding;
use super::ops::glu::Prologue;
use super::ops::linear::{Extra, NormLinear, projection_inputs};
use super::ops::norm::GainedResidual;
use super::ops::rope::Rope;
use super::ops::sink::Deposited;
use super::ops::{Form, HostData, apply1, apply2, apply3};
use crate::error::{Error, Result};
use crate::weights::Key;
use forge_runtime::math;

use block::shared;
pub(super) use block::{BlockCall, Part};

mod block;

/// What a forward pass should do.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ForwardOptions {
    /// Halt tokens as the runtime does, carrying their keys, values and answers forward. Otherwise every token
    /// goes through every recursion, which is what deep supervision trains on.
    pub halting: bool,
    /// Drops elements of the embedding and of every residual branch's outcome; none when not training.
    pub dropout: Option<Dropout>,
}

/// What a forward pass yields.
pub struct Forward {
    /// The answer `[b·t, dim]` after each recursion; the last one is the model's.
    pub answers: Vec<Tensor>,
    /// Halting logits `[b·t]` after each recursion but the last: a token halts when `sigmoid(logit)` exceeds the
    /// threshold. Empty for a model without halting.
    pub halt: Vec<Tensor>,
    /// Recursions each of the `b·t` tokens went through.
    pub depths: Vec<u32>,
}

impl Forward {
    /// The model's answer `[b·t, dim]`.
    ///
    /// # Panics
    /// Never: a model recurses at least once.
    pub fn answer(&self) -> &Tensor {
        &self.answers[self.answers.len() - 1]
    }
}

/// Sees the input of every projection: its key and the normalised rows `[b·t, cols]`, before quantisation.
pub type Observer<'o> = dyn FnMut(Key, &[f32], usize) + 'o;

/// Parameters of one block's memory.
struct Memory {
    input: Parameter,
    bias: Tensor,
    output: Parameter,
    gate1: Parameter,
    gate2: Parameter,
}

/// Parameters of one block.
pub(super) struct Layer {
    pub(super) attn_norm: Option<Parameter>,
    pub(super) qkv: Parameter,
    pub(super) attn_out: Parameter,
    pub(super) ffn_norm: Option<Parameter>,
    pub(super) gate_up: Parameter,
    pub(super) down: Parameter,
    memory: Option<Memory>,
}

/// What a block keeps from one recursion to the next.
#[derive(Clone, Default)]
struct State {
    qkv: Option<Tensor>,
    read: Option<Tensor>,
}

/// Gains of the recursion.
struct Loop {
    answer: Tensor,
    latent: Tensor,
    out: Tensor,
}

/// Which tokens have halted.
type Halted = Arc<HostData<bool>>;

/// The blocks of a pass, and the same without a graph behind their parameters.
pub(super) struct Stack {
    attention: Attention,
    blocks: Vec<Layer>,
    frozen: Vec<Layer>,
}

/// One forward pass: parameters quantised once, shared by all recursions.
pub(super) struct Pass<'n> {
    net: &'n Network,
    ids: Arc<HostData<u32>>,
    stack: Arc<Stack>,
    is_frozen: bool,
    looped: Option<Loop>,
    observer: Option<RefCell<&'n mut Observer<'n>>>,
}

impl<'n> Pass<'n> {
    /// Shows every projection's input to `observer` during the run.
    pub(super) fn observed(self, observer: &'n mut Observer<'n>) -> Self {
        Self { observer: Some(RefCell::new(observer)), ..self }
    }

    fn observe(&self, map: &Parameter, x: &Tensor, prologue: Prologue, gain: Option<&Tensor>) -> Result<()> {
        if let Some(observer) = &self.observer {
            let cols = map.weight.dim(1)?;
            let inputs = projection_inputs(prologue, self.net.config().norm_eps, x, cols, gain)?;
            (observer.borrow_mut())(map.key, &inputs, cols);
        }
        Ok(())
    }

    pub(super) fn new(net: &'n Network, ids: &Tensor) -> Result<Self> {
        let c = net.config();
        let (rows, cols) = ids.dims2()?;
        if rows * cols == 0 {
            return Err(Error::Config("a batch needs at least one token".into()));
        }
        let gain = |role, layer| if c.norm_gain { parameter(net, role, layer).map(Some) } else { Ok(None) };
        let blocks: Vec<Layer> = (0..c.layers)
            .map(|l| {
                Ok(Layer {
                    attn_norm: gain(Role::AttnNorm, l)?,
                    qkv: parameter(net, Role::Qkv, l)?,
                    attn_out: parameter(net, Role::AttnOut, l)?,
                    ffn_norm: gain(Role::FfnNorm, l)?,
                    gate_up: parameter(net, Role::GateUp, l)?,
                    down: parameter(net, Role::Down, l)?,
                    memory: if c.has_memory(l) { Some(Memory::new(net, l)?) } else { None },
                })
            })
            .collect::<Result<_>>()?;
        let attention = Attention {
            heads: c.heads as usize,
            kv_heads: c.kv_heads as usize,
            head_dim: c.head_dim as usize,
            reach: Reach::of(c),
            cols,
            rope: Arc::new(Rope::new(cols, c.head_dim as usize, c.rope_log2_theta)),
            exact: matches!(net.precision().projections, Projections::Ternary { lambda } if lambda >= 1.0),
        };
        let ids = Arc::new(ids.flatten_all()?.to_vec1::<u32>()?.into());
        let looped = if c.recursion > 1 { Some(Loop::new(net)?) } else { None };
        let frozen = match net.recomputation() {
            Some(_) => blocks.iter().map(Layer::detached).collect(),
            None => Vec::new(),
        };
        let stack = Arc::new(Stack { attention, blocks, frozen });
        Ok(Self { net, ids, stack, is_frozen: false, looped, observer: None })
    }

    /// A pass over blocks alone, to run parts of them.
    pub(super) fn over(net: &'n Network, stack: Arc<Stack>) -> Self {
        let ids = Arc::new(Vec::new().into());
        Self { net, ids, stack, is_frozen: false, looped: None, observer: None }
    }

    /// The same blocks without a graph behind their parameters.
    pub(super) fn frozen(&self) -> Self {
        Self { is_frozen: true, ..Self::over(self.net, self.stack.clone()) }
    }

    /// The network that is run.
    pub(super) fn network(&self) -> &Network {
        self.net
    }

    /// Its blocks.
    pub(super) fn stack(&self) -> Arc<Stack> {
        self.stack.clone()
    }

    pub(super) fn run(&self, options: ForwardOptions) -> Result<Forward> {
        let c = self.net.config();
        let x = match &options.dropout {
            Some(dropout) => apply1(Dropped(Mask::embedding(dropout)?), &self.embed()?)?,
            None => self.embed()?,
        };
        let mut states = vec![State::default(); self.stack.blocks.len()];
        let mut forward = Forward { answers: Vec::new(), halt: Vec::new(), depths: vec![1; self.ids.len()] };
        let mut halted = vec![false; self.ids.len()];
        let mut latent: Option<Tensor> = None;
        for t in 0..c.recursion {
            let mask = (options.halting && c.halting && t > 0).then(|| Arc::new(halted.clone().into()));
            let mut u = match (&latent, &self.looped, forward.answers.last()) {
                (Some(z), Some(gains), Some(y)) => {
                    let u = self.gained(&x, y, &gains.answer)?;
                    self.gained(&u, z, &gains.latent)?
                }
                _ if c.recursion > 1 => shared(&x)?,
                _ => x.clone(),
            };
            for (layer, state) in states.iter_mut().enumerate() {
                let at = t * c.layers + layer as u32;
                let call = BlockCall {
                    layer,
                    writes_memory: t == 0 && self.stack.blocks[layer].memory.is_some(),
                    halted: mask.clone(),
                    hands_on: options.halting && c.halting && t + 1 < c.recursion,
                    dropout: options.dropout.map(|dropout| Mask::branches(&dropout, at)).transpose()?,
                };
                u = self.block(&call, u, state)?;
            }
            let y = self.answer(&u, forward.answers.last(), mask)?;
            latent = Some(u);
            if c.halting && t + 1 < c.recursion {
                let halt = self.net.tensor(Role::Halt, 0)?;
                let logit = apply2(HaltLogit { eps: c.norm_eps }, &y, &halt)?;
                if options.halting {
                    halt_tokens(&logit, c.halt_threshold, &mut halted)?;
                }
                forward.halt.push(logit);
            }
            if t + 1 < c.recursion {
                forward
                    .depths
                    .iter_mut()
                    .zip(&halted)
                    .for_each(|(depth, halted)| *depth += u32::from(!halted));
            }
            forward.answers.push(y);
        }
        Ok(forward)
    }

    /// `norm(E[id])`.
    fn embed(&self) -> Result<Tensor> {
        let Parameter { key, weight, form: Form { quant, device, .. } } =
            parameter(self.net, Role::Embedding, 0)?;
        let op = Embedding { ids: self.ids.clone(), eps: self.net.config().norm_eps, quant, device };
        Ok(match self.net.sink() {
            Some(sink) => apply1(Deposited { op, key, sink: sink.clone() }, &weight)?,
            None => apply1(op, &weight)?,
        })
    }

    /// `base + gain ⊙ norm(z)`.
    fn gained(&self, base: &Tensor, z: &Tensor, gain: &Tensor) -> Result<Tensor> {
        Ok(apply3(GainedResidual { eps: self.net.config().norm_eps }, base, z, gain)?)
    }

    /// The answer after a recursion that ended in latent `z`; halted tokens keep theirs.
    fn answer(&self, z: &Tensor, earlier: Option<&Tensor>, mask: Option<Halted>) -> Result<Tensor> {
        let Some(gains) = &self.looped else { return Ok(z.clone()) };
        let base = match earlier {
            Some(y) => y.clone(),
            None => z.zeros_like()?,
        };
        let y = self.gained(&base, z, &gains.out)?;
        match (earlier, mask) {
            (Some(earlier), Some(halted)) => Ok(apply2(Carry { halted, from: 0 }, &y, earlier)?),
            _ => Ok(y),
        }
    }

    /// `W · (norm(prologue(x)) [⊙ gain])`.
    fn linear(
        &self,
        map: &Parameter,
        x: &Tensor,
        prologue: Prologue,
        gain: Option<&Tensor>,
    ) -> Result<Tensor> {
        self.observe(map, x, prologue, gain)?;
        linear(self.net.config().norm_eps, map, x, prologue, gain)
    }

    /// `u + W · norm(prologue(x))`, the branch masked where it drops.
    fn residual(
        &self,
        map: &Parameter,
        x: &Tensor,
        prologue: Prologue,
        u: &Tensor,
        mask: Option<Mask>,
    ) -> Result<Tensor> {
        if let Some(mask) = mask {
            return Ok(apply2(Dropped(mask), u, &self.linear(map, x, prologue, None)?)?);
        }
        self.observe(map, x, prologue, None)?;
        let eps = self.net.config().norm_eps;
        let Form { quant, device, products } = map.form.clone();
        let op = NormLinear { prologue, eps, quant, device, products, extra: Extra::Residual };
        Ok(apply3(op, x, &map.weight, u)?)
    }
}

/// A parameter of a role and block, in the form the precision says.
pub(super) fn parameter(net: &Network, role: Role, layer: u32) -> Result<Parameter> {
    Ok(Parameter { key: (role, layer), weight: net.tensor(role, layer)?, form: net.form(role, layer)? })
}

/// The values of a gain.
fn gain(gain: &Option<Parameter>) -> Option<&Tensor> {
    gain.as_ref().map(|gain| &gain.weight)
}

impl Memory {
    fn new(net: &Network, layer: u32) -> Result<Self> {
        Ok(Self {
            input: parameter(net, Role::MemIn, layer)?,
            bias: net.tensor(Role::MemBias, layer)?,
            output: parameter(net, Role::MemOut, layer)?,
            gate1: parameter(net, Role::MemGate1, layer)?,
            gate2: parameter(net, Role::MemGate2, layer)?,
        })
    }
}

impl Loop {
    fn new(net: &Network) -> Result<Self> {
        Ok(Self {
            answer: net.tensor(Role::LoopAnswer, 0)?,
            latent: net.tensor(Role::LoopLatent, 0)?,
            out: net.tensor(Role::LoopOut, 0)?,
        })
    }
}

/// Marks the tokens whose halting probability exceeds the threshold.
fn halt_tokens(logit: &Tensor, threshold: f32, halted: &mut [bool]) -> Result<()> {
    let logits = logit.detach().to_vec1::<f32>()?;
    for (halted, logit) in halted.iter_mut().zip(logits) {
        *halted |= math::sigmoid(logit) > threshold;
    }
    Ok(())
}

fn linear(
    eps: f32,
    map: &Parameter,
    x: &Tensor,
    prologue: Prologue,
    gain: Option<&Tensor>,
) -> Result<Tensor> {
    let Form { quant, device, products } = map.form.clone();
    let op = NormLinear { prologue, eps, quant, device, products, extra: Extra::Gain };
    Ok(match gain {
        Some(gain) => apply3(op, x, &map.weight, gain)?,
        None => apply2(op, x, &map.weight)?,
    })
}

/// `linear(head, norm(answer, final_norm))`, the head being the embedding when tied.
pub(super) fn head(net: &Network, answer: &Tensor) -> Result<Tensor> {
    let role = if net.config().tied { Role::Embedding } else { Role::Head };
    let map = parameter(net, role, 0)?;
    let gain = net.tensor(Role::FinalNorm, 0)?;
    linear(net.config().norm_eps, &map, answer, Prologue::Identity, Some(&gain))
}
