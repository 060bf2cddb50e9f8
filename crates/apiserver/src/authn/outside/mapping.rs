//! From the claims of a token to a user.

use std::collections::BTreeMap;

use api::cel::{Bindings, PER_CALL_LIMIT, Program, Val};
use api::{Value, gojson};

use super::super::certificate::CREDENTIAL_ID;
use crate::attributes::UserInfo;
use crate::authn::review::user_info;

/// Where a value comes from.
#[derive(Debug)]
pub(super) enum Source {
    Claim { name: String, prefix: String },
    Expression(Program),
}

/// A condition and what is said when it does not hold.
#[derive(Debug)]
pub(super) struct Check {
    text: String,
    message: String,
    program: Program,
}

#[derive(Debug)]
pub(super) struct Extra {
    pub key: String,
    pub program: Program,
}

/// How claims become a user.
#[derive(Debug, Default)]
pub(super) struct Mapping {
    pub username: Option<Source>,
    pub groups: Option<Source>,
    pub uid: Option<Source>,
    pub extra: Vec<Extra>,
    pub required_claims: BTreeMap<String, String>,
    pub claim_checks: Vec<Check>,
    pub user_checks: Vec<Check>,
}

impl Check {
    pub(super) fn new(text: &str, message: &str, program: Program) -> Self {
        Self { text: text.to_owned(), message: message.to_owned(), program }
    }

    fn holds(&self, variable: &'static str, value: &Value) -> Result<(), String> {
        match evaluate(&self.program, &self.text, variable, value)? {
            Value::Bool(true) => Ok(()),
            Value::Bool(false) if self.message.is_empty() => {
                Err(format!("validation expression '{}' failed", self.text))
            }
            Value::Bool(false) => Err(format!("validation expression '{}' failed: {}", self.text, self.message)),
            _ => Err("validation expression must return a boolean".to_owned()),
        }
    }
}

fn evaluate(program: &Program, text: &str, variable: &'static str, value: &Value) -> Result<Value, String> {
    let bindings = Bindings::new().with(variable, Val::data(value));
    let (result, _cost) = program.evaluate(&bindings, PER_CALL_LIMIT);
    let failed = |error: &dyn std::fmt::Display| format!("expression '{text}' resulted in error: {error}");
    result.map_err(|error| failed(&error))?.to_json().map_err(|error| failed(&error))
}

impl Mapping {
    /// The claim that groups are in, when it is a claim as such.
    pub(super) fn groups_claim(&self) -> Option<&str> {
        match &self.groups {
            Some(Source::Claim { name, .. }) => Some(name.as_str()),
            Some(Source::Expression(_)) | None => None,
        }
    }

