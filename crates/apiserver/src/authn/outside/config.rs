//! The authentication configuration: a file, or the older `--oidc-…` flags made into one.

use std::collections::BTreeMap;

use api::Value;
use api::field::{ErrorList, Path};
use serde::Deserialize;

use super::keys::ALGORITHMS;
use super::mapping::{Check, Extra, Mapping, Source};
use crate::authn::AnonymousAccess;
use crate::config_file;

const ISSUERS_MAX: usize = 64;

/// One issuer, ready for use.
#[derive(Debug)]
pub(super) struct IssuerConfig {
    pub url: String,
    pub discovery_url: Option<String>,
    /// PEM; the system's when empty.
    pub certificate_authority: String,
    pub audiences: Vec<String>,
    pub algorithms: Vec<String>,
    pub mapping: Mapping,
}

/// A configuration, checked.
#[derive(Debug, Default)]
pub struct AuthenticationFile {
    pub(super) issuers: Vec<IssuerConfig>,
    /// `None`: the file says nothing of it.
    pub(super) anonymous: Option<AnonymousAccess>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    jwt: Option<Vec<Jwt>>,
    anonymous: Option<Anonymous>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Anonymous {
    enabled: bool,
    conditions: Option<Vec<Condition>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Condition {
    path: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct Jwt {
    issuer: IssuerFields,
    claim_validation_rules: Option<Vec<ClaimRule>>,
    claim_mappings: ClaimMappings,
    user_validation_rules: Option<Vec<UserRule>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct IssuerFields {
    url: String,
    #[serde(rename = "discoveryURL")]
    discovery_url: Option<String>,
    certificate_authority: String,
    audiences: Option<Vec<String>>,
    audience_match_policy: String,
    egress_selector_type: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct ClaimRule {
    claim: String,
    required_value: String,
    expression: String,
    message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ClaimMappings {
    username: ClaimOrExpression,
    groups: ClaimOrExpression,
    uid: ClaimOrExpression,
    extra: Option<Vec<ExtraMapping>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ClaimOrExpression {
    claim: String,
    prefix: Option<String>,
    expression: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct ExtraMapping {
    key: String,
    value_expression: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct UserRule {
    expression: String,
    message: String,
}

/// `--oidc-…`
#[derive(Clone, Debug, Default)]
pub struct OidcFlags {
    pub issuer_url: String,
    pub client_id: String,
    /// PEM
    pub certificate_authority: String,
    pub username_claim: String,
    pub username_prefix: String,
    pub groups_claim: String,
    pub groups_prefix: String,
    pub signing_algorithms: Vec<String>,
    pub required_claims: BTreeMap<String, String>,
}

impl AuthenticationFile {
    /// Reads and checks a configuration file. `anonymous_by_flag`: the flag has been given, and the file must say nothing of it.
    pub fn parse(text: &str, anonymous_by_flag: bool) -> Result<Self, String> {
        let versions = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1"];
        let file: File = config_file::decode(text, "AuthenticationConfiguration", &versions)?;
        if anonymous_by_flag && file.anonymous.is_some() {
            let text = "--anonymous-auth flag cannot be set when anonymous field is configured in authentication configuration \
                        file";
            return Err(text.to_owned());
        }
        let mut errors = ErrorList::new();
        let algorithms: Vec<String> = ALGORITHMS.iter().map(|name| (*name).to_owned()).collect();
        let issuers = read(file.jwt.unwrap_or_default(), &algorithms, &mut errors);
        let anonymous = file.anonymous.map(|anonymous| {
            let conditions = anonymous.conditions.unwrap_or_default();
            if !anonymous.enabled && !conditions.is_empty() {
                let shown: Vec<Value> = conditions.iter().map(|c| api::json!({"Path": c.path})).collect();
                let text = "enabled should be set to true when conditions are defined";
                errors.invalid(Path::new("anonymous.conditions"), shown, text);
            }
            match (anonymous.enabled, conditions.is_empty()) {
                (false, _) => AnonymousAccess::Off,
                (true, true) => AnonymousAccess::On,
                (true, false) => AnonymousAccess::Paths(conditions.into_iter().map(|c| c.path).collect()),
            }
        });
        if errors.is_empty() { Ok(Self { issuers, anonymous }) } else { Err(errors.aggregate_message()) }
    }

    /// What the older flags mean.
    pub fn from_flags(flags: OidcFlags) -> Result<Self, String> {
        for algorithm in &flags.signing_algorithms {
            if !ALGORITHMS.contains(&algorithm.as_str()) {
                return Err(format!("oidc: unsupported signing alg: {algorithm:?}"));
            }
        }
        let username_prefix = match flags.username_prefix.as_str() {
            "-" => String::new(),
            "" if flags.username_claim != "email" => format!("{}#", flags.issuer_url),
            prefix => prefix.to_owned(),
        };
        let rules = flags.required_claims.into_iter().map(|(claim, required_value)| ClaimRule {
            claim,
            required_value,
            ..ClaimRule::default()
        });
        let jwt = Jwt {
            issuer: IssuerFields {
                url: flags.issuer_url,
                certificate_authority: flags.certificate_authority,
                audiences: Some(vec![flags.client_id]),
                ..IssuerFields::default()
            },
            claim_validation_rules: Some(rules.collect()),
            claim_mappings: ClaimMappings {
                username: ClaimOrExpression {
                    claim: flags.username_claim,
                    prefix: Some(username_prefix),
                    ..ClaimOrExpression::default()
                },
                groups: ClaimOrExpression {
                    claim: flags.groups_claim,
                    prefix: Some(flags.groups_prefix),
                    ..ClaimOrExpression::default()
                },
                ..ClaimMappings::default()
            },
            user_validation_rules: None,
        };
        let mut errors = ErrorList::new();
        let issuers = read(vec![jwt], &flags.signing_algorithms, &mut errors);
        if errors.is_empty() { Ok(Self { issuers, anonymous: None }) } else { Err(errors.aggregate_message()) }
    }
}

fn read(jwt: Vec<Jwt>, algorithms: &[String], errors: &mut ErrorList) -> Vec<IssuerConfig> {
    let root = Path::new("jwt");
    if jwt.len() > ISSUERS_MAX {
        errors.too_many(root, jwt.len(), ISSUERS_MAX);
        return Vec::new();
    }
    let (mut urls, mut discovery_urls) = (Vec::new(), Vec::new());
    let mut issuers = Vec::new();
    for (at, jwt) in jwt.into_iter().enumerate() {
        let path = root.index(at);
        check_issuer(&jwt.issuer, &path.child("issuer"), errors);
        let mapping = mapping(&jwt, &path, errors);
        let issuer = jwt.issuer;
        if urls.contains(&issuer.url) {
            errors.duplicate(path.child("issuer").child("url"), issuer.url.clone());
        }
        let discovery_url = issuer.discovery_url.filter(|url| !url.is_empty());
        if let Some(url) = &discovery_url {
            if discovery_urls.contains(url) {
                errors.duplicate(path.child("issuer").child("discoveryURL"), url.clone());
            }
            discovery_urls.push(url.clone());
        }
        urls.push(issuer.url.clone());
        issuers.push(IssuerConfig {
            url: issuer.url,
            discovery_url,
            certificate_authority: issuer.certificate_authority,
            audiences: issuer.audiences.unwrap_or_default(),
            algorithms: algorithms.to_vec(),
            mapping,
        });
    }
    issuers
}

fn check_url(url: &str, path: &Path, errors: &mut ErrorList) {
    let mut wrong = |text: &str| errors.invalid(path.clone(), url, text);
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if scheme != "https" {
        wrong("URL scheme must be https");
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    if authority.contains('@') {
        wrong("URL must not contain a username or password");
    }
    let (before, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    if before.split_once('?').is_some_and(|(_, query)| !query.is_empty()) {
        wrong("URL must not contain a query");
    }
    if !fragment.is_empty() {
        wrong("URL must not contain a fragment");
    }
}

fn check_issuer(issuer: &IssuerFields, path: &Path, errors: &mut ErrorList) {
    if issuer.url.is_empty() {
        errors.required(path.child("url"), "");
    } else {
        check_url(&issuer.url, &path.child("url"), errors);
    }
    if let Some(url) = issuer.discovery_url.as_ref().filter(|url| !url.is_empty()) {
        let path = path.child("discoveryURL");
        if !issuer.url.is_empty() && issuer.url.trim_end_matches('/') == url.trim_end_matches('/') {
            errors.invalid(path.clone(), url.clone(), "discoveryURL must be different from URL");
        }
        check_url(url, &path, errors);
    }
    let audiences = issuer.audiences.as_deref().unwrap_or_default();
    let audiences_path = path.child("audiences");
    if audiences.is_empty() {
        errors.required(audiences_path.clone(), format!("at least one {} is required", audiences_path.as_str()));
    }
    for (at, audience) in audiences.iter().enumerate() {
        if audience.is_empty() {
            errors.required(audiences_path.index(at), "");
        }
        if audiences[..at].contains(audience) {
            errors.duplicate(audiences_path.index(at), audience.clone());
        }
    }
    let policy = issuer.audience_match_policy.as_str();
    let policy_fault = match audiences.len() {
        2.. if policy != "MatchAny" => Some("audienceMatchPolicy must be MatchAny for multiple audiences"),
        1 if !policy.is_empty() && policy != "MatchAny" => {
            Some("audienceMatchPolicy must be empty or MatchAny for single audience")
        }
        _ => None,
    };
    if let Some(fault) = policy_fault {
        errors.invalid(path.child("audienceMatchPolicy"), policy, fault);
    }
    if !issuer.certificate_authority.is_empty() && !issuer.certificate_authority.contains("-----BEGIN CERTIFICATE-----")
    {
        let text = "data does not contain any valid RSA or ECDSA certificates";
        errors.invalid(path.child("certificateAuthority"), "<omitted>", text);
    }
    if !issuer.egress_selector_type.is_empty() {
        let text = "egress selectors are not supported by this server";
        errors.invalid(path.child("egressSelectorType"), issuer.egress_selector_type.clone(), text);
    }
}

fn compile(
    text: &str,
    path: Path,
    errors: &mut ErrorList,
    with: impl Fn(&str) -> api::cel::policy::Compiled,
) -> Option<api::cel::Program> {
    match with(text) {
        Ok(program) => Some(program),
        Err(fault) => {
            errors.invalid(path, text, fault);
            None
        }
    }
}

fn mapping(jwt: &Jwt, path: &Path, errors: &mut ErrorList) -> Mapping {
    use api::cel::access::{Wanted, compile_claims, compile_user};
    let mut mapping = Mapping::default();
    let rules_path = path.child("claimValidationRules");
    let mut seen: Vec<&str> = Vec::new();
    for (at, rule) in jwt.claim_validation_rules.iter().flatten().enumerate() {
        let path = rules_path.index(at);
        match (rule.claim.is_empty(), rule.expression.is_empty()) {
            (false, false) => errors.invalid(path, rule.claim.clone(), "claim and expression can't both be set"),
            (true, true) => errors.required(path, "claim or expression is required"),
            (false, true) => {
                if !rule.message.is_empty() {
                    let text = "may not be specified when claim is set";
                    errors.invalid(path.child("message"), rule.message.clone(), text);
                }
                if mapping.required_claims.insert(rule.claim.clone(), rule.required_value.clone()).is_some() {
                    errors.duplicate(path.child("claim"), rule.claim.clone());
                }
            }
            (true, false) => {
                if !rule.required_value.is_empty() {
                    let text = "may not be specified when expression is set";
                    errors.invalid(path.child("requiredValue"), rule.required_value.clone(), text);
                }
                if seen.contains(&rule.expression.as_str()) {
                    errors.duplicate(path.child("expression"), rule.expression.clone());
                    continue;
                }
                seen.push(&rule.expression);
                let with = |text: &str| compile_claims(text, Wanted::Bool);
                if let Some(program) = compile(&rule.expression, path.child("expression"), errors, with) {
                    mapping.claim_checks.push(Check::new(&rule.expression, &rule.message, program));
                }
            }
        }
    }
    let mappings = &jwt.claim_mappings;
    let mappings_path = path.child("claimMappings");
    mapping.username = source(&mappings.username, &mappings_path.child("username"), Need::Required, errors);
    mapping.groups = source(&mappings.groups, &mappings_path.child("groups"), Need::Prefixed, errors);
    mapping.uid = source(&mappings.uid, &mappings_path.child("uid"), Need::Optional, errors);
    let anything = |text: &str| compile_claims(text, Wanted::Anything);
    let mut keys: Vec<&str> = Vec::new();
    for (at, extra) in mappings.extra.iter().flatten().enumerate() {
        let path = mappings_path.child("extra").index(at);
        check_key(&extra.key, &path.child("key"), errors);
        if keys.contains(&extra.key.as_str()) {
            errors.duplicate(path.child("key"), extra.key.clone());
            continue;
        }
        keys.push(&extra.key);
        if extra.value_expression.is_empty() {
            errors.required(path.child("valueExpression"), "");
            continue;
        }
        if let Some(program) = compile(&extra.value_expression, path.child("valueExpression"), errors, anything) {
            mapping.extra.push(Extra { key: extra.key.clone(), program });
        }
    }
    let names = |text: &str, claim: &str| {
        let at = format!("claims.{claim}");
        text.match_indices(&at)
            .any(|(from, _)| !text[from + at.len()..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
    };
    let expression = &mappings.username.expression;
    let checks_email = jwt.claim_validation_rules.iter().flatten().map(|rule| &rule.expression);
    let checks_email = checks_email
        .chain(mappings.extra.iter().flatten().map(|extra| &extra.value_expression))
        .chain([expression])
        .any(|text| names(text, "email_verified") || text.contains("claims.?email_verified"));
    if names(expression, "email") && !checks_email {
        let text = "claims.email_verified must be used in claimMappings.username.expression or \
                    claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in \
                    claimMappings.username.expression";
        errors.invalid(mappings_path.child("username").child("expression"), expression.clone(), text);
    }
    let rules_path = path.child("userValidationRules");
    let mut seen: Vec<&str> = Vec::new();
    for (at, rule) in jwt.user_validation_rules.iter().flatten().enumerate() {
        let path = rules_path.index(at).child("expression");
        if rule.expression.is_empty() {
            errors.required(path, "");
        } else if seen.contains(&rule.expression.as_str()) {
            errors.duplicate(path, rule.expression.clone());
        } else {
            seen.push(&rule.expression);
            if let Some(program) = compile(&rule.expression, path, errors, compile_user) {
                mapping.user_checks.push(Check::new(&rule.expression, &rule.message, program));
            }
        }
    }
    mapping
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// A claim or an expression, and a prefix with a claim.
    Required,
    /// A prefix with a claim.
    Prefixed,
    Optional,
}

fn source(from: &ClaimOrExpression, path: &Path, need: Need, errors: &mut ErrorList) -> Option<Source> {
    use api::cel::access::{Wanted, compile_claims};
    match (from.claim.is_empty(), from.expression.is_empty()) {
        (false, false) => {
            errors.invalid(path.clone(), "", "claim and expression can't both be set");
            None
        }
        (true, true) => {
            if need == Need::Required {
                errors.required(path.clone(), "claim or expression is required");
            }
            None
        }
        (true, false) => {
            if let Some(prefix) = &from.prefix {
                errors.invalid(path.child("prefix"), prefix.clone(), "may not be specified when expression is set");
            }
            let with = |text: &str| compile_claims(text, Wanted::Anything);
            compile(&from.expression, path.child("expression"), errors, with).map(Source::Expression)
        }
        (false, true) => {
            if from.prefix.is_none() && need != Need::Optional {
                let text =
                    "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
                errors.required(path.child("prefix"), text);
            }
            let prefix = from.prefix.clone().unwrap_or_default();
            Some(Source::Claim { name: from.claim.clone(), prefix })
        }
    }
}

fn check_key(key: &str, path: &Path, errors: &mut ErrorList) {
    let domain = match key.split_once('/') {
        _ if key.is_empty() => {
            errors.required(path.clone(), "");
            return;
        }
        Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => domain,
        _ => {
            let text = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.invalid(path.clone(), key, text);
            ""
        }
    };
    for fault in api::validate::names::dns1123_subdomain(domain).into_iter().filter(|_| !domain.is_empty()) {
        errors.invalid(path.clone(), domain, fault);
    }
    if key != key.to_lowercase() {
        errors.invalid(path.clone(), key, "must be lowercase");
    }
    let reserved = |of: &str| domain == of || domain.ends_with(&format!(".{of}"));
    if reserved("k8s.io") || reserved("kubernetes.io") {
        let text = "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use";
        errors.invalid(path.clone(), key, text);
    }
}
