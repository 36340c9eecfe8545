//! Held-out commands as JSON lines, so that `forge-train eval` can repeat what a run reports.

use serde_json::{Map, Value, json};

use super::{Completion, Dataset, Example, System};

/// The tool calls of the final held-out split, one `{"prompt","tool","args"}` a line; empty for data without tools.
pub fn held_out_calls(dataset: &Dataset) -> String {
    let examples = dataset.tool_calls(dataset.examples(dataset.final_split()), System::Without);
    examples.filter_map(|e| line(&e)).fold(String::new(), |text, line| text + &line.to_string() + "\n")
}

fn line(example: &Example) -> Option<Value> {
    let Completion::Tool { tool, args } = &example.completion else {
        return None;
    };
    let mut slots = Map::new();
    for (slot, value) in args {
        match slots.get_mut(slot) {
            None => drop(slots.insert(slot.clone(), json!(value))),
            Some(Value::Array(values)) => values.push(json!(value)),
            Some(first) => *first = json!([first.clone(), value]),
        }
    }
    Some(json!({ "prompt": example.prompt, "tool": tool, "args": slots }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::builtin::{Sizes, generate};
    use crate::data::load::jsonl;

    #[test]
    fn exported_calls_load_as_the_same_frames() {
        let dataset = generate(5, &Sizes { train: 40, eval: 60 });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.jsonl");
        std::fs::write(&path, held_out_calls(&dataset)).unwrap();
        let loaded = jsonl(&path).unwrap();
        let calls: Vec<_> = dataset.tool_calls(&dataset.test, System::Without).collect();
        assert!(!calls.is_empty() && loaded.len() == calls.len());
        for (a, b) in loaded.iter().zip(&calls) {
            assert_eq!(a.prompt, b.prompt);
            assert!(a.completion.same_frame(&b.completion));
        }
    }
}
