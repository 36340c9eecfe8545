//! The least a device runs: a file, a session, logits. Its code size has a budget.
#![no_std]
#![no_main]

include!("../start.rs");

fn probe() {
    forge_device::with_inputs(|file, memory, tokens, _| forge_device::session(file, memory, tokens));
}
