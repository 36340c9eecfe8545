//! One application of a block, in parts that can be recomputed one by one.

use candle_core::Tensor;
use forge_formats::config::MemoryKind;

use super::{Halted, Layer, Memory, Pass, State, gain};
use crate::error::{Error, Result};
use crate::nn::ops::associate::Associate;
use crate::nn::ops::block::Parameter;
use crate::nn::ops::carry::Carry;
use crate::nn::ops::dropout::Mask;
use crate::nn::ops::glu::Prologue;
use crate::nn::ops::memory::{Concat, GateBlend, Scan};
use crate::nn::ops::{apply1, apply2, apply3};
use crate::nn::{fused, recompute};

/// One application of a block.
#[derive(Clone)]
pub(in crate::nn) struct BlockCall {
    /// Which block.
    pub(in crate::nn) layer: usize,
    /// Whether its memory is written now, in the first recursion.
    pub(in crate::nn) writes_memory: bool,
    /// Whose keys and values are carried forward from the recursion before.
    pub(super) halted: Option<Halted>,
    /// Whether the next recursion needs its keys and values.
    pub(super) hands_on: bool,
    /// What its two branches drop.
    pub(super) dropout: Option<[Mask; 2]>,
}

/// A part of a block, with its inputs.
#[derive(Clone, Copy, Debug)]
pub(in crate::nn) enum Part {
    /// Writes the memory and reads it: `u`.
    Memory,
    /// Queries, keys and values: `u`, and the earlier ones where tokens have halted.
    Qkv,
    /// Everything after them: `u`, the queries, keys and values, and what was read where there is a memory.
    Rest,
    /// Both: `u`, the earlier queries, keys and values where tokens have halted, and what was read where there is a
    /// memory.
    Whole,
}

