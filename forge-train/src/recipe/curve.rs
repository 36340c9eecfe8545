//! The loss curve of a run as CSV, a line a step, that a resumed run goes on with.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::engine::environment::StepMetrics;
use crate::error::{Error, Result};

const HEADER: &str = "step,tokens,seconds,loss,rate,gradient_norm,held_out_loss,held_out_accuracy";

/// Writes `curve.csv`: steps done, tokens seen, seconds of training (evaluations and checkpoints of the run so far not
/// counted), loss in nats before the update, learning rate, global gradient norm; held-out loss in nats and
/// share of held-out tokens predicted where they were measured.
pub(super) struct Curve {
    path: PathBuf,
    /// Takes a line a step, before the step's checkpoint can be written: a killed run resumes with all of them.
    file: File,
    lines: Vec<String>,
    tokens: u64,
    seconds: f64,
    stepped: Instant,
}

impl Curve {
    /// Opens the curve of a run that goes on after `done` steps; later lines are of a process that was killed and are
    /// dropped.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Data`] naming a line that is not one of a curve.
    pub(super) fn open(path: &Path, done: u64) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Error::io("read", path)(e)),
        };
        let lines: Vec<String> = text.lines().skip(1).take(done as usize).map(str::to_owned).collect();
        let (mut tokens, mut seconds) = (0, 0.0);
        if let Some(last) = lines.last() {
            let mut fields = last.split(',').skip(1);
            let wrong =
                || Error::Data { path: path.into(), line: lines.len() + 1, what: "not a step".into() };
            tokens = fields.next().and_then(|f| f.parse().ok()).ok_or_else(wrong)?;
            seconds = fields.next().and_then(|f| f.parse().ok()).ok_or_else(wrong)?;
        }
        let file = rewrite(path, &lines)?;
        Ok(Self { path: path.to_owned(), file, lines, tokens, seconds, stepped: Instant::now() })
    }

    /// Tokens seen so far.
    pub(super) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Seconds of training so far.
    pub(super) fn seconds(&self) -> f64 {
        self.seconds
    }

    /// Adds a step.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub(super) fn step(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.seconds += self.stepped.elapsed().as_secs_f64();
        self.stepped = Instant::now();
        self.tokens += metrics.tokens;
        let StepMetrics { step, loss, rate, gradient_norm, .. } = *metrics;
        let (tokens, seconds) = (self.tokens, self.seconds);
        let line = format!("{},{tokens},{seconds:.3},{loss:.6},{rate:.3e},{gradient_norm:.4},,", step + 1);
        writeln!(self.file, "{line}").map_err(Error::io("write", &self.path))?;
        self.lines.push(line);
        Ok(())
    }

    /// Adds held-out loss and accuracy after the last step and writes the curve; time from that step on is not counted.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub(super) fn held_out(&mut self, loss: f64, accuracy: f64) -> Result<()> {
        if let Some(last) = self.lines.last_mut() {
            last.truncate(last.trim_end_matches(',').len());
            last.push_str(&format!(",{loss:.6},{accuracy:.6}"));
        }
        self.file = rewrite(&self.path, &self.lines)?;
        self.stepped = Instant::now();
        Ok(())
    }
}

/// Writes a whole curve and opens it for further lines.
fn rewrite(path: &Path, lines: &[String]) -> Result<File> {
    let mut text = Vec::with_capacity(80 * (lines.len() + 1));
    for line in std::iter::once(HEADER).chain(lines.iter().map(String::as_str)) {
        writeln!(text, "{line}").expect("memory takes what is written");
    }
    crate::pipeline::durable::write(path, &[&text])?;
    OpenOptions::new().append(true).open(path).map_err(Error::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(step: u64) -> StepMetrics {
        StepMetrics { step, loss: 2.5, rate: 1e-3, gradient_norm: 0.5, clipped_heads: 0, tokens: 64 }
    }

    #[test]
    fn a_resumed_curve_forgets_what_came_after_the_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("curve.csv");
        let mut curve = Curve::open(&path, 0).unwrap();
        (0..5).for_each(|step| curve.step(&metrics(step)).unwrap());
        curve.held_out(1.25, 0.5).unwrap();
        let mut curve = Curve::open(&path, 3).unwrap();
        assert_eq!(curve.tokens(), 3 * 64);
        assert!(curve.seconds() >= 0.0);
        curve.step(&metrics(3)).unwrap();
        curve.held_out(1.5, 0.25).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5);
        assert!(lines[0].starts_with("step,tokens"));
        assert!(lines[4].starts_with("4,256,") && lines[4].ends_with(",1.500000,0.250000"), "{}", lines[4]);
    }

    #[test]
    fn a_line_that_is_no_step_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("curve.csv");
        fs::write(&path, format!("{HEADER}\nnothing\n")).unwrap();
        let error = Curve::open(&path, 1).err().unwrap();
        assert!(error.to_string().contains("curve.csv:2"), "{error}");
    }
}
