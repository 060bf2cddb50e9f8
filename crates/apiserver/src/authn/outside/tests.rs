use api::json;

use super::config::IssuerConfig;
use super::mapping::Mapping;
use super::*;
use crate::attributes::UserInfo;

fn issuer(fields: &str) -> Result<IssuerConfig, String> {
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {{url: 'https://issuer.test', \
         audiences: [me]}}\n{fields}"
    );
    Ok(AuthenticationFile::parse(&text, false)?.issuers.remove(0))
}

fn mapping(fields: &str) -> Mapping {
    issuer(fields).unwrap().mapping
}

#[test]
fn claims_become_a_user_by_name_and_prefix() {
    let mapping = mapping(
        "  claimMappings: {username: {claim: sub, prefix: 'x:'}, groups: {claim: roles, prefix: ''}, uid: {claim: id}}\n  \
         claimValidationRules: [{claim: hd, requiredValue: example.com}]\n",
    );
    let claims = json!({"sub": "jane", "roles": ["dev", "ops"], "id": "7", "hd": "example.com", "jti": "t1"});
    let user = mapping.user(&claims).unwrap();
    assert_eq!((user.name.as_str(), user.uid.as_str()), ("x:jane", "7"));
    assert_eq!(user.groups, ["dev", "ops"]);
    assert_eq!(user.extra["authentication.kubernetes.io/credential-id"], ["JTI=t1"]);
    let refused = |claims| mapping.user(&claims).unwrap_err();
    assert_eq!(
        refused(json!({"sub": "jane", "id": "7", "hd": "example.org"})),
        "oidc: required claim hd value does not match. Got = example.org, want = example.com"
    );
    assert_eq!(refused(json!({"sub": "jane", "id": "7"})), "oidc: required claim hd not present in ID token");
    assert_eq!(refused(json!({"id": "7"})), "oidc: parse username claims \"sub\": claim not present");
}

#[test]
fn claims_become_a_user_by_expressions() {
    let mapping = mapping(
        "  claimMappings:\n    username: {expression: 'claims.name + \":oidc\"'}\n    groups: {expression: 'claims.roles.split(\",\")'}\n    \
         uid: {expression: 'claims.sub'}\n    extra: [{key: example.org/tenant, valueExpression: 'claims.tenant'}]\n  \
         claimValidationRules: [{expression: 'claims.level > 3', message: 'too low'}]\n  \
         userValidationRules: [{expression: \"!user.username.startsWith('system:')\", message: 'reserved'}]\n",
    );
    let claims =
        |name: &str, level: i64| json!({"sub": "1", "name": name, "roles": "a,b", "tenant": "t", "level": level});
    let user = mapping.user(&claims("jane", 4)).unwrap();
    assert_eq!((user.name.as_str(), user.uid.as_str()), ("jane:oidc", "1"));
    assert_eq!(user.groups, ["a", "b"]);
    assert_eq!(user.extra["example.org/tenant"], ["t"]);
    assert_eq!(
        mapping.user(&claims("jane", 3)).unwrap_err(),
        "oidc: error evaluating claim validation expression: validation expression 'claims.level > 3' failed: too low"
    );
    assert_eq!(
        mapping.user(&claims("system:x", 4)).unwrap_err(),
        "oidc: error evaluating user info validation rule: validation expression '!user.username.startsWith('system:')' failed: \
         reserved"
    );
}

#[test]
fn a_wrong_configuration_is_refused_in_upstreams_words() {
    let refused = |fields: &str| issuer(fields).unwrap_err();
    assert_eq!(
        refused("  claimMappings: {}\n"),
        "jwt[0].claimMappings.username: Required value: claim or expression is required"
    );
    assert_eq!(
        refused("  claimMappings: {username: {claim: sub}}\n"),
        "jwt[0].claimMappings.username.prefix: Required value: prefix is required when claim is set. It can be set to an empty \
         string to disable prefixing"
    );
    assert!(
        refused("  claimMappings: {username: {expression: 'claims.email'}}\n")
            .contains("claims.email_verified must be used")
    );
    assert_eq!(
        refused(
            "  claimMappings: {username: {claim: sub, prefix: ''}, extra: [{key: kubernetes.io/x, valueExpression: 'claims.a'}]}\n"
        ),
        "jwt[0].claimMappings.extra[0].key: Invalid value: \"kubernetes.io/x\": k8s.io, kubernetes.io and their subdomains are \
         reserved for Kubernetes use"
    );
    let http = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {url: 'http://a', \
                audiences: [a, b]}\n  claimMappings: {username: {claim: sub, prefix: ''}}\n";
    assert_eq!(
        AuthenticationFile::parse(http, false).unwrap_err(),
        "[jwt[0].issuer.url: Invalid value: \"http://a\": URL scheme must be https, jwt[0].issuer.audienceMatchPolicy: Invalid \
         value: \"\": audienceMatchPolicy must be MatchAny for multiple audiences]"
    );
}

#[test]
fn the_older_flags_are_an_issuer_too() {
    let flags = OidcFlags {
        issuer_url: "https://issuer.test".into(),
        client_id: "me".into(),
        username_claim: "sub".into(),
        signing_algorithms: vec!["RS256".into()],
        ..OidcFlags::default()
    };
    let file = AuthenticationFile::from_flags(flags).unwrap();
    let user = file.issuers[0].mapping.user(&json!({"sub": "jane"})).unwrap();
    assert_eq!(user, UserInfo { name: "https://issuer.test#jane".into(), ..UserInfo::default() });
}

#[test]
fn a_token_file_names_users_and_their_groups() {
    let file = TokenFile::parse("secret,jane,7,\"dev,ops\"\nother,bob,8\n").unwrap();
    let jane = file.user("secret").unwrap();
    assert_eq!((jane.name.as_str(), jane.uid.as_str(), jane.groups.len()), ("jane", "7", 2));
    assert!(file.user("secre").is_none());
    assert!(TokenFile::parse("a,b").unwrap_err().contains("at least 3 columns"));
}
