use std::path::PathBuf;

use super::*;

fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.jsonl");
    std::fs::write(&path, content).unwrap();
    (dir, path)
}

fn first(line: &str) -> Example {
    jsonl(&file(line).1).unwrap().remove(0)
}

fn message(content: &str) -> String {
    let (_dir, path) = file(content);
    let error = jsonl(&path).expect_err("a bad file");
    assert!(error.hint().is_some(), "every error says how to mend it");
    error.to_string()
}

#[test]
fn every_form_is_read() {
    let (_dir, path) = file(concat!(
        r#"{"prompt":"p","completion":"c"}"#,
        "\n\n",
        r#"{"prompt":"p","tool":"t","args":{"z":"1","a":[2,true],"m":3.5},"id":7}"#,
        "\r\n",
        r#"{"question":"q","choices":["x","y"],"answer":1}"#,
        "\n",
        r####"{"question":"q","answer":"a = 1\n#### 1"}"####,
        "\n",
        r#"{"system":"s","prompt":"p","completion":"c"}"#,
    ));
    let examples = jsonl(&path).unwrap();
    assert_eq!(examples.len(), 5);
    assert_eq!(examples[0].completion, Completion::Text("c".into()));
    let args = [("z", "1"), ("a", "2"), ("a", "true"), ("m", "3.5")].map(|(s, v)| (s.into(), v.into()));
    assert_eq!(examples[1].completion, Completion::Tool { tool: "t".into(), args: args.into() });
    assert_eq!(examples[1].system.as_deref(), Some(crate::data::TOOL_SYSTEM));
    assert_eq!(examples[2].prompt, "q\n(a) x\n(b) y");
    assert_eq!(examples[2].answer(), Some("b"));
    let reasoned = Completion::Reasoned { thought: "<step> a = 1".into(), answer: "1".into() };
    assert_eq!(examples[3].completion, reasoned);
    assert_eq!(examples[4].system.as_deref(), Some("s"));
}