    /// The user of a token with these claims.
    pub(super) fn user(&self, claims: &Value) -> Result<UserInfo, String> {
        let mut user = UserInfo { name: self.username(claims)?, ..UserInfo::default() };
        user.groups = self.groups(claims)?;
        user.uid = self.uid(claims)?;
        if let Some(id) = claims["jti"].as_str().filter(|id| !id.is_empty()) {
            user.extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("JTI={id}")]);
        }
        for extra in &self.extra {
            let failed = |error: String| format!("oidc: error evaluating extra claim expression: {error}");
            let value = evaluate(&extra.program, &extra.key, "claims", claims).map_err(failed)?;
            let values = strings(&value).map_err(failed)?;
            if !values.is_empty() {
                user.extra.insert(extra.key.clone(), values);
            }
        }
        for (claim, wanted) in &self.required_claims {
            match &claims[claim] {
                Value::Null => return Err(format!("oidc: required claim {claim} not present in ID token")),
                Value::String(got) if got == wanted => {}
                Value::String(got) => {
                    return Err(format!(
                        "oidc: required claim {claim} value does not match. Got = {got}, want = {wanted}"
                    ));
                }
                other => return Err(format!("oidc: parse claim {claim}: {}", not_a(other, "string"))),
            }
        }
        for check in &self.claim_checks {
            let failed = |error| format!("oidc: error evaluating claim validation expression: {error}");
            check.holds("claims", claims).map_err(failed)?;
        }
        if !self.user_checks.is_empty() {
            let seen = user_info(&user);
            for check in &self.user_checks {
                let failed = |error| format!("oidc: error evaluating user info validation rule: {error}");
                check.holds("user", &seen).map_err(failed)?;
            }
        }
        Ok(user)
    }

    fn username(&self, claims: &Value) -> Result<String, String> {
        match &self.username {
            None => Err("oidc: no username is mapped".to_owned()),
            Some(Source::Expression(program)) => {
                let failed = |error: String| format!("oidc: error evaluating username claim expression: {error}");
                match evaluate(program, "username", "claims", claims).map_err(failed)? {
                    Value::String(name) if name.is_empty() => {
                        Err("oidc: empty username via CEL expression is not allowed".to_owned())
                    }
                    Value::String(name) => Ok(name.into()),
                    _ => Err(failed("username claim expression must return a string".to_owned())),
                }
            }
            Some(Source::Claim { name, prefix }) => {
                let value = match &claims[name] {
                    Value::String(value) => value,
                    Value::Null => {
                        return Err(format!("oidc: parse username claims {name:?}: claim not present"));
                    }
                    other => return Err(format!("oidc: parse username claims {name:?}: {}", not_a(other, "string"))),
                };
                if name == "email" {
                    match &claims["email_verified"] {
                        Value::Null | Value::Bool(true) => {}
                        Value::Bool(false) => return Err("oidc: email not verified".to_owned()),
                        other => {
                            return Err(format!("oidc: parse 'email_verified' claim: {}", not_a(other, "bool")));
                        }
                    }
                }
                Ok(format!("{prefix}{value}"))
            }
        }
    }

    fn groups(&self, claims: &Value) -> Result<Vec<String>, String> {
        match &self.groups {
            None => Ok(Vec::new()),
            Some(Source::Expression(program)) => {
                let failed = |error| format!("oidc: error evaluating group claim expression: {error}");
                let value = evaluate(program, "groups", "claims", claims).map_err(failed)?;
                strings(&value).map_err(failed)
            }
            Some(Source::Claim { name, prefix }) => {
                let failed = |what: &Value| format!("oidc: parse groups claim {name:?}: {}", not_a(what, "[]string"));
                let values = match &claims[name] {
                    Value::Null => return Ok(Vec::new()),
                    Value::String(one) => vec![one.as_str()],
                    Value::Array(many) => {
                        let texts: Option<Vec<&str>> = many.iter().map(Value::as_str).collect();
                        texts.ok_or_else(|| failed(&claims[name]))?
                    }
                    other => return Err(failed(other)),
                };
                Ok(values.iter().map(|value| format!("{prefix}{value}")).collect())
            }
        }
    }

    fn uid(&self, claims: &Value) -> Result<String, String> {
        match &self.uid {
            None => Ok(String::new()),
            Some(Source::Expression(program)) => {
                let failed = |error: String| format!("oidc: error evaluating uid claim expression: {error}");
                match evaluate(program, "uid", "claims", claims).map_err(failed)? {
                    Value::String(uid) => Ok(uid.into()),
                    _ => Err(failed("uid claim expression must return a string".to_owned())),
                }
            }
            Some(Source::Claim { name, .. }) => match &claims[name] {
                Value::String(uid) => Ok(uid.to_string()),
                Value::Null => Err(format!("oidc: parse uid claim {name:?}: claim not present")),
                other => Err(format!("oidc: parse uid claim {name:?}: {}", not_a(other, "string"))),
            },
        }
    }
}

/// What Go's decoder says of a value of another type.
fn not_a(value: &Value, wanted: &str) -> String {
    format!("json: cannot unmarshal {} into Go value of type {wanted}", gojson::type_name(value))
}

/// A string or a list of strings, as a list; nothing for an empty string or null.
fn strings(value: &Value) -> Result<Vec<String>, String> {
    let wrong = || "expression must return a string or a list of strings".to_owned();
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) if text.is_empty() => Ok(Vec::new()),
        Value::String(text) => Ok(vec![text.to_string()]),
        Value::Array(list) => {
            let texts: Result<Vec<_>, _> =
                list.iter().map(|v| v.as_str().map(str::to_owned).ok_or_else(wrong)).collect();
            Ok(texts?.into_iter().filter(|text| !text.is_empty()).collect())
        }
        _ => Err(wrong()),
    }
}
