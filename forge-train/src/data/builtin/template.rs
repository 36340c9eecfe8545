//! Templates: `(dim|set) the {room} lights( please|)`: text, slots in braces, alternatives in brackets.

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Text(&'static str),
    Slot(&'static str),
    Choice(Vec<Vec<Node>>),
}

/// A parsed template. Alternatives do not nest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Node>);

/// Receives the pieces of an expansion.
pub(crate) trait Sink {
    /// Which of `n` alternatives to take.
    fn choose(&mut self, n: usize) -> usize;
    /// Fixed text.
    fn text(&mut self, text: &str);
    /// A slot to fill.
    fn slot(&mut self, name: &'static str);
}

impl Template {
    /// Parses a template.
    ///
    /// # Panics
    /// If a bracket is not closed; templates are constants of this crate and all are parsed by a test.
    pub(crate) fn parse(source: &'static str) -> Self {
        let mut nodes = Vec::new();
        let mut rest = source;
        while let Some(at) = rest.find('(') {
            let end = at + rest[at..].find(')').expect("closed alternatives");
            nodes.extend(plain(&rest[..at]));
            nodes.push(Node::Choice(rest[at + 1..end].split('|').map(plain).collect()));
            rest = &rest[end + 1..];
        }
        nodes.extend(plain(rest));
        Self(nodes)
    }

    /// Walks one expansion.
    pub(crate) fn expand(&self, sink: &mut impl Sink) {
        walk(&self.0, sink);
    }

    /// How often a slot occurs in an expansion, at least and at most.
    pub(crate) fn occurrences(&self, slot: &str) -> (usize, usize) {
        occurrences(&self.0, slot)
    }

    /// Every expansion with slots left as `{slot}`.
    #[cfg(test)]
    pub(crate) fn patterns(&self) -> Vec<String> {
        let mut out = vec![String::new()];
        for node in &self.0 {
            let tails: Vec<String> = match node {
                Node::Choice(options) => options.iter().map(|o| render(o)).collect(),
                single => vec![render(std::slice::from_ref(single))],
            };
            out = out.iter().flat_map(|head| tails.iter().map(move |t| format!("{head}{t}"))).collect();
        }
        out
    }
}

fn plain(source: &'static str) -> Vec<Node> {
    let mut nodes = Vec::new();
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        let end = at + rest[at..].find('}').expect("closed slot");
        if at > 0 {
            nodes.push(Node::Text(&rest[..at]));
        }
        nodes.push(Node::Slot(&rest[at + 1..end]));
        rest = &rest[end + 1..];
    }
    if !rest.is_empty() {
        nodes.push(Node::Text(rest));
    }
    nodes
}

fn occurrences(nodes: &[Node], slot: &str) -> (usize, usize) {
    let of = |node: &Node| match node {
        Node::Text(_) => (0, 0),
        Node::Slot(name) => (usize::from(*name == slot), usize::from(*name == slot)),
        Node::Choice(options) => {
            let each = || options.iter().map(|option| occurrences(option, slot));
            (
                each().map(|(least, _)| least).min().unwrap_or(0),
                each().map(|(_, most)| most).max().unwrap_or(0),
            )
        }
    };
    nodes.iter().map(of).fold((0, 0), |(least, most), (l, m)| (least + l, most + m))
}

fn walk(nodes: &[Node], sink: &mut impl Sink) {
    for node in nodes {
        match node {
            Node::Text(text) => sink.text(text),
            Node::Slot(name) => sink.slot(name),
            Node::Choice(options) => {
                let chosen = sink.choose(options.len());
                walk(&options[chosen], sink);
            }
        }
    }
}

#[cfg(test)]
fn render(nodes: &[Node]) -> String {
    nodes.iter().fold(String::new(), |line, node| match node {
        Node::Text(text) => line + text,
        Node::Slot(name) => format!("{line}{{{name}}}"),
        Node::Choice(_) => unreachable!("alternatives do not nest"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occurrences_are_those_of_all_expansions() {
        let template = Template::parse("{a} (and {b}|or {a}|) {c}( {c}|)");
        let count = |slot: &str, of: fn(std::vec::IntoIter<usize>) -> Option<usize>| {
            let counts: Vec<usize> = template.patterns().iter().map(|p| p.matches(slot).count()).collect();
            of(counts.into_iter()).unwrap()
        };
        for (name, slot) in [("a", "{a}"), ("b", "{b}"), ("c", "{c}"), ("d", "{d}")] {
            let expected = (count(slot, Iterator::min), count(slot, Iterator::max));
            assert_eq!(template.occurrences(name), expected, "{name}");
        }
        assert_eq!((template.occurrences("a"), template.occurrences("b")), ((1, 2), (0, 1)));
    }

    #[test]
    fn patterns_are_all_expansions() {
        let template = Template::parse("(dim|set) {room}( now|)");
        assert_eq!(template.patterns(), ["dim {room} now", "dim {room}", "set {room} now", "set {room}"]);
    }
}
