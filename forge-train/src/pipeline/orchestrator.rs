//! Runs phases in order: what is done is not done again, each handoff is checked, a closed gate stops the run.

use std::collections::BTreeMap;
use std::time::Instant;

use candle_core::Device;

use crate::error::{Error, Result};
use crate::pipeline::handoff::{Contract, Evidence};
use crate::pipeline::phase::{Phase, PhaseContext, PhaseId, PhaseOutput, PreparedData, Progress};
use crate::pipeline::session::Session;
use crate::pipeline::stop::StopFlag;
use crate::registry::Status;

/// Which phases to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub first: PhaseId,
    /// The last.
    pub last: PhaseId,
    /// Whether to run the first again even if it is done; what descended from it is forgotten.
    pub restart: bool,
}

impl Range {
    /// Everything that is not done yet.
    pub const ALL: Range = Range { first: PhaseId::Cognate, last: PhaseId::Compression, restart: false };
}

/// A run of phases in a session.
pub struct Orchestrator<'a> {
    /// Where everything is kept.
    pub session: &'a Session,
    /// The data.
    pub data: &'a PreparedData,
    /// The phases to choose from.
    pub phases: &'a [Box<dyn Phase>],
    /// Where progress is shown.
    pub progress: &'a dyn Progress,
    /// Asked to stop?
    pub stop: &'a StopFlag,
    /// Where training runs.
    pub device: &'a Device,
}

