use super::*;

fn file(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("text.txt");
    std::fs::write(&path, content).unwrap();
    (dir, path)
}

fn chunks(path: &Path) -> Result<Vec<String>> {
    let mut chunks = Chunks::open(path, 0, u64::MAX)?;
    std::iter::from_fn(|| chunks.next().transpose()).collect()
}

#[test]
fn lines_come_with_their_numbers() {
    let (_dir, path) = file("\u{feff}one\r\n\n  \n two \nthree".as_bytes());
    let mut lines = Lines::open(&path).unwrap();
    let mut read = Vec::new();
    while let Some((number, line)) = lines.next().unwrap() {
        read.push((number, line.to_owned()));
    }
    assert_eq!(read, [(1, "one".into()), (4, "two".into()), (5, "three".into())]);
}

#[test]
fn lines_without_end_are_refused_before_they_fill_memory() {
    let (_dir, path) = file(&[b"ok\n".as_slice(), &vec![b'x'; MAX_LINE + 1]].concat());
    let mut lines = Lines::open(&path).unwrap();
    lines.next().unwrap();
    let error = lines.next().unwrap_err().to_string();
    assert!(error.contains("text.txt:2: a line of more than"), "{error}");
}

/// Chunks are the text, and their pieces the text's, wherever the buffer ends.
#[test]
fn chunks_cut_between_pieces() {
    for shift in 0..9 {
        let text = "x".repeat(shift) + &"word  é12 \n\n – “q”, ".repeat(CHUNK / 10);
        let (_dir, path) = file(text.as_bytes());
        let chunks = chunks(&path).unwrap();
        assert!(chunks.len() > 2 && chunks.concat() == text);
        let pieces: Vec<&[u8]> = chunks.iter().flat_map(|c| pretokens(c.as_bytes())).collect();
        assert!(pieces.iter().copied().eq(pretokens(text.as_bytes())), "{shift}");
        assert!(chunks.iter().all(|c| c.len() <= CHUNK));
    }
}

#[test]
fn a_piece_longer_than_the_buffer_is_cut_between_characters() {
    let text = "é".repeat(CHUNK) + " end";
    let (_dir, path) = file(text.as_bytes());
    let chunks = chunks(&path).unwrap();
    assert!(chunks.concat() == text && chunks.iter().all(|c| c.len() <= CHUNK));
}

#[test]
fn what_is_not_text_is_named() {
    let mut text = "line\n".repeat(CHUNK / 4).into_bytes();
    let at = text.len() - 7;
    text[at] = 0xFF;
    let (_dir, path) = file(&text);
    let error = chunks(&path).unwrap_err().to_string();
    assert!(error.contains(&format!("text.txt:{}: not UTF-8", CHUNK / 4 - 1)), "{error}");
    let (_dir, path) = file("whole é".as_bytes().split_last().unwrap().1);
    assert!(chunks(&path).is_err(), "a character that ends with the file");
}

#[test]
fn chunks_end_with_paragraphs_where_there_are_any() {
    let text = "some words of a paragraph\nthat goes on\n\n".repeat(CHUNK / 20);
    let (_dir, path) = file(text.as_bytes());
    let chunks = chunks(&path).unwrap();
    assert!(chunks.len() > 1 && chunks.iter().all(|c| c.starts_with("some") && c.ends_with("\n\n")));
}

#[test]
fn lines_are_counted_from_the_files_start() {
    let (_dir, path) = file(b"one\ntwo\nthree\nfo\xFFur\n");
    let error = Chunks::open(&path, 5, u64::MAX).unwrap().next().unwrap_err().to_string();
    assert!(error.contains("text.txt:4: not UTF-8"), "{error}");
}

#[test]
fn a_range_of_a_file_is_read() {
    let (_dir, path) = file(b"0123456789");
    assert_eq!(Chunks::open(&path, 3, 6).unwrap().next().unwrap().as_deref(), Some("345"));
    assert_eq!(Chunks::open(&path, 10, 10).unwrap().next().unwrap(), None);
}
