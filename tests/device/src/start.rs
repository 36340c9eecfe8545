// Where a probe begins, and where it would end if anything in it could panic. Included by each program.

/// A panic is a symbol that nothing but a panic reaches, for `check.sh` to find.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// The program's entry.
// SAFETY: no other symbol of a program without a runtime has this name.
#[unsafe(no_mangle)]
pub extern "C" fn _start() -> ! {
    probe();
    loop {
        core::hint::spin_loop();
    }
}
