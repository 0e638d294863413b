//! Host names as the mesh has them: which names a question may mean, in upstream's order. Pure; called by `answer`.

use hickory_proto::rr::Name;

/// A name that the question may mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// Full host name, lower case, no final dot.
    pub host: String,
    /// A search domain was taken off: so many bytes of the question's name are the name that the client meant.
    pub kept: Option<usize>,
}

/// A name as the state has it: lower case, no final dot. `None` for the root and for names that no host can have (a label
/// may hold any byte, even a dot).
pub fn host(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        for byte in label {
            let usual = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'*');
            if !usual {
                return None;
            }
            text.push(byte.to_ascii_lowercase().into());
        }
    }
    (!text.is_empty()).then_some(text)
}

/// What `host` may mean to a pod of `namespace` in the cluster of `domain`: itself, its full Kubernetes forms, and the same
/// without each of the usual search domains, which resolvers append by themselves (`ndots:5`). Each name once.
pub fn aliases(host: &str, namespace: &str, domain: &str) -> Vec<Alias> {
    let mut all = Vec::new();
    add(&mut all, host.to_owned(), None);
    for full in full_forms(host, namespace, domain) {
        add(&mut all, full, None);
    }
    let search = [
        format!("{namespace}.svc.{domain}"),
        format!("svc.{domain}"),
        domain.to_owned(),
    ];
    for suffix in search {
        let Some(meant) = host
            .strip_suffix(suffix.as_str())
            .and_then(|rest| rest.strip_suffix('.'))
        else {
            continue;
        };
        add(&mut all, meant.to_owned(), Some(meant.len()));
        for full in full_forms(meant, namespace, domain) {
            add(&mut all, full, Some(meant.len()));
        }
    }
    all
}

fn add(all: &mut Vec<Alias>, host: String, kept: Option<usize>) {
    if all.iter().all(|known| known.host != host) {
        all.push(Alias { host, kept });
    }
}

/// The full names that a short name stands for: `service`, `service.ns`, `service.ns.svc`, `pod.service`, `pod.service.ns`,
/// `pod.service.ns.svc`.
fn full_forms(host: &str, namespace: &str, domain: &str) -> Vec<String> {
    let labels = host.split('.').count();
    let to_svc = host.ends_with(".svc");
    match labels {
        1 => vec![format!("{host}.{namespace}.svc.{domain}")],
        2 => vec![
            format!("{host}.svc.{domain}"),
            format!("{host}.{namespace}.svc.{domain}"),
        ],
        3 if to_svc => vec![format!("{host}.{domain}"), format!("{host}.svc.{domain}")],
        3 => vec![format!("{host}.svc.{domain}")],
        4 if to_svc => vec![format!("{host}.{domain}")],
        _ => Vec::new(),
    }
}

/// Asks `look` for `host` itself and then for each wildcard that covers it, the closest first (`*.example.com`, `*.com`).
/// Also says whether a wildcard was it.
pub fn with_wildcards<T>(host: &str, mut look: impl FnMut(&str) -> Option<T>) -> Option<(T, bool)> {
    if let Some(found) = look(host) {
        return Some((found, false));
    }
    let mut scratch = host.to_owned();
    for (dot, _) in host.match_indices('.') {
        if dot == 0 {
            continue;
        }
        // The label that ends here has been passed: its last byte makes room for the star.
        scratch.replace_range(dot - 1..dot, "*");
        if let Some(found) = look(&scratch[dot - 1..]) {
            return Some((found, true));
        }
    }
    None
}

