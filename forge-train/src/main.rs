//! The `forge-train` command.

mod cli;

use std::process::ExitCode;
use std::thread;

/// Training allocates and frees tensors of a few sizes at a high rate; mimalloc reuses their pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The backward pass and the destructors of a long graph recurse once a tensor.
const STACK: usize = 256 << 20;
/// Turns candle's worker threads spin before they sleep; its default starves other work on few cores.
const POOL: (&str, &str) = ("CANDLE_NUM_THREADS", "1");

fn main() -> ExitCode {
    forge_train::allocator::keep_pages();
    if std::env::var_os(POOL.0).is_none() {
        // SAFETY: no other thread exists yet that could read the environment at the same time.
        unsafe { std::env::set_var(POOL.0, POOL.1) };
    }
    match thread::Builder::new().name("forge-train".into()).stack_size(STACK).spawn(cli::main) {
        Ok(worker) => worker.join().unwrap_or(ExitCode::from(2)),
        Err(reason) => {
            eprintln!("error: cannot start a thread with a stack of {} MB: {reason}", STACK >> 20);
            ExitCode::from(2)
        }
    }
}
