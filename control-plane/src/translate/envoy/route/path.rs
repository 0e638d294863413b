//! New paths: of redirects, and of requests before they are forwarded.

use envoy_types::pb::envoy::{
    config::route::v3::{
        RedirectAction, RouteAction,
        redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
        route::Action,
        route_action::HostRewriteSpecifier,
    },
    r#type::matcher::v3::RegexMatchAndSubstitute,
};
use objects::{PathModifier, Redirect, Rewrite};

use super::{super::pack, matches::Path};

/// A redirect of requests to `own_port`, which it keeps unless it names a port or a scheme.
pub(super) fn redirect(wanted: &Redirect, path: Path<'_>, own_port: u16) -> Action {
    let code = match wanted.status_code.unwrap_or(302) {
        301 => RedirectResponseCode::MovedPermanently,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::Found,
    };
    let default_port = match wanted.scheme.as_deref() {
        Some("https") => 443,
        _ => 80,
    };
    let kept = wanted.scheme.is_none().then_some(own_port);
    // The scheme's own port goes without saying, but not where it is asked for: the client came to another.
    let port = wanted.port.or(kept.filter(|port| default_port != *port));
    let path = match (wanted.path.as_ref().map(replacement), path) {
        // Envoy's way to leave the path alone, which istiod always says.
        (None, _) => PathRewriteSpecifier::PathRedirect(String::new()),
        (Some(Replacement::Full(path)), _) => PathRewriteSpecifier::PathRedirect(path.into()),
        (Some(Replacement::Prefix(new)), Path::Prefix(prefix)) => {
            match Replaced::of(new, &prefix) {
                Replaced::Same => PathRewriteSpecifier::PathRedirect(String::new()),
                Replaced::Off(regex) => PathRewriteSpecifier::RegexRewrite(regex),
                Replaced::By(new) => PathRewriteSpecifier::PrefixRewrite(new),
            }
        }
        (Some(Replacement::Prefix(new)), _) => PathRewriteSpecifier::PrefixRewrite(new.into()),
    };
    Action::Redirect(RedirectAction {
        host_redirect: wanted.hostname.clone().unwrap_or_default(),
        port_redirect: port.map(u32::from).unwrap_or_default(),
        response_code: code.into(),
        scheme_rewrite_specifier: wanted
            .scheme
            .clone()
            .map(SchemeRewriteSpecifier::SchemeRedirect),
        path_rewrite_specifier: Some(path),
        ..RedirectAction::default()
    })
}

enum Replacement<'a> {
    Full(&'a str),
    Prefix(&'a str),
}

fn replacement(path: &PathModifier) -> Replacement<'_> {
    match path.r#type.as_str() {
        "ReplaceFullPath" => Replacement::Full(path.replace_full_path.as_deref().unwrap_or("/")),
        _ => Replacement::Prefix(path.replace_prefix_match.as_deref().unwrap_or("/")),
    }
}

/// How a prefix is replaced so that there is one `/` between what is new and what stays.
enum Replaced {
    /// Nothing changes.
    Same,
    /// It is taken off.
    Off(RegexMatchAndSubstitute),
    /// This stands in its place.
    By(String),
}

impl Replaced {
    fn of(new: &str, prefix: &str) -> Replaced {
        match (new.trim_end_matches('/'), prefix.trim_end_matches('/')) {
            ("", "") => Replaced::Same,
            ("", _) => Replaced::Off(without(prefix)),
            // The match is the single `/` that begins every path, so the new prefix must end in one.
            (new, "") => Replaced::By(format!("{new}/")),
            (new, _) => Replaced::By(new.into()),
        }
    }
}

/// Takes a whole-segment prefix off, leaving exactly one `/`.
fn without(prefix: &str) -> RegexMatchAndSubstitute {
    let prefix = pack::escape(prefix.trim_end_matches('/'));
    RegexMatchAndSubstitute {
        pattern: Some(pack::regex_matcher(format!("^{prefix}(/?)(.*)"))),
        substitution: r"/\2".into(),
    }
}

/// Changes host and path; false if that cannot be done with this match.
pub(super) fn rewrite(action: &mut RouteAction, wanted: &Rewrite, path: Path<'_>) -> bool {
    action.host_rewrite_specifier = wanted
        .hostname
        .clone()
        .map(HostRewriteSpecifier::HostRewriteLiteral);
    let Some(new) = &wanted.path else { return true };
    match (replacement(new), path) {
        (Replacement::Full(full), _) => {
            action.regex_rewrite = Some(RegexMatchAndSubstitute {
                pattern: Some(pack::regex_matcher("/.*")),
                // A backslash begins a group reference.
                substitution: full.replace('\\', r"\\"),
            });
            true
        }
        (Replacement::Prefix(new), Path::Prefix(prefix)) => {
            match Replaced::of(new, &prefix) {
                Replaced::Same => {}
                Replaced::Off(regex) => action.regex_rewrite = Some(regex),
                Replaced::By(new) => action.prefix_rewrite = new,
            }
            true
        }
        (Replacement::Prefix(_), _) => false,
    }
}
