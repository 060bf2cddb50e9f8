//! The cluster's own PKI: a CA for the API and everything that uses it, one for the store and its members, one for front
//! proxies, certificates below them, and the service account key. The store has a CA of its own because every node has a client
//! certificate of the first one; whoever has a certificate of the front proxies' CA may speak for anybody.
//!
//! Files live in `DATA/pki`, keys with mode 0600, each written whole or not at all. What exists is used as it is; a serving
//! certificate that does not cover an address that is asked for now, or is about to expire, is issued again.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Common names of the CAs.
const CLUSTER_CA: &str = "quarterdeck-ca";
const STORE_CA: &str = "quarterdeck-store-ca";
const FRONT_PROXY_CA: &str = "quarterdeck-front-proxy-ca";
/// Validity of a CA.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Validity of everything below it.
const LEAF_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// A certificate is issued again when less than this is left.
const RENEW_BEFORE: Duration = Duration::from_secs(90 * 24 * 3600);
/// Clocks of clients may be behind ours by this much.
const BACKDATE: Duration = Duration::from_secs(300);

/// The PKI of a data directory.
#[derive(Debug)]
pub(crate) struct Pki {
    dir: PathBuf,
    cluster: Authority,
    store: Authority,
    front_proxy: Authority,
}

/// A CA: its certificate, and the key that signs with it.
#[derive(Debug)]
struct Authority {
    pem: String,
    key_pem: String,
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub certificate_pem: String,
    pub key_pem: String,
}

