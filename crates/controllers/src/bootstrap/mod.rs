//! Bootstrap tokens: how machines that know only a token find and trust the cluster (`kubeadm join`).
//! Source: "Authenticating with Bootstrap Tokens".

pub(crate) mod clean;
pub(crate) mod sign;

use client::Informer;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use crate::spec::Ctx;

pub(crate) const SECRET_NAMESPACE: &str = "kube-system";
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const SECRET_PREFIX: &str = "bootstrap-token-";

/// The Secrets that hold bootstrap tokens, wherever they are: only those of [`SECRET_NAMESPACE`] count.
fn token_secrets(ctx: &Ctx) -> Informer<Secret> {
    ctx.informers.informer_of_fields(&format!("type={SECRET_TYPE}"))
}

fn data<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    let value = secret.data.as_ref()?.get(key)?;
    std::str::from_utf8(&value.0).ok()
}

/// When the token ends; `Err` for a time that cannot be read, which counts as ended.
fn expiration(secret: &Secret) -> Result<Option<Timestamp>, jiff::Error> {
    data(secret, "expiration").filter(|text| !text.is_empty()).map(str::parse).transpose()
}

fn is_expired(secret: &Secret, now: Timestamp) -> bool {
    expiration(secret).map_or(true, |end| end.is_some_and(|end| end <= now))
}
