//! A front proxy says who asks: headers of a client whose certificate is of the proxies' own CA.

use std::sync::Arc;

use http::HeaderMap;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::certificate;
use crate::attributes::UserInfo;
use crate::bootstrap::objects::{AuthenticationInfo, RequestHeaderInfo};

/// Tells the certificates of front proxies from those of users, and reads what front proxies say.
#[derive(Clone, Debug)]
pub struct FrontProxies {
    info: RequestHeaderInfo,
    proxies: Arc<dyn ClientCertVerifier>,
    users: Option<Arc<dyn ClientCertVerifier>>,
}

/// What the chain of a connection is good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub is_user: bool,
    pub is_proxy: bool,
}

impl FrontProxies {
    /// `None` when no front proxy is configured, or its CA cannot be read.
    pub fn new(authentication: &AuthenticationInfo) -> Option<Self> {
        let info = authentication.request_header.clone()?;
        let proxies = verifier(&info.client_ca)?;
        Some(Self { info, proxies, users: verifier(&authentication.client_ca) })
    }

    /// TLS has verified the chain against all CAs together; here it is told which.
    pub fn standing(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Standing {
        let Some((leaf, intermediates)) = chain.split_first() else { return Standing::default() };
        let verifies = |by: &Arc<dyn ClientCertVerifier>| by.verify_client_cert(leaf, intermediates, now).is_ok();
        let allowed = &self.info.allowed_names;
        let name = || certificate::user(leaf).map(|user| user.name).unwrap_or_default();
        Standing {
            is_user: self.users.as_ref().is_some_and(verifies),
            is_proxy: verifies(&self.proxies) && (allowed.is_empty() || allowed.contains(&name())),
        }
    }

    /// The user that a front proxy names; `None` when it names nobody.
    pub fn user(&self, headers: &HeaderMap) -> Option<UserInfo> {
        let values = |name: &str| {
            let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
            values.map(str::to_owned).collect::<Vec<_>>()
        };
        let first = |names: &[String]| names.iter().flat_map(|name| values(name)).find(|value| !value.is_empty());
        let mut user = UserInfo { name: first(&self.info.username_headers)?, ..UserInfo::default() };
        user.uid = first(&self.info.uid_headers).unwrap_or_default();
        user.groups = self.info.group_headers.iter().flat_map(|name| values(name)).collect();
        for header in headers.keys() {
            let prefix = self.info.extra_header_prefixes.iter().map(|prefix| prefix.to_ascii_lowercase());
            for key in prefix.filter_map(|prefix| header.as_str().strip_prefix(&prefix).map(str::to_owned)) {
                let key = crate::http::path::percent_decode(&key).unwrap_or(key);
                user.extra.entry(key).or_default().extend(values(header.as_str()));
            }
        }
        Some(user)
    }
}

fn verifier(ca_pem: &str) -> Option<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(ca_pem.as_bytes()).filter_map(Result::ok));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    use super::*;

    struct Ca {
        pem: String,
        issuer: Issuer<'static, KeyPair>,
    }

    fn ca(name: &str) -> Ca {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Ca { pem: params.self_signed(&key).unwrap().pem(), issuer: Issuer::new(params, key) }
    }

    fn client(ca: &Ca, name: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.signed_by(&KeyPair::generate().unwrap(), &ca.issuer).unwrap().der().clone()
    }

    fn list(text: &str) -> Vec<String> {
        vec![text.to_owned()]
    }

    fn front_proxies(users: &Ca, proxies: &Ca) -> FrontProxies {
        let info = RequestHeaderInfo {
            client_ca: proxies.pem.clone(),
            username_headers: list("X-Remote-User"),
            uid_headers: list("X-Remote-Uid"),
            group_headers: list("X-Remote-Group"),
            extra_header_prefixes: list("X-Remote-Extra-"),
            allowed_names: list("front-proxy-client"),
        };
        let info = AuthenticationInfo { client_ca: users.pem.clone(), request_header: Some(info) };
        FrontProxies::new(&info).unwrap()
    }

    #[test]
    fn the_ca_decides_whether_a_certificate_is_a_users_or_a_proxys() {
        let (users, proxies) = (ca("users"), ca("proxies"));
        let front_proxies = front_proxies(&users, &proxies);
        let standing = |certificate| {
            let standing = front_proxies.standing(&[certificate], UnixTime::now());
            (standing.is_user, standing.is_proxy)
        };
        assert_eq!(standing(client(&users, "front-proxy-client")), (true, false));
        assert_eq!(standing(client(&proxies, "front-proxy-client")), (false, true));
        assert_eq!(standing(client(&proxies, "admin")), (false, false));
        assert_eq!(standing(client(&ca("users"), "admin")), (false, false));
    }

    #[test]
    fn a_proxy_names_user_groups_and_extra() {
        let front_proxies = front_proxies(&ca("users"), &ca("proxies"));
        let mut headers = HeaderMap::new();
        assert_eq!(front_proxies.user(&headers), None);
        for (name, value) in [
            ("x-remote-user", "jane"),
            ("x-remote-group", "a"),
            ("x-remote-group", "b"),
            ("x-remote-extra-example.com%2fscope", "s"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let user = front_proxies.user(&headers).unwrap();
        assert_eq!((user.name.as_str(), user.groups.len()), ("jane", 2));
        assert_eq!(user.extra["example.com/scope"], ["s"]);
    }
}
