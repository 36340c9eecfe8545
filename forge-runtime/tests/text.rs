//! Tokenizer, prompts, generation and tool calls.

mod common;

use common::{full, plain, tokens};
use forge_formats::codec::encode::Simple;
use forge_formats::pretokens;
use forge_formats::tokenizer::{MAX_TOKEN, SpecialKind, TokenizerTable};
use forge_runtime::call::{Call, render};
use forge_runtime::generate::prompt;
use forge_runtime::sampler::argmax;
use forge_runtime::testing::{random_model, random_tokenizer};
use forge_runtime::{Error, Generator, Model, Sampler, Session, Tokenizer, Workspace};
use proptest::prelude::*;

const VOCAB: u32 = 700;

fn with_tokenizer<T>(f: impl FnOnce(Tokenizer<'_>) -> T) -> T {
    let table = random_tokenizer(VOCAB, 1);
    f(Tokenizer::new(TokenizerTable::parse(&table).unwrap()))
}

fn encode(t: &Tokenizer<'_>, text: &[u8]) -> Vec<u16> {
    let mut out = vec![0; text.len()];
    let n = t.encode(text, &mut out).unwrap();
    out.truncate(n);
    out
}

/// Byte-pair encoding as it is trained: every merge in turn, over the whole piece.
fn encode_rank_by_rank(t: &Tokenizer<'_>, text: &[u8]) -> Vec<u16> {
    let first = t.table().special_count() + 256;
    let mut out = Vec::new();
    for piece in pretokens(text) {
        let mut ids: Vec<u16> = piece.iter().map(|b| t.table().byte_id(*b)).collect();
        for merged in first..t.vocab() as u16 {
            let (left, right) = t.table().merge(merged).unwrap();
            let mut i = 0;
            while i + 1 < ids.len() {
                if (ids[i], ids[i + 1]) == (left, right) {
                    ids.splice(i..i + 2, [merged]);
                }
                i += 1;
            }
        }
        out.extend(ids);
    }
    out
}

proptest! {
    #[test]
    fn any_bytes_come_back(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        with_tokenizer(|t| {
            let ids = encode(&t, &text);
            let mut buffer = [0; MAX_TOKEN];
            let back: Vec<u8> = ids.iter().flat_map(|id| t.decode(*id, &mut buffer).to_vec()).collect();
            prop_assert_eq!(back, text);
            prop_assert!(ids.iter().all(|id| t.special_at(*id).is_none()));
            Ok(())
        })?;
    }

    #[test]
    fn merges_are_those_of_the_training(text in "[a-z]{1,30}( [a-z]{1,20}){0,5}") {
        with_tokenizer(|t| {
            prop_assert_eq!(encode(&t, text.as_bytes()), encode_rank_by_rank(&t, text.as_bytes()));
            Ok(())
        })?;
    }

    #[test]
    fn json_strings_are_escaped(value in "\\PC{0,20}|[\\x00-\\x1f\"\\\\]{0,10}") {
        with_tokenizer(|t| {
            let mut ids = vec![tool(&t), slot(&t, "room")];
            // A text is written with one space in front, which is not part of the value.
            ids.extend(encode(&t, format!(" {value}").as_bytes()));
            let json = rendered(&t, &ids);
            let inner = json.strip_prefix("{\"tool\":\"set_light\",\"args\":{\"room\":\"").unwrap();
            prop_assert_eq!(unescape(inner.strip_suffix("\"}}").unwrap()), value);
            Ok(())
        })?;
    }
}

/// The inverse of JSON's string escapes; panics at what may not stand in a string.
fn unescape(s: &str) -> String {
    let (mut out, mut chars) = (String::new(), s.chars());
    while let Some(c) = chars.next() {
        assert!(c != '"' && c >= ' ');
        out.push(match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('u')) => {
                let hex: String = chars.by_ref().take(4).collect();
                char::from_u32(u32::from_str_radix(&hex, 16).unwrap()).unwrap()
            }
            ('\\', Some('n')) => '\n',
            ('\\', Some('r')) => '\r',
            ('\\', Some('t')) => '\t',
            ('\\', Some(c @ ('"' | '\\'))) => c,
            (c, None) => c,
            other => panic!("{other:?}"),
        });
    }
    out
}

fn tool(t: &Tokenizer<'_>) -> u16 {
    t.special(SpecialKind::Tool, "set_light").unwrap()
}

fn slot(t: &Tokenizer<'_>, name: &str) -> u16 {
    t.special(SpecialKind::Slot, name).unwrap()
}

fn rendered(t: &Tokenizer<'_>, ids: &[u16]) -> String {
    let mut out = String::new();
    render(t, ids, &mut out).unwrap();
    out
}

