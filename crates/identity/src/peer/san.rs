//! Finds the URI names of a certificate: a bounds-checked walk over DER (X.690, RFC 5280 §4.1 and
//! §4.2.1.6) that allocates nothing. Called for every handshake by `peer`.

use super::PeerError;

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// GeneralName `uniformResourceIdentifier [6]`, primitive.
const URI: u8 = 0x86;
/// id-ce-subjectAltName, 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// The URI names of a leaf.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Uris<'a> {
    /// How many there are.
    pub(super) count: usize,
    /// The first one; empty when there is none.
    pub(super) first: &'a [u8],
}

/// Walks to the subject alternative names and counts the URIs.
pub(super) fn uris(certificate: &[u8]) -> Result<Uris<'_>, PeerError> {
    let mut found = Uris {
        count: 0,
        first: &[],
    };
    let Some(names) = alternative_names(certificate)? else {
        return Ok(found);
    };
    let mut names = Der(names);
    while !names.0.is_empty() {
        let (tag, value) = names.next()?;
        if tag == URI {
            if found.count == 0 {
                found.first = value;
            }
            found.count += 1;
        }
    }
    Ok(found)
}

/// The contents of the GeneralNames sequence, if the certificate has that extension.
fn alternative_names(certificate: &[u8]) -> Result<Option<&[u8]>, PeerError> {
    let mut outer = Der(certificate);
    let mut body = Der(Der(outer.expect(SEQUENCE)?).expect(SEQUENCE)?);
    body.skip_if(VERSION)?;
    body.expect(INTEGER)?; // serial
    for _ in 0..5 {
        body.expect(SEQUENCE)?; // signature algorithm, issuer, validity, subject, public key
    }
    let mut found = None;
    while !body.0.is_empty() {
        let (tag, value) = body.next()?;
        if tag != EXTENSIONS {
            continue; // issuerUniqueID, subjectUniqueID
        }
        let mut extensions = Der(Der(value).expect(SEQUENCE)?);
        while !extensions.0.is_empty() {
            let mut extension = Der(extensions.expect(SEQUENCE)?);
            let oid = extension.expect(OID)?;
            extension.skip_if(BOOLEAN)?; // critical
            let value = extension.expect(OCTET_STRING)?;
            if oid != SUBJECT_ALT_NAME {
                continue;
            }
            let mut names = Der(value);
            if found.replace(names.expect(SEQUENCE)?).is_some() {
                return Err(PeerError::Malformed("alternative names given twice"));
            }
        }
    }
    Ok(found)
}

/// The rest of a run of DER values.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Takes the next value: its tag and contents.
    fn next(&mut self) -> Result<(u8, &'a [u8]), PeerError> {
        let cut = PeerError::Malformed("a value is cut short");
        let (&tag, rest) = self.0.split_first().ok_or(cut.clone())?;
        let (&first, mut rest) = rest.split_first().ok_or(cut.clone())?;
        let length = if first < 0x80 {
            usize::from(first)
        } else {
            let bytes = usize::from(first & 0x7f);
            // A handshake message is below 16 MiB; 0x80 (indefinite) is not DER.
            if !(1..=3).contains(&bytes) {
                return Err(PeerError::Malformed("a length that DER does not allow"));
            }
            let (digits, after) = rest.split_at_checked(bytes).ok_or(cut.clone())?;
            rest = after;
            digits
                .iter()
                .fold(0, |n, digit| n << 8 | usize::from(*digit))
        };
        let (value, after) = rest.split_at_checked(length).ok_or(cut)?;
        self.0 = after;
        Ok((tag, value))
    }

    fn expect(&mut self, tag: u8) -> Result<&'a [u8], PeerError> {
        match self.next()? {
            (found, value) if found == tag => Ok(value),
            _ => Err(PeerError::Malformed("an unexpected field")),
        }
    }

    fn skip_if(&mut self, tag: u8) -> Result<(), PeerError> {
        if self.0.first() == Some(&tag) {
            self.next()?;
        }
        Ok(())
    }
}
