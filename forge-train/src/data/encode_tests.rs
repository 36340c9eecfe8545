use super::*;
use crate::data::builtin::{Sizes, generate};
use crate::data::{Dataset, Slice, Split, System};

fn data() -> Dataset {
    generate(5, &Sizes { train: 400, eval: 20 })
}

fn tokenizer(data: &Dataset) -> Tokenizer {
    Tokenizer::for_dataset(data, &crate::config::TokenizerConfig::bpe(400)).unwrap()
}

fn plain(text: &str) -> Example {
    Example {
        system: None,
        prompt: String::new(),
        completion: Completion::Text(text.into()),
        slice: Slice::Prose,
        level: 0,
    }
}

#[test]
fn a_call_has_the_stated_layout() {
    let data = data();
    let t = tokenizer(&data);
    let example = Example {
        system: Some("use tools".into()),
        prompt: "dim the bedroom lights to 20".into(),
        completion: Completion::Tool {
            tool: "set_light".into(),
            args: vec![("room".into(), "bedroom".into()), ("level".into(), "20".into())],
        },
        slice: Slice::Tool,
        level: 0,
    };
    let expected = [
        vec![t.control("<bos>")],
        t.encode("use tools"),
        vec![t.control("<sys>")],
        t.encode("dim the bedroom lights to 20"),
        vec![t.control("<sep>"), t.tool("set_light").unwrap(), t.slot("room").unwrap()],
        t.encode(" bedroom"),
        vec![t.slot("level").unwrap()],
        t.encode(" 20"),
        vec![t.control("<eos>")],
    ]
    .concat();
    let sequence = encode(&t, &example, 0.1);
    assert_eq!(sequence.ids, expected);
    let prompt = prefix(&t, &example).len();
    assert_eq!(sequence.weights[0], 0.0);
    assert!(sequence.weights[1..prompt].iter().all(|w| *w == 0.1));
    assert!(sequence.weights[prompt..].iter().all(|w| *w == 1.0));
    assert_eq!(sequence.weights.len(), sequence.ids.len());
}

#[test]
fn values_have_the_same_tokens_in_prompt_and_call() {
    let data = data();
    let t = tokenizer(&data);
    let mut copied = 0;
    for example in data.tool_examples(Split::Test, System::With) {
        let Completion::Tool { args, .. } = &example.completion else { panic!("a call") };
        let prompt = t.encode(&example.prompt);
        for (_, value) in args {
            let value_ids = segment(&t, value);
            copied += usize::from(prompt.windows(value_ids.len()).any(|w| w == value_ids));
        }
    }
    assert!(copied >= 25, "{copied} values of 20 calls are copied token by token");
}

#[test]
fn thoughts_and_plain_text_have_the_stated_layout() {
    let data = data();
    let t = tokenizer(&data);
    let worked = Example {
        system: None,
        prompt: "what is 1 + 2".into(),
        completion: Completion::Reasoned { thought: "1 + 2 = 3".into(), answer: "3".into() },
        slice: Slice::Arithmetic,
        level: 1,
    };
    let ids = completion(&t, &worked);
    let close = ids.iter().position(|id| *id == t.control("</think>")).unwrap();
    assert_eq!(ids[0], t.control("<think>"));
    assert_eq!(t.decode(&ids[1..close]), " 1 + 2 = 3");
    assert_eq!(t.decode(&ids[close..]), " 3");
    assert_eq!(ids.last(), Some(&t.control("<eos>")));
    let story = encode(&t, &plain("a fox."), 0.1);
    assert!(!story.ids.contains(&t.control("<sep>")) && story.ids.last() == Some(&t.control("<eos>")));
    assert!(story.weights[1..].iter().all(|w| *w == 1.0), "plain text weighs 1 throughout");
    let excerpt = encode(&t, &plain("a fox\n"), 0.1);
    assert!(!excerpt.ids.contains(&t.control("<eos>")), "running text goes on");
}

#[test]
fn user_text_never_gives_a_special_token() {
    let data = data();
    let t = tokenizer(&data);
    let specials = t.spec().specials.len() as u16;
    for text in ["<bos><eos></think>", "set_light", "<sep> room <sys>"] {
        assert!(t.encode(text).iter().all(|id| *id >= specials));
        assert_eq!(t.decode(&t.encode(text)), text);
    }
}

#[test]
fn long_sequences_are_cut_and_counted() {
    let data = data();
    let t = tokenizer(&data);
    let all = encode_all(&t, &data.train.parts()[0].examples, 0.1, 24).unwrap();
    let whole = encode_all(&t, &data.train.parts()[0].examples, 0.1, usize::MAX).unwrap();
    let long = whole.sequences.iter().filter(|s| s.ids.len() > 24).count();
    assert!(long > 0 && all.truncated == long && whole.truncated == 0);
    assert!(all.sequences.iter().all(|s| s.ids.len() <= 24 && s.weights.len() == s.ids.len()));
    assert_eq!(all.tokens, all.sequences.iter().map(|s| s.ids.len()).sum::<usize>());
}

#[test]
fn unknown_tools_are_an_error_that_names_them() {
    let data = data();
    let t = tokenizer(&data);
    let mut example = data.tool_examples(Split::Train, System::With).remove(0);
    assert!(check(&t, std::slice::from_ref(&example)).is_ok());
    if let Completion::Tool { tool, .. } = &mut example.completion {
        *tool = "launch".into();
    }
    let error = check(&t, &[example]).unwrap_err().to_string();
    assert!(error.contains("no tool `launch`"), "{error}");
}

#[test]
fn markers_of_a_trace_are_tokens_and_are_read_back() {
    let t = tokenizer(&data());
    let text = "<step> 1 + 2 = 3 <doubt> 4";
    let ids = trace(&t, text);
    let (step, doubt) = (t.marker("<step>").unwrap(), t.marker("<doubt>").unwrap());
    assert_eq!(ids[0], step);
    assert_eq!(ids.iter().filter(|id| **id == doubt).count(), 1);
    let close = [&ids[..], &[t.control("</think>")], &segment(&t, "3")].concat();
    let read = crate::eval::read(&t.runtime(), &[&[t.control("<think>")], &close[..]].concat());
    assert_eq!(read, Completion::Reasoned { thought: text.into(), answer: "3".into() });
    assert!(!t.encode(text).contains(&step), "a user's text never becomes a marker");
}
