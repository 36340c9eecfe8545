//! `tdpbf16ps`: 16 × 16 sums in a tile register, four of them held at once. Its intrinsics are not stable, so the
//! loop is assembly, in one block so that no sum has to survive between two.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::marker::PhantomData;
use std::sync::OnceLock;

use super::{COLUMNS, Pair, ROWS, SPAN, Tile};

/// What `ldtilecfg` reads (Intel SDM, "LDTILECFG"): palette 1, rows and bytes of a row of each tile.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// All eight tiles of 16 rows of 64 bytes.
static CONFIG: Config = Config {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Whether the processor has the instructions and the system lets this process use them.
pub(super) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| supported() && permitted())
}

/// `CPUID.(7,0):EDX`: AMX-BF16 is bit 22, AMX-TILE bit 24.
fn supported() -> bool {
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & (1 << 22 | 1 << 24) == 1 << 22 | 1 << 24
}

/// Linux gives tile registers to processes that ask (`Documentation/arch/x86/xstate.rst`); it refuses where the
/// processor, the hypervisor or the kernel do not keep them.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: the call takes two integers and touches no memory of this process.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// The tile registers of this thread, configured; released when dropped, after which the system has nothing to save.
pub(super) struct Tiles {
    /// Registers belong to a thread.
    here: PhantomData<*const ()>,
}

impl Tiles {
    /// Gives all eight registers their shape.
    ///
    /// # Panics
    /// If the processor lacks the instructions.
    pub(super) fn configure() -> Self {
        assert!(available(), "no AMX");
        // SAFETY: the processor has the instruction, the system has allowed it, and it reads the 64 bytes of CONFIG.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly, preserves_flags))
        };
        Self { here: PhantomData }
    }

    /// The product of two panels.
    ///
    /// # Panics
    /// If the panels are empty or of different depths.
    pub(super) fn multiply(&mut self, a: &[Pair], b: &[Pair], tile: &mut Tile) {
        let spans = a.len() / (ROWS * SPAN);
        assert!(spans > 0 && spans <= b.len() / (SPAN * COLUMNS), "panels of different depths");
        // SAFETY: tiles are configured while `self` lives, on this thread. Each turn of the loop reads two of them,
        // 2 KiB, of each panel, and there are as many turns as the panels have such parts. `tile` is 4 KiB: two
        // times 16 rows of 128 bytes. Nothing else uses tile registers.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{a} + {a_stride}]",
                "tileloadd tmm6, [{b} + {b_stride}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {b_stride} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {a_stride} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a}, 2048",
                "add {b}, 2048",
                "dec {spans}",
                "jnz 2b",
                "tilestored [{c} + {b_stride}], tmm0",
                "tilestored [{c} + {b_stride} + 64], tmm1",
                "tilestored [{c} + {b_stride} + 2048], tmm2",
                "tilestored [{c} + {b_stride} + 2112], tmm3",
                a = inout(reg) a.as_ptr() => _,
                b = inout(reg) b.as_ptr() => _,
                c = in(reg) tile.0.as_mut_ptr(),
                a_stride = in(reg) 64_usize,
                b_stride = in(reg) 128_usize,
                spans = inout(reg) spans => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: there is a `Tiles`, so the processor has the instruction; it touches no memory.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}