impl Orchestrator<'_> {
    /// Runs the phases of `range` that are not done, and returns the outputs of all that are done then.
    ///
    /// # Errors
    /// [`Error::Gate`] when a gate without fallback or a handoff contract fails, [`Error::Interrupted`] after a stop
    /// request, [`Error::Usage`] when a phase before the range has not run, and whatever a phase returns. In each
    /// case the session can be resumed.
    pub fn run(&self, range: Range) -> Result<BTreeMap<PhaseId, PhaseOutput>> {
        let result = self.run_range(range);
        let (status, phase, error) = match &result {
            Ok(done) if done.len() == PhaseId::ALL.len() => (Status::Completed, None, None),
            Ok(done) => (Status::Paused, done.keys().next_back().copied(), None),
            Err((phase, Error::Interrupted)) => (Status::Paused, *phase, None),
            Err((phase, error)) => (Status::Failed, *phase, Some(error.to_string())),
        };
        let recorded =
            self.session.registry().set_session(self.session.id(), status, phase, error.as_deref());
        // The reason a run stopped matters more than a registry that fails while recording it.
        let done = result.map_err(|(_, error)| error)?;
        recorded.map(|()| done)
    }

    fn run_range(
        &self,
        range: Range,
    ) -> std::result::Result<BTreeMap<PhaseId, PhaseOutput>, (Option<PhaseId>, Error)> {
        let mut done = self.start(range).map_err(|error| (None, error))?;
        for phase in PhaseId::ALL.into_iter().filter(|phase| (range.first..=range.last).contains(phase)) {
            if !done.contains_key(&phase) {
                let output = self.step(phase, &done).map_err(|error| (Some(phase), error))?;
                done.insert(phase, output);
            }
        }
        Ok(done)
    }

    /// Loads what is done, forgets what is to be done again, and mends what a kill left unfinished.
    fn start(&self, range: Range) -> Result<BTreeMap<PhaseId, PhaseOutput>> {
        if range.restart {
            self.session.forget_from(range.first)?;
        }
        let done = completed(self.session)?;
        if let Some(missing) = PhaseId::ALL.into_iter().find(|p| *p < range.first && !done.contains_key(p)) {
            return Err(Error::Usage {
                what: format!(
                    "phase {} needs phase {missing}, which has not run in this session",
                    range.first
                ),
                hint: format!("start with `--from {missing}`, or resume a session that has run it"),
            });
        }
        for phase in done.keys() {
            self.session.checkpoints(*phase)?.clear()?;
        }
        if let Some((phase, output)) = done.last_key_value() {
            self.progress.note(&format!("phases 1 to {} are done and taken over", phase.number()));
            self.session.publish(output)?;
        }
        Ok(done)
    }

    fn step(&self, phase: PhaseId, done: &BTreeMap<PhaseId, PhaseOutput>) -> Result<PhaseOutput> {
        self.stop.check()?;
        self.check_handoff(phase, done)?;
        let implementation = self
            .phases
            .iter()
            .find(|candidate| candidate.id() == phase)
            .ok_or_else(|| Error::Config(format!("phase {phase} is not part of this program")))?;
        let (session, registry) = (self.session, self.session.registry());
        registry.set_session(session.id(), Status::Running, Some(phase), None)?;
        registry.start_phase(session.id(), phase, &parents(phase, done))?;
        self.progress.note(&format!("phase {}/{} {}", phase.number(), PhaseId::ALL.len(), phase.title()));
        let context = PhaseContext {
            config: session.config(),
            seed: session.config().run.seed,
            data: self.data,
            inputs: done,
            store: session.store(),
            checkpoints: session.checkpoints(phase)?,
            progress: self.progress,
            stop: self.stop,
            device: self.device,
        };
        let began = Instant::now();
        let result = implementation.run(&context).and_then(|output| finite(phase, output));
        let seconds = began.elapsed().as_secs_f64();
        match result {
            Ok(output) => self.conclude(phase, &output, seconds),
            Err(error) => {
                let interrupted = matches!(error, Error::Interrupted);
                let status = if interrupted { Status::Paused } else { Status::Failed };
                let reason = (!interrupted).then(|| error.to_string());
                registry.stop_phase(session.id(), phase, status, reason.as_deref(), seconds)?;
                Err(error)
            }
        }
    }

    /// Records what a phase handed on and looks at its gate.
    fn conclude(&self, phase: PhaseId, output: &PhaseOutput, seconds: f64) -> Result<PhaseOutput> {
        let session = self.session;
        let output = session.registry().finish_phase(session.id(), phase, output, seconds)?;
        session.checkpoints(phase)?.clear()?;
        let gate = &output.gate;
        if !gate.open() {
            return Err(Error::Gate(format!("{phase}: {} (measured: {})", gate.rule, gate.measured)));
        }
        session.publish(&output)?;
        self.progress.note(&format!("  {}", output.summary));
        match &gate.fallback {
            Some(fallback) => {
                let line = format!("  gate missed: {} (measured: {}); {fallback}", gate.rule, gate.measured);
                self.progress.note(&line);
            }
            None => self.progress.note(&format!("  gate passed: {}", gate.measured)),
        }
        Ok(output)
    }

    /// Checks the contract of the phase before `phase`.
    fn check_handoff(&self, phase: PhaseId, done: &BTreeMap<PhaseId, PhaseOutput>) -> Result<()> {
        let session = self.session;
        let source = phase.previous();
        let Some((source, contract)) =
            source.and_then(|source| Some((source, Contract::after(source, session.config())?)))
        else {
            return Ok(());
        };
        let tokenizer = self.data.tokenizer.table();
        let checks = contract.check(&Evidence { outputs: done, store: session.store(), tokenizer })?;
        let broken: Vec<String> =
            checks.iter().filter(|c| !c.passed).map(|c| format!("{}, found {}", c.rule, c.found)).collect();
        let json = serde_json::to_string(&checks).map_err(|e| Error::Artifact(format!("handoff: {e}")))?;
        session.registry().record_handoff(session.id(), source, broken.is_empty(), &json)?;
        if broken.is_empty() {
            return Ok(());
        }
        Err(Error::Gate(format!("handoff from {source} to {phase}: {}", broken.join("; "))))
    }
}

/// Outputs of the phases from the first on that are completed without a gap.
fn completed(session: &Session) -> Result<BTreeMap<PhaseId, PhaseOutput>> {
    let rows = session.registry().phases(session.id())?;
    let done = rows.into_iter().zip(PhaseId::ALL).map_while(|(row, expected)| {
        (row.phase == expected && row.status == Status::Completed).then_some((row.phase, row.output?))
    });
    Ok(done.collect())
}

/// Hashes of the artifacts a phase is given by the one before it.
fn parents(phase: PhaseId, done: &BTreeMap<PhaseId, PhaseOutput>) -> Vec<String> {
    let before = phase.previous().and_then(|before| done.get(&before));
    before.map_or_else(Vec::new, |output| output.artifacts.iter().map(|(_, a)| a.hash.clone()).collect())
}

/// JSON has no numbers that are not finite, and no gate could be trusted with one.
fn finite(phase: PhaseId, output: PhaseOutput) -> Result<PhaseOutput> {
    match output.metrics.iter().find(|(_, value)| !value.is_finite()) {
        Some((name, value)) => Err(Error::Gate(format!("{phase}: its metric `{name}` is {value}"))),
        None => Ok(output),
    }
}

#[cfg(test)]
#[path = "orchestrator_tests.rs"]
mod tests;
