//! The user in a client certificate: common name, organizations as groups.

use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::attributes::UserInfo;

/// Subject attribute with the user's uid.
const UID_OID: &str = "1.3.6.1.4.1.57683.2";
pub(super) const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// The user of a certificate that TLS verified; `None` when it has no common name.
pub fn user(der: &[u8]) -> Option<UserInfo> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().ok().map(str::to_owned);
    let name = subject.iter_common_name().next().and_then(text).filter(|name| !name.is_empty())?;
    let groups = subject.iter_organization().filter_map(text).collect();
    let uid = subject
        .iter_attributes()
        .find(|attribute| attribute.attr_type().to_id_string() == UID_OID)
        .and_then(text)
        .unwrap_or_default();
    let hash: String = Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect();
    let extra = [(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={hash}")])].into();
    Some(UserInfo { name, uid, groups, extra })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(name: &str, groups: &[&str]) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        for group in groups {
            params.distinguished_name.push(rcgen::DnType::OrganizationName, *group);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn common_name_is_the_user_and_organization_the_group() {
        let der = certificate("kubernetes-admin", &["system:masters"]);
        let user = user(&der).unwrap();
        assert_eq!(
            (user.name.as_str(), user.groups.as_slice()),
            ("kubernetes-admin", &["system:masters".to_owned()][..])
        );
        let id = &user.extra["authentication.kubernetes.io/credential-id"][0];
        assert_eq!((&id[..11], id.len()), ("X509SHA256=", 11 + 64));
    }

    #[test]
    fn a_certificate_without_common_name_is_nobody() {
        assert_eq!(user(&certificate("", &["system:masters"])), None);
        assert_eq!(user(b"not a certificate"), None);
    }
}