/// Of a pod's name behind a headless service (`pod.service.ns.svc.domain`), the pod, its namespace and the service's host
/// name.
pub fn pod_host<'a>(host: &'a str, domain: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let (pod, service) = host.split_once('.')?;
    let inner = service.strip_suffix(domain)?.strip_suffix(".svc.")?;
    let (name, namespace) = inner.split_once('.')?;
    let plain = !name.is_empty() && !namespace.is_empty() && !namespace.contains('.');
    plain.then_some((pod, namespace, service))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(host: &str) -> Vec<String> {
        aliases(host, "ns1", "cluster.local")
            .into_iter()
            .map(|alias| match alias.kept {
                Some(kept) => format!("{} <{}", alias.host, &host[..kept]),
                None => alias.host,
            })
            .collect()
    }

    #[test]
    fn short_names_are_tried_in_their_full_forms_and_search_domains_are_taken_off() {
        let rows: [(&str, &[&str]); 8] = [
            ("a", &["a", "a.ns1.svc.cluster.local"]),
            (
                "a.ns2",
                &[
                    "a.ns2",
                    "a.ns2.svc.cluster.local",
                    "a.ns2.ns1.svc.cluster.local",
                ],
            ),
            (
                "a.ns2.svc",
                &[
                    "a.ns2.svc",
                    "a.ns2.svc.cluster.local",
                    "a.ns2.svc.svc.cluster.local",
                ],
            ),
            (
                "www.example.com",
                &["www.example.com", "www.example.com.svc.cluster.local"],
            ),
            ("p.a.ns2.svc", &["p.a.ns2.svc", "p.a.ns2.svc.cluster.local"]),
            (
                "a.ns2.svc.cluster.local",
                &[
                    "a.ns2.svc.cluster.local",
                    "a.ns2 <a.ns2",
                    "a.ns2.ns1.svc.cluster.local <a.ns2",
                    "a.ns2.svc <a.ns2.svc",
                    "a.ns2.svc.svc.cluster.local <a.ns2.svc",
                ],
            ),
            (
                "b.example.com.ns1.svc.cluster.local",
                &[
                    "b.example.com.ns1.svc.cluster.local",
                    "b.example.com <b.example.com",
                    "b.example.com.svc.cluster.local <b.example.com",
                    "b.example.com.ns1 <b.example.com.ns1",
                    "b.example.com.ns1.svc <b.example.com.ns1.svc",
                ],
            ),
            (
                "cluster.local",
                &[
                    "cluster.local",
                    "cluster.local.svc.cluster.local",
                    "cluster.local.ns1.svc.cluster.local",
                ],
            ),
        ];
        for (host, expected) in rows {
            assert_eq!(hosts(host), expected, "{host}");
        }
    }

    #[test]
    fn wildcards_are_asked_for_closest_first() {
        let mut asked = Vec::new();
        let found = with_wildcards("a.b.example.com", |host| {
            asked.push(host.to_owned());
            None::<()>
        });
        assert_eq!(found, None);
        assert_eq!(
            asked,
            [
                "a.b.example.com",
                "*.b.example.com",
                "*.example.com",
                "*.com"
            ]
        );
        let star = with_wildcards("a.b", |host| (host == "*.b").then_some(1));
        assert_eq!(star, Some((1, true)));
    }

    #[test]
    fn names_that_no_host_can_have_are_nobodys() {
        let of = |labels: &[&[u8]]| host(&Name::from_labels(labels.iter().copied()).unwrap());
        assert_eq!(
            of(&[b"WWW", b"Example", b"com"]).as_deref(),
            Some("www.example.com")
        );
        assert_eq!(
            of(&[b"www.example", b"com"]),
            None,
            "a dot inside of a label"
        );
        assert_eq!(of(&[b"a\0", b"com"]), None);
        assert_eq!(of(&["bücher".as_bytes(), b"example"]), None);
        assert_eq!(host(&Name::root()), None);
    }

    #[test]
    fn a_pods_name_is_taken_apart() {
        let of = |name| pod_host(name, "cluster.local");
        assert_eq!(
            of("db-0.db.app.svc.cluster.local"),
            Some(("db-0", "app", "db.app.svc.cluster.local"))
        );
        for other in [
            "db.app.svc.cluster.local",
            "a.db-0.db.app.svc.cluster.local",
            "a.b.c.svc.example.com",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
