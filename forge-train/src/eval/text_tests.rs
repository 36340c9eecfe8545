use forge_runtime::Session;

use super::*;
use crate::config::{TokenizerConfig, TokenizerKind};
use crate::eval::tests::{constant_model, constant_model_of, model, tokenizer};
use crate::tokenizer::controls;

const TEXT: &str =
    "First, hear me speak.\nSpeak, speak – “we” know’t.\n\nResolved. resolved. What authority surfeits on?";

/// The same by definition: one token at a time, each window in a session of its own, probabilities in f64.
fn naive(file: &[u8], ids: &[u16], block: usize, stride: usize) -> Vec<f64> {
    let model = Model::parse(file).unwrap();
    let mut out = Vec::new();
    let mut scored = 1;
    while scored < ids.len() {
        let end = if scored == 1 { block + 1 } else { scored + stride }.min(ids.len());
        let start = if scored == 1 { 0 } else { scored - 1 - (block - stride) };
        let mut memory = vec![0u32; model.workspace().div_ceil(4)];
        let mut session = Session::new(&model, bytemuck::cast_slice_mut(&mut memory)).unwrap();
        let mut nats = 0.0;
        for at in start..end - 1 {
            let logits: Vec<f64> = session.step(ids[at]).unwrap().iter().map(|l| f64::from(*l)).collect();
            let sum: f64 = logits.iter().map(|l| l.exp()).sum();
            if at + 1 >= scored {
                nats -= (logits[usize::from(ids[at + 1])].exp() / sum).ln();
            }
        }
        out.push(nats);
        scored = end;
    }
    out
}

#[test]
fn batched_scores_are_those_of_the_definition() {
    let file = model();
    let text = TextTokens::of(&tokenizer(&file), &TEXT.repeat(2));
    for (block, stride) in [(16, 16), (7, 7), (16, 4), (300, 300), (1, 1), (16, 15)] {
        for together in [None, Some(1), Some(3)] {
            let blocks = score_text(&file, &text, &TextOptions { block, stride, together }).unwrap();
            let expected = naive(&file, &text.ids, block, stride);
            assert_eq!(blocks.len(), expected.len());
            for (found, expected) in blocks.iter().zip(&expected) {
                assert!(
                    (found.nats - expected).abs() < 1e-6 * expected.max(1.0),
                    "{} {expected}",
                    found.nats
                );
            }
        }
    }
    // Scores of other blocks are other ones: the tolerance tells them apart.
    let other = naive(&file, &text.ids, 15, 15);
    let found = score_text(&file, &text, &TextOptions::blocks(16)).unwrap();
    assert!((found[0].nats - other[0]).abs() > 1e-3);
}

#[test]
fn no_figure_depends_on_threads_or_company() {
    let file = model();
    let text = TextTokens::of(&tokenizer(&file), TEXT);
    let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    let run = |threads, together| {
        let options = TextOptions { block: 9, stride: 9, together };
        let report = pool(threads).install(|| evaluate_text(&file, &text, &options)).unwrap();
        TextReport { tokens_per_second: 0.0, ..report }
    };
    assert_eq!(run(1, None), run(3, None));
    assert_eq!(run(1, Some(1)), run(2, Some(5)));
}

#[test]
fn every_token_but_the_first_counts_once() {
    let file = constant_model(None);
    let t = tokenizer(&file);
    let text = TextTokens::of(&t, TEXT);
    for (block, stride) in [(10, 10), (10, 3), (1000, 1000)] {
        let options = TextOptions { block, stride, together: None };
        let report = evaluate_text(&file, &text, &options).unwrap();
        let first = t.decode(&text.ids[..1]).len();
        assert_eq!(report.tokens, text.ids.len() - 1);
        assert_eq!(report.text_bytes, TEXT.len() - first);
        assert_eq!(report.characters, TEXT.chars().count() - first);
        // All 300 tokens are equally likely.
        let nats = report.tokens as f64 * 300f64.ln();
        assert!((report.nats_per_token.value - 300f64.ln()).abs() < 1e-9);
        assert!((report.nats_per_character.value - nats / report.characters as f64).abs() < 1e-9);
        let bits = nats / std::f64::consts::LN_2 / report.text_bytes as f64;
        assert!((report.bits_per_byte.value - bits).abs() < 1e-9);
        assert!(report.bits_per_byte.low <= bits + 1e-9 && report.bits_per_byte.high >= bits - 1e-9);
    }
}

#[test]
fn a_file_knows_its_own_tokens() {
    let file = model();
    let text = TextTokens::of(&tokenizer(&file), TEXT);
    let expected = evaluate_text(&file, &text, &TextOptions::blocks(16)).unwrap();
    assert_eq!(evaluate(&file, TEXT, 16).unwrap().nats_per_token, expected.nats_per_token);
}

/// A file whose tokens are the characters of its text; others are the unknown token, of one byte each.
#[test]
fn a_file_of_characters_runs() {
    let char = TokenizerConfig { kind: TokenizerKind::Char, vocab: 0 };
    let t = Tokenizer::train([TEXT].into_iter(), controls(), &char).unwrap();
    let file = constant_model_of(&t, None);
    assert_eq!(tokenizer(&file), t, "as it stands in the file");
    let known = evaluate(&file, TEXT, 8).unwrap();
    assert_eq!((known.tokens, known.characters), (TEXT.chars().count() - 1, known.tokens));
    assert_eq!(known.nats_per_character, known.nats_per_token);
    let report = evaluate(&file, "a\u{1F980}b", 8).unwrap();
    assert_eq!((report.tokens, report.text_bytes, report.characters), (5, 5, 2));
    let nats = f64::from(t.vocab()).ln();
    assert!((report.nats_per_character.value - 5.0 * nats / 2.0).abs() < 1e-9);
}

#[test]
fn windows_tile_what_they_score_and_look_back_as_far_as_stated() {
    for len in [2, 3, 10, 11, 12, 100, 101] {
        for (block, stride) in [(10, 10), (10, 3), (1, 1), (10, 1), (64, 16)] {
            let windows = windows(len, &TextOptions { block, stride, together: None }).unwrap();
            assert_eq!((windows[0][1], windows[windows.len() - 1][2]), (1, len));
            assert!(windows.windows(2).all(|w| w[1][1] == w[0][2]), "{windows:?}");
            for [start, from, end] in windows {
                assert!(start < from && from < end && end - start <= block + 1);
                assert!(from == 1 || from - start == block + 1 - stride, "{len} {block} {stride}");
            }
        }
    }
    for (block, stride) in [(0, 0), (4, 5), (4, 0)] {
        let refused = windows(9, &TextOptions { block, stride, together: None }).unwrap_err();
        assert!(refused.hint().is_some());
    }
    assert!(windows(1, &TextOptions::blocks(4)).is_err());
}
