//! Batches made ahead by a thread of their own, while the step before is computed.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::data::batch::Batch;
use crate::data::source::BatchSource;

/// Batches made ahead: enough that one slow batch does not hold up the next step.
const AHEAD: u64 = 2;

/// The batches of another source, which the next steps find ready.
///
/// A batch depends on its step alone, so it makes no difference which thread makes it or when: steps taken in order
/// find theirs ready, any other step is made on the spot.
pub struct Prefetch {
    source: Arc<dyn BatchSource>,
    ahead: Mutex<Option<Ahead>>,
}

/// The thread and what it was asked for.
struct Ahead {
    /// Steps whose batches are asked for and not yet taken, in order.
    due: VecDeque<u64>,
    /// Taken away to end the thread.
    ask: Option<Sender<u64>>,
    made: Receiver<Batch>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetch {
    /// Makes the batches of `source` ahead. The thread starts with the first batch that is taken.
    pub fn new(source: Arc<dyn BatchSource>) -> Self {
        Self { source, ahead: Mutex::new(None) }
    }
}

impl BatchSource for Prefetch {
    fn batch(&self, step: u64) -> Batch {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = ahead.get_or_insert_with(|| Ahead::new(self.source.clone()));
        let ready = ahead.take(step);
        ahead.ask_up_to(step + AHEAD);
        ready.unwrap_or_else(|| self.source.batch(step))
    }
}

impl Ahead {
    fn new(source: Arc<dyn BatchSource>) -> Self {
        let (ask, asked) = channel::<u64>();
        let (make, made) = channel();
        let work = move || {
            for step in asked {
                if make.send(source.batch(step)).is_err() {
                    break;
                }
            }
        };
        // Without a thread nothing is ready, and every batch is made on the spot.
        let thread = thread::Builder::new().name("batches".into()).spawn(work).ok();
        Self { due: VecDeque::new(), ask: Some(ask), made, thread }
    }

    /// The batch of `step`, if it was asked for; batches before it are dropped.
    fn take(&mut self, step: u64) -> Option<Batch> {
        while let Some(due) = self.due.pop_front() {
            let batch = self.made.recv().ok()?;
            if due == step {
                return Some(batch);
            }
        }
        None
    }

    /// Asks for the batches after those asked for, up to that of `last`.
    fn ask_up_to(&mut self, last: u64) {
        let first = self.due.back().map_or(last + 1 - AHEAD, |due| due + 1);
        for step in first..=last {
            let Some(ask) = &self.ask else { return };
            if ask.send(step).is_err() {
                return;
            }
            self.due.push_back(step);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked did so over a batch that the taker then made, or did not need.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Batches that hold their step and the number of the source, with a count of how many were made.
    struct Numbered {
        source: u32,
        made: AtomicU64,
    }

    impl Numbered {
        fn new(source: u32) -> Arc<Self> {
            Arc::new(Self { source, made: AtomicU64::new(0) })
        }
    }

    impl BatchSource for Numbered {
        fn batch(&self, step: u64) -> Batch {
            self.made.fetch_add(1, Ordering::SeqCst);
            let ids = vec![self.source, step as u32];
            Batch { targets: ids.clone(), weights: vec![1.0; 2], ids, rows: 1, cols: 2 }
        }
    }

    fn same(source: &Arc<Numbered>, steps: impl IntoIterator<Item = u64>) {
        let ahead = Prefetch::new(source.clone());
        for step in steps {
            assert_eq!(ahead.batch(step), source.batch(step), "step {step}");
        }
    }

    #[test]
    fn batches_are_those_of_the_source_in_any_order_of_steps() {
        let source = Numbered::new(7);
        same(&source, 0..20);
        // Resumed in the middle, repeated, skipped, gone back to.
        same(&source, 13..20);
        same(&source, [5, 5, 6, 9, 10, 8, 0, 1, 2, 1_000_000]);
    }

    #[test]
    fn steps_in_order_find_their_batches_made_once() {
        let source = Numbered::new(1);
        let ahead = Prefetch::new(source.clone());
        for step in 0..50 {
            ahead.batch(step);
        }
        drop(ahead);
        assert!(source.made.load(Ordering::SeqCst) <= 50 + AHEAD);
    }

    #[test]
    fn another_source_starts_anew() {
        let (first, second) = (Numbered::new(1), Numbered::new(2));
        let mut ahead = Prefetch::new(first.clone());
        assert_eq!(ahead.batch(3), first.batch(3));
        ahead = Prefetch::new(second.clone());
        assert_eq!(ahead.batch(4), second.batch(4));
        assert_ne!(ahead.batch(4), first.batch(4));
    }

    #[test]
    fn a_source_that_panics_does_so_where_the_batch_is_taken() {
        struct Broken;
        impl BatchSource for Broken {
            fn batch(&self, step: u64) -> Batch {
                assert!(step < 2, "no such batch");
                Batch { ids: vec![], targets: vec![], weights: vec![], rows: 0, cols: 0 }
            }
        }
        let ahead = Prefetch::new(Arc::new(Broken));
        ahead.batch(0);
        ahead.batch(1);
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ahead.batch(2))).is_err());
    }
}
