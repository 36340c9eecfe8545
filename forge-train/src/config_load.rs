//! Layers of configuration: the preset's defaults, then `forge.toml`, then `--set a.b=c`. Later ones win.
//!
//! A key that the defaults do not have is refused with its path and the nearest name that exists. A key may be
//! shortened where only one table below holds it: `phase5.steps` means `phase5.train.steps`.

use std::fs;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::config::{Config, OptimizerPreset, Preset};
use crate::error::{Error, Result};

/// Where a configuration comes from; each layer overrides the one before.
#[derive(Clone, Debug, Default)]
pub struct Layers<'a> {
    /// The preset asked for on the command line; wins over one named in the file.
    pub preset: Option<Preset>,
    /// A `forge.toml`.
    pub file: Option<&'a Path>,
    /// Assignments `a.b=c`, in order.
    pub set: &'a [String],
}

/// Resolves the layers.
///
/// # Errors
/// [`Error::Usage`] naming the key that is unknown, ambiguous or of the wrong type, [`Error::Io`] when the file cannot
/// be read.
pub fn load(layers: &Layers<'_>) -> Result<Config> {
    let file = layers.file.map(read_table).transpose()?;
    let named = file.as_ref().and_then(|f| f.get("run")?.get("preset")).map(preset_of).transpose()?;
    let preset = layers.preset.or(named).unwrap_or(Preset::Nano);
    let defaults = match optimizer(file.as_ref(), layers.set)? {
        Some(optimizer) => Config::preset(preset).with_optimizer(optimizer),
        None => Config::preset(preset),
    };
    let mut table = to_table(&defaults)?;
    if let Some(mut file) = file {
        if let Some(run) = file.get_mut("run").and_then(Value::as_table_mut) {
            run.remove("preset");
        }
        let source = layers.file.unwrap_or(Path::new("")).display().to_string();
        merge(&mut table, file, "", &source)?;
    }
    checked(apply(table, layers.set)?)
}

/// The optimisers asked for, if any; the last one wins.
fn optimizer(file: Option<&Table>, set: &[String]) -> Result<Option<OptimizerPreset>> {
    let mut named = file.and_then(|f| f.get("run")?.get("optimizer")).cloned();
    for assignment in set {
        let (key, value) = parse_assignment(assignment)?;
        if key == "run.optimizer" {
            named = Some(value);
        }
    }
    let Some(named) = named else { return Ok(None) };
    let hint = "set `run.optimizer` to adamw, muon or muon_grokfast";
    let unknown = |_| usage(&format!("no optimiser preset is called {named}"), hint);
    named.clone().try_into().map(Some).map_err(unknown)
}

fn checked(config: Config) -> Result<Config> {
    config.check()?;
    config.model.check()?;
    config.phase2.search.validate()?;
    config.phase3.validate()?;
    let weight = config.phase2.accuracy_weight;
    if !(weight.is_finite() && weight >= 0.0) {
        return Err(usage(
            &format!("phase2.accuracy_weight must not be negative, and is {weight}"),
            "0 judges by the loss alone",
        ));
    }
    Ok(config)
}

/// Any configuration: `defaults`, overridden by TOML `text` called `source` in messages, then by assignments.
///
/// # Errors
/// As [`load`].
pub fn layered<T: Serialize + DeserializeOwned>(
    defaults: &T,
    layers: &[(&str, String)],
    set: &[String],
) -> Result<T> {
    let mut table = to_table(defaults)?;
    for (source, text) in layers {
        merge(&mut table, parse_table(source, text)?, "", source)?;
    }
    apply(table, set)
}

/// Applies assignments to a configuration.
///
/// # Errors
/// As [`load`].
pub fn override_with(config: &Config, set: &[String]) -> Result<Config> {
    if let Some(late) = set.iter().find(|s| s.split('=').next().is_some_and(|k| k.trim() == "run.optimizer"))
    {
        return Err(usage(
            &format!("`--set {late}` comes too late"),
            "set `muon_lr` and the like of the stages",
        ));
    }
    checked(apply(to_table(config)?, set)?)
}

fn apply<T: DeserializeOwned>(mut table: Table, set: &[String]) -> Result<T> {
    for assignment in set {
        let (key, value) = parse_assignment(assignment)?;
        if key == "run.preset" {
            return Err(usage("`--set run.preset` comes too late", "use `--preset`"));
        }
        assign(&mut table, &key, value, "--set")?;
    }
    finish(table)
}