#[test]
fn encoding_refuses_a_buffer_that_is_too_small() {
    with_tokenizer(|t| {
        assert_eq!(t.encode(b"12345", &mut [0; 4]), Err(Error::Buffer));
        assert_eq!(t.encode(b"12345", &mut [0; 5]), Ok(5));
        assert_eq!(t.encode(b"", &mut []), Ok(0));
    });
}

#[test]
fn merges_happen() {
    with_tokenizer(|t| {
        let text = b"the quick brown fox jumps over the lazy dog and the cat";
        let ids = encode(&t, text);
        assert!(ids.len() < text.len(), "no merge applied");
        assert_eq!(ids, encode_rank_by_rank(&t, text));
    });
}

#[test]
fn text_that_names_a_special_stays_text() {
    with_tokenizer(|t| {
        for text in ["<eos>", "<bos>set_light<sep>", "room"] {
            let ids = encode(&t, text.as_bytes());
            assert!(ids.iter().all(|id| t.special_at(*id).is_none()));
            assert_eq!(rendered(&t, &ids), text);
        }
    });
}

#[test]
fn prompts_have_their_layout() {
    with_tokenizer(|t| {
        let control = |name| t.control(name).unwrap();
        let mut out = [0; 40];
        let n = prompt(&t, Some(b"be brief"), b"lights on", &mut out).unwrap();
        let mut want = vec![control("<bos>")];
        want.extend(encode(&t, b"be brief"));
        want.push(control("<sys>"));
        want.extend(encode(&t, b"lights on"));
        want.push(control("<sep>"));
        assert_eq!(out[..n], want);
        let n = prompt(&t, None, b"lights on", &mut out).unwrap();
        assert_eq!(
            out[..n],
            [&[control("<bos>")], &encode(&t, b"lights on")[..], &[control("<sep>")]].concat()
        );
        assert_eq!(prompt(&t, None, b"123456", &mut [0; 7]), Err(Error::Buffer));
        assert_eq!(prompt(&t, None, b"123456", &mut [0; 8]), Ok(8));
        assert_eq!(t.control("<nothing>"), Err(Error::Control("<nothing>")));
    });
}

