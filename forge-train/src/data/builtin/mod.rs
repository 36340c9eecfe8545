//! The built-in task, generated from a seed without any file: a home-and-office assistant, arithmetic in ten
//! levels, persona dialogue and short prose.
//!
//! Phrasings and slot values belong to one split each (see [`values`]), whatever the seed: what is tested was
//! never trained on in any run. Every example has a random stream of its own, so sizes do not change contents.

mod arithmetic;
mod assistant;
mod persona;
mod prose;
mod template;
mod templates;
mod traces;
mod values;

use std::collections::BTreeSet;

use rayon::prelude::*;

pub use arithmetic::LEVELS;
pub use persona::is_persona_reply;

use super::hygiene::Hygiene;
use super::{Dataset, Example, Split, System};
use crate::rng::Rng;

/// How many examples to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Training examples of each kind: tools (three quarters prompted calls), arithmetic, dialogue (half
    /// persona). Prose gets a quarter of it.
    pub train: usize,
    /// Examples of each kind in valid and in test; acknowledgements and prose get a quarter of it.
    pub eval: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { train: 24_000, eval: 400 }
    }
}

/// What one generator call makes.
#[derive(Clone, Copy)]
enum Kind {
    Tool(System),
    Arithmetic,
    Dialogue(System),
    Prose,
}

impl Kind {
    const ALL: [Kind; 6] = [
        Kind::Tool(System::With),
        Kind::Tool(System::Without),
        Kind::Arithmetic,
        Kind::Dialogue(System::With),
        Kind::Dialogue(System::Without),
        Kind::Prose,
    ];

    fn label(self) -> &'static str {
        match self {
            Kind::Tool(System::With) => "call",
            Kind::Tool(System::Without) => "acknowledgement",
            Kind::Arithmetic => "arithmetic",
            Kind::Dialogue(System::With) => "persona",
            Kind::Dialogue(System::Without) => "neutral",
            Kind::Prose => "prose",
        }
    }

    /// How many of `n`.
    fn share(self, split: Split, n: usize) -> usize {
        match (self, split) {
            (Kind::Tool(System::With), Split::Train) => n - n / 4,
            (Kind::Tool(System::With) | Kind::Arithmetic, _) => n,
            (Kind::Tool(System::Without) | Kind::Prose, _) => n / 4,
            (Kind::Dialogue(_), _) => n / 2,
        }
    }

    /// The example of an index: a pure function of its arguments.
    fn example(self, seed: u64, split: Split, index: usize) -> Example {
        let mut rng = Rng::new(seed, &["builtin", split.name(), self.label(), &index.to_string()]);
        match self {
            Kind::Tool(system) => assistant::example(split, system, &mut rng),
            Kind::Arithmetic => arithmetic::example(split, (index % LEVELS as usize) as u8 + 1, &mut rng),
            Kind::Dialogue(system) => persona::example(split, system, &mut rng),
            Kind::Prose => prose::example(split, &mut rng),
        }
    }
}

/// Generates the built-in data set. Held-out splits hold no text twice; where a level has fewer different
/// questions than asked for (level 1 has a hundred sums in all), they hold fewer examples.
pub fn generate(seed: u64, sizes: &Sizes) -> Dataset {
    let train = |kind: Kind| -> Vec<Example> {
        let n = kind.share(Split::Train, sizes.train);
        (0..n).into_par_iter().map(|i| kind.example(seed, Split::Train, i)).collect()
    };
    Dataset {
        train: Kind::ALL.into_iter().flat_map(train).collect(),
        valid: held_out(seed, Split::Valid, sizes.eval).into(),
        test: held_out(seed, Split::Test, sizes.eval).into(),
        tools: assistant::schemas(),
        name: "builtin".into(),
        running: None,
        hygiene: Hygiene::default(),
    }
}

/// Different examples of every kind.
fn held_out(seed: u64, split: Split, n: usize) -> Vec<Example> {
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for kind in Kind::ALL {
        let wanted = kind.share(split, n);
        let candidates = (0..wanted * 4).map(|i| kind.example(seed, split, i));
        let fresh = candidates.filter(|e| {
            let text = if e.is_plain() { e.completion.canonical() } else { e.prompt.clone() };
            seen.insert((kind.label(), text))
        });
        out.extend(fresh.take(wanted));
    }
    out
}

#[cfg(test)]
#[path = "builtin_tests.rs"]
mod tests;
