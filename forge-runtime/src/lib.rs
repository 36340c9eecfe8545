//! Executes `.forge` models: no std, no heap, no panics, the same bits on every target.
#![no_std]
