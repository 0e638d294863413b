//! The Secret of the authority: what its fields mean, what a new one holds, and what each step of a rotation makes of
//! it. Pure but for randomness; the times are arguments. Used by `vault`.
//!
//! `ca-cert.pem`, `ca-key.pem`, `cert-chain.pem` and `root-cert.pem` are Istio's fields. `root-cert.pem` holds every root
//! that clients are to trust. During a rotation `next-cert.pem` and `next-key.pem` hold the root that will sign, and
//! `since` the second (Unix time) at which the phase began.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use identity::{
    certificate::parse_pem,
    issue::{CaFiles, IssueError, Issuer, certificate_pem},
};

use super::rotation::{Phase, Plan, Step};

/// Fields of a Secret.
pub type Fields = BTreeMap<String, Vec<u8>>;

const CERTIFICATE: &str = "ca-cert.pem";
const KEY: &str = "ca-key.pem";
const CHAIN: &str = "cert-chain.pem";
const ROOTS: &str = "root-cert.pem";
const NEXT_CERTIFICATE: &str = "next-cert.pem";
const NEXT_KEY: &str = "next-key.pem";
const SINCE: &str = "since";

/// Roots are valid this much earlier, because clocks differ.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// Why the fields make no authority.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// A field is missing or no text.
    #[error("{0} is missing or no text")]
    Field(&'static str),
    /// The certificates or the key do not fit.
    #[error("{0}")]
    Issue(#[from] IssueError),
    /// The roots cannot be read.
    #[error("root-cert.pem: {0}")]
    Roots(String),
    /// No such step from here.
    #[error("the rotation is in no phase for this")]
    Phase,
}

fn text<'f>(fields: &'f Fields, name: &'static str) -> Result<&'f str, SecretError> {
    let bytes = fields.get(name).ok_or(SecretError::Field(name))?;
    std::str::from_utf8(bytes).map_err(|_| SecretError::Field(name))
}

/// A field that may be missing.
fn optional<'f>(fields: &'f Fields, name: &'static str) -> Result<&'f str, SecretError> {
    if fields.contains_key(name) {
        text(fields, name)
    } else {
        Ok("")
    }
}

/// The authority that signs. An empty `root-cert.pem` means that the signing certificate is the root, as in a Secret
/// that istiod made.
///
/// # Errors
/// See [`SecretError`].
pub fn issuer(fields: &Fields) -> Result<Issuer, SecretError> {
    let files = CaFiles {
        certificate: text(fields, CERTIFICATE)?,
        key: text(fields, KEY)?,
        chain: optional(fields, CHAIN)?,
        root: roots(fields)?,
    };
    Ok(Issuer::from_pem(&files)?)
}

/// Whether the signing certificate is itself a root, so that it may have intermediates of ours below it.
///
/// # Errors
/// When the certificates cannot be read.
pub fn is_root(fields: &Fields) -> Result<bool, SecretError> {
    let certificate = text(fields, CERTIFICATE)?;
    let roots = optional(fields, ROOTS)?;
    if roots.trim().is_empty() {
        return Ok(true);
    }
    let parsed = |pem: &str| parse_pem(pem).map_err(|error| SecretError::Roots(error.to_string()));
    let signing = parsed(certificate)?;
    Ok(parsed(roots)?
        .iter()
        .any(|root| signing.first() == Some(root)))
}

/// The roots that clients are to trust.
///
/// # Errors
/// When they are missing or no text.
pub fn roots(fields: &Fields) -> Result<&str, SecretError> {
    let roots = optional(fields, ROOTS)?;
    if roots.trim().is_empty() {
        return text(fields, CERTIFICATE);
    }
    Ok(roots)
}

/// Whether who trusts the roots of `new` accepts what `old` signed. Where the same certificate goes on signing, its owner has
/// edited the roots, and that is so.
///
/// # Errors
/// When the certificates cannot be read.
pub fn trusts(new: &Fields, old: &Fields) -> Result<bool, SecretError> {
    let parsed = |pem: &str| parse_pem(pem).map_err(|error| SecretError::Roots(error.to_string()));
    let signing = |fields| Ok::<_, SecretError>(parsed(text(fields, CERTIFICATE)?)?.swap_remove(0));
    let (was, is) = (signing(old)?, signing(new)?);
    let trusted = parsed(roots(new)?)?;
    if was == is || is_root(old)? {
        return Ok(was == is || trusted.contains(&was));
    }
    // Which of them the one that signed is below is not looked up: all must have stayed.
    Ok(parsed(roots(old)?)?
        .iter()
        .all(|root| trusted.contains(root)))
}

/// The same authority, that has these roots trusted too.
///
/// # Errors
/// When the roots cannot be read.
pub fn beside(fields: &Fields, more: &str) -> Result<Fields, SecretError> {
    let parsed = |pem: &str| parse_pem(pem).map_err(|error| SecretError::Roots(error.to_string()));
    let known = roots(fields)?;
    let (mut all, have) = (known.trim_end().to_owned(), parsed(known)?);
    for root in parsed(more)?.iter().filter(|root| !have.contains(root)) {
        all.push('\n');
        all.push_str(certificate_pem(root).trim_end());
    }
    let mut fields = fields.clone();
    fields.insert(ROOTS.into(), (all + "\n").into_bytes());
    Ok(fields)
}

/// Where the rotation stands.
///
/// # Errors
/// When the roots or the time cannot be read.
pub fn phase(fields: &Fields) -> Result<Phase, SecretError> {
    let since = || {
        let seconds = text(fields, SINCE)?.trim().parse();
        let seconds: u64 = seconds.map_err(|_| SecretError::Field(SINCE))?;
        let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        at.ok_or(SecretError::Field(SINCE))
    };
    if fields.contains_key(NEXT_CERTIFICATE) {
        return Ok(Phase::Announced(since()?));
    }
    if fields.contains_key(SINCE) {
        return Ok(Phase::Retiring(since()?));
    }
    Ok(Phase::Steady)
}

/// The fields of a new authority.
///
/// # Errors
/// When no key can be made.
pub fn create(trust_domain: &str, now: SystemTime, plan: &Plan) -> Result<Fields, SecretError> {
    let (certificate, key) = new_root(trust_domain, now, plan)?;
    Ok(BTreeMap::from([
        (CERTIFICATE.to_owned(), certificate.clone()),
        (ROOTS.to_owned(), certificate),
        (KEY.to_owned(), key),
        (CHAIN.to_owned(), Vec::new()),
    ]))
}

/// The fields after a step. A root that stays trusted is never dropped, and one that signs is always trusted.
///
/// # Errors
/// When the fields cannot be read, or are in no phase for the step.
pub fn after(
    fields: &Fields,
    step: Step,
    trust_domain: &str,
    now: SystemTime,
    plan: &Plan,
) -> Result<Fields, SecretError> {
    let mut next = fields.clone();
    let seconds = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let since = || seconds.to_string().into_bytes();
    match (step, phase(fields)?) {
        (Step::Rest, _) => {}
        (Step::Announce, Phase::Steady) => {
            let (certificate, key) = new_root(trust_domain, now, plan)?;
            let roots = [roots(fields)?.trim_end().as_bytes(), b"\n", &certificate].concat();
            next.insert(ROOTS.into(), roots);
            next.insert(NEXT_CERTIFICATE.into(), certificate);
            next.insert(NEXT_KEY.into(), key);
            next.insert(SINCE.into(), since());
        }
        (Step::Activate, Phase::Announced(_)) => {
            for (from, to) in [(NEXT_CERTIFICATE, CERTIFICATE), (NEXT_KEY, KEY)] {
                let value = next.remove(from).ok_or(SecretError::Field(from))?;
                next.insert(to.into(), value);
            }
            next.insert(CHAIN.into(), Vec::new());
            next.insert(SINCE.into(), since());
        }
        (Step::Retire, Phase::Retiring(_)) => {
            let certificate = text(fields, CERTIFICATE)?.as_bytes().to_vec();
            next.insert(ROOTS.into(), certificate);
            next.remove(SINCE);
        }
        _ => return Err(SecretError::Phase),
    }
    // What would be written must be an authority.
    issuer(&next)?;
    Ok(next)
}

fn new_root(
    trust_domain: &str,
    now: SystemTime,
    plan: &Plan,
) -> Result<(Vec<u8>, Vec<u8>), SecretError> {
    let root = Issuer::new_root(trust_domain, now - CLOCK_SKEW, plan.life + CLOCK_SKEW)?;
    let key = root.key_pem()?;
    Ok((
        root.roots_pem().as_bytes().to_vec(),
        key.as_bytes().to_vec(),
    ))
}

#[cfg(test)]
mod tests;
