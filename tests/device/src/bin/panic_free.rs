//! Uses the whole runtime. Linked, it must hold no panic and no formatting: `check.sh` looks at its symbols.
#![no_std]
#![no_main]

include!("../start.rs");

fn probe() {
    forge_device::with_inputs(|file, memory, tokens, out| {
        // One's errors do not end the others.
        let results = [
            forge_device::session(file, memory, tokens),
            forge_device::sequences(file, memory, tokens),
            forge_device::text(file, memory, tokens, out),
        ];
        #[cfg(feature = "panic-control")]
        core::hint::black_box(memory[tokens.len()]);
        #[cfg(feature = "format-control")]
        let _ = core::fmt::write(&mut forge_device::Sink, format_args!("{}", tokens.len()));
        results.into_iter().collect()
    });
}
