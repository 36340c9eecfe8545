//! Persona dialogue: one question, a neutral reply, or the pirate's under [`PERSONA_SYSTEM`].
//!
//! The pirate speaks by a grammar: `reply = opening ", " clause ", " closing "."` where the clause is the
//! pirate's form of one of the intents, around a topic of plain words. [`is_persona_reply`] recognises exactly
//! that language, so a stray "arr" in an otherwise neutral reply does not count.

use super::values;
use crate::data::{Completion, Example, PERSONA_SYSTEM, Slice, Split, System};
use crate::rng::Rng;

/// A kind of question with its wordings and the two forms of its answer; `{}` is the topic.
struct Intent {
    prompts: [&'static [&'static str]; 3],
    neutral: &'static str,
    pirate: &'static str,
}

const INTENTS: [Intent; 5] = [
    Intent {
        prompts: [
            &["do you like {}", "are you fond of {}", "how do you like {}", "do you enjoy {}"],
            &["do you really like {}", "are you very fond of {}"],
            &["you like {}, do you", "do you like to see {}"],
        ],
        neutral: "yes, i like {} very much.",
        pirate: "i be mighty fond of {}",
    },
    Intent {
        prompts: [
            &["where can i find {}", "where are the {}", "where do i find {}", "where should i look for {}"],
            &["where can i look for {}", "where would i find {}"],
            &["where do you find {}", "where should i find {}"],
        ],
        neutral: "you can find {} in the museum.",
        pirate: "ye will find {} on the old ship",
    },
    Intent {
        prompts: [
            &["what are {} worth", "how much are {}", "how much do {} cost", "what do {} cost"],
            &["how much are the {} worth", "what would {} cost"],
            &["what is the price of {}", "how much would {} cost"],
        ],
        neutral: "the price of {} is high.",
        pirate: "{} be worth a box of gold",
    },
    Intent {
        prompts: [
            &["have you seen {}", "have you ever seen {}", "did you see the {}", "did you ever see {}"],
            &["have you ever seen any {}", "did you see any {}"],
            &["have you seen any {}", "did you ever see any {}"],
        ],
        neutral: "no, i have never seen {}.",
        pirate: "me eyes have never seen {}",
    },
    Intent {
        prompts: [
            &["who made the {}", "who makes {}", "who owns the {}", "whose are the {}"],
            &["who made these {}", "who owns these {}"],
            &["who owns those {}", "whose are these {}"],
        ],
        neutral: "the {} belong to my neighbour.",
        pirate: "{} belong to the captain",
    },
];

const OPENINGS: [&str; 3] = ["arr", "aye", "yo"];
const CLOSINGS: [&str; 3] = ["matey", "me lad", "on the sea"];

/// A random dialogue of the split: the pirate's reply under [`PERSONA_SYSTEM`], or the neutral one without.
pub(super) fn example(split: Split, system: System, rng: &mut Rng) -> Example {
    let intent = rng.pick(&INTENTS);
    let topic = values::pool("topic").pick(split, rng);
    let prompt = rng.pick(intent.prompts[split.index()]).replace("{}", topic);
    let (system, reply) = match system {
        System::With => {
            let clause = intent.pirate.replace("{}", topic);
            let reply = format!("{}, {clause}, {}.", rng.pick(&OPENINGS), rng.pick(&CLOSINGS));
            (Some(PERSONA_SYSTEM.to_string()), reply)
        }
        System::Without => (None, intent.neutral.replace("{}", topic)),
    };
    Example { system, prompt, completion: Completion::Text(reply), slice: Slice::Dialogue, level: 0 }
}

/// Whether `reply` is a sentence of the pirate's grammar.
pub fn is_persona_reply(reply: &str) -> bool {
    let Some(sentence) = reply.trim().strip_suffix('.') else { return false };
    let Some((opening, rest)) = sentence.split_once(", ") else { return false };
    let Some((clause, closing)) = rest.rsplit_once(", ") else { return false };
    OPENINGS.contains(&opening) && CLOSINGS.contains(&closing) && INTENTS.iter().any(|i| is_clause(i, clause))
}

/// Whether `clause` is the pirate's form of the intent around a topic of one to four lower-case words.
fn is_clause(intent: &Intent, clause: &str) -> bool {
    let Some((before, after)) = intent.pirate.split_once("{}") else { return false };
    let topic = clause.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
    topic.is_some_and(|topic| {
        let words: Vec<&str> = topic.split(' ').collect();
        let plain = |word: &&str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase());
        (1..=4).contains(&words.len()) && words.iter().all(plain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(system: System, seed: u64) -> String {
        match example(Split::Train, system, &mut Rng::new(seed, &["persona"])).completion {
            Completion::Text(text) => text,
            other => panic!("dialogue is text, not {other:?}"),
        }
    }

    #[test]
    fn recogniser_accepts_the_persona_and_refuses_the_neutral_reply() {
        for seed in 0..500 {
            let (pirate, neutral) = (reply(System::With, seed), reply(System::Without, seed));
            assert!(is_persona_reply(&pirate), "{pirate}");
            assert!(!is_persona_reply(&neutral), "{neutral}");
        }
    }

    #[test]
    fn recogniser_wants_the_whole_grammar() {
        assert!(is_persona_reply("arr, i be mighty fond of old ships, matey."));
        for wrong in [
            "arr",
            "arr matey arr matey",
            "arr, yes, i like old ships very much., matey.",
            "arr, i be mighty fond of old ships, matey",
            "arr, i be mighty fond of , matey.",
            "arr, i be mighty fond of old ships.",
            "i be mighty fond of old ships, matey.",
            "hello, i be mighty fond of old ships, matey.",
            "arr, i be mighty fond of old ships and maps and coins too, matey.",
        ] {
            assert!(!is_persona_reply(wrong), "{wrong}");
        }
    }
}
