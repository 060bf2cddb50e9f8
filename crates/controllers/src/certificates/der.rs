//! The certificate that is signed, as DER (RFC 5280): the request's own subject, key and names, byte for byte.

use jiff::Timestamp;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry;

use super::request::Request;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const CONTEXT_0: u8 = 0xa0;
const CONTEXT_3: u8 = 0xa3;
const TRUE: [u8; 3] = [0x01, 0x01, 0xff];

/// 2.5.29.x, the arc of certificate extensions.
const fn extension_oid(last: u8) -> [u8; 3] {
    [0x55, 0x1d, last]
}
const KEY_USAGE: [u8; 3] = extension_oid(15);
const SUBJECT_ALT_NAME: [u8; 3] = extension_oid(17);
const BASIC_CONSTRAINTS: [u8; 3] = extension_oid(19);
const AUTHORITY_KEY_IDENTIFIER: [u8; 3] = extension_oid(35);
const EXTENDED_KEY_USAGE: [u8; 3] = extension_oid(37);

/// Bits of the keyUsage extension by their names in the API; bit 0 is the most significant.
const KEY_USAGES: &[(&str, u32)] = &[
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];

/// Object identifiers (DER content) of extended usages by their names in the API.
const EXTENDED_USAGES: &[(&str, &[u8])] = &[
    ("any", &[0x55, 0x1d, 0x25, 0x00]),
    ("server auth", &[0x2b, 6, 1, 5, 5, 7, 3, 1]),
    ("client auth", &[0x2b, 6, 1, 5, 5, 7, 3, 2]),
    ("code signing", &[0x2b, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", &[0x2b, 6, 1, 5, 5, 7, 3, 4]),
    ("s/mime", &[0x2b, 6, 1, 5, 5, 7, 3, 4]),
    ("ipsec end system", &[0x2b, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[0x2b, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[0x2b, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[0x2b, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[0x2b, 6, 1, 5, 5, 7, 3, 9]),
    ("microsoft sgc", &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 10, 3, 3]),
    ("netscape sgc", &[0x60, 0x86, 0x48, 1, 0x86, 0xf8, 0x42, 4, 1]),
];

/// What a certificate says beside what its request asked for.
pub(crate) struct Terms<'a> {
    /// The CA's subject, DER.
    pub issuer: &'a [u8],
    /// The CA's subjectKeyIdentifier, when it has one.
    pub authority_key_id: Option<&'a [u8]>,
    /// DER of the AlgorithmIdentifier the CA signs with.
    pub signature_algorithm: &'a [u8],
    /// Big endian, positive.
    pub serial: [u8; 16],
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub usages: &'a [String],
}

/// A TLV with the shortest length.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len();
    if length < 0x80 {
        out.push(u8::try_from(length).unwrap_or(0x7f));
    } else {
        let bytes = length.to_be_bytes();
        let significant = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
        out.push(0x80 | u8::try_from(significant.len()).unwrap_or(8));
        out.extend_from_slice(significant);
    }
    out.extend_from_slice(content);
    out
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(SEQUENCE, &parts.concat())
}

/// A positive INTEGER.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let significant = &bytes[bytes.iter().take_while(|byte| **byte == 0).count().min(bytes.len() - 1)..];
    match significant[0] & 0x80 {
        0 => tlv(INTEGER, significant),
        _ => tlv(INTEGER, &[&[0], significant].concat()),
    }
}

/// UTCTime until 2049, GeneralizedTime after, as RFC 5280 wants.
fn time(at: Timestamp) -> Vec<u8> {
    let year_2050 = Timestamp::from_second(2_524_608_000).unwrap_or(Timestamp::MAX);
    match at < year_2050 {
        true => tlv(UTC_TIME, at.strftime("%y%m%d%H%M%SZ").to_string().as_bytes()),
        false => tlv(GENERALIZED_TIME, at.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes()),
    }
}

fn extension(oid: [u8; 3], critical: bool, value: &[u8]) -> Vec<u8> {
    let flag: &[u8] = if critical { &TRUE } else { &[] };
    sequence(&[&tlv(OID, &oid), flag, &tlv(OCTET_STRING, value)])
}

/// The keyUsage BIT STRING; None when no usage is one of its bits.
fn key_usage(usages: &[String]) -> Option<Vec<u8>> {
    let bits = KEY_USAGES.iter().filter(|(name, _)| usages.iter().any(|usage| usage == name)).map(|(_, bit)| *bit);
    let set = bits.fold(0u16, |set, bit| set | (0x8000 >> bit));
    if set == 0 {
        return None;
    }
    let bytes = set.to_be_bytes();
    let content = if bytes[1] == 0 { &bytes[..1] } else { &bytes[..] };
    let unused = content.last().map_or(0, |last| last.trailing_zeros());
    Some(tlv(BIT_STRING, &[&[u8::try_from(unused).unwrap_or(0)], content].concat()))
}

fn extended_usage(usages: &[String]) -> Option<Vec<u8>> {
    let mut oids: Vec<&[u8]> = Vec::new();
    for (_, oid) in EXTENDED_USAGES.iter().filter(|(name, _)| usages.iter().any(|usage| usage == name)) {
        if !oids.contains(oid) {
            oids.push(oid);
        }
    }
    let list: Vec<u8> = oids.iter().flat_map(|oid| tlv(OID, oid)).collect();
    (!oids.is_empty()).then(|| tlv(SEQUENCE, &list))
}

/// The part that is signed.
pub(crate) fn to_be_signed(request: &Request, terms: &Terms<'_>) -> Vec<u8> {
    let mut extensions = Vec::new();
    if let Some(usage) = key_usage(terms.usages) {
        extensions.extend(extension(KEY_USAGE, true, &usage));
    }
    if let Some(usage) = extended_usage(terms.usages) {
        extensions.extend(extension(EXTENDED_KEY_USAGE, false, &usage));
    }
    extensions.extend(extension(BASIC_CONSTRAINTS, true, &sequence(&[])));
    if let Some(id) = terms.authority_key_id {
        // keyIdentifier is [0] IMPLICIT OCTET STRING.
        extensions.extend(extension(AUTHORITY_KEY_IDENTIFIER, false, &sequence(&[&tlv(0x80, id)])));
    }
    if let Some(names) = &request.alternative_names {
        let subject_is_empty = request.subject == [SEQUENCE, 0];
        extensions.extend(extension(SUBJECT_ALT_NAME, subject_is_empty, names));
    }
    let version_3 = tlv(CONTEXT_0, &tlv(INTEGER, &[2]));
    sequence(&[
        &version_3,
        &integer(&terms.serial),
        terms.signature_algorithm,
        terms.issuer,
        &sequence(&[&time(terms.not_before), &time(terms.not_after)]),
        &request.subject,
        &request.public_key,
        &tlv(CONTEXT_3, &tlv(SEQUENCE, &extensions)),
    ])
}

/// The certificate: what was signed, how, and the signature.
pub(crate) fn certificate(to_be_signed: &[u8], signature_algorithm: &[u8], signature: &[u8]) -> Vec<u8> {
    let bits = tlv(BIT_STRING, &[&[0], signature].concat());
    sequence(&[to_be_signed, signature_algorithm, &bits])
}

/// The value of the request's subjectAltName extension, as it stands there.
pub(crate) fn requested_alternative_names(csr: &X509CertificationRequest<'_>) -> Option<Vec<u8>> {
    use x509_parser::cri_attributes::ParsedCriAttribute;
    let attributes = csr.certification_request_info.iter_attributes();
    let mut extensions = attributes.filter_map(|attribute| match attribute.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(request) => Some(&request.extensions),
        _ => None,
    });
    let mut all = extensions.by_ref().flatten();
    all.find(|one| one.oid == oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME).map(|one| one.value.to_vec())
}
