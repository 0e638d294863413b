//! What stands in the node's CNI configuration and what should: pure over the texts of its files. Called by `install`.
//! A file that is not understood is never written.
use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::PLUGIN;

/// Which file, and how the plugin goes in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// The main CNI's file; `None`: the first one that is valid.
    pub named: Option<String>,
    /// Into the list of the main CNI; else into a file of our own, alone.
    pub chained: bool,
    /// Instead of changing the main CNI's file, write a copy under this name.
    pub owned: Option<String>,
    /// Names of copies that an agent with other settings may have left: they shadow the main CNI's file.
    pub former: Vec<String>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing.
    InPlace {
        /// Where it stands.
        file: String,
        /// What an operator should know.
        odd: Vec<String>,
    },
    /// Write a file.
    Write {
        /// Its name.
        file: String,
        /// Its text.
        text: String,
        /// The file that it stands for from now on, to be removed.
        replaces: Option<String>,
        /// What an operator should know.
        odd: Vec<String>,
    },
    /// It stands where it should; the runtime takes this earlier copy instead, which is to be removed.
    Drop {
        /// The copy.
        copy: String,
        /// Where it stands.
        file: String,
        /// What an operator should know.
        odd: Vec<String>,
    },
    /// There is nothing that the plugin could join, because:
    Wait(String),
}

const OWN_FILE: &str = "YYY-causeway-cni.conf";

/// What runtimes read (libcni's `ConfFiles` as containerd and CRI-O call it): lists, and single plugins.
const LIST: &str = ".conflist";
const ENDINGS: [&str; 3] = [LIST, ".conf", ".json"];

/// Does a runtime read files of this name?
#[must_use]
pub fn is_configuration(name: &str) -> bool {
    !name.starts_with('.') && ENDINGS.iter().any(|end| name.ends_with(end))
}

/// What to do with these files, by name.
#[must_use]
pub fn plan(files: &BTreeMap<String, String>, shape: &Shape, entry: &Value) -> Plan {
    let plan = match shape.chained {
        true => chained(files, shape, entry),
        false => alone(files, shape, entry),
    };
    // Only now: until what takes its place is there, the runtime needs the copy.
    match plan {
        Plan::InPlace { file, odd } => {
            let mut copies = shape.former.iter();
            match copies.find(|name| **name != file && is_copy(files, shape, name)) {
                Some(copy) => Plan::Drop {
                    copy: copy.clone(),
                    file,
                    odd,
                },
                None => Plan::InPlace { file, odd },
            }
        }
        other => other,
    }
}

/// Is this a copy that an agent with other settings left?
fn is_copy(files: &BTreeMap<String, String>, shape: &Shape, name: &str) -> bool {
    shape.former.iter().any(|former| former == name)
        && files.get(name).is_some_and(|text| has_ours(text))
}

fn chained(files: &BTreeMap<String, String>, shape: &Shape, entry: &Value) -> Plan {
    let mut odd = Vec::new();
    let (name, main) = match main_file(files, shape, &mut odd) {
        Ok(found) => found,
        Err(why) => return Plan::Wait(why),
    };
    if lists(&main).any(|plugin| plugin["type"] == "istio-cni") {
        let text = format!("{name} also has istio-cni: two meshes capture pods of this node");
        odd.push(text);
    }
    let with_us = with_entry(&main, &name, entry);
    let Some(owned) = &shape.owned else {
        if with_us == main {
            return Plan::InPlace { file: name, odd };
        }
        let renamed = (!name.ends_with(LIST)).then(|| stem(&name).to_owned() + LIST);
        // Ours is of an attempt that was cut off.
        let there = renamed.as_ref().and_then(|name| files.get(name));
        if let (Some(renamed), Some(false)) = (&renamed, there.map(|text| has_ours(text))) {
            return Plan::Wait(format!(
                "{name} would have to become {renamed}, which is there and is not touched"
            ));
        }
        return Plan::Write {
            file: renamed.clone().unwrap_or_else(|| name.clone()),
            text: text_of(&with_us),
            replaces: renamed.map(|_| name),
            odd,
        };
    };
    if *owned > name {
        odd.push(format!(
            "{owned} comes after {name}: the runtime takes {name}, without the plugin"
        ));
    }
    let held = files
        .get(owned)
        .and_then(|text| serde_json::from_str::<Value>(text).ok());
    let file = owned.clone();
    if held.as_ref() == Some(&with_us) {
        return Plan::InPlace { file, odd };
    }
    Plan::Write {
        file,
        text: text_of(&with_us),
        replaces: None,
        odd,
    }
}

fn stem(name: &str) -> &str {
    let stem = ENDINGS.iter().find_map(|end| name.strip_suffix(end));
    stem.unwrap_or(name)
}