#[test]
fn a_bad_line_is_named_with_its_field() {
    let good = r#"{"prompt":"p","completion":"c"}"#;
    for (line, parts) in [
        ("{", vec!["not valid JSON", "expected one of"]),
        ("[1]", vec!["not a JSON object"]),
        (r#"{"text":"x"}"#, vec!["neither `prompt` nor `question`", "expected one of"]),
        (r#"{"prompt":"p"}"#, vec!["`completion` is missing"]),
        (r#"{"prompt":"p","completion":3}"#, vec!["`completion` is a number", "expected text"]),
        (r#"{"prompt":" ","completion":"c"}"#, vec!["`prompt` is empty"]),
        (r#"{"prompt":"p","args":{}}"#, vec!["`args` without field `tool`"]),
        (r#"{"prompt":"p","tool":"t"}"#, vec!["`args` is missing", "object"]),
        (r#"{"prompt":"p","tool":"t","args":[1]}"#, vec!["`args` is a list"]),
        (r#"{"prompt":"p","tool":"t","args":{"a":{"b":1}}}"#, vec!["argument `a` is an object"]),
        (r#"{"prompt":"p","tool":"t","args":{"a":[[1]]}}"#, vec!["argument `a` is a list"]),
        (r#"{"prompt":"p","tool":"t","args":{"a":null}}"#, vec!["argument `a` is null"]),
        (r#"{"tool":"t","args":{}}"#, vec!["`prompt` is missing"]),
        (r#"{"question":"q","choices":["x"],"answer":0}"#, vec!["`choices`", "2 to 26"]),
        (r#"{"question":"q","choices":["x","y"],"answer":2}"#, vec!["`answer`", "0 to 1"]),
        (r#"{"question":"q","choices":["x","y"],"answer":"x"}"#, vec!["`answer`", "index"]),
        (r#"{"question":"q"}"#, vec!["`answer` is missing"]),
        (r####"{"question":"q","answer":"so ####"}"####, vec!["nothing after `####`"]),
    ] {
        let message = message(&format!("{good}\n{line}\n"));
        assert!(message.contains("data.jsonl:2: "), "{message}");
        for part in parts {
            assert!(message.contains(part), "{part:?} in {message}");
        }
    }
    let (_dir, path) = file(good);
    assert!(jsonl(&path).is_ok(), "the line before the bad ones is good");
}

#[test]
fn files_without_examples_or_not_text_are_refused() {
    assert!(message("\n \n").contains("holds no example"));
    let (_dir, path) = file("");
    std::fs::write(&path, b"{\"prompt\":\"p\",\"completion\":\"c\"}\n\xff\xfe").unwrap();
    assert!(jsonl(&path).unwrap_err().to_string().contains(":2: not UTF-8"));
    assert!(matches!(jsonl(&path.join("none")), Err(Error::Io { action: "read", .. })));
}

#[test]
fn prompts_are_held_out_by_their_text() {
    let line = |i: usize| format!("{{\"prompt\":\"say {}\",\"completion\":\"{i}\"}}\n", i % 500);
    let (_dir, path) = file(&(0..1000).map(line).collect::<String>());
    let data = dataset(&path, None).unwrap();
    assert_eq!(data.train.len() + data.valid.len(), 1000);
    assert!((60..140).contains(&data.valid.len()), "{}", data.valid.len());
    assert!(data.valid.iter().all(|v| data.train.iter().all(|t| t.prompt != v.prompt)));
    assert_eq!(data, dataset(&path, None).unwrap());
    let (_dir, single) = file(&line(1));
    assert!(matches!(dataset(&single, None), Err(Error::Usage { .. })));
}

#[test]
fn what_is_held_out_is_not_trained_on() {
    let line = |prompt: &str| format!("{{\"prompt\":\"{prompt}\",\"completion\":\"c\"}}\n");
    let (_dir, train) = file(&["one", "two", "Three!", "one."].map(line).concat());
    let (_other, valid) = file(&line("three"));
    let data = dataset(&train, Some(&valid)).unwrap();
    let prompts: Vec<String> = data.train.iter().map(|e| e.prompt.clone()).collect();
    assert_eq!(prompts, ["one", "two"]);
    assert_eq!(data.hygiene, Hygiene { seen: 4, duplicates: 1, leaks: 1 });
    assert!(matches!(dataset(&valid, Some(&valid)), Err(Error::Usage { .. })), "nothing is left to train on");
}

#[test]
fn tool_prompts_get_acknowledgements() {
    use crate::data::{Split, System};
    let line =
        |i: usize| format!("{{\"prompt\":\"do {i}\",\"tool\":\"t{}\",\"args\":{{\"n\":{i}}}}}\n", i % 2);
    let (_dir, path) = file(&(0..400).map(line).collect::<String>());
    let (_other, valid) = file(&(400..404).map(line).collect::<String>());
    let data = dataset(&path, Some(&valid)).unwrap();
    assert_eq!(data.tool_examples(Split::Train, System::With).len(), 400);
    let bare = data.tool_examples(Split::Train, System::Without);
    assert!((70..130).contains(&bare.len()), "{}", bare.len());
    let expected = Completion::Text(format!("{ACKNOWLEDGEMENT}{}", bare[0].prompt));
    assert_eq!(bare[0].completion, expected);
    assert_eq!(data.tools.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["t0", "t1"]);
    assert_eq!(data.slots(), ["n"]);
    assert_eq!(data.final_split(), Split::Valid);
}

#[test]
fn a_corpus_splits_by_bytes_and_loses_nothing() {
    let text: String =
        (0..300).map(|i| format!("line é {i} of it\n{}", if i % 7 == 0 { "\n" } else { "" })).collect();
    let (_dir, path) = file(&text);
    let data = corpus(&path, 100).unwrap();
    let joined =
        |examples: &Examples| -> String { examples.iter().map(|e| e.completion.canonical()).collect() };
    assert_eq!(joined(&data.train) + &joined(&data.valid), text);
    let Running { mut sample, characters } = data.running.clone().unwrap();
    sample.sort_unstable();
    let train = joined(&data.train);
    let mut learnt: Vec<&str> = paragraphs(&train).collect();
    learnt.sort_unstable();
    assert_eq!(sample, learnt, "a tokenizer learns from all of it");
    assert_eq!(characters.chars().collect::<BTreeSet<_>>(), train.chars().collect());
    let share = joined(&data.train).len() as f64 / text.len() as f64;
    assert!((share - 0.9).abs() < 0.01, "{share}");
    assert!(data.train.iter().all(|e| e.completion.canonical().len() <= 100 && e.is_plain()));
    let at_line_ends = data.train.iter().filter(|e| e.completion.canonical().ends_with('\n')).count();
    assert!(at_line_ends + 1 >= data.train.len(), "cut at line ends");
}

#[test]
fn a_corpus_that_repeats_itself_is_cleaned_or_refused() {
    let words = |from: usize| (from..from + 12).map(|i| format!("word{i}")).collect::<Vec<_>>().join(" ");
    let fresh: String = (0..20).map(|i| words(100 * i) + "\n\n").collect();
    let last = words(1900).to_uppercase();
    let (_dir, path) = file(&format!("{last}\n\n{fresh}"));
    let data = corpus(&path, 100).unwrap();
    assert_eq!(data.hygiene.leaks, 1);
    let kept: String = data.train.iter().map(|e| e.completion.canonical()).collect();
    assert!(fresh.starts_with(&kept) && !kept.is_empty());
    let (_dir, path) = file(&(words(0) + "\n\n").repeat(50));
    assert!(corpus(&path, 100).unwrap_err().to_string().contains("repeats what is held out"));
}

/// A dialogue a line, about these numbers.
fn dialogues(numbers: std::ops::Range<usize>) -> String {
    numbers.map(|i| format!("{{\"prompt\":\"say {i}\",\"completion\":\"it is {i}\"}}\n")).collect()
}

#[test]
fn files_are_parts_with_their_weights() {
    let (_a, first) = file(&dialogues(0..300));
    let (_b, second) = file(&dialogues(200..400));
    let (_c, text) = file(&(0..90).map(|i| format!("a paragraph about {i}\n\n")).collect::<String>());
    let files = Files {
        examples: vec![(&first, 3), (&second, 1)],
        texts: vec![(&text, 2)],
        excerpt: 100,
        ..Files::default()
    };
    let data = mixed(&files).unwrap();
    let parts = data.train.parts();
    assert_eq!(parts.iter().map(|part| part.weight).collect::<Vec<_>>(), [3, 1, 2]);
    assert_eq!(data.hygiene.duplicates, {
        let twice = (200..300).filter(|i| !held_out(&format!("say {i}")));
        twice.count()
    });
    let said: String = parts[2].examples.iter().map(|e| e.completion.canonical()).collect();
    let whole = std::fs::read_to_string(&text).unwrap();
    assert!(whole.starts_with(&said) && said.len() > whole.len() * 8 / 10);
    let held: Vec<Slice> = data.valid.iter().map(|e| e.slice).collect();
    assert!(held.contains(&Slice::Prose) && held.contains(&Slice::Dialogue), "each kind holds out");
    assert!(data.valid.iter().all(|v| data.train.iter().all(|t| *t != *v)));
    assert_eq!(data.name, "data+data+data");
}

#[test]
fn what_one_file_holds_out_is_not_learnt_from_another() {
    let sentence = |i: usize| format!("the {i} quick brown foxes jump over {i} lazy dogs and {i} fences");
    let line = |i: usize| format!("{{\"prompt\":\"{}\",\"completion\":\"yes\"}}\n", sentence(i));
    let (_a, examples) = file(&(0..200).map(line).collect::<String>());
    // The text says every tenth prompt in its middle, and its end says what one of the examples does.
    let filler = |i: usize| format!("{i} other words that nobody {i} has ever written {i} down before\n\n");
    let said: String = (0..200).map(|i| format!("{} yes\n\n", sentence(i))).collect();
    let fresh: String = (0..400).map(filler).collect();
    let end: String = (300..310).map(|i| format!("{} yes\n\n", sentence(i))).collect();
    let (_b, text) = file(&format!("{said}{fresh}{end}"));
    let (_c, more) = file(&(300..500).map(line).collect::<String>());
    let files = Files {
        examples: vec![(&examples, 1), (&more, 1)],
        texts: vec![(&text, 1)],
        excerpt: 80,
        ..Files::default()
    };
    let data = mixed(&files).unwrap();
    let held = (0..200).filter(|i| held_out(&sentence(*i))).collect::<Vec<_>>();
    let learnt: String = data.train.parts()[2].examples.iter().map(|e| e.completion.canonical()).collect();
    assert!(
        held.len() > 5 && held.iter().all(|i| !learnt.contains(&sentence(*i))),
        "held out by the examples"
    );
    assert!(
        learnt.contains(&sentence((0..200).find(|i| !held.contains(i)).unwrap())),
        "nothing else is left out"
    );
    let prompts: Vec<String> = data.train.parts()[1].examples.iter().map(|e| e.prompt.clone()).collect();
    assert!((300..310).all(|i| !prompts.contains(&sentence(i))), "held out at the end of the text");
    assert!((310..500).filter(|i| prompts.contains(&sentence(*i))).count() > 150);
    let leaks = held.len() + (300..310).filter(|i| !held_out(&sentence(*i))).count();
    assert!(data.hygiene.leaks >= leaks, "all that is left out is reported: {:?}", data.hygiene);
}

#[test]
fn long_files_give_the_same_data_through_temporary_files() {
    let rows: String = (0..60_000).map(|i| dialogues(i % 50_000..i % 50_000 + 1)).collect();
    let (_a, examples) = file(&rows);
    let (_b, text) =
        file(&(0..200_000).map(|i| format!("paragraph {i} says {}\n\n", i * 7)).collect::<String>());
    let scratch = tempfile::tempdir().unwrap();
    let files =
        Files { examples: vec![(&examples, 1)], texts: vec![(&text, 1)], excerpt: 64, ..Files::default() };
    let held = mixed(&files).unwrap();
    let filed = mixed(&Files { scratch: Some(scratch.path()), ..files }).unwrap();
    let in_files = |data: &Dataset| data.train.parts().iter().all(|p| p.examples.in_memory().is_none());
    assert!(in_files(&filed) && !in_files(&held));
    assert_eq!(filed, held);
}

#[test]
fn text_without_any_break_is_cut_between_characters() {
    let pieces = excerpts(&["ééé", "é", "ééééé"], 5);
    assert_eq!(pieces.concat(), "ééééééééé");
    assert!(pieces.iter().all(|p| p.len() <= 5));
}

/// Excerpts of a text that comes in these pieces.
fn excerpts(pieces: &[&str], limit: usize) -> Vec<String> {
    let (mut cutter, mut out) = (Excerpts::new(limit), Writer::new(None));
    pieces.iter().for_each(|piece| cutter.add(piece, &mut out).unwrap());
    cutter.finish(&mut out).unwrap();
    out.finish().unwrap().iter().map(|e| e.completion.canonical()).collect()
}

#[test]
fn excerpts_do_not_depend_on_how_the_text_comes() {
    let text: String =
        (0..400).map(|i| format!("word{i}{}", ["\n\n", "\n", " ", "  ", "é"][i * 7 % 5])).collect();
    let whole = excerpts(&[&text], 60);
    assert!(whole.len() > 30 && whole.concat() == text);
    for piece in [1, 7, 59, 60, 61, 500] {
        let characters: Vec<char> = text.chars().collect();
        let pieces: Vec<String> = characters.chunks(piece).map(String::from_iter).collect();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        assert_eq!(excerpts(&pieces, 60), whole, "{piece}");
    }
}

#[test]
fn one_line_answers_stay_text() {
    assert_eq!(first(r#"{"question":"q","answer":"7"}"#).completion, Completion::Text("7".into()));
    assert_eq!(first(r#"{"question":"q","answer":7}"#).completion, Completion::Text("7".into()));
}

/// Real files, where the environment names a directory of them.
#[test]
fn real_files_are_read() {
    let Ok(dir) = std::env::var("FORGE_DATA_DIR") else {
        eprintln!("skipped: FORGE_DATA_DIR is not set");
        return;
    };
    let dir = PathBuf::from(dir);
    let snips = dataset(&dir.join("snips_train.jsonl"), Some(&dir.join("snips_valid.jsonl"))).unwrap();
    let calls = snips.tool_calls(&snips.train, crate::data::System::With);
    assert_eq!((calls.count(), snips.tools.len(), snips.slots().len()), (12_844, 7, 39));
    assert_eq!(snips.hygiene, Hygiene { seen: 13_084, duplicates: 221, leaks: 19 });
    let gsm = jsonl(&dir.join("gsm8k_train.jsonl")).unwrap();
    assert!(gsm.len() == 7473 && gsm.iter().all(Example::is_reasoned));
    let arc = jsonl(&dir.join("arc_easy_dev.jsonl")).unwrap();
    assert!(arc.len() == 546 && arc.iter().all(|e| e.answer().is_some()));
    let plays = corpus(&dir.join("tinyshakespeare.txt"), 256).unwrap();
    let kept: usize = plays.train.iter().map(|e| e.completion.canonical().len()).sum();
    assert!(kept <= 1_003_854 && kept > 1_000_000, "nine tenths, but for what leaks: {kept}");
}
