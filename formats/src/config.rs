//! The sizes of a model: everything the forward pass needs to know that is not a weight.

use core::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::header::{FEATURE_GLOBALS, FEATURE_MEMORY_TITANS};

/// Non-linearity of the gated feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// `silu(gate) * up` (Shazeer 2020, SwiGLU).
    SwiGlu,
    /// `relu(gate)^2 * up` (as in BitNet b1.58 2B4T).
    Relu2,
}

/// How a session keeps keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheKind {
    /// In `f32`.
    #[default]
    F32,
    /// As signed bytes, for a quarter of the memory (`docs/numerics.md`, section 3).
    Int8,
}

impl CacheKind {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What a block's long-term memory is, and how a token is written into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryKind {
    /// A vector of `mem_dim` running averages, each with a learned rate.
    #[default]
    Ema,
    /// A matrix `[mem_dim, mem_dim]` that maps keys to values, written by the gradient of its own error, with momentum
    /// and forgetting (Behrouz et al. 2025, arXiv 2501.00663, equations 9 to 14).
    Titans,
}

impl MemoryKind {
    /// Whether this crate was built with it (the Cargo feature `titans`); files that use it are refused otherwise, and
    /// its code is left out.
    pub const fn is_linked(self) -> bool {
        matches!(self, Self::Ema) || cfg!(feature = "titans")
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Positions that stay in sight after the window has left them: every `every`-th from the first on (Beltagy et al. 2020,
/// arXiv 2004.05150, section 3.1, causal). Of those that have left the window a token attends to the latest `rows`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Globals {
    /// Distance from one to the next; 0 for none.
    pub every: u32,
    /// Most that are kept beyond the window, 0 for none; a further one takes the place of the oldest.
    pub rows: u32,
}

impl Globals {
    /// Whether this crate was built with them (the Cargo feature `globals`); files that use them are refused otherwise,
    /// and their code is left out.
    pub const LINKED: bool = cfg!(feature = "globals");

    /// Every `every`-th position of `context`, behind a window of `window`; none when `every` is 0.
    pub fn within(context: u32, every: u32, window: u32) -> Self {
        let rows = context.saturating_sub(window).div_ceil(every.max(1)).max(1);
        if every == 0 { Self::default() } else { Self { every, rows } }
    }

    /// Whether there are any.
    pub fn any(self) -> bool {
        self.every > 0
    }

    /// How many of them have left a window of `window` positions whose newest is `position`.
    pub fn departed(self, position: u32, window: u32) -> u32 {
        match position.checked_sub(window).map(|last| last.checked_div(self.every)) {
            Some(Some(before)) => before.saturating_add(1),
            _ => 0,
        }
    }

    /// Numbers of those that a token at `position` attends to beyond its window, the oldest first; number `n` is position
    /// `n * every`.
    pub fn beyond(self, position: u32, window: u32) -> Range<u32> {
        let departed = self.departed(position, window);
        departed.saturating_sub(self.rows)..departed
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn is_valid(self) -> bool {
        let valid = (2..=limits::EVERY).contains(&self.every) && (1..=limits::WINDOW).contains(&self.rows);
        valid || self.is_default()
    }

    /// The feature bit of files that have them.
    pub(crate) fn feature(self) -> u32 {
        if self.any() { FEATURE_GLOBALS } else { 0 }
    }
}

/// Shape and hyper-parameters of a Cognate model. See `docs/numerics.md` for the forward pass it drives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Number of token ids.
    pub vocab: u32,
    /// Width of the residual stream.
    pub dim: u32,
    /// Transformer blocks in the stack (stored once, applied `recursion` times).
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key/value heads; divides `heads`.
    pub kv_heads: u32,
    /// Channels of one head; even.
    pub head_dim: u32,
    /// Hidden width of the feed-forward network.
    pub ffn: u32,
    /// Feed-forward non-linearity.
    pub activation: Activation,
    /// Positions a token attends to, itself included.
    pub window: u32,
    /// log2 of the base of the rotary embedding's geometric frequencies (13.2877 for 10,000).
    pub rope_log2_theta: f32,
    /// Added to the mean square in every RMSNorm.
    pub norm_eps: f32,
    /// Whether the attention and feed-forward norms carry a learned gain (phase 7 folds it away).
    pub norm_gain: bool,
    /// Whether the output head is the embedding matrix.
    pub tied: bool,
    /// Times the block stack is applied to each token (T of TRM).
    pub recursion: u32,
    /// Whether the halting head may stop the recursion early.
    pub halting: bool,
    /// A token stops recursing once its halting probability exceeds this.
    pub halt_threshold: f32,
    /// Width of the long-term memory; 0 switches it off.
    pub mem_dim: u32,
    /// Hidden width of the memory gate.
    pub mem_gate: u32,
    /// Bit `l` set: block `l` has a memory.
    pub mem_layers: u64,
    /// How keys and values are kept; in a file, a feature bit of the header.
    #[serde(default, skip_serializing_if = "CacheKind::is_default")]
    pub cache: CacheKind,
    /// What the blocks' memories are; in a file, a feature bit of the header.
    #[serde(default, skip_serializing_if = "MemoryKind::is_default")]
    pub memory: MemoryKind,
    /// Positions attended to beyond the window; in a file, a feature bit of the header and a record of their own.
    #[serde(default, skip_serializing_if = "Globals::is_default")]
    pub globals: Globals,
}

/// Gates of a [`MemoryKind::Titans`] memory: of what surprises, of momentum, of forgetting.
pub const MEMORY_GATES: u32 = 3;

/// Largest sizes any reader accepts; they bound every product below `u32::MAX`.
pub mod limits {
    /// Largest vocabulary.
    pub const VOCAB: u32 = 1 << 16;
    /// Largest residual, attention, feed-forward or memory width.
    pub const WIDTH: u32 = 1 << 13;
    /// Largest width of a memory that is a matrix.
    pub const MATRIX: u32 = 1 << 9;
    /// Most blocks.
    pub const LAYERS: u32 = 64;
    /// Most recursions.
    pub const RECURSION: u32 = 16;
    /// Largest attention window.
    pub const WINDOW: u32 = 1 << 14;
    /// Largest distance between global positions; at most as many as the largest window has are kept.
    pub const EVERY: u32 = 1 << 8;
}

impl ModelConfig {
    /// Width of the concatenated attention heads.
    pub fn attn_dim(&self) -> u32 {
        self.heads * self.head_dim
    }

    /// Width of the concatenated keys (or values) of one token.
    pub fn kv_dim(&self) -> u32 {
        self.kv_heads * self.head_dim
    }

    /// Rows of the fused query, key and value projection.
    pub fn qkv_dim(&self) -> u32 {
        self.attn_dim() + 2 * self.kv_dim()
    }

    /// Whether block `layer` has a memory.
    pub fn has_memory(&self, layer: u32) -> bool {
        self.mem_dim > 0 && layer < 64 && self.mem_layers >> layer & 1 == 1
    }

    /// Rows of a memory's input projection: what is written and its rates, or key, value, query and the three gates.
    pub fn mem_in_dim(&self) -> u32 {
        match self.memory {
            MemoryKind::Ema => 2 * self.mem_dim,
            MemoryKind::Titans => 3 * self.mem_dim + MEMORY_GATES,
        }
    }

    /// Values of a memory's bias: one for each rate or gate.
    pub fn mem_bias_dim(&self) -> u32 {
        match self.memory {
            MemoryKind::Ema => self.mem_dim,
            MemoryKind::Titans => MEMORY_GATES,
        }
    }

    /// Values that one memory holds between tokens: its averages, or the matrix and its momentum.
    pub fn mem_state(&self) -> usize {
        let width = self.mem_dim as usize;
        match self.memory {
            MemoryKind::Ema => width,
            MemoryKind::Titans => 2 * width * width,
        }
    }

    /// Checks every size against [`limits`] and the sizes against each other.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first field out of range.
    pub fn validate(&self) -> Result<()> {
        let width = |v: u32| (1..=limits::WIDTH).contains(&v);
        let checks: [(bool, &'static str); 17] = [
            ((1..=limits::VOCAB).contains(&self.vocab), "vocab"),
            (width(self.dim), "dim"),
            ((1..=limits::LAYERS).contains(&self.layers), "layers"),
            ((1..=256).contains(&self.heads), "heads"),
            (self.kv_heads >= 1 && self.heads.is_multiple_of(self.kv_heads), "kv_heads"),
            (self.head_dim >= 2 && self.head_dim <= 256 && self.head_dim.is_multiple_of(2), "head_dim"),
            (width(self.heads.saturating_mul(self.head_dim)), "heads * head_dim"),
            (width(self.ffn), "ffn"),
            ((1..=limits::WINDOW).contains(&self.window), "window"),
            ((0.0..=64.0).contains(&self.rope_log2_theta), "rope_log2_theta"),
            (self.norm_eps.is_finite() && self.norm_eps > 0.0 && self.norm_eps < 1.0, "norm_eps"),
            ((1..=limits::RECURSION).contains(&self.recursion), "recursion"),
            (self.halt_threshold.is_finite(), "halt_threshold"),
            (self.mem_dim <= self.widest_memory(), "mem_dim"),
            (self.mem_dim == 0 || width(self.mem_gate), "mem_gate"),
            (self.mem_layers.checked_shr(self.layers).unwrap_or(0) == 0, "mem_layers"),
            (self.globals.is_valid(), "globals"),
        ];
        match checks.iter().find(|(ok, _)| !ok) {
            Some((_, field)) => Err(Error::Config(field)),
            // Files that have some are refused where they are not linked.
            None if Globals::LINKED && !self.globals.is_valid() => Err(Error::Config("globals")),
            None => Ok(()),
        }
    }

    /// The feature bit of the memories: only models that have some say what they are.
    pub(crate) fn memory_feature(&self) -> u32 {
        let any = (0..self.layers).any(|layer| self.has_memory(layer));
        if any && self.memory == MemoryKind::Titans { FEATURE_MEMORY_TITANS } else { 0 }
    }

    fn widest_memory(&self) -> u32 {
        match self.memory {
            MemoryKind::Ema => limits::WIDTH,
            MemoryKind::Titans => limits::MATRIX,
        }
    }
}
