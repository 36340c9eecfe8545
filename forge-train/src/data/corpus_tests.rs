use super::*;
use crate::data::blocks::Tokens;
use crate::data::load::VALID_SHARE;

fn text(paragraphs: usize) -> String {
    let mut rng = crate::rng::Rng::new(paragraphs as u64, &["corpus test"]);
    let words =
        ["the", "storm", "harbour", "lantern", "quiet", "river", "copper", "window", "garden", "seven"];
    let mut out = String::new();
    for _ in 0..paragraphs {
        let line: Vec<&str> = (0..20).map(|_| *rng.pick(&words)).collect();
        out += &format!("{} {}.\n\n", line.join(" "), rng.below(1000));
    }
    out
}

fn prepared(content: &str, kind: TokenizerKind, clean: bool) -> Result<(tempfile::TempDir, Corpus)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("text.txt");
    fs::write(&path, content).unwrap();
    let tokenizer = TokenizerConfig { kind, vocab: 320 };
    let cache = &dir.path().join("cache");
    let settings =
        Settings { tokenizer: &tokenizer, table: None, valid_share: VALID_SHARE, seed: 1, clean, cache };
    let corpus = prepare(&path, &settings)?;
    let again = prepare(&path, &settings)?;
    assert_eq!(again.train.tokens(), corpus.train.tokens(), "what is cached is what was made");
    assert_eq!(fs::read_dir(settings.cache).unwrap().count(), 2);
    Ok((dir, corpus))
}

#[test]
fn tokens_are_those_of_the_whole_text() {
    let content = text(20_000);
    for kind in [TokenizerKind::Bpe, TokenizerKind::Byte, TokenizerKind::Char] {
        let (dir, corpus) = prepared(&content, kind, false).unwrap();
        let cut = held_out_from(&dir.path().join("text.txt"), VALID_SHARE).unwrap() as usize;
        assert!(content.len() > 4 * crate::data::lines::CHUNK, "several chunks");
        assert!(corpus.train.tokens() == corpus.tokenizer.encode(&content[..cut]));
        assert!(corpus.valid.tokens() == corpus.tokenizer.encode(&content[cut..]));
    }
}

#[test]
fn paragraphs_that_leak_are_left_out_of_training() {
    let content = text(2000);
    let held_out: Vec<&str> = paragraphs(&content).collect();
    let planted = held_out[1950].to_uppercase().replace(' ', "  ");
    let content = format!("{planted}{content}");
    let (_dir, corpus) = prepared(&content, TokenizerKind::Char, true).unwrap();
    assert_eq!((corpus.hygiene.leaks, corpus.hygiene.note().is_some()), (1, true));
    let trained = corpus.tokenizer.decode(corpus.train.tokens());
    assert!(content.ends_with(&corpus.tokenizer.decode(corpus.valid.tokens())));
    assert!(content[planted.len()..].starts_with(&trained), "nothing else is gone");
    let (_dir, unclean) = prepared(&content, TokenizerKind::Char, false).unwrap();
    assert!(unclean.tokenizer.decode(unclean.train.tokens()).starts_with(&planted), "unless it is asked for");
    assert_eq!(unclean.hygiene.leaks, 0);
}

#[test]
fn texts_that_cannot_be_split_are_refused() {
    for content in ["", "a"] {
        let error = prepared(content, TokenizerKind::Byte, true).unwrap_err().to_string();
        assert!(error.contains("text.txt:1: too little text"), "{error}");
    }
}
