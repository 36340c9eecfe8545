//! Examples and sequences as bytes, for lists that do not fit into memory. The bytes never leave the process that wrote
//! them: they are no format.

use super::store::Record;
use super::{Completion, Example, Sequence, Slice};

impl Record for Example {
    fn size(&self) -> usize {
        let completion = match &self.completion {
            Completion::Tool { tool, args } => {
                tool.len() + args.iter().map(|(slot, value)| 48 + slot.len() + value.len()).sum::<usize>()
            }
            Completion::Text(text) => text.len(),
            Completion::Reasoned { thought, answer } => thought.len() + answer.len(),
        };
        let system = self.system.as_ref().map_or(0, String::len);
        size_of::<Self>() + system + self.prompt.len() + completion
    }

    fn write(&self, out: &mut Vec<u8>) {
        let slice = Slice::ALL.iter().position(|slice| *slice == self.slice).unwrap_or(0);
        out.extend([slice as u8, self.level, u8::from(self.system.is_some())]);
        self.system.iter().for_each(|system| put(out, system));
        put(out, &self.prompt);
        match &self.completion {
            Completion::Tool { tool, args } => {
                out.push(0);
                put(out, tool);
                args.iter().for_each(|(slot, value)| {
                    put(out, slot);
                    put(out, value);
                });
            }
            Completion::Text(text) => {
                out.push(1);
                put(out, text);
            }
            Completion::Reasoned { thought, answer } => {
                out.push(2);
                put(out, thought);
                put(out, answer);
            }
        }
    }

    fn read(bytes: &[u8]) -> Self {
        let mut rest = bytes;
        let [slice, level, prompted] = [byte(&mut rest), byte(&mut rest), byte(&mut rest)];
        let system = (prompted == 1).then(|| take(&mut rest));
        let prompt = take(&mut rest);
        let completion = match byte(&mut rest) {
            0 => {
                let tool = take(&mut rest);
                let mut args = Vec::new();
                while !rest.is_empty() {
                    args.push((take(&mut rest), take(&mut rest)));
                }
                Completion::Tool { tool, args }
            }
            1 => Completion::Text(take(&mut rest)),
            _ => Completion::Reasoned { thought: take(&mut rest), answer: take(&mut rest) },
        };
        Self { system, prompt, completion, slice: Slice::ALL[usize::from(slice)], level }
    }
}

/// Appends a text behind its length.
fn put(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

const WROTE: &str = "bytes that this process wrote";

fn byte(rest: &mut &[u8]) -> u8 {
    let (first, after) = rest.split_first().expect(WROTE);
    *rest = after;
    *first
}

fn take(rest: &mut &[u8]) -> String {
    let (len, after) = rest.split_first_chunk().expect(WROTE);
    let (text, after) = after.split_at(u32::from_le_bytes(*len) as usize);
    *rest = after;
    String::from_utf8(text.to_vec()).expect(WROTE)
}

/// Bytes of a token: its id and its weight.
pub(super) const TOKEN: usize = 6;

impl Record for Sequence {
    fn size(&self) -> usize {
        size_of::<Self>() + TOKEN * self.ids.len()
    }

    fn write(&self, out: &mut Vec<u8>) {
        for (id, weight) in self.ids.iter().zip(&self.weights) {
            out.extend(id.to_le_bytes());
            out.extend(weight.to_le_bytes());
        }
    }

    fn read(bytes: &[u8]) -> Self {
        let (ids, weights) = bytes
            .chunks_exact(TOKEN)
            .map(|t| (u16::from_le_bytes([t[0], t[1]]), f32::from_le_bytes([t[2], t[3], t[4], t[5]])))
            .unzip();
        Self { ids, weights }
    }
}

/// What tells rows apart: the keys of what a row asks and of what it says.
impl Record for [u128; 2] {
    fn size(&self) -> usize {
        size_of::<Self>()
    }

    fn write(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|key| out.extend(key.to_le_bytes()));
    }

    fn read(bytes: &[u8]) -> Self {
        let key = |at: usize| u128::from_le_bytes(bytes[at..at + 16].try_into().expect(WROTE));
        [key(0), key(16)]
    }
}
