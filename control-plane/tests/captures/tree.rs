//! Messages as trees, read from their `Debug` text, so that two of any type can be compared field by field. What has
//! its default value is left out, as on the wire.

use std::{collections::BTreeMap, fmt};

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tree {
    Leaf(String),
    List(Vec<Tree>),
    Fields(BTreeMap<String, Tree>),
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tree::Leaf(text) => f.write_str(text),
            Tree::List(items) => {
                let items: Vec<String> = items.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Tree::Fields(fields) => {
                let fields: Vec<String> = fields
                    .iter()
                    .map(|(name, value)| format!("{name}: {value}"))
                    .collect();
                write!(f, "{{{}}}", fields.join(", "))
            }
        }
    }
}

/// The tree of a message.
pub fn of(message: &impl fmt::Debug) -> Tree {
    let text = format!("{message:?}");
    let mut reader = Reader { text: &text, at: 0 };
    let tree = reader.value();
    assert_eq!(reader.at, text.len(), "unread: {}", &text[reader.at..]);
    tree.unwrap_or(Tree::Fields(BTreeMap::new()))
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// A value, or none when it is a default.
    fn value(&mut self) -> Option<Tree> {
        if self.rest().starts_with('"') {
            let text = self.string();
            return (text != "\"\"").then_some(Tree::Leaf(text));
        }
        if self.eat("[") {
            let items = self.list();
            return (!items.is_empty()).then_some(Tree::List(items));
        }
        if self.eat("{") {
            let fields = self.fields("}");
            return (!fields.is_empty()).then_some(Tree::Fields(fields));
        }
        let word = self.word();
        if self.eat(" { ") {
            let fields = self.fields(" }");
            return Some(super::types::expand(&word, fields));
        }
        if self.eat("(") {
            let inner = self.value();
            assert!(self.eat(")"), "`)` before {}", self.rest());
            if word == "Some" {
                // A message that is there but empty differs from one that is not.
                return Some(inner.unwrap_or(Tree::Leaf("set".into())));
            }
            let inner = inner.unwrap_or(Tree::Leaf("default".into()));
            return Some(Tree::Fields([(word, inner)].into()));
        }
        match word.as_str() {
            "None" | "0" | "false" | "0.0" => None,
            _ => Some(Tree::Leaf(word)),
        }
    }

    fn list(&mut self) -> Vec<Tree> {
        let mut items = Vec::new();
        while !self.eat("]") {
            items.push(self.value().unwrap_or(Tree::Leaf("default".into())));
            self.eat(", ");
        }
        items
    }

    fn fields(&mut self, end: &str) -> BTreeMap<String, Tree> {
        let mut fields = BTreeMap::new();
        while !self.eat(end) {
            let name = if self.rest().starts_with('"') {
                self.string().trim_matches('"').into()
            } else {
                self.word()
            };
            assert!(self.eat(": "), "`: ` before {}", self.rest());
            if let Some(value) = self.value() {
                fields.insert(name, value);
            }
            self.eat(", ");
        }
        fields
    }

    fn word(&mut self) -> String {
        let rest = self.rest();
        let length = rest
            .find(|c: char| !(c.is_alphanumeric() || "_-.#".contains(c)))
            .unwrap_or(rest.len());
        let word = rest[..length].to_owned();
        self.at += length;
        word
    }

    fn string(&mut self) -> String {
        let mut escaped = false;
        let end = self.rest()[1..].find(|c| {
            let is_end = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            is_end
        });
        let length = end.expect("a closed string") + 2;
        let text = self.rest()[..length].to_owned();
        self.at += length;
        text
    }
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub path: String,
    pub ours: String,
    pub theirs: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: ours {}, theirs {}",
            self.path, self.ours, self.theirs
        )
    }
}

/// All differences between two trees.
pub fn differences(path: &str, ours: &Tree, theirs: &Tree, out: &mut Vec<Difference>) {
    let differ = |path: String, ours: Option<&Tree>, theirs: Option<&Tree>| {
        let text = |tree: Option<&Tree>| tree.map_or("nothing".to_owned(), ToString::to_string);
        Difference {
            path,
            ours: text(ours),
            theirs: text(theirs),
        }
    };
    match (ours, theirs) {
        (Tree::Fields(a), Tree::Fields(b)) => {
            let names: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for name in names {
                let path = format!("{path}.{name}");
                match (a.get(name), b.get(name)) {
                    (Some(a), Some(b)) => differences(&path, a, b, out),
                    (a, b) => out.push(differ(path, a, b)),
                }
            }
        }
        (Tree::List(a), Tree::List(b)) if path.ends_with("range_matchers") => {
            differences(path, &by_range(a), &by_range(b), out);
        }
        (Tree::List(a), Tree::List(b)) => match (named(a), named(b)) {
            (Some(a), Some(b)) => differences(path, &Tree::Fields(a), &Tree::Fields(b), out),
            _ => {
                let (mut a, mut b) = (a.clone(), b.clone());
                if ["lb_endpoints", "ranges"]
                    .iter()
                    .any(|set| path.ends_with(set))
                {
                    // Sets in all but form: their order means nothing.
                    a.sort();
                    b.sort();
                }
                for i in 0..a.len().max(b.len()) {
                    let path = format!("{path}[{i}]");
                    match (a.get(i), b.get(i)) {
                        (Some(a), Some(b)) => differences(&path, a, b, out),
                        (a, b) => out.push(differ(path, a, b)),
                    }
                }
            }
        },
        (a, b) if a == b => {}
        (a, b) => out.push(differ(path.into(), Some(a), Some(b))),
    }
}

/// The items by their names, if they all have one and no two the same. The order of named lists is compared by
/// `order`.
fn named(items: &[Tree]) -> Option<BTreeMap<String, Tree>> {
    let mut by_name = BTreeMap::new();
    for item in items {
        let Tree::Fields(fields) = item else {
            return None;
        };
        let Some(Tree::Leaf(name)) = fields.get("name") else {
            return None;
        };
        if by_name
            .insert(format!("<{}>", name.trim_matches('"')), item.clone())
            .is_some()
        {
            return None;
        }
    }
    let order: Vec<&str> = items.iter().filter_map(|item| name(item)).collect();
    by_name.insert("order".into(), Tree::Leaf(order.join(" ")));
    Some(by_name)
}

/// Ranges of addresses by the first of them; the one of workloads, which has many, by that name.
fn by_range(items: &[Tree]) -> Tree {
    let key = |item: &Tree| match item {
        _ if item.to_string().contains("direct-tcp") => "<workloads>".to_owned(),
        Tree::Fields(fields) => format!("<{}>", fields["ranges"]),
        other => other.to_string(),
    };
    Tree::Fields(items.iter().map(|item| (key(item), item.clone())).collect())
}

fn name(item: &Tree) -> Option<&str> {
    let Tree::Fields(fields) = item else {
        return None;
    };
    match fields.get("name") {
        Some(Tree::Leaf(name)) => Some(name),
        _ => None,
    }
}