/// Reads a configuration that [`to_toml`] wrote.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Usage`] when it is not a whole configuration.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    finish(read_table(path)?)
}

/// The configuration as TOML that [`read`] takes back unchanged.
///
/// # Errors
/// [`Error::Config`] when a value does not fit TOML, such as a seed above 2⁶³ − 1.
pub fn to_toml(config: &impl Serialize) -> Result<String> {
    toml::to_string(config).map_err(|e| Error::Config(format!("the configuration cannot be written: {e}")))
}

/// The preset's name on the command line.
pub fn preset_name(preset: Preset) -> &'static str {
    match preset {
        Preset::Nano => "nano",
        Preset::Tiny => "tiny",
        Preset::M25 => "25m",
    }
}

/// The preset with this name.
///
/// # Errors
/// A message naming the presets.
pub fn parse_preset(name: &str) -> std::result::Result<Preset, String> {
    [Preset::Nano, Preset::Tiny, Preset::M25]
        .into_iter()
        .find(|preset| preset_name(*preset) == name)
        .ok_or_else(|| format!("no preset is called `{name}`; presets are nano, tiny and 25m"))
}

/// Names of the sections two configurations differ in.
///
/// # Errors
/// As [`to_toml`].
pub fn changed_sections(a: &Config, b: &Config) -> Result<Vec<String>> {
    let (a, b) = (to_table(a)?, to_table(b)?);
    Ok(a.iter().filter(|(name, value)| b.get(*name) != Some(value)).map(|(name, _)| name.clone()).collect())
}

/// By way of text, so that f32 values keep their short decimal form.
fn to_table(config: &impl Serialize) -> Result<Table> {
    to_toml(config)?.parse().map_err(|e| Error::Config(format!("the configuration is not TOML: {e}")))
}

fn read_table(path: &Path) -> Result<Table> {
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    parse_table(&path.display().to_string(), &text)
}

fn parse_table(source: &str, text: &str) -> Result<Table> {
    text.parse().map_err(|e: toml::de::Error| {
        let line = e.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        Error::Usage {
            what: format!("{source}:{line}: {}", e.message()),
            hint: "mend that line; sections and keys are listed by `--print-config`".into(),
        }
    })
}

fn finish<T: DeserializeOwned>(table: Table) -> Result<T> {
    table
        .try_into()
        .map_err(|e: toml::de::Error| usage(e.message(), "compare with `config.toml` of a session"))
}

fn preset_of(value: &Value) -> Result<Preset> {
    let name = value.as_str().unwrap_or_default();
    parse_preset(name).map_err(|what| usage(&what, "set `run.preset` to one of them"))
}

fn parse_assignment(text: &str) -> Result<(String, Value)> {
    let malformed =
        || usage(&format!("`--set {text}` is not `key=value`"), "for example --set phase5.steps=2000");
    let (key, value) = text.split_once('=').ok_or_else(malformed)?;
    let (key, value) = (key.trim(), value.trim());
    if key.is_empty() || value.is_empty() {
        return Err(malformed());
    }
    // A value that is not TOML is a string without its quotes.
    let parsed = format!("v = {value}").parse::<Table>().ok().filter(|t| t.len() == 1);
    let parsed = parsed.and_then(|mut t| t.remove("v"));
    Ok((key.to_owned(), parsed.unwrap_or_else(|| Value::String(value.to_owned()))))
}

/// Puts every leaf of `layer` into `table`.
fn merge(table: &mut Table, layer: Table, path: &str, source: &str) -> Result<()> {
    for (name, value) in layer {
        let path = if path.is_empty() { name } else { format!("{path}.{name}") };
        match value {
            Value::Table(inner) => merge(table, inner, &path, source)?,
            value => assign(table, &path, value, source)?,
        }
    }
    Ok(())
}

