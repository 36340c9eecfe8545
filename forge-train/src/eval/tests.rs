use forge_formats::codec::encode::Simple;
use forge_formats::config::{Activation, CacheKind, Globals, MemoryKind, ModelConfig};
use forge_formats::tools::ValueSpec;
use forge_formats::write::Writer;
use forge_formats::{File, Role};
use forge_runtime::testing::random_model;

use super::*;
use crate::data::{SlotSchema, TOOL_SYSTEM, ToolSchema, schema};

fn config() -> ModelConfig {
    ModelConfig {
        vocab: 300,
        dim: 32,
        layers: 1,
        heads: 2,
        kv_heads: 1,
        head_dim: 16,
        ffn: 32,
        activation: Activation::SwiGlu,
        window: 32,
        rope_log2_theta: 13.287_712,
        norm_eps: 1e-6,
        norm_gain: true,
        tied: true,
        recursion: 2,
        halting: true,
        halt_threshold: 0.5,
        mem_dim: 0,
        mem_gate: 0,
        mem_layers: 0,
        cache: CacheKind::default(),
        memory: MemoryKind::default(),
        globals: Globals::default(),
    }
}

pub(super) fn model() -> Vec<u8> {
    random_model(&config(), 3, Simple::Ternary2b)
}

/// The same with a table of its tool: one slot of a few values, one of whole numbers.
pub(super) fn model_with_tools() -> Vec<u8> {
    let slot = |name: &str, value| SlotSchema { name: name.into(), required: true, repeatable: false, value };
    let rooms = ["bedroom", "bathroom", "hall"].map(String::from);
    let slots = vec![
        slot("room", ValueSpec::Choice(rooms.into())),
        slot("level", ValueSpec::Integer { min: 0, max: 100 }),
    ];
    let tools = [ToolSchema { name: "set_light".into(), slots }];
    let bytes = model();
    let table = schema::to_bytes(&tools, &tokenizer(&bytes)).unwrap().unwrap();
    Writer::from_file(&File::parse(&bytes).unwrap()).tools(table).finish().unwrap()
}

pub(super) fn tokenizer(bytes: &[u8]) -> Tokenizer {
    Tokenizer::from_spec(File::parse(bytes).unwrap().tokenizer().to_spec()).unwrap()
}

fn call(prompt: &str, args: &[(&str, &str)]) -> Example {
    let args = args.iter().map(|(s, v)| (s.to_string(), v.to_string())).collect();
    Example {
        system: Some(TOOL_SYSTEM.into()),
        prompt: prompt.into(),
        completion: Completion::Tool { tool: "set_light".into(), args },
        slice: Slice::Tool,
        level: 0,
    }
}

/// A model of zeros but for the tables: an untied head whose row `favourite` is the final norm's direction, so that
/// every token is followed by `favourite`; with `None` all logits are 0 and every token is equally likely.
pub(super) fn constant_model(favourite: Option<u16>) -> Vec<u8> {
    constant_model_of(&tokenizer(&model()), favourite)
}

/// The same with this tokenizer.
pub(super) fn constant_model_of(tokenizer: &Tokenizer, favourite: Option<u16>) -> Vec<u8> {
    let vocab = tokenizer.vocab();
    let config = ModelConfig { vocab, tied: false, recursion: 1, halting: false, ..config() };
    let mut writer = Writer::new(config.clone()).tokenizer(tokenizer.table());
    for (role, layer, [rows, cols]) in config.tensors() {
        let mut values = vec![0.0f32; (rows * cols) as usize];
        match (role, favourite) {
            (Role::Embedding | Role::FinalNorm | Role::AttnNorm | Role::FfnNorm, _) => values.fill(1.0),
            (Role::Head, Some(id)) => {
                let row = usize::from(id) * cols as usize;
                values[row..row + cols as usize].fill(1.0);
            }
            _ => {}
        }
        let payload =
            forge_formats::codec::encode::encode(Simple::F32, rows as usize, cols as usize, &values);
        writer = writer.tensor(role, layer, Simple::F32.into(), payload);
    }
    writer.finish().unwrap()
}

