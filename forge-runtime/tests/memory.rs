//! The memory a session uses is the memory it says, to the byte; a small model's fits a microcontroller.

use forge_formats::codec::encode::Simple;
use forge_formats::config::{Activation, CacheKind, Globals, MemoryKind};
use forge_runtime::testing::random_model;
use forge_runtime::{Batch, Error, Model, ModelConfig, Options, Session, Workspace};

/// 1.13 million parameters in the blocks: 128 wide, six blocks, eight heads on two key/value heads, a window of 256.
fn assistant(cache: CacheKind) -> ModelConfig {
    ModelConfig {
        vocab: 1024,
        dim: 128,
        layers: 6,
        heads: 8,
        kv_heads: 2,
        head_dim: 16,
        ffn: 384,
        activation: Activation::SwiGlu,
        window: 256,
        rope_log2_theta: 13.287_712,
        norm_eps: 1e-5,
        norm_gain: true,
        tied: true,
        recursion: 1,
        halting: false,
        halt_threshold: 0.5,
        mem_dim: 0,
        mem_gate: 0,
        mem_layers: 0,
        cache,
        memory: MemoryKind::Ema,
        globals: Globals::default(),
    }
}

#[test]
fn a_million_parameters_run_in_less_than_200_kilobytes() {
    let file = random_model(&assistant(CacheKind::Int8), 1, Simple::Ternary2b);
    let model = Model::parse(&file).expect("a model");
    let device = Options::device();
    // Stated in docs/architecture.md. The same on every target: no part of it holds a pointer.
    assert_eq!(model.workspace_for(&device), 139_700);
    let mut memory = vec![0u32; 139_700 / 4];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut memory);
    assert_eq!(Session::with(&model, &device, &mut bytes[..139_699]).err(), Some(Error::Buffer));
    let mut session = Session::with(&model, &device, bytes).expect("enough memory");
    // Past the window.
    session.prefill(&[20; 300]).expect("tokens of the vocabulary");
    let wide = random_model(&assistant(CacheKind::F32), 1, Simple::Ternary2b);
    assert!(Model::parse(&wide).expect("a model").workspace_for(&device) > 400_000, "int8 saves most of it");
}

/// Global positions reach back 2,048 tokens for the memory of 112 more in the window, not of 1,792.
#[test]
fn globals_take_as_many_rows_as_they_are() {
    let bytes = |window, every| {
        let globals = Globals::within(2048, every, window);
        let config = ModelConfig { window, globals, ..assistant(CacheKind::F32) };
        Model::parse(&random_model(&config, 1, Simple::Ternary2b))
            .expect("a model")
            .workspace_for(&Options::device())
    };
    let row = bytes(272, 0) - bytes(256, 0);
    assert_eq!(bytes(256, 16) - bytes(256, 0), row / 16 * 112);
}

/// What lies behind the memory stays as it was, and a byte less is refused.
#[test]
fn sessions_use_what_they_say_and_no_byte_more() {
    const BEYOND: usize = 256;
    for cache in [CacheKind::Int8, CacheKind::F32] {
        let small = ModelConfig { window: 16, ..assistant(cache) };
        let memory =
            ModelConfig { mem_dim: 24, mem_gate: 8, mem_layers: 0b101, recursion: 2, ..small.clone() };
        let globals = ModelConfig { globals: Globals { every: 3, rows: 5 }, ..memory.clone() };
        for config in [small, memory, globals] {
            let file = random_model(&config, 1, Simple::Ternary2b);
            let model = Model::parse(&file).expect("a model");
            for options in [Options::device(), Options::default(), Options::default().block(7)] {
                let needed = model.workspace_for(&options);
                let mut lent = Workspace::of(needed + BEYOND);
                let bytes = lent.bytes();
                bytes.fill(0xA5);
                let short = bytes.get_mut(..needed - 1).expect("shorter");
                assert_eq!(Session::with(&model, &options, short).err(), Some(Error::Buffer));
                let mut session = Session::with(&model, &options, bytes).expect("enough memory");
                session.prefill(&[20; 40]).expect("tokens of the vocabulary");
                session.step(21).expect("a token of the vocabulary");
                assert!(bytes[needed..].iter().all(|b| *b == 0xA5), "{options:?}");
                assert!(bytes[..needed].iter().any(|b| *b != 0xA5), "nothing was used: {options:?}");
            }
            let needed = model.batch_workspace(&Options::device(), 3);
            let mut lent = Workspace::of(needed + BEYOND);
            let bytes = lent.bytes();
            bytes.fill(0xA5);
            let short = bytes.get_mut(..needed - 1).expect("shorter");
            assert_eq!(Batch::new(&model, &Options::device(), 3, short).err(), Some(Error::Buffer));
            let mut batch = Batch::new(&model, &Options::device(), 3, bytes).expect("enough memory");
            (0..40).for_each(|t| batch.step(&[(0, t), (2, t + 1)]).expect("tokens of the vocabulary"));
            assert!(bytes[needed..].iter().all(|b| *b == 0xA5));
        }
    }
}
