use forge_formats::codec::encode::Simple;
use forge_formats::config::{Activation, CacheKind};
use forge_runtime::testing::random_model;
use forge_runtime::*;
use std::time::Instant;
fn shape(name: &str) -> ModelConfig {
    let (dim, layers, heads, ffn, vocab, window) = match name {
        "25M" => (512, 8, 8, 1408, 8192, 512),
        "25Mq" => (512, 8, 8, 1536, 8192, 512),
        "2Mq" => (256, 6, 8, 512, 2048, 256),
        _ => (192, 6, 6, 512, 2048, 256),
    };
    ModelConfig {
        vocab,
        dim,
        layers,
        heads,
        kv_heads: heads,
        head_dim: dim / heads,
        ffn,
        activation: Activation::SwiGlu,
        window,
        rope_log2_theta: 13.2877,
        norm_eps: 1e-5,
        norm_gain: true,
        tied: true,
        recursion: 1,
        halting: false,
        halt_threshold: 0.5,
        mem_dim: 0,
        mem_gate: 0,
        mem_layers: 0,
        cache: CacheKind::default(),
    }
}
fn main() {
    for name in std::env::args().skip(1) {
        let bytes = random_model(&shape(&name), 1, Simple::Ternary2b);
        let model = Model::parse(&bytes).unwrap();
        let mut pm = Workspace::of(model.prepared_bytes());
        let t = Instant::now();
        let prepared = pm.prepare(&model).unwrap();
        println!("{name} prepare {:?}", t.elapsed());
        for kernels in Kernels::all().skip(1) {
            for prep in [false, true] {
                let mut options = Options::default().kernels(kernels).block(32);
                if prep {
                    options = options.prepared(prepared);
                }
                let mut ws = Workspace::with(&model, &options);
                let mut s = Session::with(&model, &options, ws.bytes()).unwrap();
                let mut best = (0f64, 0f64);
                for _ in 0..7 {
                    s.reset();
                    let t = Instant::now();
                    for i in 0..128u16 {
                        s.step(i * 7 + 20).unwrap();
                    }
                    let d = 128.0 / t.elapsed().as_secs_f64();
                    s.reset();
                    let toks: Vec<u16> = (0..128u16).map(|i| i * 7 + 20).collect();
                    let t = Instant::now();
                    s.extend(&toks).unwrap();
                    let p = 128.0 / t.elapsed().as_secs_f64();
                    best = (best.0.max(d), best.1.max(p));
                }
                println!(
                    "{name} {kernels:?} prepared {prep}: decode {:.0}/s prefill {:.0}/s",
                    best.0, best.1
                );
            }
        }
        for threads in [1, 2] {
            let options = Options::default().prepared(prepared).block(32);
            team::with_team(&model, &options, threads, |s| {
                let mut best = 0f64;
                for _ in 0..7 {
                    s.reset();
                    let t = Instant::now();
                    for i in 0..128u16 {
                        s.step_mut(i * 7 + 20)?;
                    }
                    best = best.max(128.0 / t.elapsed().as_secs_f64());
                }
                println!("{name} team {threads}: decode {best:.0}/s");
                Ok(())
            })
            .unwrap();
        }
    }
}
