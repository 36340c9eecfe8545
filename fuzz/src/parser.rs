//! Any bytes as a file.

use std::cell::RefCell;

use crate::{seal, touch::touch};

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Parses, verifies and uses the input as a file: as it is, with its checksums made right, and with its lengths made
/// right, until one of them is accepted. Serves P1.
pub fn parser(data: &[u8]) {
    if touch(data) {
        return;
    }
    BUFFER.with_borrow_mut(|buffer| {
        buffer.clear();
        buffer.extend_from_slice(data);
        seal::checksums(buffer);
        if !touch(buffer) {
            seal::lengths(buffer);
            touch(buffer);
        }
    });
}
