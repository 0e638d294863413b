//! Fuzz targets: every parser of `hbone` that reads peer bytes, and its connection against a model. Each is a function
//! that takes any bytes and panics if a promise is broken. `tests/targets.rs` runs them, see README.md.

mod frames;
mod head;
mod headers;
mod model;

/// A target: its name, which is also that of its corpus, and what runs it.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 8] = [
    ("bytes", frames::bytes),
    ("frames", frames::frames),
    ("hpack", frames::hpack),
    ("model", model::model),
    ("head", head::head),
    ("baggage", headers::baggage),
    ("forwarded", headers::forwarded),
    ("authority", headers::authority),
];

/// The target of a name.
///
/// # Panics
/// If there is none.
pub fn target(name: &str) -> fn(&[u8]) {
    let found = TARGETS.iter().find(|(one, _)| *one == name);
    found.expect("a target of this name").1
}
