//! What is in a PKCS #10 request, and whether it is what a signer is for.

use std::collections::BTreeSet;

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer as _;

use super::{API_SERVER_CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY_UNKNOWN};

/// The parts of a request that decisions and certificates are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// The subject's DER.
    pub subject: Vec<u8>,
    pub common_name: String,
    pub organizations: Vec<String>,
    /// The public key's DER (SubjectPublicKeyInfo).
    pub public_key: Vec<u8>,
    /// The value of the subjectAltName extension, if it has one.
    pub alternative_names: Option<Vec<u8>>,
    pub n_dns: usize,
    pub n_ips: usize,
    pub n_emails: usize,
    pub n_uris: usize,
}

impl Request {
    /// From the PEM of `spec.request`.
    pub(crate) fn parse(pem: &[u8]) -> Result<Self, String> {
        const NOT_PEM: &str = "PEM block type must be CERTIFICATE REQUEST";
        let (_, pem) = parse_x509_pem(pem).map_err(|_| NOT_PEM.to_owned())?;
        if pem.label != "CERTIFICATE REQUEST" {
            return Err(NOT_PEM.to_owned());
        }
        let (_, csr) = X509CertificationRequest::from_der(&pem.contents).map_err(|error| error.to_string())?;
        let info = &csr.certification_request_info;
        let texts = |attributes: Vec<String>| attributes;
        let mut request = Request {
            subject: info.subject.as_raw().to_vec(),
            common_name: info
                .subject
                .iter_common_name()
                .filter_map(|one| one.as_str().ok())
                .last()
                .unwrap_or("")
                .into(),
            organizations: texts(
                info.subject.iter_organization().filter_map(|one| one.as_str().ok()).map(str::to_owned).collect(),
            ),
            public_key: info.subject_pki.raw.to_vec(),
            ..Request::default()
        };
        for extension in csr.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                request.count(&names.general_names);
            }
        }
        request.alternative_names = super::der::requested_alternative_names(&csr);
        Ok(request)
    }

    fn count(&mut self, names: &[GeneralName<'_>]) {
        for name in names {
            match name {
                GeneralName::DNSName(_) => self.n_dns += 1,
                GeneralName::IPAddress(_) => self.n_ips += 1,
                GeneralName::RFC822Name(_) => self.n_emails += 1,
                GeneralName::URI(_) => self.n_uris += 1,
                _ => {}
            }
        }
    }

    fn is_of_nodes(&self) -> Result<(), String> {
        if self.organizations == ["system:nodes"] { Ok(()) } else { refuse("subject organization is not system:nodes") }
    }

    fn is_named_as_node(&self) -> Result<(), String> {
        match self.common_name.starts_with("system:node:") {
            true => Ok(()),
            false => refuse("subject common name does not begin with system:node:"),
        }
    }

    /// A certificate with which a kubelet speaks to the API server.
    pub(crate) fn check_kubelet_client(&self, usages: &[String]) -> Result<(), String> {
        self.is_of_nodes()?;
        for (count, kind) in [(self.n_dns, "DNS"), (self.n_emails, "Email"), (self.n_ips, "IP"), (self.n_uris, "URI")] {
            if count > 0 {
                return refuse(&format!("{kind} subjectAltNames are not allowed"));
            }
        }
        self.is_named_as_node()?;
        check_usages(usages, "client auth")
    }

    /// A certificate with which a kubelet serves.
    fn check_kubelet_serving(&self, usages: &[String]) -> Result<(), String> {
        self.is_of_nodes()?;
        if self.n_dns == 0 && self.n_ips == 0 {
            return refuse("DNS or IP subjectAltName is required");
        }
        for (count, kind) in [(self.n_emails, "Email"), (self.n_uris, "URI")] {
            if count > 0 {
                return refuse(&format!("{kind} subjectAltNames are not allowed"));
            }
        }
        check_usages(usages, "server auth")?;
        self.is_named_as_node()
    }

    /// Whether the signer of this name signs the request; upstream's reason when not. None: not a signer of ours.
    pub(crate) fn check_for(&self, signer: &str, usages: &[String]) -> Option<Result<(), String>> {
        match signer {
            API_SERVER_CLIENT => Some(check_client_usages(usages)),
            KUBELET_CLIENT => Some(self.check_kubelet_client(usages)),
            KUBELET_SERVING => Some(self.check_kubelet_serving(usages)),
            LEGACY_UNKNOWN => Some(Ok(())),
            _ => None,
        }
    }
}

fn refuse(reason: &str) -> Result<(), String> {
    Err(reason.to_owned())
}

/// Exactly `purpose` and digital signature; key encipherment only where the key is RSA, which is not checked.
fn check_usages(usages: &[String], purpose: &str) -> Result<(), String> {
    let given: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    let full = BTreeSet::from([purpose, "digital signature", "key encipherment"]);
    let without_rsa = BTreeSet::from([purpose, "digital signature"]);
    if given == full || given == without_rsa {
        return Ok(());
    }
    Err(format!("usages did not match [{}]", full.into_iter().collect::<Vec<_>>().join(" ")))
}

fn check_client_usages(usages: &[String]) -> Result<(), String> {
    let optional = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|usage| !optional.contains(&usage.as_str())) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    match usages.iter().any(|usage| usage == "client auth") {
        true => Ok(()),
        false => refuse("missing required usage for client certificate: client auth"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    /// The PEM of a request.
    pub(crate) fn made(organization: &str, common_name: &str, dns: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = dns.iter().map(|name| SanType::DnsName((*name).try_into().unwrap())).collect();
        let key = KeyPair::generate().unwrap();
        params.serialize_request(&key).unwrap().pem().unwrap().into_bytes()
    }

    fn usages(list: &[&str]) -> Vec<String> {
        list.iter().map(|usage| (*usage).to_owned()).collect()
    }

    #[test]
    fn kubelets_get_what_is_theirs_and_nothing_else() {
        let client = usages(&["digital signature", "client auth"]);
        let serving = usages(&["digital signature", "key encipherment", "server auth"]);
        let node = Request::parse(&made("system:nodes", "system:node:a", &[])).unwrap();
        let named = Request::parse(&made("system:nodes", "system:node:a", &["a"])).unwrap();
        let user = Request::parse(&made("parity", "parity", &[])).unwrap();
        for (request, signer, usages, expected) in [
            (&node, KUBELET_CLIENT, &client, Ok(())),
            (&named, KUBELET_CLIENT, &client, Err("DNS subjectAltNames are not allowed")),
            (
                &node,
                KUBELET_CLIENT,
                &serving,
                Err("usages did not match [client auth digital signature key encipherment]"),
            ),
            (&user, KUBELET_CLIENT, &client, Err("subject organization is not system:nodes")),
            (&named, KUBELET_SERVING, &serving, Ok(())),
            (&node, KUBELET_SERVING, &serving, Err("DNS or IP subjectAltName is required")),
            (
                &named,
                KUBELET_SERVING,
                &client,
                Err("usages did not match [digital signature key encipherment server auth]"),
            ),
            (&user, API_SERVER_CLIENT, &client, Ok(())),
            (&user, API_SERVER_CLIENT, &serving, Err("invalid usage for client certificate: server auth")),
        ] {
            let expected = expected.map_err(str::to_owned);
            assert_eq!(request.check_for(signer, usages), Some(expected), "{signer} {usages:?}");
        }
        assert_eq!(node.check_for("example.com/a", &client), None);
        assert_eq!(Request::parse(b"x").unwrap_err(), "PEM block type must be CERTIFICATE REQUEST");
    }
}
