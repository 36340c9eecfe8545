//! Training runs, several side by side.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result};
use candle_core::Device;
use forge_train::pipeline::prepare::DataSource;
use forge_train::pipeline::{Silent, StopFlag};
use forge_train::recipe::{self, Recipe, RunDirectory};

use super::task::Task;

/// Stack of a run: destructors of long graphs recurse.
const STACK: usize = 256 << 20;
/// Held-out accuracy at which a task counts as solved.
const SOLVED: f64 = 0.95;

/// One run to do.
pub(super) struct Job {
    recipe: &'static str,
    source: DataSource,
    set: Vec<String>,
    directory: PathBuf,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// Lowest held-out loss in nats.
    pub(super) loss: f64,
    /// Held-out accuracy at the end.
    pub(super) accuracy: f64,
    /// First step at which the task was solved.
    pub(super) solved_at: Option<u64>,
    /// Seconds a step.
    pub(super) step_seconds: f64,
}

impl Job {
    pub(super) fn new(
        task: &Task,
        mut set: Vec<String>,
        seed: u64,
        steps: u64,
        scratch: &std::path::Path,
    ) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        set.extend([format!("run.seed={seed}"), format!("train.steps={steps}")]);
        Self {
            recipe: task.recipe,
            source: task.source.clone(),
            set,
            directory: scratch.join(format!("run-{number}")),
        }
    }

    fn run(&self, device: &Device) -> Result<Outcome> {
        let recipe = Recipe::load(self.recipe, &self.set)?;
        let directory = RunDirectory::create(&self.directory, &recipe, &self.source)?;
        let report = recipe::run(&directory, device, None, &Silent, &StopFlag::new())?;
        let curve = std::fs::read_to_string(directory.curve()).context("no curve was written")?;
        let judged = judged(&curve);
        let outcome = Outcome {
            loss: report.best_loss,
            accuracy: judged.last().map_or(0.0, |(_, accuracy)| *accuracy),
            solved_at: judged.iter().find(|(_, accuracy)| *accuracy >= SOLVED).map(|(step, _)| *step),
            step_seconds: report.seconds / report.steps.max(1) as f64,
        };
        eprintln!("  {}: {outcome:?}", self.set.join(" "));
        Ok(outcome)
    }
}

/// Steps of a curve with held-out accuracies.
fn judged(curve: &str) -> Vec<(u64, f64)> {
    let line = |line: &str| {
        let (step, rest) = line.split_once(',')?;
        let accuracy = rest.rsplit(',').next()?;
        Some((step.parse().ok()?, accuracy.parse().ok()?))
    };
    curve.lines().skip(1).filter_map(line).collect()
}

/// Runs all jobs, `at_once` side by side; outcomes in the order of the jobs.
///
/// # Errors
/// The first error of a job.
pub(super) fn run_all(jobs: Vec<Job>, at_once: usize, device: &Device) -> Result<Vec<Outcome>> {
    let next = AtomicUsize::new(0);
    let outcomes: Vec<Mutex<Option<Result<Outcome>>>> = jobs.iter().map(|_| Mutex::new(None)).collect();
    let pairs: Vec<_> = jobs.iter().zip(&outcomes).collect();
    thread::scope(|scope| -> Result<()> {
        for _ in 0..at_once.min(jobs.len()) {
            let work = || {
                let take = || next.fetch_add(1, Ordering::Relaxed);
                while let Some((job, outcome)) = pairs.get(take()) {
                    *outcome.lock().unwrap_or_else(|e| e.into_inner()) = Some(job.run(device));
                }
            };
            thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work).context("no thread")?;
        }
        Ok(())
    })?;
    outcomes
        .into_iter()
        .map(|outcome| outcome.into_inner().unwrap_or_else(|e| e.into_inner()).context("a run was lost")?)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::judged;

    #[test]
    fn only_judged_steps_count() {
        let curve = "step,tokens,seconds,loss,rate,gradient_norm,held_out_loss,held_out_accuracy\n\
                     1,8,0.1,2.0,1e-3,1.0,,\n2,16,0.2,1.5,1e-3,1.0,1.75,0.5\n";
        assert_eq!(judged(curve), [(2, 0.5)]);
    }
}