impl Pass<'_> {
    /// Applies a block. Where an input is used more than once, its uses inside the block meet in a node of their own,
    /// so that gradients are added in the same order whether parts are recomputed or not.
    pub(super) fn block(&self, call: &BlockCall, mut u: Tensor, state: &mut State) -> Result<Tensor> {
        let block = &self.stack.blocks[call.layer];
        if let Some(sink) = self.net.sink().filter(|_| self.is_plain(block)) {
            let keep = self.net.recomputation().is_none();
            return fused::block(
                self.net.config(),
                sink,
                &self.stack.attention,
                block,
                call.dropout,
                keep,
                &u,
            );
        }
        let mut norm = gain(&block.attn_norm).cloned();
        if call.writes_memory {
            norm = norm.as_ref().map(shared).transpose()?;
            state.read = Some(self.run_part(Part::Memory, call, norm.as_ref(), &[u.clone()])?);
            u = shared(&u)?;
        }
        let read = state.read.as_ref().map(shared).transpose()?;
        let earlier = state.qkv.take().filter(|_| call.halted.is_some());
        if self.net.recomputation().is_some() && !call.hands_on {
            let inputs: Vec<Tensor> = [Some(u), earlier, read].into_iter().flatten().collect();
            return self.run_part(Part::Whole, call, norm.as_ref(), &inputs);
        }
        let inputs: Vec<Tensor> = [Some(u.clone()), earlier].into_iter().flatten().collect();
        let qkv = self.run_part(Part::Qkv, call, norm.as_ref(), &inputs)?;
        state.qkv = Some(qkv.clone()).filter(|_| call.hands_on);
        let inputs: Vec<Tensor> = [Some(u), Some(qkv), read].into_iter().flatten().collect();
        self.run_part(Part::Rest, call, norm.as_ref(), &inputs)
    }

    /// Whether the block has neither a memory nor anyone who looks inside, nor keys that are carried forward.
    fn is_plain(&self, block: &Layer) -> bool {
        let watched = self.observer.is_some() || self.net.peaks().is_some();
        block.memory.is_none() && !watched && !self.net.config().halting
    }

    /// Runs a part of a block in the graph, or outside it where it is to be recomputed.
    fn run_part(
        &self,
        part: Part,
        call: &BlockCall,
        norm: Option<&Tensor>,
        inputs: &[Tensor],
    ) -> Result<Tensor> {
        match self.net.recomputation() {
            Some(sums) => recompute::apply(self, sums, part, call, inputs),
            None => self.part(part, call, norm, inputs),
        }
    }

    /// Computes a part of a block; the gain `norm` ahead of attention is the block's own where it is not given.
    pub(in crate::nn) fn part(
        &self,
        part: Part,
        call: &BlockCall,
        norm: Option<&Tensor>,
        inputs: &[Tensor],
    ) -> Result<Tensor> {
        let blocks = if self.is_frozen { &self.stack.frozen } else { &self.stack.blocks };
        let block = &blocks[call.layer];
        let norm = norm.or(gain(&block.attn_norm));
        match (part, inputs, &block.memory) {
            (Part::Memory, [u], Some(memory)) => self.remember(memory, u, norm),
            (Part::Qkv, [u, earlier @ ..], _) => self.qkv(call, block, norm, u, earlier.first()),
            (Part::Rest, [u, qkv, read @ ..], _) => self.rest(call, block, u, qkv, read.first()),
            (Part::Whole, [u, others @ ..], _) => {
                let (earlier, read) = others.split_at(usize::from(call.halted.is_some()).min(others.len()));
                let qkv = self.qkv(call, block, norm, u, earlier.first())?;
                self.rest(call, block, u, &qkv, read.first())
            }
            _ => Err(Error::Config(format!("part {part:?} of a block with {} inputs", inputs.len()))),
        }
    }

    /// Queries, keys and values; halted tokens keep their earlier keys and values.
    fn qkv(
        &self,
        call: &BlockCall,
        block: &Layer,
        norm: Option<&Tensor>,
        u: &Tensor,
        earlier: Option<&Tensor>,
    ) -> Result<Tensor> {
        let attention = &self.stack.attention;
        let mut qkv = self.linear(&block.qkv, u, Prologue::Identity, norm)?;
        if let (Some(halted), Some(earlier)) = (&call.halted, earlier) {
            // Rotation depends on the position alone, so carrying keys forward before it is the same as after.
            let from = attention.heads * attention.head_dim;
            qkv = apply2(Carry { halted: halted.clone(), from }, &qkv, earlier)?;
        }
        if let Some(peaks) = self.net.peaks() {
            peaks.see(call.layer, attention, &qkv)?;
        }
        Ok(qkv)
    }

    /// Attention, the memory's gate, and the feed-forward network.
    fn rest(
        &self,
        call: &BlockCall,
        block: &Layer,
        u: &Tensor,
        qkv: &Tensor,
        read: Option<&Tensor>,
    ) -> Result<Tensor> {
        let [attention_mask, ffn_mask] = call.dropout.map_or([None; 2], |masks| masks.map(Some));
        let mut o = apply1(self.stack.attention.clone(), qkv)?;
        if let (Some(memory), Some(read)) = (&block.memory, read) {
            let both = apply2(Concat, &o, read)?;
            let hidden = self.linear(&memory.gate1, &both, Prologue::Identity, None)?;
            let gate = self.linear(&memory.gate2, &hidden, Prologue::Relu, None)?;
            o = apply3(GateBlend, &o, read, &gate)?;
        }
        let u = self.residual(&block.attn_out, &o, Prologue::Identity, u, attention_mask)?;
        let hidden = self.linear(&block.gate_up, &u, Prologue::Identity, gain(&block.ffn_norm))?;
        let gated = Prologue::Gated(self.net.config().activation);
        self.residual(&block.down, &hidden, gated, &u, ffn_mask)
    }

    /// Writes the memory and reads it, in the first recursion.
    fn remember(&self, memory: &Memory, u: &Tensor, norm: Option<&Tensor>) -> Result<Tensor> {
        let written = self.linear(&memory.input, u, Prologue::Identity, norm)?;
        let cols = self.stack.attention.cols;
        let read = match self.net.config().memory {
            MemoryKind::Ema => apply2(Scan { cols }, &written, &memory.bias)?,
            MemoryKind::Titans => apply2(Associate { cols }, &written, &memory.bias)?,
        };
        self.linear(&memory.output, &read, Prologue::Identity, None)
    }
}

/// The same values as a node of their own, without a copy.
pub(super) fn shared(x: &Tensor) -> Result<Tensor> {
    Ok(x.reshape(x.shape())?)
}

fn detached(parameter: &Parameter) -> Parameter {
    Parameter { weight: parameter.weight.detach(), ..parameter.clone() }
}

impl Layer {
    /// The same parameters without a graph behind them.
    pub(super) fn detached(&self) -> Self {
        Self {
            attn_norm: self.attn_norm.as_ref().map(detached),
            qkv: detached(&self.qkv),
            attn_out: detached(&self.attn_out),
            ffn_norm: self.ffn_norm.as_ref().map(detached),
            gate_up: detached(&self.gate_up),
            down: detached(&self.down),
            memory: self.memory.as_ref().map(Memory::detached),
        }
    }
}

impl Memory {
    fn detached(&self) -> Self {
        Self {
            input: detached(&self.input),
            bias: self.bias.detach(),
            output: detached(&self.output),
            gate1: detached(&self.gate1),
            gate2: detached(&self.gate2),
        }
    }
}
