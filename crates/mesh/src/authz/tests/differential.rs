//! A second evaluator, written from the specification without the product's code, must agree on random
//! policies and connections.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

/// What the specification says, spelled out as plainly as can be: strings are built, nothing is shared.
mod naive {
    use super::*;

    pub(super) fn verdict(policies: &[Policy], workload: &Workload, facts: &Facts) -> &'static str {
        let guards = |policy: &&Policy| match policy.scope {
            Scope::Global => true,
            Scope::Namespace => policy.name.namespace == workload.namespace,
            Scope::Selector => false,
        } || workload.authorization_policies.contains(&policy.name);
        let enforced: Vec<_> = policies
            .iter()
            .filter(guards)
            .filter(|policy| !policy.dry_run)
            .collect();
        let deny = |policy: &&&Policy| {
            policy.invalid.is_some() || policy.action == Action::Deny && matches(policy, facts)
        };
        if enforced.iter().any(|policy| deny(&policy)) {
            return "deny";
        }
        let known = |name: &PolicyName| policies.iter().any(|policy| policy.name == *name);
        if workload
            .authorization_policies
            .iter()
            .any(|name| !known(name))
        {
            return "missing";
        }
        let allows: Vec<_> = enforced
            .iter()
            .filter(|policy| policy.action == Action::Allow)
            .collect();
        if allows.is_empty() || allows.iter().any(|policy| matches(policy, facts)) {
            return "allow";
        }
        "deny"
    }

    fn matches(policy: &Policy, facts: &Facts) -> bool {
        for rule in &policy.rules {
            let mut all = true;
            for clause in &rule.clauses {
                let mut any = clause.matches.is_empty();
                for one in &clause.matches {
                    any |= *one != Match::default() && holds(one, facts);
                }
                all &= any;
            }
            if all {
                return true;
            }
        }
        false
    }

    fn holds(one: &Match, facts: &Facts) -> bool {
        let namespace = facts
            .source
            .as_ref()
            .map(|identity| identity.namespace().to_owned());
        let principal = facts
            .source
            .as_ref()
            .map(|identity| identity.to_string().replacen("spiffe://", "", 1));
        let account = |m: &ServiceAccountMatch| match &facts.source {
            None => false,
            Some(id) => id
                .to_string()
                .ends_with(&format!("/ns/{}/sa/{}", m.namespace, m.name)),
        };
        let text = |value: &Option<String>, m: &StringMatch| match (value, m) {
            (None, _) => false,
            (Some(value), StringMatch::Exact(text)) => *value == **text,
            (Some(value), StringMatch::Prefix(text)) => value.get(..text.len()) == Some(text),
            (Some(value), StringMatch::Suffix(text)) => {
                value.len() >= text.len() && value[value.len() - text.len()..] == **text
            }
            (Some(_), StringMatch::Presence) => true,
        };
        let port = facts.destination.port();
        let (from, to) = (facts.source_ip, facts.destination.ip());
        (one.namespaces.is_empty() || one.namespaces.iter().any(|m| text(&namespace, m)))
            && !one.not_namespaces.iter().any(|m| text(&namespace, m))
            && (one.principals.is_empty() || one.principals.iter().any(|m| text(&principal, m)))
            && !one.not_principals.iter().any(|m| text(&principal, m))
            && (one.service_accounts.is_empty() || one.service_accounts.iter().any(account))
            && !one.not_service_accounts.iter().any(account)
            && (one.source_ips.is_empty() || one.source_ips.iter().any(|net| net.contains(&from)))
            && !one.not_source_ips.iter().any(|net| net.contains(&from))
            && (one.destination_ips.is_empty()
                || one.destination_ips.iter().any(|net| net.contains(&to)))
            && !one.not_destination_ips.iter().any(|net| net.contains(&to))
            && (one.destination_ports.is_empty() || one.destination_ports.contains(&port))
            && !one.not_destination_ports.contains(&port)
    }
}

const NAMESPACES: [&str; 3] = ["app", "web", "ap"];
const ACCOUNTS: [&str; 2] = ["client", "x"];
const NETS: [&str; 5] = [
    "10.0.0.0/8",
    "10.0.0.1/32",
    "10.1.0.0/16",
    "fd00::/8",
    "0.0.0.0/0",
];
const POLICIES: [&str; 6] = [
    "app/a",
    "app/b",
    "web/a",
    "istio-system/root",
    "bare",
    "app/late",
];

