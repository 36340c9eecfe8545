//! Every method on small files against values worked out by hand, and what is refused.

use std::fs;
use std::path::Path;

use half::bf16;
use safetensors::tensor::{SafeTensors, TensorView};
use tempfile::TempDir;

use super::method::matches;
use super::*;

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Writes a file of f32 vectors.
fn write(dir: &Path, name: &str, tensors: &[(&str, &[f32])]) {
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, v)| f32s(v)).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, values), bytes)| {
        (*name, TensorView::new(Dtype::F32, vec![values.len()], bytes).unwrap())
    });
    fs::write(dir.join(name), safetensors::serialize(views, None).unwrap()).unwrap();
}

fn read(dir: &Path, name: &str, tensor: &str) -> Vec<f32> {
    let bytes = fs::read(dir.join(name)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor(tensor).unwrap();
    view.data().as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c)).collect()
}

/// Base (0, 0, 0, 0), models a (4, −2, 1, 0) and b (2, 6, −3, 0), each as tensors `l.0` and `l.1`.
fn family() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let both = |name: &str, v: &[f32]| write(dir.path(), name, &[("l.0", v), ("l.1", v)]);
    both("base", &[0.0; 4]);
    both("a", &[4.0, -2.0, 1.0, 0.0]);
    both("b", &[2.0, 6.0, -3.0, 0.0]);
    dir
}

const MODELS: &str = "[[models]]\npath = \"a\"\nweight = 3.0\n[[models]]\npath = \"b\"\n";

fn run(dir: &TempDir, head: &str, tail: &str) -> Result<Summary> {
    let text = format!("output = \"out\"\n{head}\n{MODELS}{tail}");
    merge(&Recipe::parse(&text, Path::new("recipe.toml"))?, dir.path())
}

fn merged(head: &str, tail: &str) -> [Vec<f32>; 2] {
    let dir = family();
    run(&dir, head, tail).unwrap();
    ["l.0", "l.1"].map(|tensor| read(dir.path(), "out", tensor))
}

#[test]
fn linear_by_hand() {
    // (3a + b) / 4.
    assert_eq!(merged("method = \"linear\"", "")[0], [3.5, 0.0, 0.0, 0.0]);
}

#[test]
fn slerp_by_hand() {
    // At right angles t = 1/3 is 30 degrees.
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a", &[("x", &[1.0, 0.0])]);
    write(dir.path(), "b", &[("x", &[0.0, 1.0])]);
    let text =
        "method = \"slerp\"\noutput = \"out\"\nt = 0.3333333\n[[models]]\npath=\"a\"\n[[models]]\npath=\"b\"";
    merge(&Recipe::parse(text, Path::new("r")).unwrap(), dir.path()).unwrap();
    let out = read(dir.path(), "out", "x");
    assert!((out[0] - 0.75f32.sqrt()).abs() < 1e-6 && (out[1] - 0.5).abs() < 1e-6, "{out:?}");
}

#[test]
fn task_arithmetic_by_hand() {
    let head = "method = \"task_arithmetic\"\nbase = \"base\"\nlambda = 0.5";
    // 0.5 (3a + b), and divided by the weights' sum 4.
    assert_eq!(merged(head, "")[0], [7.0, 0.0, 0.0, 0.0]);
    assert_eq!(merged(&format!("{head}\nnormalize = true"), "")[0], [1.75, 0.0, 0.0, 0.0]);
}

#[test]
fn ties_by_hand() {
    // Trimmed to two of four: a (4, −2, 0, 0), b (0, 6, −3, 0). Signs of 3a + b: +, 0 counts as + (−6 + 6), −.
    // Agreeing means: 4; 6 of b alone; −3 of b alone.
    let head = "method = \"ties\"\nbase = \"base\"\ndensity = 0.5";
    assert_eq!(merged(head, "")[0], [4.0, 6.0, -3.0, 0.0]);
    // Not normalised: 3·4, 6, −3.
    assert_eq!(merged(&format!("{head}\nnormalize = false"), "")[0], [12.0, 6.0, -3.0, 0.0]);
}

