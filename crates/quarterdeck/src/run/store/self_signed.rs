//! `--auto-tls`: a certificate that the server makes for itself when it has none, kept for the next start.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};

use crate::pki;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Certificate and key in `dir`, made there if they are not.
pub(super) fn identity(dir: &Path, hosts: &[IpAddr], years: u32) -> Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    if certificate.exists() && key.exists() {
        return Ok((certificate, key));
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot create {}", dir.display()))?;
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).context("the certificate's names")?;
    params.subject_alt_names.extend(hosts.iter().map(|ip| SanType::IpAddress(*ip)));
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "etcd");
    params.not_before = SystemTime::now().into();
    params.not_after = (SystemTime::now() + YEAR * years.max(1)).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let pair = KeyPair::generate().context("cannot make a key")?;
    let made = params.self_signed(&pair).context("cannot make a certificate")?;
    pki::write_file(&key, pair.serialize_pem().as_bytes(), 0o600)?;
    pki::write_file(&certificate, made.pem().as_bytes(), 0o644)?;
    Ok((certificate, key))
}
