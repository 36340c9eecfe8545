//! How the programs' allocator, mimalloc, treats memory that training frees.

use libmimalloc_sys::mi_option_set;

/// `mi_option_purge_delay`: milliseconds until freed pages go back to the system, −1 for never.
const PURGE_DELAY: i32 = 15;

/// Keeps freed pages. Every step frees and asks for the same sizes again; given back in between, their pages are
/// cleared by the system each time, which took a seventh of a step. Call it before other threads start.
pub fn keep_pages() {
    // SAFETY: the option exists and takes any number; no other thread reads options meanwhile.
    unsafe { mi_option_set(PURGE_DELAY, -1) };
}