#[test]
fn calls_become_json() {
    with_tokenizer(|t| {
        let eos = t.control("<eos>").unwrap();
        let mut ids = vec![tool(&t), slot(&t, "room")];
        ids.extend(encode(&t, b"bedroom"));
        ids.push(slot(&t, "level"));
        ids.extend(encode(&t, b"20"));
        let json = r#"{"tool":"set_light","args":{"room":"bedroom","level":"20"}}"#;
        assert_eq!(rendered(&t, &ids), json);
        ids.push(eos);
        ids.extend(encode(&t, b"after the end"));
        assert_eq!(rendered(&t, &ids), json);
        assert_eq!(rendered(&t, &[tool(&t)]), r#"{"tool":"set_light","args":{}}"#);
        let call = Call::parse(t, &ids).unwrap();
        assert_eq!(call.tool(), "set_light");
        let names: Vec<&str> = call.arguments().map(|(name, _)| name).collect();
        assert_eq!(names, ["room", "level"]);
    });
}

/// Texts are trained with one space in front; a second one is the text's own.
#[test]
fn the_space_in_front_is_left_out() {
    with_tokenizer(|t| {
        let think = t.control("<think>").unwrap();
        let part = |special, value: &[u8]| [&[special], &encode(&t, value)[..]].concat();
        let call = [vec![tool(&t)], part(slot(&t, "room"), b" bed room"), part(slot(&t, "level"), b"  20")];
        let json = r#"{"tool":"set_light","args":{"room":"bed room","level":" 20"}}"#;
        assert_eq!(rendered(&t, &call.concat()), json);
        assert_eq!(rendered(&t, &encode(&t, b" good morning")), "good morning");
        assert_eq!(rendered(&t, &[encode(&t, b" a"), part(think, b" b")].concat()), "a<think>b");
    });
}

#[test]
fn a_repeated_slot_becomes_an_array() {
    with_tokenizer(|t| {
        let part = |name, value: &[u8]| [&[slot(&t, name)], &encode(&t, value)[..]].concat();
        let ids = [
            vec![tool(&t)],
            part("room", b"hall"),
            part("level", b"5"),
            part("room", b""),
            part("room", b"a\"b"),
        ];
        let json = r#"{"tool":"set_light","args":{"room":["hall","","a\"b"],"level":"5"}}"#;
        assert_eq!(rendered(&t, &ids.concat()), json);
    });
}

#[test]
fn what_is_no_call_stays_text() {
    with_tokenizer(|t| {
        let text = encode(&t, b"hello");
        let think = t.control("<think>").unwrap();
        assert_eq!(rendered(&t, &text), "hello");
        assert_eq!(rendered(&t, &[]), "");
        // Text before the first slot, a slot without a tool, a control token within a call.
        let malformed = [
            ([&[tool(&t)], &text[..], &[slot(&t, "room")]].concat(), "set_lighthelloroom"),
            ([&[slot(&t, "room")], &text[..]].concat(), "roomhello"),
            (vec![tool(&t), slot(&t, "room"), think], "set_lightroom<think>"),
            ([&[think], &text[..]].concat(), "<think>hello"),
        ];
        for (ids, want) in malformed {
            assert!(Call::parse(t, &ids).is_none());
            assert_eq!(rendered(&t, &ids), want);
        }
    });
}

#[test]
fn characters_may_be_split_over_tokens() {
    with_tokenizer(|t| {
        let bytes = |b: &[u8]| b.iter().map(|b| t.table().byte_id(*b)).collect::<Vec<_>>();
        assert_eq!(rendered(&t, &bytes("Zürich → 🦀".as_bytes())), "Zürich → 🦀");
        assert_eq!(rendered(&t, &bytes(b"a\xFFb\xC3")), "a\u{FFFD}b\u{FFFD}");
        assert_eq!(rendered(&t, &bytes(b"\xE2\x82x\xF0\x9F")), "\u{FFFD}x\u{FFFD}");
        for text in [&b"\xF0\x9F\xA6\xFF\x80z"[..], b"\xE2\xE2\x86\x92", b"\xC0\xAF\xED\xA0\x80"] {
            assert_eq!(rendered(&t, &bytes(text)), String::from_utf8_lossy(text));
        }
    });
}

#[test]
fn the_generator_follows_the_greedy_path() {
    let bytes = random_model(&full(), 21, Simple::Ternary2b);
    let model = Model::parse(&bytes).unwrap();
    let prompt = tokens(9, full().vocab, 1);
    let mut workspace = Workspace::new(&model);
    let mut session = Session::new(&model, workspace.bytes()).unwrap();
    // By hand.
    let mut logits = Vec::new();
    prompt.iter().for_each(|t| logits = session.step(*t).unwrap().to_vec());
    let mut path = Vec::new();
    for _ in 0..20 {
        path.push(argmax(&logits));
        logits = session.step(path[path.len() - 1]).unwrap().to_vec();
    }
    // An end token that first occurs after a while, or none.
    let at = (3..20).find(|i| !path[..*i].contains(&path[*i]));
    for (end, len) in [(at.map(|i| path[i]), at.unwrap_or(20)), (None, 20)] {
        session.reset();
        let mut generator = Generator::new(&mut session, Sampler::greedy(), end.unwrap_or(u16::MAX));
        let mut out = [0; 20];
        assert_eq!(generator.complete(&prompt, &mut out), Ok(len));
        assert_eq!(out[..len], path[..len]);
        assert_eq!(generator.session().position() as usize, prompt.len() + len);
    }
    assert!(at.is_some(), "the path {path:?} repeats itself from the start");
}

#[test]
fn the_penalty_sees_what_was_generated() {
    let bytes = random_model(&plain(), 22, Simple::Ternary2b);
    let model = Model::parse(&bytes).unwrap();
    let run = |repetition_penalty: f32| {
        let mut workspace = Workspace::new(&model);
        let mut session = Session::new(&model, workspace.bytes()).unwrap();
        let sampler = Sampler { repetition_penalty, ..Sampler::greedy() };
        let mut out = vec![0; 100];
        let mut generator = Generator::new(&mut session, sampler, u16::MAX);
        generator.complete(&[1], &mut out).unwrap();
        out
    };
    let distinct = |mut ids: Vec<u16>| {
        ids.sort_unstable();
        ids.dedup();
        ids.len()
    };
    let (free, held) = (distinct(run(1.0)), distinct(run(1e6)));
    // No token comes back within the generator's memory of 64.
    assert!(held >= 64 && free < held, "{free} {held}");
}

#[test]
fn errors_pass_through() {
    let bytes = random_model(&plain(), 23, Simple::Ternary2b);
    let model = Model::parse(&bytes).unwrap();
    let mut workspace = Workspace::new(&model);
    let mut session = Session::new(&model, workspace.bytes()).unwrap();
    let mut generator = Generator::new(&mut session, Sampler::greedy(), 2);
    assert_eq!(generator.next_token(), Ok(None));
    assert_eq!(generator.start(&[1, 300]), Err(Error::Token(300)));
    assert_eq!(generator.start(&[]), Ok(()));
    assert_eq!(generator.next_token(), Ok(None));
}