#[test]
fn dare_by_hand() {
    // At density 1 nothing is dropped: 3a + b; dare_ties keeps who agrees: 3·4 + 2, +6, 3·1, 0 (tie of −6 and 6 is +,
    // 3 − 3 is +).
    assert_eq!(merged("method = \"dare_linear\"\nbase = \"base\"", "")[0], [14.0, 0.0, 0.0, 0.0]);
    assert_eq!(merged("method = \"dare_ties\"\nbase = \"base\"", "")[0], [14.0, 6.0, 3.0, 0.0]);
    // Dropped and rescaled: with one model of weight 1, what is kept has the delta's L1 norm again.
    let dir = family();
    let values: Vec<f32> = (1..=64).map(|v| v as f32).collect();
    write(dir.path(), "zero", &[("x", &[0.0; 64])]);
    write(dir.path(), "one", &[("x", &values)]);
    let dare = |seed: u64, rescale: &str| {
        let text = format!(
            "method=\"dare_linear\"\noutput=\"out\"\nbase=\"zero\"\ndensity=0.5\nseed={seed}\nrescale=\"{rescale}\"\n\
             [[models]]\npath=\"one\""
        );
        merge(&Recipe::parse(&text, Path::new("r")).unwrap(), dir.path()).unwrap();
        read(dir.path(), "out", "x")
    };
    let (l1, paper, none) = (dare(1, "l1"), dare(1, "density"), dare(1, "none"));
    assert!((l1.iter().sum::<f32>() - 2080.0).abs() < 0.1);
    assert!(none.iter().zip(&values).all(|(k, v)| *k == 0.0 || k == v));
    assert!(none.contains(&0.0) && none.iter().any(|k| *k != 0.0));
    assert!(paper.iter().zip(&none).all(|(p, k)| *p == 2.0 * k));
    assert_eq!(dare(1, "l1"), l1);
    assert_ne!(dare(2, "l1"), l1);
}

#[test]
fn passthrough_by_hand() {
    let tail = "[[overrides]]\ntensors = \"*.1\"\nfrom = \"b\"\nscale = 0.5\n";
    let [first, second] = merged("method = \"passthrough\"", tail);
    assert_eq!(first, [4.0, -2.0, 1.0, 0.0]);
    assert_eq!(second, [1.0, 3.0, -1.5, 0.0]);
}

#[test]
fn dfs_by_hand() {
    // Variances of the deltas: a has mean 0.75 and squares 21, so 21/4 − 0.5625; b mean 1.25 and squares 49.
    let (va, vb) = (4.6875, 10.6875);
    let floor = 0.01 * (va + vb) / 2.0;
    let (p, q) = (3.0 / (va + floor), 1.0 / (vb + floor));
    let out = merged("method = \"dfs\"\nbase = \"base\"", "");
    let expected = (p * 4.0 + q * 2.0) / (p + q);
    assert!((f64::from(out[0][0]) - expected).abs() < 1e-6, "{out:?}, {expected}");
}

#[test]
fn the_first_matching_override_decides() {
    let tail = "[[overrides]]\ntensors = \"l.0\"\nweights = [1.0, 0.0]\n\
                [[overrides]]\ntensors = \"l.*\"\nweights = [0.0, 1.0]\n";
    let [first, second] = merged("method = \"linear\"", tail);
    assert_eq!((first[0], second[0]), (4.0, 2.0));
}

