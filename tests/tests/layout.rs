//! The repository's own rules: file lengths, no left-overs, nothing of the machine it was written on, no dead
//! links in its documents.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest source file in lines.
const MAX_LINES: usize = 500;
/// Extensions of files that count as source.
const SOURCE: [&str; 9] = ["rs", "js", "mjs", "ts", "sh", "html", "css", "py", "toml"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository").to_path_buf()
}

/// Every tracked file that is text, with its path from the root.
fn tracked() -> Vec<(String, String)> {
    let output =
        Command::new("git").arg("ls-files").arg("-z").current_dir(root()).output().expect("git runs");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("names are UTF-8");
    let text = |name: &str| std::fs::read_to_string(root().join(name)).ok();
    let files: Vec<_> =
        names.split_terminator('\0').filter_map(|name| Some((name.to_owned(), text(name)?))).collect();
    assert!(files.len() > 20, "only {} files found", files.len());
    files
}

fn extension(path: &str) -> &str {
    Path::new(path).extension().and_then(|e| e.to_str()).unwrap_or("")
}

fn too_long(path: &str, text: &str) -> bool {
    SOURCE.contains(&extension(path)) && text.lines().count() > MAX_LINES
}

fn is_backup(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let endings = ["bak", "backup", "old", "orig", "rej", "save", "swp", "swo", "tmp"];
    name.ends_with('~') || name.starts_with(".#") || endings.contains(&extension(name))
}

/// Whether a text names a place of the machine it was written on. The names are put together here so that this
/// file does not hold them.
fn names_machine(text: &str) -> bool {
    let places = ["work", "root", "home", "Users"].map(|dir| format!("/{dir}/"));
    let inside_path = |c: char| c.is_alphanumeric() || "./_-~}".contains(c);
    text.contains(concat!("arti", "factory"))
        || places
            .iter()
            .any(|place| text.match_indices(place.as_str()).any(|(at, _)| !text[..at].ends_with(inside_path)))
}

fn unfinished(path: &str, text: &str) -> bool {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    extension(path) == "rs" && marks.iter().any(|mark| text.contains(mark))
}

/// Targets of a Markdown text's relative links.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()).filter(|target| {
        !target.is_empty() && !target.contains("://") && !target.contains(char::is_whitespace)
    })
}

fn offenders(test: impl Fn(&str, &str) -> bool) -> Vec<String> {
    tracked().into_iter().filter(|(path, text)| test(path, text)).map(|(path, _)| path).collect()
}

#[test]
fn source_files_are_short() {
    assert_eq!(offenders(too_long), [""; 0], "longer than {MAX_LINES} lines");
    assert!(too_long("a.rs", &"x\n".repeat(MAX_LINES + 1)));
    assert!(!too_long("a.rs", &"x\n".repeat(MAX_LINES)));
}

#[test]
fn no_backup_files() {
    assert_eq!(offenders(|path, _| is_backup(path)), [""; 0]);
    assert!(is_backup("src/main.rs.bak") && is_backup("notes~") && is_backup("a/.#lock"));
    assert!(!is_backup("src/backup.rs"));
}

#[test]
fn nothing_of_this_machine() {
    assert_eq!(offenders(|_, text| names_machine(text)), [""; 0]);
    let path = ["", "home", "me", "x"].join("/");
    assert!(names_machine(&format!("see `{path}`")) && names_machine(&path));
    assert!(!names_machine(&format!("docs{path}")));
}

#[test]
fn nothing_unfinished() {
    assert_eq!(offenders(unfinished), [""; 0]);
    assert!(unfinished("a.rs", concat!("// TO", "DO later")));
}

#[test]
fn links_lead_somewhere() {
    let mut dead = Vec::new();
    for (path, text) in tracked().iter().filter(|(path, _)| extension(path) == "md") {
        let folder = root().join(path);
        let folder = folder.parent().expect("a file lies in a folder");
        dead.extend(links(text).filter(|link| !folder.join(link).exists()).map(|l| format!("{path}: {l}")));
    }
    assert_eq!(dead, [""; 0]);
    assert_eq!(links("[a](b.md) [c](d.md#e) [f](https://g) [h](#i)").collect::<Vec<_>>(), ["b.md", "d.md"]);
}
