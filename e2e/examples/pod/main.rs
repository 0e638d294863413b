//! What the pods of the cluster tests run, packed into an image by e2e/kube/images.sh: `pod serve PORT` answers HTTP with its
//! node's name; `pod call URL SECONDS [CALLERS]` calls as HTTP clients do and counts what went wrong.

mod call;
mod serve;

use std::process::ExitCode;

#[expect(clippy::print_stderr, reason = "a program's words to its user")]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["serve", port] => serve::run(port),
        ["call", mode, url, seconds] => call::run(mode, url, (seconds, "4")),
        ["call", mode, url, seconds, callers] => call::run(mode, url, (seconds, callers)),
        _ => Err(
            "usage: pod serve PORT | pod call keep|new http://HOST:PORT SECONDS [CALLERS]".into(),
        ),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pod: {error}");
            ExitCode::FAILURE
        }
    }
}
