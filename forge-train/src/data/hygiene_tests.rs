use super::*;
use crate::data::{Completion, Slice};

fn row(prompt: &str, completion: &str) -> Example {
    Example {
        system: None,
        prompt: prompt.into(),
        completion: Completion::Text(completion.into()),
        slice: Slice::Dialogue,
        level: 0,
    }
}

/// One list of rows cleaned.
fn cleaned(train: &[Example], held_out: &[Example]) -> (Vec<Example>, Hygiene) {
    let (kept, report) = clean(&[train.to_vec().into()], &[held_out.to_vec().into()]).unwrap();
    (kept[0].iter().map(|row| row.into_owned()).collect(), report)
}

fn prompts(rows: &[Example]) -> Vec<&str> {
    rows.iter().map(|row| row.prompt.as_str()).collect()
}

#[test]
fn rows_that_say_the_same_are_one() {
    let train = [
        row("Turn it on", "ok"),
        row("turn  it on!", "OK."),
        row("turn it on", "no"),
        row("7+5", "12"),
        row("7-5", "2"),
    ];
    let (train, report) = cleaned(&train, &[]);
    assert_eq!(report, Hygiene { seen: 5, duplicates: 1, leaks: 0 });
    assert_eq!(prompts(&train), ["Turn it on", "turn it on", "7+5", "7-5"]);
    assert!(report.note().unwrap().contains("1 duplicates"));
    assert_eq!(cleaned(&train, &[]).1.note(), None, "clean data stays as it is");
}

#[test]
fn no_held_out_row_stays_in_training() {
    let held_out = [row("What time is it?", "noon"), row("7*5", "35")];
    let planted = ["what time is it?", "WHAT  TIME IS IT?", "7*5"];
    let mut train: Vec<Example> = planted.iter().map(|p| row(p, "other")).collect();
    train.push(row("what time is it", "Noon!"));
    let kept = ["what time was it?", "7+5"].map(|p| row(p, "other"));
    train.extend(kept.clone());
    let (train, report) = cleaned(&train, &held_out);
    assert_eq!((report.leaks, report.duplicates), (4, 0));
    assert_eq!(train, kept);
}

/// More rows than are compared at once, in several lists: the same are left out.
#[test]
fn several_passes_find_what_one_does() {
    let rows = |numbers: std::ops::Range<usize>| -> Vec<Example> {
        numbers.map(|i| row(&format!("ask {}", i % 70), &(i % 40).to_string())).collect()
    };
    let train: Vec<Store<Example>> = [0..90, 50..200, 30..40].map(|numbers| rows(numbers).into()).into();
    let held_out = [rows(0..8).into()];
    let (kept, report) = clean(&train, &held_out).unwrap();
    assert!(report.leaks > 8 && report.duplicates > 20 && kept[2].is_empty(), "{report:?}");
    for compared in [1, 7, 100] {
        let (others, other) = clean_by(compared, &train, &held_out).unwrap();
        assert_eq!(other, report, "{compared} at once");
        assert!(others.iter().zip(&kept).all(|(a, b)| a.iter().eq(b.iter())), "{compared} at once");
    }
}

fn sentence(seed: u64) -> String {
    let mut rng = crate::rng::Rng::at_step(seed, "sentence", 0);
    let words =
        ["storm", "harbour", "lantern", "quiet", "river", "copper", "window", "garden", "seven", "letter"];
    (0..30).map(|_| *rng.pick(&words)).collect::<Vec<_>>().join(" ")
}

#[test]
fn paragraphs_of_the_held_out_text_are_told() {
    let mut overlap = Overlap::default();
    (0..50).for_each(|i| overlap.add(&sentence(i)));
    for i in 0..50 {
        assert!(
            overlap.leaks(&sentence(i)) && overlap.leaks(&sentence(i).to_uppercase().replace(' ', ",  "))
        );
        assert!(!overlap.leaks(&sentence(i + 1000)), "new text stays");
        let mixed = format!("{} {}", sentence(i), sentence(i + 1000));
        assert!(!overlap.leaks(&format!("{mixed} {}", sentence(i + 2000))), "a third of it is known");
    }
    assert!(!overlap.leaks("storm harbour lantern"), "too short to be told from chance");
    assert!(!Overlap::default().leaks(&sentence(0)), "nothing is held out");
}

#[test]
fn memory_is_bounded_and_leaks_are_still_told() {
    let mut overlap = Overlap::default();
    let mut rng = crate::rng::Rng::new(3, &["many"]);
    let mut paragraphs: Vec<String> = Vec::new();
    while overlap.rarity == 0 {
        let words: Vec<String> = (0..4000).map(|_| rng.below(5000).to_string()).collect();
        paragraphs.push(words.join(" "));
        overlap.add(&paragraphs[paragraphs.len() - 1]);
    }
    assert!(overlap.hashes.len() <= REMEMBERED);
    assert!(paragraphs.iter().all(|p| overlap.leaks(p)));
}

#[test]
fn paragraphs_are_the_text_and_end_at_blank_lines() {
    let text = "One\ntwo\n\nthree\n\n\n  four\n\nfive";
    let cut: Vec<&str> = paragraphs(text).collect();
    assert_eq!(cut, ["One\ntwo\n\n", "three\n\n\n  four\n\n", "five"]);
    let lines = "a line of words\n".repeat(1000);
    let cut: Vec<&str> = paragraphs(&lines).collect();
    assert!(cut.concat() == lines && cut.iter().all(|p| p.len() < LONG + 20) && cut.len() > 5);
    for text in ["", "\n", "\n\n", "a", "a\n\nb", "é\n\né"] {
        assert_eq!(paragraphs(text).collect::<String>(), text);
    }
}