/// What a certificate is for.
#[derive(Clone, Debug)]
pub(crate) enum Purpose<'a> {
    /// A server reachable by these names and addresses.
    Serving(&'a [San]),
    /// A client: user name and groups.
    Client { user: &'a str, groups: &'a [&'a str] },
    /// A server of the store's API.
    StoreServing(&'a [San]),
    /// A client of the store's API.
    StoreClient { user: &'a str },
    /// A client of aggregated servers that says for whom it speaks.
    FrontProxy { user: &'a str },
    /// A member of the store: a server and a client to the other members.
    StorePeer(&'a [San]),
}

impl Purpose<'_> {
    /// The names a server is to be reached by.
    fn sans(&self) -> &[San] {
        match self {
            Self::Serving(sans) | Self::StoreServing(sans) | Self::StorePeer(sans) => sans,
            Self::Client { .. } | Self::StoreClient { .. } | Self::FrontProxy { .. } => &[],
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum San {
    Dns(String),
    Ip(IpAddr),
}

impl San {
    /// An IP address when the text is one, a DNS name otherwise.
    pub(crate) fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Dns(text.to_owned()), Self::Ip)
    }
}

impl Pki {
    /// Opens the PKI in `dir`, making the CAs on the first start.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let cluster = Authority::open(dir, "ca", CLUSTER_CA)?;
        let store = Authority::open(dir, "store-ca", STORE_CA)?;
        let front_proxy = Authority::open(dir, "front-proxy-ca", FRONT_PROXY_CA)?;
        Ok(Self { dir: dir.to_owned(), cluster, store, front_proxy })
    }

    /// A PKI that exists only in memory.
    pub(crate) fn in_memory() -> Result<Self> {
        let [cluster, store, front_proxy] = [CLUSTER_CA, STORE_CA, FRONT_PROXY_CA].map(Authority::make);
        Ok(Self { dir: PathBuf::new(), cluster: cluster?, store: store?, front_proxy: front_proxy? })
    }

    /// The certificate of the API's CA.
    pub(crate) fn ca_pem(&self) -> &str {
        &self.cluster.pem
    }

    /// The certificate of the store's CA.
    pub(crate) fn store_ca_pem(&self) -> &str {
        &self.store.pem
    }

    /// The certificate of the front proxies' CA.
    pub(crate) fn front_proxy_ca_pem(&self) -> &str {
        &self.front_proxy.pem
    }

    fn authority(&self, purpose: &Purpose<'_>) -> &Authority {
        match purpose {
            Purpose::Serving(_) | Purpose::Client { .. } => &self.cluster,
            Purpose::StoreServing(_) | Purpose::StoreClient { .. } | Purpose::StorePeer(_) => &self.store,
            Purpose::FrontProxy { .. } => &self.front_proxy,
        }
    }

    /// For those who sign with the CA.
    pub(crate) fn ca_key_pem(&self) -> &str {
        &self.cluster.key_pem
    }

    /// The identity kept as `name.crt` and `name.key`, issued when missing, outdated or not covering `purpose`.
    pub(crate) fn identity(&self, name: &str, purpose: &Purpose<'_>) -> Result<Identity> {
        if self.dir.as_os_str().is_empty() {
            return self.issue(purpose);
        }
        let certificate = self.dir.join(format!("{name}.crt"));
        let key = self.dir.join(format!("{name}.key"));
        if certificate.exists() && key.exists() {
            let identity = Identity { certificate_pem: read(&certificate)?, key_pem: read(&key)? };
            if is_usable(&identity.certificate_pem, &self.authority(purpose).pem, purpose) {
                return Ok(identity);
            }
        }
        let identity = self.issue(purpose)?;
        write_file(&key, identity.key_pem.as_bytes(), 0o600)?;
        write_file(&certificate, identity.certificate_pem.as_bytes(), 0o644)?;
        Ok(identity)
    }

    /// The key that signs service account tokens (ECDSA P-256, PKCS #8 PEM).
    pub(crate) fn service_account_key(&self) -> Result<String> {
        let path = self.dir.join("sa.key");
        let in_memory = self.dir.as_os_str().is_empty();
        if !in_memory && path.exists() {
            return read(&path);
        }
        let key = KeyPair::generate().context("cannot generate the service account key")?;
        if !in_memory {
            write_file(&path, key.serialize_pem().as_bytes(), 0o600)?;
            write_file(&self.dir.join("sa.pub"), key.public_key_pem().as_bytes(), 0o644)?;
        }
        Ok(key.serialize_pem())
    }

    fn issue(&self, purpose: &Purpose<'_>) -> Result<Identity> {
        let authority = self.authority(purpose);
        let ca_key = KeyPair::from_pem(&authority.key_pem).context("the CA key is unreadable")?;
        let issuer = Issuer::from_ca_cert_pem(&authority.pem, ca_key).context("the CA certificate is unreadable")?;
        let mut params = parameters(LEAF_LIFETIME);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let mut name = |kind: DnType, value: &str| params.distinguished_name.push(kind, value);
        let (is_server, is_client) = match purpose {
            Purpose::Serving(_) => {
                name(DnType::CommonName, "kube-apiserver");
                (true, false)
            }
            Purpose::Client { user, groups } => {
                groups.iter().for_each(|group| name(DnType::OrganizationName, group));
                name(DnType::CommonName, user);
                (false, true)
            }
            Purpose::StoreServing(_) => {
                name(DnType::CommonName, "quarterdeck-store");
                (true, false)
            }
            Purpose::StoreClient { user } | Purpose::FrontProxy { user } => {
                name(DnType::CommonName, user);
                (false, true)
            }
            Purpose::StorePeer(_) => {
                name(DnType::CommonName, "quarterdeck-store-peer");
                (true, true)
            }
        };
        let usages =
            [(is_server, ExtendedKeyUsagePurpose::ServerAuth), (is_client, ExtendedKeyUsagePurpose::ClientAuth)];
        params.extended_key_usages = usages.into_iter().filter(|(wanted, _)| *wanted).map(|(_, usage)| usage).collect();
        params.subject_alt_names = purpose.sans().iter().map(subject_alt_name).collect::<Result<_>>()?;
        let key = KeyPair::generate().context("cannot generate a key")?;
        let certificate = params.signed_by(&key, &issuer).context("cannot sign a certificate")?;
        Ok(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

impl Authority {
    /// The CA kept as `name.crt` and `name.key`, made when there is none.
    fn open(dir: &Path, name: &str, common_name: &str) -> Result<Self> {
        let (certificate, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        if !certificate.exists() {
            if key.exists() {
                bail!("{} exists but {} does not: restore the certificate", key.display(), certificate.display());
            }
            let made = Self::make(common_name)?;
            write_file(&key, made.key_pem.as_bytes(), 0o600)?;
            write_file(&certificate, made.pem.as_bytes(), 0o644)?;
        }
        Ok(Self { pem: read(&certificate)?, key_pem: read(&key)? })
    }

    fn make(common_name: &str) -> Result<Self> {
        let made = make_ca(common_name)?;
        Ok(Self { pem: made.certificate_pem, key_pem: made.key_pem })
    }
}

fn make_ca(common_name: &str) -> Result<Identity> {
    let mut params = parameters(CA_LIFETIME);
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().context("cannot generate the CA key")?;
    let certificate = params.self_signed(&key).context("cannot sign the CA certificate")?;
    Ok(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

fn parameters(lifetime: Duration) -> CertificateParams {
    let now = std::time::SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + lifetime).into();
    params
}

fn subject_alt_name(san: &San) -> Result<SanType> {
    Ok(match san {
        San::Ip(ip) => SanType::IpAddress(*ip),
        San::Dns(name) => {
            SanType::DnsName(name.as_str().try_into().with_context(|| format!("{name:?} is not a DNS name"))?)
        }
    })
}

/// Valid for long enough, from this CA and, for a server, for every name.
fn is_usable(certificate_pem: &str, ca_pem: &str, purpose: &Purpose<'_>) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes()) else { return false };
    let Ok((_, certificate)) = X509Certificate::from_der(&pem.contents) else { return false };
    let Ok((_, ca)) = x509_parser::pem::parse_x509_pem(ca_pem.as_bytes()) else { return false };
    let Ok((_, ca)) = X509Certificate::from_der(&ca.contents) else { return false };
    let left = certificate.validity().time_to_expiration().map_or(Duration::ZERO, |left| left.unsigned_abs());
    if left < RENEW_BEFORE || certificate.issuer().as_raw() != ca.subject().as_raw() {
        return false;
    }
    let names = certificate.subject_alternative_name().ok().flatten();
    let covered: Vec<San> =
        names.map(|ext| ext.value.general_names.iter().filter_map(san).collect()).unwrap_or_default();
    purpose.sans().iter().all(|san| covered.contains(san))
}

/// When each certificate in a PKI directory expires, by file name without its ending.
pub(crate) fn expirations(dir: &Path) -> Result<Vec<(String, jiff::Timestamp)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "crt") {
            continue;
        }
        let text = read(&path)?;
        let shown = || format!("{} is not a certificate", path.display());
        let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes()).with_context(shown)?;
        let (_, certificate) = X509Certificate::from_der(&pem.contents).with_context(shown)?;
        let expires = jiff::Timestamp::from_second(certificate.validity().not_after.timestamp()).with_context(shown)?;
        found.push((path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), expires));
    }
    found.sort();
    Ok(found)
}

fn san(name: &GeneralName<'_>) -> Option<San> {
    match name {
        GeneralName::DNSName(name) => Some(San::Dns((*name).to_owned())),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| San::Ip(b.into())),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|b| San::Ip(b.into())),
            _ => None,
        },
        _ => None,
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Whether a name that came from outside is that of a file in a directory, and of nothing else.
pub(crate) fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Makes a directory, and those above it, that only we can read.
pub(crate) fn create_private_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(path).with_context(|| format!("cannot create {}", path.display()))
}

/// Writes a file whole or not at all: a temporary neighbour, synced, then renamed. A file that says the same already is left
/// alone, so that a server on a full disk starts again.
pub(crate) fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    if fs::read(path).is_ok_and(|present| present == content) {
        return Ok(());
    }
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        let _absent_is_fine = fs::remove_file(&temporary);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| {
        let _nothing_was_written = fs::remove_file(&temporary);
        format!("cannot write {}", path.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_kept_until_they_no_longer_cover_the_names() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path()).unwrap();
        let sans = [San::parse("127.0.0.1"), San::parse("kubernetes")];
        let first = pki.identity("apiserver", &Purpose::Serving(&sans)).unwrap();
        let again = Pki::open(dir.path()).unwrap().identity("apiserver", &Purpose::Serving(&sans)).unwrap();
        assert_eq!(first.certificate_pem, again.certificate_pem);
        let more = [San::parse("127.0.0.1"), San::parse("kubernetes"), San::parse("10.0.0.1")];
        let renewed = pki.identity("apiserver", &Purpose::Serving(&more)).unwrap();
        assert_ne!(first.certificate_pem, renewed.certificate_pem);
    }

    #[test]
    fn only_plain_names_are_file_names() {
        assert!(is_file_name("ca.key"));
        for name in ["", ".", "..", "../ca.key", "a/b", ".hidden", "a\0b"] {
            assert!(!is_file_name(name), "{name:?}");
        }
    }

    #[test]
    fn keys_are_readable_by_their_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path()).unwrap();
        pki.service_account_key().unwrap();
        for name in ["ca.key", "sa.key"] {
            let mode = fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }
}
