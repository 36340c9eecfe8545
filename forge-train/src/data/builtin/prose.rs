//! Short prose from a small grammar: two sentences about an animal, a place and a thing.

use std::sync::LazyLock;

use super::template::{Sink, Template};
use super::values;
use crate::data::{Completion, Example, Slice, Split};
use crate::rng::Rng;

/// Story forms of train, valid and test.
const STORIES: [&[&str]; 3] = [
    &[
        "the {animal} (walked|ran|went) to the {place}. there it found a {find}.",
        "a {animal} lived (in|near) the {place}. every (day|night) it (looked for|dreamed of) a {find}.",
        "in the {place} the {animal} (saw|found) a {find}. it took the {find} home.",
        "one (day|night) the {animal} lost a {find}. it was in the {place}.",
        "the {find} was in the {place}. only the {animal} knew where.",
        "(once|long ago) a {animal} came to the {place}. it carried a {find}.",
    ],
    &[
        "the {animal} came to the {place}. there it lost a {find}.",
        "a {animal} dreamed of a {find}. it was in the {place}.",
    ],
    &[
        "one day a {animal} walked to the {place}. it carried a {find} home.",
        "near the {place} the {animal} found a {find}. it took it home.",
    ],
];

static PARSED: LazyLock<[Vec<Template>; 3]> =
    LazyLock::new(|| STORIES.map(|list| list.iter().map(|story| Template::parse(story)).collect()));

/// A random story of the split.
pub(super) fn example(split: Split, rng: &mut Rng) -> Example {
    let story = rng.pick(&PARSED[split.index()]);
    let mut teller = Teller { split, rng, text: String::new(), told: Vec::new() };
    story.expand(&mut teller);
    Example {
        system: None,
        prompt: String::new(),
        completion: Completion::Text(teller.text),
        slice: Slice::Prose,
        level: 0,
    }
}

/// Fills a story; a slot that occurs twice keeps its value.
struct Teller<'r> {
    split: Split,
    rng: &'r mut Rng,
    text: String,
    told: Vec<(&'static str, &'static str)>,
}

impl Sink for Teller<'_> {
    fn choose(&mut self, n: usize) -> usize {
        self.rng.below(n)
    }

    fn text(&mut self, text: &str) {
        self.text += text;
    }

    fn slot(&mut self, name: &'static str) {
        let known = self.told.iter().find(|(slot, _)| *slot == name).map(|(_, value)| *value);
        let value = known.unwrap_or_else(|| {
            let value = values::pool(name).pick(self.split, self.rng);
            self.told.push((name, value));
            value
        });
        self.text += value;
    }
}
