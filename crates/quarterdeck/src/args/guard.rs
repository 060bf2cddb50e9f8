use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

/// Who vouches for users, and who decides what they may do.
#[derive(Clone, Debug, Args)]
pub(crate) struct GuardFlags {
    /// Serve requests without credentials, as system:anonymous (the default).
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub anonymous_auth: Option<bool>,
    /// Issuers of tokens (AuthenticationConfiguration, apiserver.config.k8s.io/v1); read again when it changes.
    #[arg(long, conflicts_with_all = ["oidc_issuer_url", "oidc_client_id"])]
    pub authentication_config: Option<PathBuf>,
    /// File of fixed tokens, one a line: token,user,uid,"group1,group2".
    #[arg(long)]
    pub token_auth_file: Option<PathBuf>,
    /// URL of an OpenID Connect issuer (https).
    #[arg(long, requires = "oidc_client_id")]
    pub oidc_issuer_url: Option<String>,
    /// The audience that the issuer's tokens must be for.
    #[arg(long, requires = "oidc_issuer_url")]
    pub oidc_client_id: Option<String>,
    /// CAs of the issuer's certificate; the system's if not given.
    #[arg(long, requires = "oidc_issuer_url")]
    pub oidc_ca_file: Option<PathBuf>,
    /// Claim that is the user's name.
    #[arg(long, default_value = "sub")]
    pub oidc_username_claim: String,
    /// Put before the user's name; the issuer's URL and a # if not given, unless the claim is email; nothing if -.
    #[arg(long, default_value = "")]
    pub oidc_username_prefix: String,
    /// Claim that is the user's groups.
    #[arg(long, default_value = "")]
    pub oidc_groups_claim: String,
    /// Put before each group's name.
    #[arg(long, default_value = "")]
    pub oidc_groups_prefix: String,
    /// Algorithms that tokens may be signed with, comma separated.
    #[arg(long, value_delimiter = ',', default_value = "RS256")]
    pub oidc_signing_algs: Vec<String>,
    /// Claims that tokens must have, as claim=value.
    #[arg(long, value_delimiter = ',')]
    pub oidc_required_claim: Vec<String>,
    /// Kubeconfig of a webhook that knows tokens.
    #[arg(long)]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// Version of the webhook's TokenReview.
    #[arg(long, default_value = "v1beta1", value_parser = ["v1", "v1beta1"])]
    pub authentication_token_webhook_version: String,
    /// How long the webhook's answers are kept.
    #[arg(long, default_value = "2m0s", value_parser = crate::duration::parse)]
    pub authentication_token_webhook_cache_ttl: Duration,
    /// Authorizers in the order in which they are asked: Node, RBAC, ABAC, Webhook, AlwaysAllow, AlwaysDeny; Node and RBAC if not given.
    #[arg(long, value_delimiter = ',', conflicts_with = "authorization_config")]
    pub authorization_mode: Vec<String>,
    /// The same as a file (AuthorizationConfiguration, apiserver.config.k8s.io/v1); read again when it changes.
    #[arg(long, conflicts_with = "authorization_webhook_config_file")]
    pub authorization_config: Option<PathBuf>,
    /// Policies of the mode ABAC, one JSON object a line; read once.
    #[arg(long)]
    pub authorization_policy_file: Option<PathBuf>,
    /// Kubeconfig of the webhook of the mode Webhook.
    #[arg(long)]
    pub authorization_webhook_config_file: Option<PathBuf>,
    /// Version of the webhook's SubjectAccessReview.
    #[arg(long, default_value = "v1beta1", value_parser = ["v1", "v1beta1"])]
    pub authorization_webhook_version: String,
    /// How long the webhook's permissions are kept.
    #[arg(long, default_value = "5m0s", value_parser = crate::duration::parse)]
    pub authorization_webhook_cache_authorized_ttl: Duration,
    /// How long its other answers are kept.
    #[arg(long, default_value = "30s", value_parser = crate::duration::parse)]
    pub authorization_webhook_cache_unauthorized_ttl: Duration,
    /// Let requests wait in turn by their priority level and flow, when there are too many.
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true")]
    pub enable_priority_and_fairness: bool,
    /// Reads at once; with priority and fairness, seats of all levels together with the next one.
    #[arg(long, default_value_t = 400)]
    pub max_requests_inflight: usize,
    /// Writes at once.
    #[arg(long, default_value_t = 200)]
    pub max_mutating_requests_inflight: usize,
    /// The most that a request may take, watches and streams aside; it may ask for less (`?timeout=5s`).
    #[arg(long, default_value = "1m0s", value_parser = crate::duration::parse)]
    pub request_timeout: Duration,
    /// A watch that does not say how long it lasts takes so many seconds, up to twice as many.
    #[arg(long, default_value_t = 1800)]
    pub min_request_timeout: u32,
}
