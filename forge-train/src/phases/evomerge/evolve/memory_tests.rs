//! Memory of a search over models of 25 M parameters.
//!
//! `cargo test --release -p forge-train --lib evolve::memory_tests -- --ignored --nocapture` prints docs/results.md's
//! figures; it must run alone, since it reads the peak of its process.

use candle_core::{Device, Tensor};
use forge_formats::config::ModelConfig;

use super::*;
use crate::config::{Config, Preset};
use crate::device::peak_resident;
use crate::nn::{ForwardOptions, Network, Precision};

/// What may be resident, in bytes.
const LIMIT: u64 = 2_300_000_000;

/// Runs a candidate on some tokens, as phase 2 does; the loss is a hash of the logits, which costs nothing to learn
/// from and so keeps every step of the search busy.
struct Forward {
    tokens: Tensor,
    judged: usize,
}

impl Objective for Forward {
    fn loss(&mut self, model: &Weights) -> Result<f64> {
        self.judged += 1;
        let network = Network::new(model, Precision::FLOAT, &Device::Cpu)?.detached();
        let forward = network.forward(&self.tokens, ForwardOptions::default())?;
        let logits = network.logits(forward.answer())?;
        Ok(f64::from(logits.sqr()?.mean_all()?.to_scalar::<f32>()?))
    }

    fn generation(&mut self, generation: &Generation) {
        let megabytes = peak_resident().unwrap_or(0) / 1_000_000;
        println!("generation {}: {} judged, peak {megabytes} MB", generation.index, self.judged);
    }
}

fn shape() -> ModelConfig {
    let config = Config::preset(Preset::M25);
    config.model_config(config.tokenizer.vocab)
}

#[test]
#[ignore = "holds models of 25 M parameters"]
fn twenty_individuals_of_25_million_parameters_fit() {
    let shape = shape();
    let base = Weights::init(&shape, 0);
    assert!((24_000_000..28_000_000).contains(&base.parameters()), "{}", base.parameters());
    let near = |seed: u64| {
        let (mut model, noise) = (base.clone(), Weights::init(&shape, seed));
        for (m, n) in model.tensors.values_mut().zip(noise.tensors.values()) {
            m.data.iter_mut().zip(&n.data).for_each(|(v, n)| *v += 0.1 * n);
        }
        model
    };
    let models = [near(1), near(2), near(3)];
    let originals: Vec<&Weights> = models.iter().collect();
    let config = EvolveConfig {
        generations: 3,
        elite: 4,
        mutants: 3,
        groups: 4,
        patience: 0,
        diversity_reseed: 0.0,
        ..EvolveConfig::default()
    };
    assert_eq!(config.population(), 20);
    let ids: Vec<u32> = (0..8 * 64).map(|i| i % 500).collect();
    let tokens = Tensor::from_vec(ids, (8, 64), &Device::Cpu).unwrap();
    let mut objective = Forward { tokens, judged: 0 };
    let result = evolve(Founders { base: &base, originals: &originals }, &config, 1, &mut objective).unwrap();
    let peak = peak_resident().unwrap();
    let record = serde_json::to_string(&result.lineage).unwrap().len();
    println!(
        "{} parameters, {} candidates, peak {:.2} GB, lineage {record} bytes",
        base.parameters(),
        objective.judged,
        peak as f64 / 1e9
    );
    assert!(peak <= LIMIT, "{peak} bytes");
}