/// Nearly always empty, so that matches are rarely contradictions.
fn few<T: Clone + std::fmt::Debug + 'static>(
    of: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Box<[T]>> {
    prop_oneof![5 => Just(Vec::new()), 1 => vec(of, 1..3)]
        .prop_map(Vec::into_boxed_slice)
        .boxed()
}

fn text(of: &'static [&'static str]) -> BoxedStrategy<StringMatch> {
    prop_oneof![
        select(of).prop_map(|text| StringMatch::Exact(text.into())),
        select(of).prop_map(|text| StringMatch::Prefix(text.into())),
        select(of).prop_map(|text| StringMatch::Suffix(text.into())),
        Just(StringMatch::Presence),
    ]
    .boxed()
}

fn one_match() -> impl Strategy<Value = Match> {
    let account = || {
        (select(&NAMESPACES[..]), select(&ACCOUNTS[..])).prop_map(|(namespace, name)| {
            ServiceAccountMatch {
                namespace: namespace.into(),
                name: name.into(),
            }
        })
    };
    let net = || select(&NETS[..]).prop_map(|net| net.parse().unwrap());
    let port = || select(&[80_u16, 8080][..]);
    let principal = || {
        text(&[
            "td/ns/app/sa/client",
            "td/ns/app/",
            "/sa/x",
            "td/ns/web/sa/x",
            "",
        ])
    };
    let namespace = || text(&NAMESPACES);
    let identity = (
        few(namespace()),
        few(namespace()),
        few(principal()),
        few(principal()),
        few(account()),
        few(account()),
    );
    let network = (
        few(net()),
        few(net()),
        few(net()),
        few(net()),
        few(port()),
        few(port()),
    );
    (identity, network).prop_map(|(identity, network)| Match {
        namespaces: identity.0,
        not_namespaces: identity.1,
        principals: identity.2,
        not_principals: identity.3,
        service_accounts: identity.4,
        not_service_accounts: identity.5,
        source_ips: network.0,
        not_source_ips: network.1,
        destination_ips: network.2,
        not_destination_ips: network.3,
        destination_ports: network.4,
        not_destination_ports: network.5,
    })
}

fn any_policy(text: &'static str) -> impl Strategy<Value = Policy> {
    let rules = vec(vec(vec(one_match(), 0..3), 0..3).prop_map(rule), 0..3);
    let scope = select(&[Scope::Global, Scope::Namespace, Scope::Selector][..]);
    let action = select(&[Action::Allow, Action::Deny][..]);
    (
        scope,
        action,
        rules,
        prop::bool::weighted(0.15),
        prop::bool::weighted(0.05),
    )
        .prop_map(
            move |(scope, action, rules, dry_run, invalid)| match invalid {
                true => Policy::invalid(name(text), scope, "test"),
                false => Policy {
                    dry_run,
                    ..policy(text, scope, action, rules)
                },
            },
        )
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let identity = (select(&NAMESPACES[..]), select(&ACCOUNTS[..]))
        .prop_map(|(namespace, account)| Identity::new("td", namespace, account).unwrap());
    let ip = || {
        select(&["10.0.0.1", "10.1.2.3", "192.168.0.1", "fd00::1"][..])
            .prop_map(|ip| ip.parse().unwrap())
    };
    let port = select(&[80_u16, 8080, 9999][..]);
    (prop::option::of(identity), ip(), ip(), port).prop_map(
        |(source, source_ip, to, port): (_, _, IpAddr, _)| Facts {
            source,
            source_ip,
            destination: (to, port).into(),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn the_product_and_the_specification_agree(
        all in POLICIES.map(any_policy),
        here in proptest::array::uniform6(any::<bool>()),
        bound in proptest::sample::subsequence(&POLICIES[..], 0..4),
        facts in any_facts(),
    ) {
        let here = all.into_iter().zip(here).filter(|(_, here)| *here);
        let policies: Vec<_> = here.map(|(policy, _)| policy).collect();
        let (state, echo) = (state(policies.clone()), echo(&bound));
        let decision = authorize(state.current(), &echo, &facts);
        let ours = match &decision {
            Decision::Allow { .. } => "allow",
            Decision::Deny { .. } => "deny",
            Decision::Missing { .. } => "missing",
        };
        prop_assert_eq!(ours, naive::verdict(&policies, &echo, &facts));
        prop_assert!(!decision.explain(&facts).is_empty());
    }
}
