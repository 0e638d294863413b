//! The arguments that istiod's waypoint template gives to `pilot-agent`: the few that mean something here are read, the
//! others are let pass, as pilot-agent does with what it does not know. Pure; called by `main`.

/// What the arguments say; each is weaker than the setting of the same meaning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arguments {
    /// `--domain`: DNS domain of our namespace, `ns.svc.cluster.local`.
    pub domain: Option<String>,
    /// `--serviceCluster`: what the control plane calls our cluster of pods.
    pub service_cluster: Option<String>,
    /// `--concurrency`: threads.
    pub threads: Option<usize>,
    /// `--log_as_json`.
    pub json: bool,
    /// `--log_output_level`: the level of its scope `default`, as our filter has it.
    pub level: Option<&'static str>,
}

impl Arguments {
    /// Reads what stands after the command. A flag's value follows it, or stands behind `=`.
    #[must_use]
    pub fn parse(all: impl IntoIterator<Item = String>) -> Self {
        let mut read = Self::default();
        let mut all = all.into_iter().peekable();
        while let Some(argument) = all.next() {
            let Some(flag) = argument.strip_prefix("--") else {
                continue;
            };
            let (name, attached) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            if name == "log_as_json" {
                read.json = attached.is_none_or(|value| value == "true");
                continue;
            }
            if ![
                "domain",
                "serviceCluster",
                "concurrency",
                "log_output_level",
            ]
            .contains(&name)
            {
                continue;
            }
            let following = || all.next_if(|next| !next.starts_with("--"));
            let Some(value) = attached.or_else(following).filter(|text| !text.is_empty()) else {
                continue;
            };
            match name {
                "domain" => read.domain = Some(value),
                "serviceCluster" => read.service_cluster = Some(value),
                "concurrency" => read.threads = value.parse().ok(),
                _ => read.level = level(&value),
            }
        }
        read
    }
}

/// `default:debug,ads:info` or `debug`, in the words of our filter.
fn level(text: &str) -> Option<&'static str> {
    let of_default = text.split(',').find_map(|part| match part.split_once(':') {
        Some((scope, level)) => ["default", "all"].contains(&scope).then_some(level),
        None => Some(part),
    });
    match of_default? {
        "debug" => Some("debug"),
        "info" => Some("info"),
        "warn" => Some("warn"),
        "error" | "fatal" => Some("error"),
        "none" => Some("off"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Arguments {
        Arguments::parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_arguments_of_istiods_template_are_read() {
        let read = parse(
            "waypoint --domain app.svc.example --serviceCluster wp.app --proxyLogLevel warning \
             --proxyComponentLogLevel misc:error --log_output_level default:debug --log_as_json",
        );
        let want = Arguments {
            domain: Some("app.svc.example".into()),
            service_cluster: Some("wp.app".into()),
            threads: None,
            json: true,
            level: Some("debug"),
        };
        assert_eq!(read, want);
    }

    #[test]
    fn what_is_not_known_or_has_no_value_changes_nothing() {
        for text in [
            "",
            "waypoint",
            "--unknown --other=1 word",
            "--domain",
            "--domain --serviceCluster=",
            "--log_output_level ads:debug",
            "--concurrency many",
            "--log_as_json=false",
        ] {
            assert_eq!(parse(text), Arguments::default(), "{text}");
        }
        let attached = parse("--domain=a.svc.b --concurrency=2");
        assert_eq!(
            (attached.domain.as_deref(), attached.threads),
            (Some("a.svc.b"), Some(2))
        );
    }
}
