//! The flags of authentication and authorization, checked and read.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use apiserver::authn::AnonymousAccess;
use apiserver::authn::outside::{AuthenticationFile, OidcFlags, OutsideConfig, TokenFile, TokenWebhook};
use apiserver::authz::abac::Policies;
use apiserver::authz::config::parse;
use apiserver::authz::{Mode, WebhookConfig};
use apiserver::{Authorization, FlowControl, Timeouts};

use super::{audit, tls};
use crate::args::GuardFlags;
use crate::duration;

/// Time for one question to the webhook of a mode; upstream's number.
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(30);

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Upstream's words for a changed file that wants policies where the first did not.
const NO_POLICIES: &str = "authorizer type ABAC is not allowed if it was not enabled at initial server startup";

pub(super) fn outside(flags: &GuardFlags) -> Result<OutsideConfig> {
    let refused = |error: String| anyhow!(error);
    let tokens = flags.token_auth_file.as_deref().map(|path| {
        let tokens = TokenFile::parse(&tls::read(path)?).map_err(refused);
        tokens.with_context(|| format!("--token-auth-file {}", path.display()))
    });
    let mut follow = None;
    let authentication = match (&flags.authentication_config, &flags.oidc_issuer_url) {
        (Some(path), _) => {
            let text = tls::read(path)?;
            let file = AuthenticationFile::parse(&text, flags.anonymous_auth.is_some()).map_err(refused);
            let file = file.with_context(|| format!("--authentication-config {}", path.display()))?;
            follow = Some((path.clone(), text));
            Some(file)
        }
        (None, Some(url)) => Some(AuthenticationFile::from_flags(oidc(flags, url)?).map_err(refused)?),
        (None, None) => None,
    };
    let webhook = flags.authentication_token_webhook_config_file.as_deref().map(|path| {
        anyhow::Ok(TokenWebhook {
            endpoint: audit::endpoint(path)?,
            version: flags.authentication_token_webhook_version.clone(),
            ttl: flags.authentication_token_webhook_cache_ttl,
        })
    });
    let anonymous = flags.anonymous_auth.map(|on| if on { AnonymousAccess::On } else { AnonymousAccess::Off });
    Ok(OutsideConfig { tokens: tokens.transpose()?, authentication, follow, webhook: webhook.transpose()?, anonymous })
}

fn oidc(flags: &GuardFlags, issuer_url: &str) -> Result<OidcFlags> {
    let mut required_claims = BTreeMap::new();
    for pair in &flags.oidc_required_claim {
        let (claim, value) =
            pair.split_once('=').with_context(|| format!("--oidc-required-claim {pair:?} is not claim=value"))?;
        required_claims.insert(claim.to_owned(), value.to_owned());
    }
    Ok(OidcFlags {
        issuer_url: issuer_url.to_owned(),
        client_id: flags.oidc_client_id.clone().unwrap_or_default(),
        certificate_authority: flags.oidc_ca_file.as_deref().map(tls::read).transpose()?.unwrap_or_default(),
        username_claim: flags.oidc_username_claim.clone(),
        username_prefix: flags.oidc_username_prefix.clone(),
        groups_claim: flags.oidc_groups_claim.clone(),
        groups_prefix: flags.oidc_groups_prefix.clone(),
        signing_algorithms: flags.oidc_signing_algs.clone(),
        required_claims,
    })
}

pub(super) fn authorization(flags: &GuardFlags) -> Result<Authorization> {
    if let Some(path) = &flags.authorization_config {
        let text = tls::read(path)?;
        let modes = read_modes(&text, &|| policies(flags)).map_err(|error| anyhow!(error));
        let modes = modes.with_context(|| format!("--authorization-config {}", path.display()))?;
        // The policies of ABAC are read once: a later file has them if this one had.
        let known = modes.iter().find_map(|mode| match mode {
            Mode::Abac(policies) => Some(Arc::clone(policies)),
            _ => None,
        });
        let again = move |text: &str| {
            let policies = || known.clone().ok_or_else(|| NO_POLICIES.to_owned());
            read_modes(text, &policies)
        };
        return Ok(Authorization { modes, follow: Some((path.clone(), text, Box::new(again))) });
    }
    let mut modes = Vec::new();
    let names = &flags.authorization_mode;
    for (at, name) in names.iter().enumerate() {
        ensure!(!names[..at].contains(name), "authorization-mode {name:?} is given more than once");
        let webhook = || webhook(flags).map_err(|error| format!("{error:#}"));
        let mode = Mode::parse(name, webhook, || policies(flags));
        modes.push(mode.map_err(|error| anyhow!(error)).context("--authorization-mode")?);
    }
    let has = |mode: &str| names.iter().any(|name| name == mode);
    ensure!(
        has("ABAC") || flags.authorization_policy_file.is_none(),
        "cannot specify --authorization-policy-file without mode ABAC"
    );
    ensure!(
        has("Webhook") || flags.authorization_webhook_config_file.is_none(),
        "cannot specify --authorization-webhook-config-file without mode Webhook"
    );
    Ok(Authorization { modes, follow: None })
}

fn read_modes(text: &str, policies: &dyn Fn() -> Result<Arc<Policies>, String>) -> Result<Vec<Mode>, String> {
    let read = |path: &Path| tls::read(path).map_err(|error| format!("{error:#}"));
    parse(text, &read, &duration::parse, policies)
}

/// `--authorization-policy-file`.
fn policies(flags: &GuardFlags) -> Result<Arc<Policies>, String> {
    let path = flags.authorization_policy_file.as_deref();
    let path = path.ok_or("authorization-mode ABAC's authorization policy file not passed")?;
    let text = tls::read(path).map_err(|error| format!("{error:#}"))?;
    Policies::parse(&path.display().to_string(), &text).map(Arc::new)
}

fn webhook(flags: &GuardFlags) -> Result<WebhookConfig> {
    let path = flags.authorization_webhook_config_file.as_deref();
    let path = path.context("authorization-mode Webhook's authorization config file not passed")?;
    Ok(WebhookConfig {
        name: "default".to_owned(),
        endpoint: audit::endpoint(path)?,
        version: flags.authorization_webhook_version.clone(),
        authorized_ttl: flags.authorization_webhook_cache_authorized_ttl,
        unauthorized_ttl: flags.authorization_webhook_cache_unauthorized_ttl,
        timeout: WEBHOOK_TIMEOUT,
        failure_denies: false,
        conditions: Vec::new(),
    })
}

pub(super) fn flow_control(flags: &GuardFlags) -> Result<FlowControl> {
    let (reads_max, writes_max) = (flags.max_requests_inflight, flags.max_mutating_requests_inflight);
    let fairness = flags.enable_priority_and_fairness;
    ensure!(
        !fairness || reads_max + writes_max > 0,
        "MaxRequestsInFlight={reads_max} and MaxMutatingRequestsInFlight={writes_max}; they must add up to something positive"
    );
    Ok(FlowControl { fairness, reads_max, writes_max })
}

pub(super) fn timeouts(flags: &GuardFlags) -> Timeouts {
    // Zero means that they end with their connections, which no connection lives to see.
    let watch_min = match flags.min_request_timeout {
        0 => YEAR,
        seconds => Duration::from_secs(seconds.into()),
    };
    Timeouts { request: flags.request_timeout, watch_min }
}
