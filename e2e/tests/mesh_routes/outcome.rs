//! What became of a call, in one line, told the same way of a decision and of an answer. Used by `main`.
//!
//! A line begins with the service that was reached (or the status, where none was), and tells of the rest what the wanted
//! line tells: `path=`, `to.NAME=` and `back.NAME=` for headers of the request at the application and of the answer.
//! `-` stands for nothing. Shares are told as `a:70,b:30`.

use std::collections::BTreeMap;

use crate::client::Answer;

/// Applications by the address of their pod.
const PODS: [(&str, &str); 2] = [("10.244.1.5", "echo-v1"), ("10.244.2.5", "echo-v2")];

#[derive(Debug, Default)]
pub struct Outcome {
    pub to: String,
    pub path: String,
    pub request: BTreeMap<String, String>,
    pub answer: BTreeMap<String, String>,
}

/// The shares that a wanted line tells.
pub fn shares(want: &str) -> Vec<(&str, f64)> {
    let first = want.split(' ').next().unwrap_or_default();
    let parts = first.split(',').filter_map(|part| part.split_once(':'));
    let shares: Vec<(&str, f64)> = parts
        .filter_map(|(to, share)| Some((to, share.parse::<f64>().ok()?)))
        .collect();
    let sum: f64 = shares.iter().map(|(_, share)| share).sum();
    shares
        .into_iter()
        .map(|(to, share)| (to, share / sum))
        .collect()
}

impl Outcome {
    /// Of an answer; `echo` is told where the wanted line has it, for either of its applications.
    pub fn of(answer: &Answer, want: &str) -> Outcome {
        let pod = answer.up["pod"].as_str().unwrap_or_default();
        let known = PODS
            .iter()
            .find(|(address, _)| pod.starts_with(&format!("{address}:")));
        let to = match known {
            Some(_) if want.split(' ').next() == Some("echo") => "echo".to_owned(),
            Some((_, name)) => (*name).to_owned(),
            None => answer.outcome.clone(),
        };
        let request = answer.up["headers"].as_object().into_iter().flatten();
        let lines =
            |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let mut back = BTreeMap::<String, String>::new();
        for (name, value) in &answer.headers {
            join(&mut back, name.as_str(), &lines(value));
        }
        Outcome {
            to,
            path: answer.up["path"].as_str().unwrap_or_default().to_owned(),
            request: request
                .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
                .collect(),
            answer: back,
        }
    }

    /// In one line, what `want` tells.
    pub fn told(&self, want: &str) -> String {
        let mut line = self.to.clone();
        for part in want.split(' ').skip(1) {
            let key = part.split('=').next().unwrap_or_default();
            let value = match key.split_once('.') {
                None => Some(&self.path).filter(|path| !path.is_empty()),
                Some(("to", name)) => self.request.get(name),
                Some((_, name)) => self.answer.get(name),
            };
            line += &format!(" {key}={}", value.map_or("-", String::as_str));
        }
        line
    }
}

/// Several values of one header are one text with commas.
pub fn join(headers: &mut BTreeMap<String, String>, name: &str, value: &str) {
    headers
        .entry(name.to_owned())
        .and_modify(|all| *all = format!("{all},{value}"))
        .or_insert_with(|| value.to_owned());
}