/// The main CNI's configuration: the one that is named, or the first valid one.
fn main_file(
    files: &BTreeMap<String, String>,
    shape: &Shape,
    odd: &mut Vec<String>,
) -> Result<(String, Value), String> {
    if let Some(named) = &shape.named {
        let siblings = ENDINGS.map(|end| stem(named).to_owned() + end);
        let name = std::iter::once(named)
            .chain(&siblings)
            .find(|name| files.contains_key(*name));
        let name = name.ok_or_else(|| format!("there is no file {named}"))?;
        let read =
            read(name, &files[name]).map_err(|why| format!("{name} is not touched: {why}"))?;
        return Ok((name.clone(), read));
    }
    for (name, text) in files {
        if Some(name) == shape.owned.as_ref() || is_copy(files, shape, name) {
            continue;
        }
        match read(name, text) {
            Ok(value) => return Ok((name.clone(), value)),
            Err(why) => odd.push(format!("{name} is not touched: {why}")),
        }
    }
    let mut why = vec!["there is no valid file yet".to_owned()];
    why.append(odd);
    Err(why.join("; "))
}

/// A configuration that a runtime would take.
fn read(name: &str, text: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(text).map_err(|e| format!("it is not JSON ({e})"))?;
    let Some(object) = value.as_object() else {
        return Err("it is not an object".into());
    };
    if !name.ends_with(LIST) {
        let single = object.get("type").is_some_and(Value::is_string);
        return if single {
            Ok(value)
        } else {
            Err("it has no type; perhaps it is a list, whose file's name ends in .conflist".into())
        };
    }
    let plugins = object.get("plugins").and_then(Value::as_array);
    let Some(plugins) = plugins.filter(|plugins| !plugins.is_empty()) else {
        return Err("it has no plugins".into());
    };
    if !object.get("name").is_some_and(Value::is_string) {
        return Err("it has no name".into());
    }
    match plugins.iter().all(|plugin| plugin["type"].is_string()) {
        true => Ok(value),
        false => Err("one of its plugins has no type".into()),
    }
}

/// The plugins of a list.
fn lists(value: &Value) -> impl Iterator<Item = &Value> {
    value["plugins"].as_array().into_iter().flatten()
}

/// With our entry, once: where it stood before, else at the end. A single plugin becomes a list of its own name, by
/// which its addresses are booked.
fn with_entry(main: &Value, name: &str, entry: &Value) -> Value {
    if !name.ends_with(LIST) {
        let mut first = main.clone();
        let mut list = Map::new();
        for key in ["cniVersion", "name"] {
            let said = first.as_object_mut().and_then(|object| object.remove(key));
            list.insert(key.into(), said.unwrap_or_else(|| default_of(key)));
        }
        list.insert("plugins".into(), json!([first, entry]));
        return Value::Object(list);
    }
    let mut list = main.clone();
    if let Some(plugins) = list["plugins"].as_array_mut() {
        let at = plugins.iter().position(is_ours);
        plugins.retain(|plugin| !is_ours(plugin));
        plugins.insert(at.unwrap_or(plugins.len()), entry.clone());
    }
    list
}

fn default_of(key: &str) -> Value {
    json!(if key == "name" {
        "k8s-pod-network"
    } else {
        "0.3.1"
    })
}

fn is_ours(plugin: &Value) -> bool {
    plugin["type"] == PLUGIN
}

fn alone(files: &BTreeMap<String, String>, shape: &Shape, entry: &Value) -> Plan {
    let file = shape.named.clone().unwrap_or_else(|| OWN_FILE.into());
    let mut single = entry.clone();
    single["cniVersion"] = json!("0.3.1");
    single["name"] = json!(PLUGIN);
    let odd = Vec::new();
    let held = files
        .get(&file)
        .map(|text| serde_json::from_str::<Value>(text));
    match held {
        Some(Ok(held)) if held == single => Plan::InPlace { file, odd },
        Some(Ok(held)) if !is_ours(&held) => {
            Plan::Wait(format!("{file} is somebody else's and is not touched"))
        }
        _ => Plan::Write {
            file,
            text: text_of(&single),
            replaces: None,
            odd,
        },
    }
}

fn text_of(value: &Value) -> String {
    let text = serde_json::to_string_pretty(value).expect("a value of strings and numbers");
    text + "\n"
}

/// Does this file name our plugin? A file that cannot be read as JSON does not.
#[must_use]
pub fn has_ours(text: &str) -> bool {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    is_ours(&value) || lists(&value).any(is_ours)
}

/// How to take us out of each file that names us: its new text, or `None` to remove it.
#[must_use]
pub fn removal(files: &BTreeMap<String, String>, shape: &Shape) -> Vec<(String, Option<String>)> {
    let ours = files.iter().filter(|(_, text)| has_ours(text));
    let changes = ours.map(|(name, text)| {
        let mut value: Value = serde_json::from_str(text).unwrap_or_default();
        let is_copy = Some(name) == shape.owned.as_ref() || is_copy(files, shape, name);
        if is_ours(&value) || is_copy {
            return (name.clone(), None);
        }
        if let Some(plugins) = value["plugins"].as_array_mut() {
            plugins.retain(|plugin| !is_ours(plugin));
        }
        let rest = (lists(&value).next().is_some()).then(|| text_of(&value));
        (name.clone(), rest)
    });
    changes.collect()
}

#[cfg(test)]
mod tests;
