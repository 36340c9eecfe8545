//! What a tensor is for. Quantisation, optimisers and preservation rules go by role, never by name.

use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;

/// The part a tensor plays in the model. Roles up to `Down`/`Mem*` exist once per block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Token embedding `[vocab, dim]`; also the output head when tied.
    Embedding,
    /// Output head `[vocab, dim]`, absent when tied.
    Head,
    /// Gain of the norm before attention `[1, dim]`.
    AttnNorm,
    /// Fused query, key, value projection `[attn + 2 kv, dim]`.
    Qkv,
    /// Attention output projection `[dim, attn]`.
    AttnOut,
    /// Gain of the norm before the feed-forward network `[1, dim]`.
    FfnNorm,
    /// Fused gate and up projection `[2 ffn, dim]`.
    GateUp,
    /// Down projection `[dim, ffn]`.
    Down,
    /// Memory value and rate projection `[2 mem, dim]`; of a matrix, key, value, query and gates `[3 mem + 3, dim]`.
    MemIn,
    /// Bias of the memory's learned rate `[1, mem]`.
    MemBias,
    /// Memory read projection `[attn, mem]`.
    MemOut,
    /// First layer of the memory gate `[gate, 2 attn]`.
    MemGate1,
    /// Second layer of the memory gate `[attn, gate]`.
    MemGate2,
    /// Gain on the answer fed back into the next recursion `[1, dim]`, present when `recursion > 1`.
    LoopAnswer,
    /// Gain on the latent fed back into the next recursion `[1, dim]`, present when `recursion > 1`.
    LoopLatent,
    /// Gain with which a recursion's latent is added to the answer `[1, dim]`, present when `recursion > 1`.
    LoopOut,
    /// Gain of the final norm `[1, dim]`.
    FinalNorm,
    /// Halting head: `dim` weights and one bias `[1, dim + 1]`, present when `halting`.
    Halt,
}

/// What kind of arithmetic a role takes, which decides the codecs allowed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleKind {
    /// A matrix multiplied with normalised activations; made ternary in phases 4 and 5.
    Projection,
    /// An embedding or head table; looked up by row and multiplied; preserved in phase 4.
    Table,
    /// A gain or bias vector, always kept in a float codec.
    Vector,
}

impl Role {
    /// Every role, in file order.
    pub const ALL: [Role; 18] = [
        Role::Embedding,
        Role::Head,
        Role::AttnNorm,
        Role::Qkv,
        Role::AttnOut,
        Role::FfnNorm,
        Role::GateUp,
        Role::Down,
        Role::MemIn,
        Role::MemBias,
        Role::MemOut,
        Role::MemGate1,
        Role::MemGate2,
        Role::LoopAnswer,
        Role::LoopLatent,
        Role::LoopOut,
        Role::FinalNorm,
        Role::Halt,
    ];

    /// The role's kind.
    pub fn kind(self) -> RoleKind {
        use Role::*;
        match self {
            Embedding | Head => RoleKind::Table,
            Qkv | AttnOut | GateUp | Down | MemIn | MemOut | MemGate1 | MemGate2 => RoleKind::Projection,
            AttnNorm | FfnNorm | MemBias | LoopAnswer | LoopLatent | LoopOut | FinalNorm | Halt => {
                RoleKind::Vector
            }
        }
    }

    /// Whether the role exists once per block.
    pub fn per_layer(self) -> bool {
        use Role::*;
        !matches!(self, Embedding | Head | LoopAnswer | LoopLatent | LoopOut | FinalNorm | Halt)
    }

    /// Short name used in parameter maps and by `inspect`.
    pub fn name(self) -> &'static str {
        use Role::*;
        match self {
            Embedding => "embedding",
            Head => "head",
            AttnNorm => "attn_norm",
            Qkv => "qkv",
            AttnOut => "attn_out",
            FfnNorm => "ffn_norm",
            GateUp => "gate_up",
            Down => "down",
            MemIn => "mem_in",
            MemBias => "mem_bias",
            MemOut => "mem_out",
            MemGate1 => "mem_gate1",
            MemGate2 => "mem_gate2",
            LoopAnswer => "loop_answer",
            LoopLatent => "loop_latent",
            LoopOut => "loop_out",
            FinalNorm => "final_norm",
            Halt => "halt",
        }
    }

    /// `[rows, cols]` of this role in `config` at `layer`, or `None` when the model has no such tensor.
    pub fn shape(self, config: &ModelConfig, layer: u32) -> Option<[u32; 2]> {
        use Role::*;
        let c = config;
        if self.per_layer() && layer >= c.layers || !self.per_layer() && layer != 0 {
            return None;
        }
        let memory = c.has_memory(layer);
        let looped = c.recursion > 1;
        let (present, shape) = match self {
            Embedding => (true, [c.vocab, c.dim]),
            Head => (!c.tied, [c.vocab, c.dim]),
            AttnNorm | FfnNorm => (c.norm_gain, [1, c.dim]),
            Qkv => (true, [c.qkv_dim(), c.dim]),
            AttnOut => (true, [c.dim, c.attn_dim()]),
            GateUp => (true, [2 * c.ffn, c.dim]),
            Down => (true, [c.dim, c.ffn]),
            MemIn => (memory, [c.mem_in_dim(), c.dim]),
            MemBias => (memory, [1, c.mem_bias_dim()]),
            MemOut => (memory, [c.attn_dim(), c.mem_dim]),
            MemGate1 => (memory, [c.mem_gate, 2 * c.attn_dim()]),
            MemGate2 => (memory, [c.attn_dim(), c.mem_gate]),
            LoopAnswer | LoopLatent | LoopOut => (looped, [1, c.dim]),
            FinalNorm => (true, [1, c.dim]),
            Halt => (c.halting, [1, c.dim + 1]),
        };
        present.then_some(shape)
    }
}

impl ModelConfig {
    /// Every tensor the model has, `(role, layer, [rows, cols])`, in file order: the one list that the
    /// parser, the writer, the trainer and the size planner share.
    pub fn tensors(&self) -> impl Iterator<Item = (Role, u32, [u32; 2])> + '_ {
        Role::ALL.into_iter().flat_map(move |role| {
            let layers = if role.per_layer() { self.layers } else { 1 };
            (0..layers).filter_map(move |l| role.shape(self, l).map(|s| (role, l, s)))
        })
    }

    /// Number of stored parameters.
    pub fn parameters(&self) -> u64 {
        self.tensors().map(|(_, _, [r, c])| u64::from(r) * u64::from(c)).sum()
    }
}
