//! One application of a block, in parts that can be recomputed one by one.

use candle_core::Tensor;

use super::{Block, Halted, Map, Memory, Pass, State};
use crate::error::{Error, Result};
use crate::nn::ops::carry::Carry;
use crate::nn::ops::dropout::Mask;
use crate::nn::ops::glu::Prologue;
use crate::nn::ops::memory::{Concat, GateBlend, Scan};
use crate::nn::ops::{apply1, apply2, apply3};
use crate::nn::recompute;

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
    /// Both: `u`, the earlier queries, keys and values where tokens have halted, what was read where there is a
    /// memory.
    Whole,
}

/// The same values as a node of their own, without a copy.
pub(super) fn shared(x: &Tensor) -> Result<Tensor> {
    Ok(x.reshape(x.shape())?)
}

impl Pass<'_> {
    /// Applies a block. Where an input is used more than once, its uses inside the block meet in a node of their own,
    /// so that gradients are added in the same order whether parts are recomputed or not.
    pub(super) fn block(&self, call: &BlockCall, mut u: Tensor, state: &mut State) -> Result<Tensor> {
        let mut gain = self.stack.blocks[call.layer].attn_norm.clone();
        if call.writes_memory {
            gain = gain.as_ref().map(shared).transpose()?;
            state.read = Some(self.run_part(Part::Memory, call, gain.as_ref(), &[u.clone()])?);
            u = shared(&u)?;
        }
        let read = state.read.as_ref().map(shared).transpose()?;
        let earlier = state.qkv.take().filter(|_| call.halted.is_some());
        if self.net.recomputation().is_some() && !call.hands_on {
            let inputs: Vec<Tensor> = [Some(u), earlier, read].into_iter().flatten().collect();
            return self.run_part(Part::Whole, call, gain.as_ref(), &inputs);
        }
        let inputs: Vec<Tensor> = [Some(u.clone()), earlier].into_iter().flatten().collect();
        let qkv = self.run_part(Part::Qkv, call, gain.as_ref(), &inputs)?;
        state.qkv = Some(qkv.clone()).filter(|_| call.hands_on);
        let inputs: Vec<Tensor> = [Some(u), Some(qkv), read].into_iter().flatten().collect();
        self.run_part(Part::Rest, call, gain.as_ref(), &inputs)
    }

    /// Runs a part of a block in the graph, or outside it where it is to be recomputed.
    fn run_part(
        &self,
        part: Part,
        call: &BlockCall,
        gain: Option<&Tensor>,
        inputs: &[Tensor],
    ) -> Result<Tensor> {
        match self.net.recomputation() {
            Some(sums) => recompute::apply(self, sums, part, call, inputs),
            None => self.part(part, call, gain, inputs),
        }
    }

    /// Computes a part of a block; `gain` is the block's own where it is not given.
    pub(in crate::nn) fn part(
        &self,
        part: Part,
        call: &BlockCall,
        gain: Option<&Tensor>,
        inputs: &[Tensor],
    ) -> Result<Tensor> {
        let blocks = if self.is_frozen { &self.stack.frozen } else { &self.stack.blocks };
        let block = &blocks[call.layer];
        let gain = gain.or(block.attn_norm.as_ref());
        match (part, inputs, &block.memory) {
            (Part::Memory, [u], Some(memory)) => self.remember(memory, u, gain),
            (Part::Qkv, [u, earlier @ ..], _) => self.qkv(call, block, gain, u, earlier.first()),
            (Part::Rest, [u, qkv, read @ ..], _) => self.rest(call, block, u, qkv, read.first()),
            (Part::Whole, [u, others @ ..], _) => {
                let (earlier, read) = others.split_at(usize::from(call.halted.is_some()).min(others.len()));
                let qkv = self.qkv(call, block, gain, u, earlier.first())?;
                self.rest(call, block, u, &qkv, read.first())
            }
            _ => Err(Error::Config(format!("part {part:?} of a block with {} inputs", inputs.len()))),
        }
    }

    /// Queries, keys and values; halted tokens keep their earlier keys and values.
    fn qkv(
        &self,
        call: &BlockCall,
        block: &Block,
        gain: Option<&Tensor>,
        u: &Tensor,
        earlier: Option<&Tensor>,
    ) -> Result<Tensor> {
        let attention = &self.stack.attention;
        let mut qkv = self.linear(&block.qkv, u, Prologue::Identity, gain)?;
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
        block: &Block,
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
        let hidden = self.linear(&block.gate_up, &u, Prologue::Identity, block.ffn_norm.as_ref())?;
        let gated = Prologue::Gated(self.net.config().activation);
        self.residual(&block.down, &hidden, gated, &u, ffn_mask)
    }

    /// Writes the memory and reads it, in the first recursion.
    fn remember(&self, memory: &Memory, u: &Tensor, gain: Option<&Tensor>) -> Result<Tensor> {
        let written = self.linear(&memory.input, u, Prologue::Identity, gain)?;
        let state = apply2(Scan { cols: self.stack.attention.cols }, &written, &memory.bias)?;
        self.linear(&memory.output, &state, Prologue::Identity, None)
    }
}

impl Map {
    pub(super) fn detached(&self) -> Self {
        Self { weight: self.weight.detach(), ..self.clone() }
    }
}

impl Block {
    pub(super) fn detached(&self) -> Self {
        let gain = |gain: &Option<Tensor>| gain.as_ref().map(Tensor::detach);
        Self {
            attn_norm: gain(&self.attn_norm),
            qkv: self.qkv.detached(),
            attn_out: self.attn_out.detached(),
            ffn_norm: gain(&self.ffn_norm),
            gate_up: self.gate_up.detached(),
            down: self.down.detached(),
            memory: self.memory.as_ref().map(Memory::detached),
        }
    }
}

impl Memory {
    pub(super) fn detached(&self) -> Self {
        Self {
            input: self.input.detached(),
            bias: self.bias.detach(),
            output: self.output.detached(),
            gate1: self.gate1.detached(),
            gate2: self.gate2.detached(),
        }
    }
}
