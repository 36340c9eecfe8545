//! The pre-tokeniser: cuts text into pieces no merge may cross. Trainer and runtime share this one.

/// What a byte counts as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// ASCII letters, `_`, and every byte of a non-ASCII character.
    Letter,
    Digit,
    /// Space, tab, line feed, vertical tab, form feed, carriage return.
    Space,
    /// Everything else, control characters included.
    Other,
}

fn class(byte: u8) -> Class {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => Class::Letter,
        b'0'..=b'9' => Class::Digit,
        b' ' | 0x09..=0x0D => Class::Space,
        _ => Class::Other,
    }
}

/// Cuts `text` into pieces; together they are the text. A piece is one of
/// - letters, a single digit, or other characters (punctuation), each with at most one space before it;
/// - white space. A run that ends in a space before something else leaves that space to the piece after it.
///
/// ```
/// # use forge_formats::pretokens;
/// let pieces: Vec<&[u8]> = pretokens(b"set  timer: 12 min").collect();
/// assert_eq!(pieces, [&b"set"[..], b" ", b" timer", b":", b" 1", b"2", b" min"]);
/// ```
pub fn pretokens(text: &[u8]) -> Pretokens<'_> {
    Pretokens { rest: text }
}

/// Iterator of [`pretokens`].
#[derive(Clone, Debug)]
pub struct Pretokens<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Pretokens<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (piece, rest) =
            self.rest.split_at_checked(piece_len(self.rest)).filter(|(p, _)| !p.is_empty())?;
        self.rest = rest;
        Some(piece)
    }
}

/// Length of the piece at the front of `text`, 0 only at the end.
fn piece_len(text: &[u8]) -> usize {
    let run = |text: &[u8], c: Class| text.iter().take_while(|b| class(**b) == c).count();
    let spaces = run(text, Class::Space);
    let after = text.get(spaces..).unwrap_or(&[]);
    let ends_in_space = text.get(..spaces).and_then(|s| s.last()) == Some(&b' ');
    match after.first().map(|b| class(*b)) {
        // White space to the end of the text, or a run that keeps its own end, or leaves its last space.
        None => spaces,
        Some(_) if spaces > 0 && !ends_in_space => spaces,
        Some(_) if spaces > 1 => spaces - 1,
        Some(Class::Digit) => spaces + 1,
        Some(c) => spaces + run(after, c),
    }
}
