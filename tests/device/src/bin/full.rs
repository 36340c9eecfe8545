//! Text in, text out, on a device: tokenizer, sampler, generator and calls. Its code size has a budget.
#![no_std]
#![no_main]

include!("../start.rs");

fn probe() {
    forge_device::with_inputs(forge_device::text);
}