#[test]
fn a_uniform_model_needs_log2_vocab_bits_a_token() {
    let bytes = constant_model(None);
    let t = tokenizer(&bytes);
    let examples =
        [call("dim it", &[("room", "bedroom"), ("level", "20")]), call("more light", &[("level", "9")])];
    let tokens: usize = examples
        .iter()
        .map(|e| encode::prefix(&t, &e.without_system()).len() + encode::completion(&t, e).len() - 1)
        .sum();
    let text = "dim it".len()
        + "set_light|room=bedroom|level=20".len()
        + "more light".len()
        + "set_light|level=9".len();
    let expected = tokens as f64 * 300f64.log2() / text as f64;
    let measured = bits_per_byte(&bytes, &examples).unwrap();
    assert!((measured - expected).abs() < 1e-9, "{measured} {expected}: the system text is not scored");
}

#[test]
fn a_model_that_says_one_token_is_measured_by_it() {
    let probe = constant_model(None);
    let tool = tokenizer(&probe).tool("set_light").unwrap();
    let report =
        evaluate(&constant_model(Some(tool)), &[call("dim", &[("level", "2")])], &Options::default())
            .unwrap();
    // "set_light set_light set_light …" is not a well-formed call.
    assert_eq!(report.tool_accuracy, Rate { hits: 0, n: 1 });
    let end = tokenizer(&probe).control("<eos>");
    let empty = Example {
        completion: Completion::Text(String::new()),
        slice: Slice::Arithmetic,
        system: None,
        ..call("say nothing", &[])
    };
    let report = evaluate(&constant_model(Some(end)), &[empty], &Options::default()).unwrap();
    assert_eq!(report.answer_accuracy, Rate { hits: 1, n: 1 }, "an empty answer is what it gives");
}

#[test]
fn figures_do_not_depend_on_threads_or_repetition() {
    let bytes = model();
    let examples: Vec<Example> =
        (0..20).map(|i| call(&format!("light {i}"), &[("level", &i.to_string())])).collect();
    let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    let run = |n| {
        let report = pool(n).install(|| evaluate(&bytes, &examples, &Options::default())).unwrap();
        EvalReport { tokens_per_second: 0.0, ..report }
    };
    assert_eq!(run(1), run(3));
    assert_eq!(run(1).n, 20);
    assert_eq!(run(1).bytes, bytes.len() as u64);
    assert!(run(1).mean_recursions >= 1.0 && run(1).mean_recursions <= 2.0);
    assert!(run(1).bits_per_byte.is_finite());
}

#[test]
fn what_scoring_agreed_with_generation_says_too() {
    let bytes = model();
    let t = tokenizer(&bytes);
    for i in 0..10 {
        let mut example = call(&format!("light {i}"), &[]);
        let prefix = encode::prefix(&t, &example);
        let said = generate(&bytes, &[prefix], &SampleOptions::greedy(24)).unwrap().remove(0);
        // Take what the model says as the right answer: evaluation must then find it right.
        let text = match read(&t.runtime(), &said) {
            Completion::Text(text) => text,
            _ => continue,
        };
        example.slice = Slice::Arithmetic;
        example.completion = Completion::Text(text.clone());
        let report = evaluate(&bytes, &[example], &Options { max_tokens: 24, ..Options::default() }).unwrap();
        assert_eq!(report.answer_accuracy.hits, 1, "{text:?}");
    }
}

#[test]
fn sampling_is_seeded_by_place() {
    let bytes = model();
    let t = tokenizer(&bytes);
    let prompt = encode::prefix(&t, &call("light", &[]));
    let options = SampleOptions { max_tokens: 12, temperature: 1.0, seed: 4, stop: None };
    let prompts = vec![prompt; 6];
    let all = generate(&bytes, &prompts, &options).unwrap();
    assert_eq!(all, generate(&bytes, &prompts, &options).unwrap());
    assert_eq!(all[..2], generate(&bytes, &prompts[..2], &options).unwrap());
    assert_ne!(all[0], all[1], "each prompt has a stream of its own");
    assert!(all.iter().all(|c| c.len() <= 12));
    let greedy = generate(&bytes, &prompts, &SampleOptions::greedy(12)).unwrap();
    assert!(greedy.iter().all(|c| *c == greedy[0]));
}

