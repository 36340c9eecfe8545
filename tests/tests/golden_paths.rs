//! Every golden case gives the committed bits in every way a host can run it: on each table of kernels, with weights
//! prepared or not, the prompt token by token or in blocks, in a batch, by a team of threads.

use std::fs;

use crc::{CRC_32_ISO_HDLC, Crc};
use forge_runtime::team::with_team;
use forge_runtime::{Batch, Kernels, Model, Options, Session, Workspace};
use forge_tests::golden::{Case, folder};

/// Logits as bits, and the number of recursions, of every step.
type Steps = Vec<(Vec<u32>, u32)>;

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|l| l.to_bits()).collect()
}

/// Cases with their files.
fn committed() -> Vec<(Case, Vec<u8>)> {
    let text = fs::read_to_string(folder().join("golden.tsv")).expect("golden.tsv is in the repository");
    let case = |line| Case::from_line(line).expect("a well-formed line");
    let file = |name: &str| fs::read(folder().join(format!("{name}.forge"))).expect("each line has its file");
    text.lines().map(case).map(|case| (case.clone(), file(&case.name))).collect()
}

/// The tokens that the case's steps read: the last that was chosen was not read.
fn tokens(case: &Case) -> Vec<u16> {
    let chosen = &case.generated[..case.generated.len() - 1];
    case.prompt.iter().chain(chosen).copied().collect()
}

fn stepped(model: &Model<'_>, options: &Options<'_>, tokens: &[u16]) -> Steps {
    let mut memory = Workspace::with(model, options);
    let mut session = Session::with(model, options, memory.bytes()).expect("enough memory");
    let step = |t: &u16| {
        let logits = bits(session.step(*t).expect("a token of the vocabulary"));
        (logits, session.recursions())
    };
    tokens.iter().map(step).collect()
}

/// What `golden.tsv` holds of steps.
fn crc(steps: &Steps) -> u32 {
    let crc = Crc::<u32>::new(&CRC_32_ISO_HDLC);
    let mut digest = crc.digest();
    for (logits, recursions) in steps {
        logits.iter().for_each(|l| digest.update(&l.to_le_bytes()));
        digest.update(&[*recursions as u8]);
    }
    digest.finalize()
}

/// Calls `check` with every case, its model, every options there are, and the steps the page defines.
fn each(mut check: impl FnMut(&Case, &Model<'_>, &Options<'_>, &[u16], &Steps)) {
    for (case, file) in committed() {
        let model = Model::parse(&file).expect("a model");
        let tokens = tokens(&case);
        let want = stepped(&model, &Options::device(), &tokens);
        assert_eq!(crc(&want), case.crc, "{} on portable kernels", case.name);
        let mut room = Workspace::of(model.prepared_bytes());
        let prepared = room.prepare(&model).expect("enough memory");
        for kernels in Kernels::all() {
            let options = Options::default().kernels(kernels);
            check(&case, &model, &options, &tokens, &want);
            check(&case, &model, &options.prepared(prepared), &tokens, &want);
        }
    }
}

#[test]
fn on_every_table_of_kernels() {
    let mut runs = 0;
    each(|case, model, options, tokens, want| {
        runs += 1;
        assert_eq!(crc(&stepped(model, options, tokens)), case.crc, "{} with {options:?}", case.name);
        assert!(stepped(model, options, tokens) == *want);
    });
    assert_eq!(runs, 2 * Kernels::all().count() * committed().len());
}

#[test]
fn with_the_prompt_in_blocks() {
    each(|case, model, options, tokens, want| {
        for block in [2, 5, 64] {
            let options = options.block(block);
            let mut memory = Workspace::with(model, &options);
            let mut session = Session::with(model, &options, memory.bytes()).expect("enough memory");
            let read = case.prompt.len() - 1;
            session.prefill(&tokens[..read]).expect("tokens of the vocabulary");
            for (token, want) in tokens.iter().zip(want).skip(read) {
                let got = bits(session.step(*token).expect("a token of the vocabulary"));
                assert!(got == want.0, "{} with {options:?}", case.name);
            }
        }
    });
}

#[test]
fn in_a_batch() {
    each(|case, model, options, tokens, want| {
        let mut memory = Workspace::of(model.batch_workspace(options, 3));
        let mut batch = Batch::new(model, options, 3, memory.bytes()).expect("enough memory");
        // The second sequence lags behind the first by three tokens, the third reads them backwards.
        for at in 0usize..tokens.len() + 3 {
            let lagging = at.checked_sub(3).map(|at| (1, tokens[at]));
            let now = tokens.get(at).map(|t| (0, *t));
            let back = tokens.iter().rev().nth(at).map(|t| (2, *t));
            let next: Vec<_> = [now, lagging, back].into_iter().flatten().collect();
            batch.step(&next).expect("tokens of the vocabulary");
            for (sequence, at) in [(0, Some(at)), (1, at.checked_sub(3))] {
                if let Some(want) = at.and_then(|at| want.get(at)) {
                    let got = bits(batch.logits_mut(sequence));
                    assert!(got == want.0, "{}, sequence {sequence} with {options:?}", case.name);
                }
            }
        }
    });
}

#[test]
fn by_two_threads() {
    let mut shared = 0;
    each(|case, model, options, tokens, want| {
        let read = case.prompt.len();
        let got = with_team(model, &options.block(4), 2, |team| {
            shared += usize::from(team.threads() == 2);
            let mut got = vec![bits(team.extend(&tokens[..read])?)];
            for token in &tokens[read..] {
                got.push(bits(team.step_mut(*token)?));
            }
            Ok(got)
        });
        let want: Vec<_> = want[read - 1..].iter().map(|w| w.0.clone()).collect();
        assert!(got == Ok(want), "{} with {options:?}", case.name);
    });
    assert!(shared >= 6, "only {shared} runs were shared out");
}
