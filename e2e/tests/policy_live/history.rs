//! What every policy of the test says, kept by the test itself, and what verdict it could justify at a time. Also makes
//! the policy that is pushed. Shares nothing with the product's own evaluation.

use std::time::{Duration, Instant};

use proto::security::{
    Action, Authorization, Clause, Match, Rule, Scope, StringMatch, string_match,
};

/// Accounts that call, and ports that they call: each pair is a cell with a verdict of its own.
pub const ACCOUNTS: [&str; 4] = ["red", "green", "blue", "white"];
pub const PORTS: [u16; 2] = [8080, 8081];
pub const CELLS: usize = ACCOUNTS.len() * PORTS.len();
/// How old a policy may be that still decides.
const GRACE: Duration = Duration::from_secs(1);

/// Which cells may connect, one bit each.
pub type Allowed = u8;

/// Every policy that was ever in force, with the time at which it was pushed.
pub struct History(Vec<(Instant, Allowed)>);

impl History {
    /// Before the first policy everything is allowed.
    pub fn new() -> Self {
        Self(vec![(Instant::now(), Allowed::MAX)])
    }

    pub fn push(&mut self, allowed: Allowed) {
        self.0.push((Instant::now(), allowed));
    }

    pub fn changes(&self) -> usize {
        self.0.len() - 1
    }

    /// Whether some policy in force between one second before `begin` and `end` gives `verdict` for `cell`.
    pub fn gives(&self, cell: usize, verdict: bool, begin: Instant, end: Instant) -> bool {
        let earliest = begin.checked_sub(GRACE).unwrap_or(begin);
        // Newest first; those before the one in force at `earliest` no longer count.
        for (since, allowed) in self.0.iter().rev() {
            if *since <= end && (allowed >> cell & 1 == 1) == verdict {
                return true;
            }
            if *since <= earliest {
                return false;
            }
        }
        false
    }

    /// Since when the policies have forbidden `cell` without a break; `None` while it is allowed.
    pub fn forbidden_since(&self, cell: usize) -> Option<Instant> {
        let newest = self.0.iter().rev();
        let forbidding = newest.take_while(|(_, allowed)| allowed >> cell & 1 == 0);
        forbidding.last().map(|(since, _)| *since)
    }
}

/// A policy that allows exactly `allowed`, as an ALLOW or as a DENY.
pub fn policy(namespace: &str, allowed: Allowed, as_deny: bool) -> Authorization {
    let rule = |cell: usize| {
        let account = ACCOUNTS[cell / PORTS.len()];
        let principal = format!("cluster.local/ns/{namespace}/sa/{account}");
        let matched = Match {
            principals: vec![StringMatch {
                match_type: Some(string_match::MatchType::Exact(principal)),
            }],
            destination_ports: vec![PORTS[cell % PORTS.len()].into()],
            ..Match::default()
        };
        let clause = Clause {
            matches: vec![matched],
        };
        Rule {
            clauses: vec![clause],
        }
    };
    let cells = (0..CELLS).filter(|cell| (allowed >> cell & 1 == 1) != as_deny);
    let action = if as_deny { Action::Deny } else { Action::Allow };
    Authorization {
        name: "churn".to_owned(),
        namespace: namespace.to_owned(),
        scope: Scope::Namespace.into(),
        action: action.into(),
        rules: cells.map(rule).collect(),
        ..Authorization::default()
    }
}
