//! The options, each as an argument and as a variable of `make bench`. Parsed once, in `main`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

/// What to measure, against whom, for how long.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// A ztunnel to compare with: any binary with upstream's interface.
    #[arg(long, env = "PEER_ZTUNNEL", value_name = "PATH")]
    pub peer_ztunnel: Option<PathBuf>,
    /// Run only these scenarios, separated by commas: whole names (`--list` shows them), or parts of names.
    #[arg(
        long,
        env = "ONLY",
        value_name = "PARTS",
        default_value = "",
        hide_default_value = true
    )]
    pub only: String,
    /// Show the names of the scenarios and end.
    #[arg(long)]
    pub list: bool,
    /// Rounds of blocks A B C C B A.
    #[arg(long, env = "ROUNDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Seconds of a block.
    #[arg(long, env = "BLOCK", default_value_t = 1.0, value_parser = seconds)]
    pub block: f64,
    /// Worker threads of each ztunnel.
    #[arg(long, env = "WORKERS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub workers: u32,
    /// Connections that are held idle.
    #[arg(long, env = "IDLE", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=60_000))]
    pub idle: u32,
    /// A short run for development: one round of short blocks, few connections. Its figures mean little.
    #[arg(long, env = "QUICK", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = truth, hide_possible_values = true)]
    pub quick: bool,
    /// Count blocks that noise has spoilt, too; for machines that are never quiet. Their figures prove nothing.
    #[arg(long, env = "KEEP_NOISE", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = truth, hide_possible_values = true)]
    pub keep_noise: bool,
    /// Where results go.
    #[arg(long, env = "OUT", value_name = "DIR", default_value = "target/bench")]
    pub out: PathBuf,
    /// Also write the table into this document, between its markers.
    #[arg(long, env = "PUBLISH", value_name = "FILE")]
    pub publish: Option<PathBuf>,
}

impl Options {
    /// With what `quick` changes.
    #[must_use]
    pub fn settled(mut self) -> Self {
        if self.quick {
            self.rounds = 1;
            self.block = self.block.min(0.4);
            self.idle = self.idle.min(500);
        }
        self
    }

    /// Length of a block.
    #[must_use]
    pub fn time(&self) -> Duration {
        Duration::from_secs_f64(self.block)
    }

    /// Whether the scenario `id` of `ids` is wanted: a part that is a whole name means that one alone.
    #[must_use]
    pub fn wants(&self, id: &str, ids: &[&str]) -> bool {
        let parts = self.only.split(',').map(str::trim);
        let mut parts = parts.filter(|part| !part.is_empty()).peekable();
        let fits = |part: &str| id == part || !ids.contains(&part) && id.contains(part);
        parts.peek().is_none() || parts.any(fits)
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.05..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0.05 to 600".to_owned()),
    }
}

fn truth(text: &str) -> Result<bool, String> {
    match text {
        "1" | "true" | "yes" => Ok(true),
        "" | "0" | "false" | "no" => Ok(false),
        _ => Err("1 or 0".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        let line = std::iter::once("bench").chain(arguments.iter().copied());
        Line::try_parse_from(line)
            .map(|line| line.options)
            .map_err(|fault| fault.to_string())
    }

    #[test]
    fn only_names_parts_of_scenarios() {
        let ids = ["bulk-up-1", "bulk-up-16", "bulk-down-1", "near-crr-16"];
        let wanted = |only: &str| -> Vec<&str> {
            let options = parse(&["--only", only]).unwrap();
            ids.into_iter()
                .filter(|id| options.wants(id, &ids))
                .collect()
        };
        assert_eq!(wanted(""), ids);
        assert_eq!(
            wanted("bulk-up, crr"),
            ["bulk-up-1", "bulk-up-16", "near-crr-16"]
        );
        assert_eq!(wanted("bulk-up-1"), ["bulk-up-1"]);
    }

    #[test]
    fn wrong_values_are_refused_with_what_is_allowed() {
        assert!(parse(&["--block", "0"]).is_err_and(|text| text.contains("0.05 to 600")));
        assert!(parse(&["--rounds", "0"]).is_err_and(|text| text.contains("1..=1000")));
        assert!(parse(&["--quick=maybe"]).is_err_and(|text| text.contains("1 or 0")));
        assert!(parse(&["--fast"]).is_err_and(|text| text.contains("--fast")));
    }

    #[test]
    fn quick_is_short() {
        let quick = parse(&["--quick"]).unwrap().settled();
        assert!(quick.rounds == 1 && quick.block < 0.5 && quick.idle == 500);
    }
}
