//! How far a run is: bars with rate and time left on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::pipeline::phase::Progress;

/// Time between two plain lines of one task.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);
const BAR: &str = "{prefix:>20} [{bar:30}] {pos}/{len} {per_sec} {eta} left  {msg}";

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Not at all.
    Quiet,
    /// A line now and then.
    Plain,
    /// A bar that redraws itself.
    Bars,
}

impl Style {
    /// Bars when stderr is a terminal, lines otherwise, nothing when `quiet`.
    pub fn detect(quiet: bool) -> Self {
        match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Style::Quiet,
            (false, true) => Style::Bars,
            (false, false) => Style::Plain,
        }
    }
}

/// The task under way.
#[derive(Debug)]
struct Task {
    what: String,
    total: u64,
    began: Instant,
    /// Units that were done before this process took over, known after the first tick.
    inherited: Option<u64>,
    done: u64,
    message: String,
    printed: Instant,
    bar: Option<ProgressBar>,
}

/// Shows progress on stderr.
#[derive(Debug)]
pub struct Reporter {
    style: Style,
    task: Mutex<Option<Task>>,
}

impl Reporter {
    /// A reporter of this style.
    pub fn new(style: Style) -> Self {
        Self { style, task: Mutex::new(None) }
    }

    fn task(&self) -> MutexGuard<'_, Option<Task>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Reporter {
    fn start(&self, what: &str, total: u64) {
        self.finish();
        let now = Instant::now();
        let bar = (self.style == Style::Bars).then(|| bar(what, total));
        let (what, message) = (what.to_owned(), String::new());
        *self.task() =
            Some(Task { what, total, began: now, inherited: None, done: 0, message, printed: now, bar });
    }

    fn tick(&self, done: u64, message: &str) {
        let mut guard = self.task();
        let Some(task) = guard.as_mut() else { return };
        if task.inherited.is_none() {
            task.inherited = Some(done.saturating_sub(1));
            if let Some(bar) = &task.bar {
                bar.set_position(done.saturating_sub(1));
                bar.reset_eta();
            }
        }
        task.done = done;
        message.clone_into(&mut task.message);
        if let Some(bar) = &task.bar {
            bar.set_position(done);
            bar.set_message(task.message.clone());
        } else if self.style == Style::Plain && task.printed.elapsed() >= PLAIN_INTERVAL {
            task.printed = Instant::now();
            say(&task.line());
        }
    }

    fn finish(&self) {
        let Some(task) = self.task().take() else { return };
        if let Some(bar) = &task.bar {
            bar.finish_and_clear();
        }
        if self.style != Style::Quiet {
            let seconds = duration(task.began.elapsed().as_secs_f64());
            say(&format!("  {}: {}/{} in {seconds}  {}", task.what, task.done, task.total, task.message));
        }
    }

    fn note(&self, line: &str) {
        let guard = self.task();
        match guard.as_ref().and_then(|task| task.bar.as_ref()) {
            Some(bar) => bar.suspend(|| say(line)),
            None if self.style != Style::Quiet => say(line),
            None => {}
        }
    }
}

impl Task {
    /// `  trunk: 120/700, 3.1/s, 3m 07s left  loss 2.310`
    fn line(&self) -> String {
        let fresh = self.done.saturating_sub(self.inherited.unwrap_or(0)) as f64;
        let rate = fresh / self.began.elapsed().as_secs_f64().max(1e-9);
        let left = duration(self.total.saturating_sub(self.done) as f64 / rate.max(1e-9));
        format!("  {}: {}/{}, {rate:.1}/s, {left} left  {}", self.what, self.done, self.total, self.message)
    }
}

fn bar(what: &str, total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(what.to_owned());
    bar
}

/// Writes a line to stderr; a closed stderr is no reason to stop a run.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Seconds as people write them: `0.4s`, `12s`, `3m 07s`, `2h 05m`, `3d 04h`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.clamp(0.0, 1e9).round() as u64;
    match whole {
        0..10 => format!("{:.1}s", seconds.max(0.0)),
        10..60 => format!("{whole}s"),
        60..3600 => format!("{}m {:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h {:02}m", whole / 3600, whole / 60 % 60),
        _ => format!("{}d {:02}h", whole / 86_400, whole / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        for (seconds, text) in [
            (0.44, "0.4s"),
            (12.4, "12s"),
            (187.0, "3m 07s"),
            (7500.0, "2h 05m"),
            (273_600.0, "3d 04h"),
            (-1.0, "0.0s"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn the_rate_counts_only_what_this_process_did() {
        let reporter = Reporter::new(Style::Quiet);
        reporter.tick(5, "before any start");
        reporter.start("trunk", 700);
        reporter.tick(601, "resumed");
        reporter.tick(610, "loss 2.3");
        let mut guard = reporter.task();
        let task = guard.as_mut().unwrap();
        task.began = Instant::now().checked_sub(Duration::from_secs(5)).unwrap();
        let line = task.line();
        assert!(line.starts_with("  trunk: 610/700, 2.0/s, 45s left  loss 2.3"), "{line}");
        drop(guard);
        reporter.finish();
        assert!(reporter.task().is_none());
    }
}
