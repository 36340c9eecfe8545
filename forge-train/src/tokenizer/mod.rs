//! Tokenizers.

/// A tokenizer.
#[derive(Clone, Debug, Default)]
pub struct Tokenizer {
    /// Its table.
    pub bytes: Vec<u8>,
}
