//! The golden files give the committed tokens and logits, to the bit, on this machine.

use std::collections::BTreeSet;
use std::fs;

use forge_formats::config::Globals;
use forge_formats::manifest::Content;
use forge_formats::write::Writer;
use forge_formats::{File, ModelConfig, Role};
use forge_runtime::constrain::Mode;
use forge_runtime::{Constraint, Generator, Model, Sampler, Session, Workspace, call};
use forge_tests::golden::{Case, folder, recipes, run};
use forge_tests::{answers, script};

fn committed() -> Vec<Case> {
    let text = fs::read_to_string(folder().join("golden.tsv")).expect("golden.tsv is in the repository");
    text.lines().map(|line| Case::from_line(line).unwrap_or_else(|| panic!("malformed: {line}"))).collect()
}

fn named(name: &str) -> (Case, Vec<u8>) {
    let case = committed().into_iter().find(|case| case.name == name).expect("the case exists");
    let file = fs::read(folder().join(format!("{name}.forge"))).expect("each line has its file");
    (case, file)
}

fn rerun(case: &Case, file: &[u8]) -> Case {
    run(&case.name, file, case.prompt.clone(), case.seed, case.generated.len())
}

#[test]
fn every_case_gives_the_committed_bits() {
    for case in committed() {
        let (_, file) = named(&case.name);
        Model::parse(&file).expect("a model").file().verify().expect("undamaged");
        assert_eq!(rerun(&case, &file).to_line(), case.to_line());
    }
}

#[test]
fn every_recipe_has_its_case_and_every_file_its_line() {
    let lines: Vec<_> = committed().into_iter().map(|case| case.name).collect();
    let recipes: Vec<_> = recipes().into_iter().map(|recipe| recipe.name.to_owned()).collect();
    assert_eq!(lines, recipes);
    let files: BTreeSet<_> = fs::read_dir(folder())
        .expect("the folder exists")
        .map(|entry| entry.expect("it can be listed").file_name().into_string().expect("UTF-8"))
        .filter_map(|name| name.strip_suffix(".forge").map(str::to_owned))
        .collect();
    assert_eq!(files, lines.into_iter().collect());
}

#[test]
fn packings_of_the_same_trits_give_the_same_bits() {
    let two_bit = named("ternary2b").0;
    for other in ["ternary5x8", "rans"] {
        let other = named(other).0;
        assert_eq!((&two_bit.generated, two_bit.crc), (&other.generated, other.crc), "{}", other.name);
    }
}

/// Negative control: one bit of one weight changes the checksum.
#[test]
fn a_single_weight_shows() {
    for name in ["f32", "int8", "ternary2b", "full", "wide5x8", "cache_f16", "cache_ternary2b"] {
        let (case, mut file) = named(name);
        let model = Model::parse(&file).expect("a model");
        let role = if model.config().tied { Role::Embedding } else { Role::Head };
        let is_head = |content| matches!(content, Content::Tensor { role: r, .. } if r == role);
        let tensor = model.file().sections().find(|s| is_head(s.content)).expect("a model has a head");
        let at = model.file().header().data_offset as usize + tensor.offset64 as usize * 64;
        file[at] ^= 1;
        assert_ne!(rerun(&case, &file).crc, case.crc, "{name}");
    }
}

/// The cases are what their names say: tokens halt at different depths, and read past the window.
#[test]
fn cases_cover_halting_and_the_window() {
    for name in ["halting", "full", "window", "wide", "wide_cache", "cache_f16", "cache_int8", "full_int8"] {
        let (case, file) = named(name);
        let model = Model::parse(&file).expect("a model");
        let mut memory = vec![0u32; model.workspace().div_ceil(4)];
        let mut session = Session::new(&model, bytemuck::cast_slice_mut(&mut memory)).expect("enough memory");
        let mut depths = BTreeSet::new();
        for token in case.prompt.iter().chain(&case.generated) {
            session.feed(*token).expect("a token of the vocabulary");
            depths.insert(session.recursions());
        }
        assert!(depths.len() > 1, "{name}: every token recurses {depths:?} times");
        let short = ["halting", "full"].contains(&name);
        assert!(short || session.position() > 2 * model.config().window, "{name} stays within the window");
    }
}

/// More global positions have left the window than are kept, and what they add shows: without them, the same steps give
/// something else.
#[test]
fn cases_cover_globals() {
    for name in ["globals", "wide_globals"] {
        let (case, file) = named(name);
        let model = Model::parse(&file).expect("a model");
        let (globals, window) = (model.config().globals, model.config().window);
        let read = case.prompt.len() + case.generated.len() - 1;
        assert!(globals.departed(read as u32 - 1, window) > globals.rows, "{name}");
        // One more of them shows as well, and so do others.
        let more = Globals { rows: globals.rows + 1, ..globals };
        let others = Globals { every: globals.every + 1, ..globals };
        for changed in [Globals::default(), more, others] {
            let config = ModelConfig { globals: changed, ..model.config().clone() };
            assert_ne!(rerun(&case, &rewritten(&file, config)).crc, case.crc, "{name}: {changed:?}");
        }
    }
}

/// A file with another configuration that has the same tensors.
fn rewritten(file: &[u8], config: ModelConfig) -> Vec<u8> {
    let file = File::parse(file).expect("a model");
    let mut writer = Writer::new(config);
    for section in file.sections() {
        let bytes = file.section_bytes(&section).to_vec();
        writer = match section.content {
            Content::Tensor { role, layer, codec, .. } => writer.tensor(role, layer, codec, bytes),
            Content::Tokenizer => writer.tokenizer(bytes),
            _ => writer,
        };
    }
    writer.finish().expect("the same tensors")
}

#[test]
fn every_question_gets_the_committed_answer() {
    let committed = answers::committed();
    assert!(committed.len() >= 5, "only {} answers", committed.len());
    for question in committed {
        assert_eq!(Some(answers::replayed(&question).as_str()), question["answer"].as_str(), "{question}");
    }
}

/// The model made by hand says what it was made to say.
#[test]
fn the_script_is_held_to_the_tools_of_its_file() {
    let file = named("tools").1;
    assert_eq!(file, script::file_with_tools());
    assert_eq!(answers::answer(&file, "anything", None, None).as_deref(), Ok(script::CALL));
    let model = Model::parse(&file).expect("a model");
    let tokenizer = model.tokenizer();
    for mode in [Mode::Any, Mode::Call] {
        let mut memory = Workspace::new(&model);
        let session = Session::new(&model, memory.bytes()).expect("enough memory");
        let constraint = Constraint::new(&model, mode, 40).expect("enough tokens");
        let mut generator = Generator::new(session, Sampler::greedy(), 0).constrained(constraint);
        let mut out = [0; 40];
        let prompt = [tokenizer.control("<sep>").expect("a control token")];
        let len = generator.complete(&prompt, &mut out).expect("room for a call");
        let mut json = String::new();
        call::render(&tokenizer, &out[..len], &mut json).expect("writing to a String");
        assert_eq!(json, script::HELD_CALL, "{mode:?}");
    }
}

#[test]
fn the_script_is_followed() {
    let (_, file) = named("call");
    assert_eq!(answers::answer(&file, "anything", None, None).as_deref(), Ok(script::CALL));
    assert_eq!(answers::answer(&file, "", Some("be brief"), None).as_deref(), Ok(script::CALL));
}
