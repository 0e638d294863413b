//! OpenMetrics text turned into the older Prometheus text format (0.0.4): counters are declared by
//! their full name, there are no units, exemplars or end mark. Called by `Registry::encode`.
use std::borrow::Cow;

/// Rewrites a whole exposition.
pub(super) fn from_openmetrics(body: &str) -> String {
    let mut out = String::with_capacity(body.len());
    let mut help: Option<(&str, &str)> = None;
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').or(Some((rest, "")));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "unknown"));
            let (name, kind) = renamed(name, kind);
            if let Some((_, text)) = help.take() {
                out.push_str(&format!("# HELP {name} {text}\n"));
            }
            out.push_str(&format!("# TYPE {name} {kind}\n"));
        } else if !line.starts_with('#') {
            out.push_str(without_exemplar(line));
            out.push('\n');
        }
    }
    out
}

fn renamed<'a>(name: &'a str, kind: &'a str) -> (Cow<'a, str>, &'a str) {
    match kind {
        "counter" => (format!("{name}_total").into(), kind),
        "info" => (format!("{name}_info").into(), "gauge"),
        "unknown" => (name.into(), "untyped"),
        _ => (name.into(), kind),
    }
}

/// An exemplar follows the value as ` # {…}`; label values stand before the value, in quotes.
fn without_exemplar(line: &str) -> &str {
    let value_at = line.rfind('}').map_or(0, |_| end_of_labels(line));
    match line[value_at..].find(" # ") {
        Some(at) => &line[..value_at + at],
        None => line,
    }
}

fn end_of_labels(line: &str) -> usize {
    let Some(open) = line.find('{') else { return 0 };
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in line[open..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted => return open + at + 1,
            _ => {}
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_difference_between_the_formats_is_bridged() {
        let open = "# HELP a Help a.\n# TYPE a counter\na_total{x=\"q # }\"} 1 # {t=\"1\"} 1.0\n\
                    # HELP b Seconds.\n# TYPE b gauge\n# UNIT b seconds\nb 2\n\
                    # HELP v About.\n# TYPE v info\nv_info{tag=\"t\"} 1\n# EOF\n";
        let text = "# HELP a_total Help a.\n# TYPE a_total counter\na_total{x=\"q # }\"} 1\n\
                    # HELP b Seconds.\n# TYPE b gauge\nb 2\n\
                    # HELP v_info About.\n# TYPE v_info gauge\nv_info{tag=\"t\"} 1\n";
        assert_eq!(from_openmetrics(open), text);
    }
}
