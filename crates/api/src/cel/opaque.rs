//! Values of Kubernetes' extension libraries: quantities, addresses, versions, formats, authorization checks.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::quantity::Quantity;
use crate::url::Url;
use crate::validate::names::{self, Messages};

use super::functions;
use super::semver::Version;

#[derive(Clone, Debug)]
pub enum Opaque {
    Quantity(Arc<Quantity>),
    Url(Arc<Url>),
    Ip(IpAddr),
    /// As written; the address need not be the network's.
    Cidr(IpAddr, u8),
    Semver(Arc<Version>),
    Format(&'static NamedFormat),
    Authorizer(Asker),
    PathCheck(Asker, Arc<str>),
    GroupCheck(Asker, Arc<str>),
    ResourceCheck(Arc<ResourceCheck>),
    Decision(Arc<Decision>),
}

/// Decides for the API server whether a user may do something.
pub trait Authorizer: Send + Sync {
    /// May the user of the request, or a service account (namespace and name), do `verb`?
    fn decide(&self, service_account: Option<(&str, &str)>, verb: &str, check: &Check<'_>) -> Decision;
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub enum Check<'c> {
    Path(&'c str),
    Resource(&'c ResourceCheck),
}

/// Who is asked, and for whom.
#[derive(Clone)]
pub struct Asker {
    pub(super) authorizer: Arc<dyn Authorizer>,
    pub(super) service_account: Option<Arc<(String, String)>>,
}

impl Asker {
    pub fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer, service_account: None }
    }

    pub(super) fn ask(&self, verb: &str, check: &Check<'_>) -> Decision {
        let account = self.service_account.as_ref().map(|account| (account.0.as_str(), account.1.as_str()));
        self.authorizer.decide(account, verb, check)
    }
}

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asker").field("service_account", &self.service_account).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug)]
pub struct ResourceCheck {
    pub(super) asker: Asker,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub field_selector: String,
    pub label_selector: String,
}

impl ResourceCheck {
    pub fn new(asker: Asker, group: &str, resource: &str) -> Self {
        Self {
            asker,
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource: String::new(),
            namespace: String::new(),
            name: String::new(),
            field_selector: String::new(),
            label_selector: String::new(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    pub reason: String,
    /// What kept the authorizer from deciding.
    pub error: Option<String>,
}

/// A format that strings can have, as `format.NAME()` returns it.
pub struct NamedFormat {
    pub(super) name: &'static str,
    pub(super) validate: fn(&str) -> Messages,
    /// Characters of the longest expression that upstream checks it with; cost follows.
    pub(super) regex_chars: u64,
}

impl fmt::Debug for NamedFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

const fn named(name: &'static str, validate: fn(&str) -> Messages, regex_chars: u64) -> NamedFormat {
    NamedFormat { name, validate, regex_chars }
}

fn said(ok: bool, message: &str) -> Messages {
    if ok { Vec::new() } else { vec![message.to_owned()] }
}

/// All formats.
pub(super) static FORMATS: [NamedFormat; 13] = [
    named("dns1123Label", |s| names::label_name(s, false), 30),
    named("dns1123Subdomain", |s| names::subdomain_name(s, false), 60),
    named("dns1035Label", names::dns1035_label, 30),
    named("qualifiedName", names::qualified_name, 60),
    named("dns1123LabelPrefix", |s| names::label_name(s, true), 30),
    named("dns1123SubdomainPrefix", |s| names::subdomain_name(s, true), 60),
    named("dns1035LabelPrefix", |s| names::dns1035_label(&names::mask_trailing_dash(s)), 30),
    named("labelValue", names::label_value, 40),
    named("uri", |s| Url::parse_request(s).err().into_iter().collect(), 1103),
    named("uuid", |s| said(is_uuid(s), "does not match the UUID format"), 90),
    named("byte", |s| said(is_base64(s), "invalid base64"), 84),
    named("date", |s| said(is_date(s), "invalid date"), 124),
    named("datetime", |s| said(super::standard::parse_timestamp(s).is_some(), "invalid datetime"), 124),
];

fn is_uuid(text: &str) -> bool {
    let plain: String = text.chars().filter(|c| *c != '-').collect();
    plain.len() == 32 && plain.chars().all(|c| c.is_ascii_hexdigit())
}

fn is_base64(text: &str) -> bool {
    use base64::Engine;
    !text.is_empty() && base64::engine::general_purpose::STANDARD.decode(text).is_ok()
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

impl Opaque {
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Quantity(_) => functions::QUANTITY,
            Self::Url(_) => functions::URL,
            Self::Ip(_) => functions::IP,
            Self::Cidr(..) => functions::CIDR,
            Self::Semver(_) => functions::SEMVER,
            Self::Format(_) => functions::FORMAT,
            Self::Authorizer(_) => functions::AUTHORIZER,
            Self::PathCheck(..) => functions::PATH_CHECK,
            Self::GroupCheck(..) => functions::GROUP_CHECK,
            Self::ResourceCheck(_) => functions::RESOURCE_CHECK,
            Self::Decision(_) => functions::DECISION,
        }
    }

    /// The value as text, where it has one.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::Quantity(quantity) => Some(quantity.to_string()),
            Self::Url(url) => Some(url.text().to_owned()),
            Self::Ip(ip) => Some(ip.to_string()),
            Self::Cidr(ip, bits) => Some(format!("{ip}/{bits}")),
            Self::Semver(version) => Some(version.to_string()),
            _ => None,
        }
    }

    pub(super) fn equals(&self, other: &Opaque) -> bool {
        match (self, other) {
            (Self::Quantity(a), Self::Quantity(b)) => a == b,
            (Self::Url(a), Self::Url(b)) => a.text() == b.text(),
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a, n), Self::Cidr(b, m)) => a == b && n == m,
            (Self::Semver(a), Self::Semver(b)) => a.precedence(b).is_eq(),
            (Self::Format(a), Self::Format(b)) => a.name == b.name,
            (Self::Decision(a), Self::Decision(b)) => a == b,
            _ => false,
        }
    }

    /// Bytes of an address, or of a network's prefix.
    pub(super) fn size(&self) -> Option<u64> {
        match self {
            Self::Ip(ip) => Some(if ip.is_ipv4() { 4 } else { 16 }),
            Self::Cidr(_, bits) => Some(u64::from(*bits).div_ceil(8)),
            _ => None,
        }
    }
}