#[test]
fn half_precision_is_read_and_written() {
    let dir = family();
    run(&dir, "method = \"linear\"\ndtype = \"bf16\"", "").unwrap();
    let bytes = fs::read(dir.path().join("out")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor("l.0").unwrap();
    assert_eq!((view.dtype(), &view.data()[..2]), (Dtype::BF16, &bf16::from_f32(3.5).to_le_bytes()[..]));
    fs::rename(dir.path().join("out"), dir.path().join("a")).unwrap();
    // Without `dtype` the output has the first model's type; mixed inputs are fine.
    run(&dir, "method = \"linear\"\ndtype = \"f32\"", "").unwrap();
    assert_eq!(read(dir.path(), "out", "l.0"), [0.75 * 3.5 + 0.5, 1.5, -0.75, 0.0]);
}

#[test]
fn an_overflow_leaves_nothing_behind() {
    let dir = family();
    write(dir.path(), "a", &[("l.0", &[1e30; 4]), ("l.1", &[1.0; 4])]);
    let refused = run(&dir, "method = \"linear\"\ndtype = \"f16\"", "").unwrap_err().to_string();
    assert!(refused.contains("`l.0`") && refused.contains("F16"), "{refused}");
    write(dir.path(), "a", &[("l.0", &[1.0; 4]), ("l.1", &[f32::NAN; 4])]);
    let refused = run(&dir, "method = \"linear\"", "").unwrap_err().to_string();
    assert!(refused.contains("`l.1` is not finite"), "{refused}");
    let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a", "b", "base"]);
}

#[test]
fn models_that_differ_are_refused_by_name() {
    let says = |tensors: &[(&str, &[f32])]| {
        let dir = family();
        write(dir.path(), "b", tensors);
        run(&dir, "method = \"linear\"", "").unwrap_err().to_string()
    };
    assert!(says(&[("l.0", &[1.0; 4])]).contains("has no tensor `l.1`"));
    assert!(says(&[("l.0", &[1.0; 4]), ("l.1", &[1.0; 3])]).contains("tensor `l.1` is [4]"));
    let extra: &[(&str, &[f32])] = &[("l.0", &[1.0; 4]), ("l.1", &[1.0; 4]), ("z", &[1.0])];
    assert!(says(extra).contains("has no tensor `z`"));
}

#[test]
fn recipes_that_mean_nothing_are_refused() {
    let says = |head: &str, tail: &str| run(&family(), head, tail).unwrap_err().to_string();
    let cases = [
        ("method = \"mean\"", "", "unknown variant"),
        ("method = \"linear\"\nlamda = 1.0", "", "unknown field `lamda`"),
        ("method = \"linear\"\nbase = \"base\"", "", "`base` has no meaning"),
        ("method = \"ties\"", "", "needs `base`"),
        ("method = \"linear\"\ndensity = 0.5", "", "`density` has a meaning only for"),
        ("method = \"ties\"\nbase = \"base\"\ndensity = 0.0", "", "(0, 1]"),
        ("method = \"ties\"\nbase = \"base\"\ndensity = nan", "", "(0, 1]"),
        ("method = \"ties\"\nbase = \"base\"\nlambda = inf", "", "finite"),
        ("method = \"ties\"\nbase = \"base\"\nseed = 1", "", "`seed` has a meaning only for"),
        ("method = \"slerp\"\nt = 1.5", "", "[0, 1]"),
        ("method = \"linear\"", "[[models]]\npath = \"a\"", "listed twice"),
        ("method = \"linear\"", "[[models]]\npath = \"c\"\nweight = -1.0", "weight -1"),
        ("method = \"linear\"", "[[overrides]]\ntensors = \"*\"\nweights = [1.0]", "1 weights for 2"),
        ("method = \"linear\"", "[[overrides]]\ntensors = \"*\"\nweights = [0.0, 0.0]", "all zero"),
        ("method = \"linear\"", "[[overrides]]\ntensors = \"k.*\"", "no tensor is called `k.*`"),
        (
            "method = \"passthrough\"",
            "[[overrides]]\ntensors = \"*\"\nfrom = \"c\"",
            "not under `[[models]]`",
        ),
        ("method = \"linear\"", "[[models]]\npath = \"missing\"", "cannot read"),
    ];
    for (head, tail, expected) in cases {
        let said = says(head, tail);
        assert!(said.contains(expected), "{head} {tail}: {said}");
    }
}

#[test]
fn an_input_is_never_replaced() {
    let dir = family();
    let before = fs::read(dir.path().join("a")).unwrap();
    let text = format!("output = \"./a\"\nmethod = \"linear\"\n{MODELS}");
    let recipe = Recipe::parse(&text, Path::new("r")).unwrap();
    assert!(merge(&recipe, dir.path()).unwrap_err().to_string().contains("also an input"));
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), before);
}

#[test]
fn damaged_files_are_refused_at_every_length() {
    let dir = family();
    let good = fs::read(dir.path().join("b")).unwrap();
    for length in 0..good.len() {
        fs::write(dir.path().join("b"), &good[..length]).unwrap();
        let said = run(&dir, "method = \"linear\"", "").unwrap_err().to_string();
        assert!(said.contains("not a usable safetensors file"), "{length}: {said}");
    }
    let mut long = good.clone();
    long[7] = 0xff;
    fs::write(dir.path().join("b"), &long).unwrap();
    assert!(run(&dir, "method = \"linear\"", "").unwrap_err().to_string().contains("its header would have"));
    let header =
        br#"{"x":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,18446744073709551615]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header].concat();
    fs::write(dir.path().join("b"), bytes).unwrap();
    assert!(run(&dir, "method = \"linear\"", "").is_err());
    assert!(!dir.path().join("out").exists());
}

#[test]
fn integers_are_not_merged() {
    let dir = family();
    let bytes = [0u8; 16];
    let views = ["l.0", "l.1"].map(|n| (n, TensorView::new(Dtype::I32, vec![4], &bytes).unwrap()));
    fs::write(dir.path().join("b"), safetensors::serialize(views, None).unwrap()).unwrap();
    let said = run(&dir, "method = \"linear\"", "").unwrap_err().to_string();
    assert!(said.contains("I32") && said.contains("`l.0`"), "{said}");
}

#[test]
fn stars_stand_for_any_run() {
    for (pattern, name) in [("*", ""), ("a*c", "abc"), ("a*c", "ac"), ("*b*b", "abbb"), ("a.*.w", "a.1.x.w")]
    {
        assert!(matches(pattern, name), "{pattern} {name}");
    }
    for (pattern, name) in [("", "a"), ("a*c", "abd"), ("*b*b", "ab"), ("a", "ab"), ("b*", "ab")] {
        assert!(!matches(pattern, name), "{pattern} {name}");
    }
}
