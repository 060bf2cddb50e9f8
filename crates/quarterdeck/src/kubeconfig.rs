//! Kubeconfig files: how clients find and trust the server.

use std::path::Path;

use anyhow::Result;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::pki::{Identity, write_file};

/// Writes a kubeconfig with embedded certificates, mode 0600.
pub(crate) fn write(path: &Path, server: &str, ca_pem: &str, user: &str, identity: &Identity) -> Result<()> {
    write_file(path, text(server, ca_pem, user, identity).as_bytes(), 0o600)
}

/// A kubeconfig with embedded certificates.
pub(crate) fn text(server: &str, ca_pem: &str, user: &str, identity: &Identity) -> String {
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: quarterdeck\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {}\nusers:\n- name: {user}\n  user:\n    client-certificate-data: {}\n    \
         client-key-data: {}\ncontexts:\n- name: {user}@quarterdeck\n  context:\n    cluster: quarterdeck\n    \
         user: {user}\ncurrent-context: {user}@quarterdeck\n",
        BASE64_STANDARD.encode(ca_pem),
        BASE64_STANDARD.encode(&identity.certificate_pem),
        BASE64_STANDARD.encode(&identity.key_pem),
    )
}