#[test]
fn stop_tokens_end_a_completion_and_stay() {
    let bytes = constant_model(Some(70));
    let prompt = vec![1, 80, 90];
    let free = SampleOptions::greedy(5);
    let out = generate(&bytes, std::slice::from_ref(&prompt), &free).unwrap();
    assert_eq!(out[0], [70; 5]);
    let stopped = SampleOptions { stop: Some(70), ..free };
    assert_eq!(generate(&bytes, &[prompt], &stopped).unwrap()[0], [70]);
}

#[test]
fn completions_are_read_as_they_are_written() {
    let t = tokenizer(&model());
    let reasoned = Completion::Reasoned { thought: "1 + 1 = 2".into(), answer: "2".into() };
    let text = Completion::Text("hello there".into());
    let tool = call("", &[("room", "attic"), ("room", "hall"), ("level", "5")]).completion;
    for completion in [reasoned, text, tool] {
        let example = Example { completion: completion.clone(), ..call("p", &[]) };
        let ids = encode::completion(&t, &example);
        assert_eq!(read(&t.runtime(), &ids), completion);
    }
}

#[test]
fn frames_compare_by_slot_and_repeated_slots_by_order() {
    let frame = |args: &[(&str, &str)]| call("", args).completion;
    let right = frame(&[("a", "1"), ("b", "2"), ("a", "3")]);
    assert!(right.same_frame(&frame(&[("b", "2"), ("a", "1"), ("a", "3")])));
    assert!(!right.same_frame(&frame(&[("b", "2"), ("a", "3"), ("a", "1")])));
    assert!(!right.same_frame(&frame(&[("a", "1"), ("b", "2")])));
    let other = Completion::Tool { tool: "other".into(), args: vec![] };
    assert!(!other.same_frame(&frame(&[])));
}

#[test]
fn answers_match_with_and_without_a_thought() {
    let t = tokenizer(&model());
    let example = Example {
        completion: Completion::Reasoned { thought: "x".into(), answer: "12".into() },
        slice: Slice::Arithmetic,
        ..call("q", &[])
    };
    let ids = |completion| encode::completion(&t, &Example { completion, ..example.clone() });
    assert!(answer_matches(&t, &example, &ids(Completion::Text("12".into()))));
    let other_way = Completion::Reasoned { thought: "y".into(), answer: "12".into() };
    assert!(answer_matches(&t, &example, &ids(other_way)));
    assert!(!answer_matches(&t, &example, &ids(Completion::Text("13".into()))));
    assert!(!answer_matches(&t, &call("p", &[]), &ids(Completion::Text("12".into()))));
}

#[test]
fn reports_serialise_with_the_promised_fields() {
    let report = evaluate(&model(), &[call("light", &[("level", "3")])], &Options::default()).unwrap();
    let json = serde_json::to_value(&report).unwrap();
    for field in ["bytes", "n", "bits_per_byte"] {
        assert!(json[field].is_number(), "{field}");
    }
    for field in ["tool_accuracy", "frame_accuracy", "answer_accuracy"] {
        assert!(["value", "low", "high"].iter().all(|f| json[field][f].is_number()), "{field}");
    }
}

#[test]
fn damaged_files_and_unknown_tools_are_errors() {
    let mut bytes = model();
    let mut example = call("light", &[]);
    example.completion = Completion::Tool { tool: "fly".into(), args: vec![] };
    assert!(evaluate(&bytes, &[example], &Options::default()).is_err());
    bytes.truncate(bytes.len() / 2);
    assert!(evaluate(&bytes, &[], &Options::default()).is_err());
}