/// Sets `path` to `value`, which must be of the default's type.
fn assign(table: &mut Table, path: &str, value: Value, source: &str) -> Result<()> {
    let parts: Vec<&str> = path.split('.').collect();
    let full = resolve(table, &parts, path, source)?;
    let (last, parents) = full.split_last().map_or(("", &full[..0]), |(l, p)| (l.as_str(), p));
    let mut here = table;
    for name in parents {
        let next = here.get_mut(name).and_then(Value::as_table_mut);
        here =
            next.ok_or_else(|| usage(&format!("{source}: `{path}` is not a key"), "name one of its keys"))?;
    }
    let slot = here.get_mut(last).ok_or_else(|| usage(&format!("{source}: unknown key `{path}`"), ""))?;
    *slot = coerce(slot, value).map_err(|(expected, found)| {
        let what = format!("{source}: `{path}` must be {expected}, not {found}");
        usage(&what, &format!("its default is {slot}"))
    })?;
    Ok(())
}

/// The full path of a key that may be shortened by one table.
fn resolve(table: &Table, parts: &[&str], path: &str, source: &str) -> Result<Vec<String>> {
    let mut here = table;
    for (depth, part) in parts.iter().enumerate() {
        let last = depth + 1 == parts.len();
        match here.get(*part) {
            Some(Value::Table(inner)) if !last => here = inner,
            Some(Value::Table(inner)) => {
                let keys = names(inner).join(", ");
                return Err(usage(
                    &format!("{source}: `{path}` is a section"),
                    &format!("its keys are {keys}"),
                ));
            }
            Some(_) if last => return Ok(parts.iter().map(ToString::to_string).collect()),
            found => {
                let inner = if last && found.is_none() { shortened(here, part) } else { Vec::new() };
                if let [only] = &inner[..] {
                    let mut full: Vec<String> = parts[..depth].iter().map(ToString::to_string).collect();
                    full.extend([only.clone(), (*part).to_owned()]);
                    return Ok(full);
                }
                return Err(unknown(here, parts, depth, &inner, source));
            }
        }
    }
    Err(usage(&format!("{source}: `{path}` is not a key"), "keys look like phase5.train.steps"))
}

/// Tables directly below `here` that hold `key`.
fn shortened(here: &Table, key: &str) -> Vec<String> {
    let holds = |v: &Value| v.as_table().is_some_and(|t| t.get(key).is_some_and(|v| !v.is_table()));
    here.iter().filter(|(_, value)| holds(value)).map(|(name, _)| name.clone()).collect()
}

fn unknown(here: &Table, parts: &[&str], depth: usize, inner: &[String], source: &str) -> Error {
    let (path, prefix, part) = (parts.join("."), parts[..depth].join("."), parts[depth]);
    let at = |name: &str| if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
    if depth > 0 && !inner.is_empty() {
        let choices: Vec<_> = inner.iter().map(|table| format!("`{}.{part}`", at(table))).collect();
        return usage(&format!("{source}: `{path}` is ambiguous"), &format!("use {}", choices.join(" or ")));
    }
    let known = names(here);
    // Nearest by its own name; keys one table below count, since they may be written without it.
    let inside = |(table, value): (&String, &Value)| -> Vec<(usize, String)> {
        let keys = value.as_table().filter(|_| depth > 0).into_iter().flat_map(Table::keys);
        keys.map(|key| (distance(key, part), format!("{table}.{key}"))).collect()
    };
    let own = known.iter().map(|name| (distance(name, part), name.clone()));
    let near = own.chain(here.iter().flat_map(inside)).min();
    let hint = match near {
        Some((edits, name)) if edits <= (part.len() / 3).max(1) => format!("did you mean `{}`?", at(&name)),
        _ if known.is_empty() => format!("`{prefix}` has no keys of its own"),
        _ => format!("known here: {}", known.join(", ")),
    };
    usage(&format!("{source}: unknown key `{path}`"), &hint)
}

fn names(table: &Table) -> Vec<String> {
    table.keys().cloned().collect()
}

/// `value` in the type of `old`, or what was expected and found.
fn coerce(old: &Value, value: Value) -> std::result::Result<Value, (&'static str, &'static str)> {
    match (old, value) {
        (Value::Float(_), Value::Integer(n)) => Ok(Value::Float(n as f64)),
        (Value::Integer(_), Value::Integer(n)) if n < 0 => Err(("an integer from 0", "a negative one")),
        (old, value) if old.same_type(&value) => Ok(value),
        (old, value) => Err((type_name(old), type_name(&value))),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "an integer",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a section",
    }
}

fn usage(what: &str, hint: &str) -> Error {
    Error::Usage { what: what.to_owned(), hint: hint.to_owned() }
}

/// Edits (insert, delete, replace, each 1) from `a` to `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
