//! What a session remembers, as bytes that any machine continues from.
//!
//! Little-endian words: mark, checksum of all after it, shape of the model, position, then for every ring the keys and
//! values of the slots in use, then the recurrent memories, then the last logits. A snapshot taken with int8 caches
//! holds int8.
#![forbid(unsafe_code)]

use forge_formats::header::crc32;

use crate::engine::{Engine, MAX_POSITION};
use crate::error::{Error, Result};

/// "FGS1".
const MARK: u32 = u32::from_le_bytes(*b"FGS1");
/// Words before the contents: mark, checksum, shape, position.
const HEAD: usize = 4;

/// Bytes a snapshot takes now.
pub(crate) fn len(e: &Engine<'_>) -> usize {
    let rings = e.layout.caches.saved_words(e.position(0));
    4 * (HEAD + rings + e.layout.caches.memory_words + e.config.vocab as usize)
}

/// Writes a snapshot of sequence 0 to the front of `out`.
pub(crate) fn write(e: &Engine<'_>, out: &mut [u8]) -> Result<usize> {
    let len = len(e);
    let words = out.get_mut(..len).ok_or(Error::Buffer)?.as_chunks_mut::<4>().0;
    let position = e.position(0);
    let logits = e.buffers.logits.iter().take(e.config.vocab as usize).map(|x| x.to_bits());
    let state = e.buffers.caches.save(&e.layout.caches, position).chain(logits);
    let content = [MARK, 0, shape(e), position].into_iter().chain(state);
    words.iter_mut().zip(content).for_each(|(place, word)| *place = word.to_le_bytes());
    let checksum = crc32(words.as_flattened().get(8..).unwrap_or(&[]));
    words.iter_mut().skip(1).take(1).for_each(|place| *place = checksum.to_le_bytes());
    Ok(len)
}

/// Restores sequence 0.
pub(crate) fn read(e: &mut Engine<'_>, bytes: &[u8]) -> Result<()> {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut words = words.iter().map(|w| u32::from_le_bytes(*w));
    let head = [words.next(), words.next(), words.next(), words.next()];
    let [Some(MARK), Some(checksum), Some(of), Some(position)] = head else {
        return Err(Error::Snapshot);
    };
    let intact = rest.is_empty() && bytes.get(8..).map(crc32) == Some(checksum);
    if !intact || of != shape(e) || position > MAX_POSITION {
        return Err(Error::Snapshot);
    }
    e.reset(0);
    e.buffers.positions.iter_mut().take(1).for_each(|p| *p = position);
    if len(e) != bytes.len() {
        return Err(Error::Snapshot);
    }
    let vocab = e.config.vocab as usize;
    e.buffers.caches.restore(&e.layout.caches, position, &mut words);
    let logits = e.buffers.logits.iter_mut().take(vocab);
    logits.zip(words).for_each(|(place, word)| *place = f32::from_bits(word));
    Ok(())
}

/// A checksum of everything that gives the contents their meaning.
fn shape(e: &Engine<'_>) -> u32 {
    let c = e.config;
    let numbers = [
        c.vocab,
        c.dim,
        c.layers,
        c.heads,
        c.kv_heads,
        c.head_dim,
        c.window,
        c.rope_log2_theta.to_bits(),
        c.recursion,
        c.mem_dim,
        c.mem_layers as u32,
        (c.mem_layers >> 32) as u32,
        u32::from(e.layout.caches.is_int8())
            | (c.memory as u32) << 1
            | c.globals.every << 2
            | c.globals.rows << 16,
    ];
    crc32(numbers.map(u32::to_le_bytes).as_flattened())
}
