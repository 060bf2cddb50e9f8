//! The cluster's own PKI: a CA for the API and everything that uses it, one for the store and its members, one for front
//! proxies, certificates below them, and the service account key. The store has a CA of its own because every node has a client
//! certificate of the first one; whoever has a certificate of the front proxies' CA may speak for anybody.
//!
//! Files live in `DATA/pki`, keys with mode 0600, each written whole or not at all. What exists is used as it is; a serving
//! certificate that does not cover an address that is asked for now, or is about to expire, is issued again, at a start and while
//! the server runs ([`Pki::renew`]). A CA whose key is not there is managed elsewhere: what it signs is used as long as it is valid.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use store::Pem;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Common names of the CAs.
const CLUSTER_CA: &str = "quarterdeck-ca";
const STORE_CA: &str = "quarterdeck-store-ca";
const FRONT_PROXY_CA: &str = "quarterdeck-front-proxy-ca";
/// Validity of a CA.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Validity of everything below it, unless said otherwise.
pub(crate) const VALIDITY_DEFAULT: Duration = Duration::from_secs(365 * 24 * 3600);
/// A certificate is issued again when less than this part of its life is left...
const RENEW_AT: f64 = 0.25;
/// ...or up to this much earlier, so that masters that were made together do not all renew at one moment.
const RENEW_JITTER: f64 = 0.05;
/// Clocks of clients may be behind ours by this much.
const BACKDATE: Duration = Duration::from_secs(300);

/// The PKI of a data directory.
#[derive(Debug)]
pub(crate) struct Pki {
    dir: PathBuf,
    validity: Duration,
    cluster: Authority,
    store: Authority,
    front_proxy: Authority,
    /// From 0 to 1: how early this process renews.
    jitter: f64,
    /// What was asked for, to be kept valid.
    kept: Mutex<BTreeMap<String, Purpose>>,
}

/// A CA: its certificate, and the key that signs with it, if it is here.
#[derive(Debug)]
struct Authority {
    name: &'static str,
    pem: String,
    key_pem: Option<String>,
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub certificate_pem: String,
    pub key_pem: String,
}

/// What a certificate is for.
#[derive(Clone, Debug)]
pub(crate) enum Purpose {
    /// A server reachable by these names and addresses.
    Serving(Vec<San>),
    /// A client: user name and groups.
    Client { user: String, groups: Vec<String> },
    /// A server of the store's API.
    StoreServing(Vec<San>),
    /// A client of the store's API.
    StoreClient { user: String },
    /// A client of aggregated servers that says for whom it speaks.
    FrontProxy { user: String },
    /// A member of the store: a server and a client to the other members.
    StorePeer(Vec<San>),
}

