//! Header values: what is accepted is written again as something that reads the same, in characters that are safe.

use hbone::headers::{Authority, Baggage, Forwarded, Traceparent};

pub(crate) fn baggage(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    for text in [
        text.to_string(),
        format!("service.name={text},k8s.job.name={text}"),
    ] {
        let baggage = Baggage::parse(&text);
        let written = baggage.to_string();
        assert!(written.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(Baggage::parse(&written), baggage);
    }
}

pub(crate) fn forwarded(input: &[u8]) {
    let forwarded = Forwarded::parse(&String::from_utf8_lossy(input));
    let written = forwarded.to_string();
    assert!(written.bytes().all(|byte| byte.is_ascii_graphic()));
    assert_eq!(Forwarded::parse(&written), forwarded);
}

pub(crate) fn authority(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(authority) = text.parse::<Authority>() {
        assert_eq!(authority.to_string().parse(), Ok(authority));
    }
    if let Ok(trace) = text.parse::<Traceparent>() {
        assert_eq!(trace.to_string().parse(), Ok(trace));
    }
}
