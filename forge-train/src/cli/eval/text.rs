//! `eval --corpus`: the likelihood of running text.

use std::fs;
use std::path::Path;

use forge_train::data::lines::Chunks;
use forge_train::data::load::held_out_from;
use forge_train::error::{Error, Result};
use forge_train::eval::{Estimate, TextOptions, TextReport, TextTokens, evaluate_text, score_text};
use forge_train::pipeline::table::{Align, bytes as size, count, layout};
use forge_train::tokenizer::Tokenizer;

use super::against::{self, Files, estimate};
use crate::cli::model;
use crate::cli::output::{Outcome, print, print_json};

/// How running text is cut.
#[derive(Debug, clap::Args)]
pub(super) struct Cutting {
    /// Tokens predicted in a block of --corpus, each block from an empty state
    #[arg(long, value_name = "N", default_value_t = 256)]
    block: usize,
    /// Tokens from one block to the next, where blocks are to overlap so that tokens have more context
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
    /// Blocks read side by side; figures do not depend on it
    #[arg(long, value_name = "N")]
    together: Option<usize>,
    /// Only the end of --corpus that training leaves out: a tenth, or this share
    #[arg(long, value_name = "SHARE", num_args = 0..=1, require_equals = true, default_missing_value = "0.1")]
    held_out: Option<f64>,
}

impl Cutting {
    fn options(&self) -> TextOptions {
        let stride = self.stride.unwrap_or(self.block);
        TextOptions { block: self.block, stride, together: self.together }
    }
}

/// Measures one file, or compares two.
pub(super) fn main(files: &Files, corpus: &Path, cutting: &Cutting, json: bool) -> Outcome {
    let options = cutting.options();
    let tokens = |(path, bytes): &(std::path::PathBuf, Vec<u8>)| read(path, bytes, corpus, cutting.held_out);
    let own = tokens(&files.first)?;
    let first = evaluate_text(&files.first.1, &own, &options)?;
    let Some(second) = &files.second else {
        let mut document = against::value(&first)?;
        document["schema"] = 1.into();
        return if json { print_json(&document) } else { print(&table(&first)) };
    };
    let others = tokens(second)?;
    if own.ids != others.ids {
        return Err(Error::Usage {
            what: "the two files cut this text into different tokens, so their blocks cannot be paired"
                .into(),
            hint: "measure each on its own; bits per byte compare across tokenizers".into(),
        }
        .into());
    }
    let report = evaluate_text(&second.1, &others, &options)?;
    let paired = difference(&files.first.1, &second.1, &own, &options)?;
    if json {
        return print_json(&against::document(&first, &report, paired)?);
    }
    let [value, interval] = estimate(&paired);
    let line = format!("first − second: {value} bits per byte, 95 % interval {interval}");
    print(&format!("{}\n{}\n{line}\n", table(&first), table(&report)))
}

/// The text in the tokens of a file.
fn read(path: &Path, bytes: &[u8], corpus: &Path, held_out: Option<f64>) -> Result<TextTokens> {
    let model = model::parse(path, bytes)?;
    let tokenizer = Tokenizer::from_spec(model.file().tokenizer().to_spec())?;
    let end = fs::metadata(corpus).map_err(Error::io("read", corpus))?.len();
    let start = held_out.map_or(Ok(0), |share| held_out_from(corpus, share))?;
    let mut chunks = Chunks::open(corpus, start, end)?;
    let mut tokens = TextTokens::default();
    while let Some(text) = chunks.next()? {
        tokens.extend(&tokenizer, &text);
    }
    Ok(tokens)
}

/// Bits per byte of the first less those of the second, block by block.
fn difference(first: &[u8], second: &[u8], text: &TextTokens, options: &TextOptions) -> Result<Estimate> {
    let (a, b) = (score_text(first, text, options)?, score_text(second, text, options)?);
    let parts: Vec<(f64, f64)> = a.iter().zip(&b).map(|(a, b)| (a.nats - b.nats, a.bytes as f64)).collect();
    Ok(Estimate::of_ratio(&parts).times(std::f64::consts::LOG2_E))
}

fn table(report: &TextReport) -> String {
    let row = |name: &str, value: String, note: String| vec![name.to_owned(), value, note];
    let measure = |name: &str, e: &Estimate| {
        let [value, interval] = estimate(e);
        row(name, value, interval)
    };
    let TextReport { block, stride, .. } = report;
    let cut = if block == stride {
        format!("of {block} tokens")
    } else {
        format!("of {block} tokens every {stride}")
    };
    let rows = [
        row("file", size(report.bytes), format!("{} B", report.bytes)),
        row("blocks", count(report.blocks as u64), cut),
        row("tokens", count(report.tokens as u64), format!("{} B of text", count(report.text_bytes as u64))),
        measure("nats a token", &report.nats_per_token),
        measure("nats a character", &report.nats_per_character),
        measure("bits per byte", &report.bits_per_byte),
        row("tokens a second", format!("{:.0}", report.tokens_per_second), "all threads".into()),
    ];
    layout(&[("measure", Align::Left), ("value", Align::Right), ("95 % interval", Align::Left)], &rows)
}
