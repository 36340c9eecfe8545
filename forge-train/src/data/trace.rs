//! The text of a reasoning trace: words, and markers between them.

use crate::tokenizer::MARKERS;

/// A part of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// One of the [`MARKERS`].
    Marker(&'a str),
    /// Words between markers.
    Text(String),
}

/// The parts of a trace in their order. A marker is a word of its own; what only contains one is text.
pub fn pieces(trace: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut words: Vec<&str> = Vec::new();
    for word in trace.split(' ') {
        if MARKERS.contains(&word) {
            if !words.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut words).join(" ")));
            }
            pieces.push(Piece::Marker(word));
        } else {
            words.push(word);
        }
    }
    if !words.is_empty() {
        pieces.push(Piece::Text(words.join(" ")));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_stand_between_words() {
        let text = |t: &str| Piece::Text(t.into());
        let marker = Piece::Marker;
        assert_eq!(
            pieces("<step> 1 + 2 <doubt> 4"),
            [marker("<step>"), text("1 + 2"), marker("<doubt>"), text("4")]
        );
        assert_eq!(pieces("a<step> b"), [text("a<step> b")]);
        assert_eq!(pieces("<step> <step>"), [marker("<step>"), marker("<step>")]);
        assert_eq!(pieces("so <b> is"), [text("so <b> is")]);
    }
}
