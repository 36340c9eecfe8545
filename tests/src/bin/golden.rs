//! Compares the golden files with what this machine makes of them; with `--write`, adds cases that are missing.
//!
//! Exit code 1 when a committed file gives something else than its line says, or a case is missing.

use std::collections::BTreeMap;
use std::fs;
use std::process::ExitCode;

use forge_tests::answers;
use forge_tests::golden::{Case, folder, recipes, run};

/// The committed lines by name, in any order.
fn committed() -> BTreeMap<String, Case> {
    let text = fs::read_to_string(folder().join("golden.tsv")).unwrap_or_default();
    let cases = text.lines().map(|line| Case::from_line(line).unwrap_or_else(|| panic!("malformed: {line}")));
    cases.map(|case| (case.name.clone(), case)).collect()
}

fn main() -> ExitCode {
    let write = std::env::args().any(|a| a == "--write");
    let committed = committed();
    let (mut lines, mut wrong) = (String::new(), 0);
    for recipe in recipes() {
        let path = folder().join(format!("{}.forge", recipe.name));
        let line = match committed.get(recipe.name) {
            Some(case) => {
                let file = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                let now = run(recipe.name, &file, case.prompt.clone(), case.seed, case.generated.len());
                wrong += usize::from(now != *case);
                println!("{} {}", if now == *case { "same   " } else { "DIFFERS" }, now.to_line());
                case.to_line()
            }
            None if write => {
                let file = recipe.file();
                fs::write(&path, &file).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                let line = recipe.case(&file).to_line();
                println!("new     {line}");
                line
            }
            None => {
                wrong += 1;
                println!("MISSING {}", recipe.name);
                continue;
            }
        };
        lines.push_str(&line);
        lines.push('\n');
    }
    if write {
        fs::write(folder().join("golden.tsv"), lines).expect("golden.tsv can be written");
        fs::write(folder().join("answers.json"), answers::updated()).expect("answers.json can be written");
    }
    ExitCode::from(u8::from(wrong > 0))
}
