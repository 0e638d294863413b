//! The texts of refusals: cut to what can be told on, and searched for the names that they are about. Called by `session`.

use std::collections::HashSet;
use std::sync::Arc;

use crate::machine::LONGEST_NACK;

/// A refusal that is short enough to be searched and told on, and whether it is all that the subscriber has to say.
pub(super) fn shortened(mut message: String) -> (String, bool) {
    let whole = message.len() <= LONGEST_NACK && !ends_in_more(&message);
    if message.len() > LONGEST_NACK {
        message.truncate(message.floor_char_boundary(LONGEST_NACK));
        message.shrink_to_fit();
    }
    (message, whole)
}

/// Whether it ends in `; and 12 more`, as our clients write.
fn ends_in_more(message: &str) -> bool {
    let last = message.rsplit("; ").next().unwrap_or_default();
    let number = last
        .strip_prefix("and ")
        .and_then(|rest| rest.strip_suffix(" more"));
    number.is_some_and(|number| number.parse::<usize>().is_ok())
}

/// Those of a refused push that the refusal names; if it names none, any may be meant. The text is read once and by
/// whole names, however many the push has: `web-10` does not name `web-1`.
pub(super) fn named(push: Vec<Arc<str>>, message: &str) -> Vec<Arc<str>> {
    // ztunnels and our waypoints write `name: why; name: why`, Envoy puts names into sentences.
    let parts = message.split("; ").flat_map(|part| part.split(": "));
    let words = message.split_whitespace();
    let words = words.map(|word| word.trim_matches([':', ';', ',', '\'', '"']));
    for said in [parts.collect::<HashSet<_>>(), words.collect()] {
        let some: Vec<Arc<str>> = push
            .iter()
            .filter(|name| said.contains(&***name))
            .cloned()
            .collect();
        if !some.is_empty() {
            return some;
        }
    }
    push
}