impl Purpose {
    pub(crate) fn client(user: &str, groups: &[&str]) -> Self {
        Self::Client { user: user.to_owned(), groups: groups.iter().map(|group| (*group).to_owned()).collect() }
    }

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
    /// Opens the PKI in `dir`, making the CAs on the first start. What it issues is valid for so long.
    pub(crate) fn open(dir: &Path, validity: Duration) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let cluster = Authority::open(dir, "ca", CLUSTER_CA)?;
        let store = Authority::open(dir, "store-ca", STORE_CA)?;
        let front_proxy = Authority::open(dir, "front-proxy-ca", FRONT_PROXY_CA)?;
        Ok(Self::with(dir.to_owned(), validity, [cluster, store, front_proxy]))
    }

    fn with(dir: PathBuf, validity: Duration, [cluster, store, front_proxy]: [Authority; 3]) -> Self {
        Self { dir, validity, cluster, store, front_proxy, jitter: rand::random(), kept: Mutex::default() }
    }

    /// A PKI that exists only in memory.
    pub(crate) fn in_memory() -> Result<Self> {
        let [cluster, store, front_proxy] = [CLUSTER_CA, STORE_CA, FRONT_PROXY_CA].map(Authority::make);
        Ok(Self::with(PathBuf::new(), VALIDITY_DEFAULT, [cluster?, store?, front_proxy?]))
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

    fn authority(&self, purpose: &Purpose) -> &Authority {
        match purpose {
            Purpose::Serving(_) | Purpose::Client { .. } => &self.cluster,
            Purpose::StoreServing(_) | Purpose::StoreClient { .. } | Purpose::StorePeer(_) => &self.store,
            Purpose::FrontProxy { .. } => &self.front_proxy,
        }
    }

    /// For those who sign with the CA; `None` if its key is not here.
    pub(crate) fn ca_key_pem(&self) -> Option<&str> {
        self.cluster.key_pem.as_deref()
    }

    /// The identity kept as `name.crt` and `name.key`, issued when missing, outdated or not covering `purpose`. From then on
    /// [`Pki::renew`] looks after it.
    pub(crate) fn identity(&self, name: &str, purpose: &Purpose) -> Result<Identity> {
        if self.dir.as_os_str().is_empty() {
            return self.issue(purpose, self.validity);
        }
        self.kept.lock().insert(name.to_owned(), purpose.clone());
        self.obtain(name, purpose, SystemTime::now())
    }

    /// The same as what follows its files.
    pub(crate) fn pems(&self, name: &str, purpose: &Purpose) -> Result<(Pem, Pem)> {
        let identity = self.identity(name, purpose)?;
        if self.dir.as_os_str().is_empty() {
            return Ok((identity.certificate_pem.into_bytes().into(), identity.key_pem.into_bytes().into()));
        }
        let [certificate, key] = self.files(name);
        Ok((certificate.into(), key.into()))
    }

    /// Issues again what is about to expire. Returns its names, and how long until the next one is due.
    pub(crate) fn renew(&self, now: SystemTime) -> Result<(Vec<String>, Option<Duration>)> {
        let (mut renewed, mut next) = (Vec::new(), None::<Duration>);
        let kept = self.kept.lock().clone();
        for (name, purpose) in kept {
            let before = read(&self.files(&name)[0]).ok();
            let identity = self.obtain(&name, &purpose, now)?;
            let left = parse(&identity.certificate_pem, |shown| self.until_due(shown, now)).unwrap_or_default();
            if before.is_some_and(|before| before != identity.certificate_pem) {
                renewed.push(name);
            }
            next = Some(next.map_or(left, |next| next.min(left)));
        }
        Ok((renewed, next))
    }

    /// How long a certificate is good for before it has to be renewed.
    fn until_due(&self, certificate: &X509Certificate<'_>, now: SystemTime) -> Duration {
        let validity = certificate.validity();
        let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        let life = Duration::from_secs(until.saturating_sub(from).max(0).unsigned_abs()).saturating_sub(BACKDATE);
        let margin = life.mul_f64(RENEW_AT + RENEW_JITTER * self.jitter);
        let until = UNIX_EPOCH + Duration::from_secs(until.max(0).unsigned_abs());
        until.duration_since(now).unwrap_or_default().saturating_sub(margin)
    }

    fn files(&self, name: &str) -> [PathBuf; 2] {
        ["crt", "key"].map(|ending| self.dir.join(format!("{name}.{ending}")))
    }

    fn obtain(&self, name: &str, purpose: &Purpose, now: SystemTime) -> Result<Identity> {
        let [certificate, key] = self.files(name);
        let authority = self.authority(purpose);
        if certificate.exists() && key.exists() {
            let identity = Identity { certificate_pem: read(&certificate)?, key_pem: read(&key)? };
            let is_good = parse(&identity.certificate_pem, |shown| {
                let is_due = self.until_due(shown, now).is_zero();
                let is_valid = shown.validity().not_after.timestamp() > seconds(now);
                // Whoever has the CA's key renews in time.
                (!is_due || (authority.key_pem.is_none() && is_valid))
                    && covers(shown, &authority.pem, purpose)
                    && fits(shown, &identity.key_pem)
            });
            if is_good == Some(true) {
                return Ok(identity);
            }
        }
        if authority.key_pem.is_none() {
            bail!(
                "{} is missing, has expired, does not fit its key, or does not cover all names of this server, and {}.key, which would sign another, is not there",
                certificate.display(),
                authority.name
            );
        }
        let identity = self.issue(purpose, self.validity)?;
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

    /// Makes an identity that is kept nowhere.
    pub(crate) fn issue(&self, purpose: &Purpose, validity: Duration) -> Result<Identity> {
        let authority = self.authority(purpose);
        let key_pem = authority.key_pem.as_deref();
        let key_pem = key_pem.with_context(|| format!("{}.key, which signs, is not there", authority.name))?;
        let ca_key = KeyPair::from_pem(key_pem).context("the CA key is unreadable")?;
        let issuer = Issuer::from_ca_cert_pem(&authority.pem, ca_key).context("the CA certificate is unreadable")?;
        let mut params = parameters(validity);
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
    fn open(dir: &Path, name: &'static str, common_name: &'static str) -> Result<Self> {
        let (certificate, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        if !certificate.exists() {
            if key.exists() {
                bail!("{} exists but {} does not: restore the certificate", key.display(), certificate.display());
            }
            let made = Self::make(common_name)?;
            write_file(&key, made.key_pem.unwrap_or_default().as_bytes(), 0o600)?;
            write_file(&certificate, made.pem.as_bytes(), 0o644)?;
        }
        let key_pem = key.exists().then(|| read(&key)).transpose()?;
        Ok(Self { name, pem: read(&certificate)?, key_pem })
    }

    fn make(common_name: &'static str) -> Result<Self> {
        let made = make_ca(common_name)?;
        Ok(Self { name: common_name, pem: made.certificate_pem, key_pem: Some(made.key_pem) })
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

/// A kill between the two files of an identity leaves the key of one and the certificate of another.
fn fits(certificate: &X509Certificate<'_>, key_pem: &str) -> bool {
    // A key of a kind that is not made here was put there by somebody who knows that it fits.
    let Ok(key) = KeyPair::from_pem(key_pem) else { return true };
    key.public_key_raw() == &*certificate.public_key().subject_public_key.data
}

fn subject_alt_name(san: &San) -> Result<SanType> {
    Ok(match san {
        San::Ip(ip) => SanType::IpAddress(*ip),
        San::Dns(name) => {
            SanType::DnsName(name.as_str().try_into().with_context(|| format!("{name:?} is not a DNS name"))?)
        }
    })
}

/// From this CA and, for a server, for every name.
fn covers(certificate: &X509Certificate<'_>, ca_pem: &str, purpose: &Purpose) -> bool {
    let is_of_ca = parse(ca_pem, |ca| certificate.issuer().as_raw() == ca.subject().as_raw());
    let names = names(certificate);
    is_of_ca == Some(true) && purpose.sans().iter().all(|san| names.contains(san))
}

fn names(certificate: &X509Certificate<'_>) -> Vec<San> {
    let names = certificate.subject_alternative_name().ok().flatten();
    names.map(|ext| ext.value.general_names.iter().filter_map(san).collect()).unwrap_or_default()
}

/// The names and addresses in a serving certificate.
pub(crate) fn names_in(certificate_pem: &str) -> Vec<San> {
    parse(certificate_pem, names).unwrap_or_default()
}

/// Looks at the first certificate of a PEM text.
fn parse<T>(pem: &str, look: impl FnOnce(&X509Certificate<'_>) -> T) -> Option<T> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
    Some(look(&certificate))
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or(0)
}

/// A certificate in a PKI directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The file's, without its ending.
    pub name: String,
    pub expires: jiff::Timestamp,
    pub is_ca: bool,
    /// Name of the CA in the same directory that it is of; a CA's is its own.
    pub authority: Option<String>,
    /// The CA's key is not in the directory.
    pub is_external: bool,
}

/// The certificates in a PKI directory, in the order of their names.
pub(crate) fn certificates_in(dir: &Path) -> Result<Vec<Found>> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "crt") {
            texts.push((path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), read(&path)?));
        }
    }
    texts.sort();
    let subject = |text: &str| parse(text, |shown| shown.is_ca().then(|| shown.subject().as_raw().to_vec())).flatten();
    let cas: Vec<_> = texts.iter().filter_map(|(name, text)| Some((name.clone(), subject(text)?))).collect();
    let found = texts.into_iter().map(|(name, text)| {
        let shown = || format!("{} is not a certificate", dir.join(format!("{name}.crt")).display());
        let parts = parse(&text, |shown| {
            (shown.validity().not_after.timestamp(), shown.is_ca(), shown.issuer().as_raw().to_vec())
        });
        let (expires, is_ca, issuer) = parts.with_context(shown)?;
        let authority = cas.iter().find(|(_, subject)| *subject == issuer).map(|(name, _)| name.clone());
        let has_key = authority.as_ref().is_some_and(|name| dir.join(format!("{name}.key")).exists());
        let expires = jiff::Timestamp::from_second(expires).with_context(shown)?;
        Ok(Found { name: name.clone(), expires, is_ca, authority, is_external: !has_key })
    });
    found.collect()
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

    fn open(dir: &Path) -> Pki {
        Pki { jitter: 0.0, ..Pki::open(dir, VALIDITY_DEFAULT).unwrap() }
    }

    #[test]
    fn identities_are_kept_until_they_no_longer_cover_the_names() {
        let dir = tempfile::tempdir().unwrap();
        let pki = open(dir.path());
        let names = ["127.0.0.1", "kubernetes"].map(San::parse);
        let purpose = Purpose::Serving(names.to_vec());
        let first = pki.identity("apiserver", &purpose).unwrap();
        let again = open(dir.path()).identity("apiserver", &purpose).unwrap();
        assert_eq!(first.certificate_pem, again.certificate_pem);
        assert_eq!(names_in(&first.certificate_pem), names);
        let more = ["127.0.0.1", "kubernetes", "10.0.0.1"].map(San::parse).to_vec();
        let renewed = pki.identity("apiserver", &Purpose::Serving(more)).unwrap();
        assert_ne!(first.certificate_pem, renewed.certificate_pem);
    }

    #[test]
    fn certificates_are_renewed_when_a_quarter_of_their_life_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let pki = open(dir.path());
        let names = Purpose::Serving(vec![San::parse("a")]);
        let before = pki.identity("apiserver", &names).unwrap();
        pki.identity("admin", &Purpose::client("kubernetes-admin", &["system:masters"])).unwrap();
        let day = |n: u64| SystemTime::now() + Duration::from_secs(n * 86_400);
        let (renewed, next) = pki.renew(day(200)).unwrap();
        assert_eq!(renewed, [""; 0]);
        let days_left = next.unwrap().as_secs() / 86_400;
        assert!((72..=74).contains(&days_left), "{days_left}");
        let (renewed, _) = pki.renew(day(275)).unwrap();
        assert_eq!(renewed, ["admin", "apiserver"]);
        assert_ne!(pki.identity("apiserver", &names).unwrap().certificate_pem, before.certificate_pem);
        let early = Pki { jitter: 1.0, ..open(dir.path()) };
        early.identity("apiserver", &names).unwrap();
        assert_eq!(early.renew(day(257)).unwrap().0, ["apiserver"]);
    }

    #[test]
    fn a_certificate_that_does_not_fit_its_key_is_issued_again() {
        let dir = tempfile::tempdir().unwrap();
        let names = Purpose::Serving(vec![San::parse("a")]);
        let before = open(dir.path()).identity("apiserver", &names).unwrap();
        // As after a kill between the two files of a renewal.
        fs::write(dir.path().join("apiserver.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let after = open(dir.path()).identity("apiserver", &names).unwrap();
        assert_ne!(after.certificate_pem, before.certificate_pem);
        assert_eq!(open(dir.path()).identity("apiserver", &names).unwrap().certificate_pem, after.certificate_pem);
    }

    #[test]
    fn what_a_ca_elsewhere_signed_is_used_while_it_is_valid() {
        let dir = tempfile::tempdir().unwrap();
        let names = Purpose::Serving(vec![San::parse("a")]);
        let before = open(dir.path()).identity("apiserver", &names).unwrap();
        fs::remove_file(dir.path().join("ca.key")).unwrap();
        let pki = open(dir.path());
        assert_eq!(pki.identity("apiserver", &names).unwrap().certificate_pem, before.certificate_pem);
        let late = SystemTime::now() + Duration::from_secs(360 * 86_400);
        assert_eq!(pki.renew(late).unwrap().0, [""; 0], "nobody here can sign another");
        let error = pki.identity("other", &names).unwrap_err().to_string();
        assert!(error.contains("ca.key, which would sign another, is not there"), "{error}");
        let found = certificates_in(dir.path()).unwrap();
        let of = |name: &str| found.iter().find(|found| found.name == name).unwrap();
        assert!(of("ca").is_ca && of("ca").is_external && of("apiserver").is_external);
        assert_eq!(of("apiserver").authority.as_deref(), Some("ca"));
        assert!(!of("store-ca").is_external);
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
        let pki = open(dir.path());
        pki.service_account_key().unwrap();
        for name in ["ca.key", "sa.key"] {
            let mode = fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }
}
