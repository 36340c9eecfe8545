//! `compare device`: tokens a second of training on a GPU, beside PyTorch on the same card.
//!
//! What is timed on our side is the trainer itself: its loop with batches, gradients, clipping and update, from the end
//! of one step to the end of the next.

mod torch;
mod trainer;

use anyhow::{Result, bail};
use clap::Args;
use forge_train::device;
use serde::Serialize;

use crate::stats::Summary;

/// Sizes of the model and the run.
#[derive(Clone, Copy, Debug, Serialize)]
struct Shape {
    vocab: u32,
    dim: u32,
    layers: u32,
    heads: u32,
    ffn: u32,
    /// Tokens of a sequence.
    length: u32,
}

/// 24.4 million parameters.
const SHAPE: Shape = Shape { vocab: 8192, dim: 384, layers: 12, heads: 6, ffn: 1024, length: 256 };

/// Options of `compare device`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where to train: cuda, cuda:N or cpu
    #[arg(long, default_value = "cuda", value_name = "NAME")]
    device: String,
    /// Sequences of 256 tokens in a batch
    #[arg(long, value_delimiter = ',', default_value = "64,128")]
    batches: Vec<u32>,
    /// Steps that are timed
    #[arg(long, default_value_t = 20)]
    steps: u32,
    /// Steps before them
    #[arg(long, default_value_t = 5)]
    warmup: u32,
    /// Python with PyTorch
    #[arg(long, default_value = "python3", value_name = "PROGRAM")]
    python: String,
    /// Leave out PyTorch
    #[arg(long)]
    no_torch: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// One program's figures at one precision and batch.
#[derive(Debug, Serialize)]
struct Entry {
    program: &'static str,
    ternary: bool,
    batch: u32,
    /// Time of a step in milliseconds.
    step_ms: Summary,
    /// Of the median step.
    tokens_per_second: f64,
    /// Most bytes that tensors took at a time, on a GPU.
    peak_bytes: Option<u64>,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Report {
    device: String,
    shape: Shape,
    entries: Vec<Entry>,
}

impl Entry {
    fn new(
        program: &'static str,
        ternary: bool,
        batch: u32,
        seconds: &[f64],
        peak: Option<u64>,
    ) -> Result<Self> {
        let ms: Vec<f64> = seconds.iter().map(|s| s * 1e3).collect();
        let Some(step_ms) = Summary::of(&ms) else { bail!("no step was timed") };
        let tokens = f64::from(batch * SHAPE.length);
        let tokens_per_second = tokens / step_ms.median * 1e3;
        Ok(Self { program, ternary, batch, step_ms, tokens_per_second, peak_bytes: peak })
    }
}

/// Measures and prints.
///
/// # Errors
/// When there is no such device, PyTorch cannot be run, or a step fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let device = device::open(&options.device)?;
    let mut entries = Vec::new();
    for ternary in [false, true] {
        for batch in &options.batches {
            entries.push(trainer::measure(&device, ternary, *batch, options)?);
        }
    }
    if !options.no_torch {
        entries.extend(torch::measure(options)?);
    }
    let report = Report { device: device::describe(&device), shape: SHAPE, entries };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    println!("{}; medians of {} steps [smallest–largest]", report.device, options.steps);
    for e in &report.entries {
        let peak = e.peak_bytes.map_or("–".into(), |bytes| format!("{:.2} GB", bytes as f64 / 1e9));
        println!(
            "  {:<8} {:<8} batch {:>4} {:>9.2} ms [{:.2}–{:.2}] {:>9.0} tokens/s {:>9}",
            e.program,
            if e.ternary { "ternary" } else { "float" },
            e.batch,
            e.step_ms.median,
            e.step_ms.min,
            e.step_ms.max,
            e.tokens_per_second,
            peak,
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_is_that_of_the_median_step() {
        let entry = Entry::new("any", true, 64, &[0.5, 0.02, 0.01], None).expect("three steps");
        assert_eq!((entry.step_ms.median, entry.tokens_per_second), (20.0, 819_200.0));
        assert!(Entry::new("any", true, 64, &[], None).is_err());
    }
}
