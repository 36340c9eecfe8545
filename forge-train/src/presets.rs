//! The defaults of each preset.

use forge_formats::config::MemoryKind;

use crate::config::{
    BakingConfig, BitNetConfig, BranchConfig, Branches, CognateConfig, CompressionConfig, Config, DataConfig,
    EdgeConfig, EvoMergeConfig, ForgeConfig, ModelShape, OptimizerPreset, Preset, QuietStarConfig, RunConfig,
    TokenizerConfig, TrainConfig,
};
use crate::device::DeviceChoice;
use crate::phases::evomerge::EvolveConfig;

impl Config {
    /// The defaults of a preset.
    pub fn preset(preset: Preset) -> Self {
        match preset {
            Preset::Nano => Self::nano(),
            Preset::Tiny => Self::tiny(),
            Preset::M25 => Self::m25(),
        }
    }

    fn nano() -> Self {
        let batch = 1024;
        Self {
            run: RunConfig {
                preset: Preset::Nano,
                seed: 42,
                checkpoint_seconds: 20,
                device: DeviceChoice::Auto,
                optimizer: OptimizerPreset::AdamW,
            },
            model: nano_model(),
            tokenizer: TokenizerConfig::bpe(512),
            data: DataConfig {
                max_len: 128,
                prompt_weight: 0.1,
                builtin_thousands: 24,
                augment: 0.5,
                eval_examples: 400,
            },
            phase1: nano_phase1(batch),
            phase2: EvoMergeConfig {
                fitness_examples: 96,
                accuracy_weight: 0.02,
                search: EvolveConfig { diversity_sample: 1024, ..EvolveConfig::default() },
            },
            phase3: nano_phase3(batch),
            phase4: BitNetConfig { calibration_examples: 128, min_ratio: 6.0, max_bytes: 20_000_000 },
            phase5: ForgeConfig {
                train: TrainConfig { weight_decay: 0.0, ..TrainConfig::adamw(2200, batch, 3e-3) },
                lambda_share: 0.1,
                advance_at: 0.8,
                assess_every: 300,
                control_steps: 15,
            },
            phase6: nano_phase6(batch),
            phase7: nano_phase7(batch),
            phase8: CompressionConfig { budget: 140_000, min_retention: 0.95, max_bpb_ratio: 1.05 },
        }
    }

    fn tiny() -> Self {
        let mut c = Self::nano();
        c.run.preset = Preset::Tiny;
        c.model = ModelShape {
            dim: 192,
            layers: 4,
            heads: 6,
            kv_heads: 3,
            head_dim: 32,
            ffn: 512,
            window: 128,
            mem_layers: vec![3],
            mem_dim: 48,
            mem_gate: 48,
            ..c.model
        };
        c.tokenizer.vocab = 1024;
        c.phase1.parameters = [1_000_000, 3_000_000];
        c.data.max_len = 256;
        c.phase1.trunk.steps = 4000;
        c.phase1.branch.steps = 400;
        // Enough for thoughts to beat their controls (docs/results.md, "Thoughts at `tiny`").
        c.phase3.bake = TrainConfig::adamw(1600, c.phase3.bake.batch_tokens, 3e-3);
        c.phase5.train.steps = 4000;
        c.phase6.train.steps = 400;
        c.phase7.train.steps = 1000;
        c.phase7.profile = "cortex-m7-2m".into();
        c.phase8.budget = 500_000;
        c
    }

    fn m25() -> Self {
        let mut c = Self::tiny();
        c.run.preset = Preset::M25;
        c.model = ModelShape {
            dim: 384,
            layers: 12,
            heads: 6,
            kv_heads: 6,
            head_dim: 64,
            ffn: 1024,
            window: 256,
            mem_layers: vec![5],
            mem_dim: 64,
            mem_gate: 64,
            ..c.model
        };
        c.tokenizer.vocab = 8192;
        c.phase1.parameters = [22_500_000, 27_500_000];
        c.data.max_len = 512;
        for train in [&mut c.phase1.trunk, &mut c.phase1.branch, &mut c.phase5.train, &mut c.phase7.train] {
            // The batch with the most tokens a second of those measured on a GPU (docs/gpu.md).
            train.batch_tokens = 65_536;
            train.lr = 1e-3;
        }
        c.phase1.trunk.steps = 5000;
        c.phase1.branch.steps = 500;
        c.phase3.bake = TrainConfig::adamw(400, c.phase3.bake.batch_tokens, 1e-3);
        c.phase5.train.steps = 5000;
        c.phase7.train.steps = 500;
        c.phase4.min_ratio = 8.0;
        c.phase7.profile = "browser".into();
        c.phase8.budget = 6_000_000;
        // Beside steps this large its iterations are cheap, and it learns more from them.
        c.with_optimizer(OptimizerPreset::Muon)
    }
}

fn nano_model() -> ModelShape {
    ModelShape {
        dim: 128,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
        ffn: 320,
        relu2: false,
        window: 64,
        recursion: 2,
        halting: true,
        halt_threshold: 0.9,
        mem_dim: 32,
        mem_gate: 32,
        mem_layers: vec![1],
        memory: MemoryKind::Ema,
        global_every: 0,
    }
}

fn nano_phase1(batch: usize) -> CognateConfig {
    CognateConfig {
        trunk: TrainConfig::adamw(1600, batch, 3e-3),
        branch: TrainConfig::adamw(100, batch, 1.5e-3),
        supervision: vec![0.5, 1.0],
        halt_weight: 0.1,
        halt_margin: 0.005,
        parameters: [200_000, 500_000],
        length_curriculum: Vec::new(),
        seeds: [42, 1337, 2023],
        branches: branches(),
    }
}

/// Worked problems think longest, dialogue and prose remember longest, commands stop earliest.
fn branches() -> Branches {
    Branches {
        reasoning: BranchConfig { halt_threshold: 0.95, halt_margin: 0.002, ..BranchConfig::default() },
        memory_integration: BranchConfig { memory_shift: -0.5, ..BranchConfig::default() },
        adaptive_computation: BranchConfig {
            halt_threshold: 0.7,
            halt_margin: 0.02,
            ..BranchConfig::default()
        },
    }
}

fn nano_phase3(batch: usize) -> QuietStarConfig {
    QuietStarConfig::of(TrainConfig::adamw(150, batch, 1e-3), TrainConfig::adamw(10, batch, 1e-4))
}

fn nano_phase6(batch: usize) -> BakingConfig {
    BakingConfig {
        train: TrainConfig { weight_decay: 0.0, ..TrainConfig::adamw(150, batch, 1e-3) },
        cycles: 2,
        trajectories: 1000,
        temperature: 0.7,
        strength: 1.0,
        replay: 0.25,
        max_forgetting: 1.10,
    }
}

fn nano_phase7(batch: usize) -> EdgeConfig {
    EdgeConfig {
        profile: "cortex-m4-1m".into(),
        prune_ffn: 0.2,
        train: TrainConfig { weight_decay: 0.0, ..TrainConfig::adamw(400, batch, 1e-3) },
        distil_weight: 0.7,
        min_retention: 0.92,
    }
}
