use super::*;
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);
impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
impl<'a> MakeWriter<'a> for Sink {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

fn logged(format: Format, work: impl FnOnce()) -> String {
    let sink = Sink::default();
    let layer = tracing_subscriber::fmt::layer()
        .event_format(format)
        .with_writer(sink.clone());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
    let bytes = sink.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn plain_lines_have_tab_separated_columns_that_no_value_can_forge() {
    let line = logged(Format::Plain, || {
        tracing::info!(target: "access", pods = 3, name = "a\nb", "pod\tadded\nevil");
    });
    let columns: Vec<&str> = line.trim_end_matches('\n').split('\t').collect();
    assert!(columns[0].ends_with('Z'), "{line}");
    assert_eq!(
        columns[1..],
        [
            "info",
            "access",
            "pod\\tadded\\nevil",
            "pods=3 name=\"a\\nb\""
        ]
    );
    assert_eq!(line.matches('\n').count(), 1);
}

#[test]
fn json_lines_keep_upstreams_key_order() {
    let line = logged(Format::Json, || {
        let span = tracing::info_span!("inbound");
        span.in_scope(|| tracing::warn!(target: "proxy", ok = true, who = "\"x\"", "slow"));
    });
    assert!(line.starts_with(r#"{"level":"warn","time":""#), "{line}");
    let tail = r#","scope":"proxy:inbound","message":"slow","ok":true,"who":"\"x\""}"#;
    assert!(line.trim_end().ends_with(tail), "{line}");
}

#[test]
fn a_misspelt_level_is_refused() {
    for good in ["info", "debug,hyper=off", "warn,access=info", "OFF"] {
        assert!(parse_filter(good).is_ok(), "{good}");
    }
    for bad in ["verbose", "info,acess", "hyper=loud"] {
        let text = parse_filter(bad).unwrap_err().to_string();
        assert!(text.contains("allowed is a level"), "{text}");
    }
}
