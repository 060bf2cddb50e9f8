//! The access reviews: `SubjectAccessReview` and its two relatives, and `SelfSubjectRulesReview`. Each takes the posted object
//! and returns it with `status` filled in.

use api::json;
use api::selector::{FieldSelector, LabelSelector, Operator, Requirement};
use api::validate::labels;
use api::{Cursor, ErrorList, Path, Status, Text, Value, meta};
use serde::Deserialize;

use super::{Authorizer, Rules};
use crate::attributes::{Action, UserInfo};

const GROUP: &str = "authorization.k8s.io";

/// Answers a SubjectAccessReview: what may the user in `spec` do?
pub fn subject_access_review(authorizer: &Authorizer, mut review: Value) -> Result<Value, Status> {
    let spec = Spec::read(&review)?;
    let mut errors = spec.errors(&review, Asked::OfSomebody);
    empty_metadata(&review, &[], "must be empty", &mut errors);
    refuse(&errors)?;
    answer(authorizer, &spec.subject(), &spec, &mut review);
    Ok(review)
}

/// Answers a LocalSubjectAccessReview posted to `namespace`.
pub fn local_subject_access_review(
    authorizer: &Authorizer,
    namespace: &str,
    mut review: Value,
) -> Result<Value, Status> {
    let spec = Spec::read(&review)?;
    let mut errors = spec.errors(&review, Asked::OfSomebody);
    empty_metadata(&review, &["namespace"], "must be empty except for namespace", &mut errors);
    let asked = spec.resource_attributes.as_ref().map_or("", |a| a.namespace.as_str());
    if spec.resource_attributes.is_some() && asked != namespace {
        errors.invalid(Path::new("spec.resourceAttributes.namespace"), asked, "must match metadata.namespace");
    }
    if let Some(attributes) = &spec.non_resource_attributes {
        let path = Path::new("spec.nonResourceAttributes");
        errors.invalid(path, attributes.go_value(), "disallowed on this kind of request");
    }
    refuse(&errors)?;
    answer(authorizer, &spec.subject(), &spec, &mut review);
    Ok(review)
}

/// Answers a SelfSubjectAccessReview of `user`.
pub fn self_subject_access_review(
    authorizer: &Authorizer,
    user: &UserInfo,
    mut review: Value,
) -> Result<Value, Status> {
    let spec = Spec::read(&review)?;
    let mut errors = spec.errors(&review, Asked::OfOneself);
    empty_metadata(&review, &[], "must be empty", &mut errors);
    refuse(&errors)?;
    answer(authorizer, user, &spec, &mut review);
    Ok(review)
}

/// Answers a SelfSubjectRulesReview of `user`: what `kubectl auth can-i --list` prints.
pub fn self_subject_rules_review(authorizer: &Authorizer, user: &UserInfo, mut review: Value) -> Result<Value, Status> {
    let namespace = review.pointer("/spec/namespace").and_then(Value::as_str).unwrap_or_default().to_owned();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    // The group of superusers is let through before the chain and has no rules to show.
    let Rules { rules, is_incomplete, errors: messages } = authorizer.rules_for(user, &namespace);
    let resource_rules: Vec<Value> = rules
        .iter()
        .filter(|r| !r.resources.is_empty())
        .map(|r| {
            let mut out = json!({"verbs": r.verbs});
            for (name, values) in
                [("apiGroups", &r.api_groups), ("resources", &r.resources), ("resourceNames", &r.resource_names)]
            {
                if !values.is_empty() {
                    out[name] = json!(values);
                }
            }
            out
        })
        .collect();
    let other_rules: Vec<Value> = rules
        .iter()
        .filter(|r| !r.non_resource_urls.is_empty())
        .map(|r| json!({"verbs": r.verbs, "nonResourceURLs": r.non_resource_urls}))
        .collect();
    let mut status =
        json!({"resourceRules": resource_rules, "nonResourceRules": other_rules, "incomplete": is_incomplete});
    match messages.as_slice() {
        [] => {}
        [one] => status["evaluationError"] = json!(one),
        many => status["evaluationError"] = json!(format!("[{}]", many.join(", "))),
    }
    review["metadata"] = json!({});
    review["spec"] = json!({});
    review["status"] = status;
    Ok(review)
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    resource_attributes: Option<ResourceAttributes>,
    non_resource_attributes: Option<NonResourceAttributes>,
    user: String,
    groups: Vec<String>,
    uid: String,
    extra: std::collections::BTreeMap<String, Option<Vec<String>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ResourceAttributes {
    namespace: String,
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    name: String,
    field_selector: Option<SelectorAttributes>,
    label_selector: Option<SelectorAttributes>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SelectorAttributes {
    raw_selector: String,
    requirements: Vec<SelectorRequirement>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SelectorRequirement {
    key: String,
    operator: String,
    values: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NonResourceAttributes {
    path: String,
    verb: String,
}

impl NonResourceAttributes {
    /// As Go prints the internal struct.
    fn go_value(&self) -> Value {
        json!({"Path": self.path, "Verb": self.verb})
    }
}

/// About whom a review asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    OfSomebody,
    OfOneself,
}

impl SelectorAttributes {
    /// How much of the selector could not be heeded; `None` where all of it could.
    fn ignored(
        &self,
        is_heeded: fn(&SelectorRequirement) -> bool,
        is_readable: impl Fn(&str) -> bool,
    ) -> Option<&'static str> {
        if self.requirements.is_empty() {
            return (!is_readable(&self.raw_selector)).then_some("ignored");
        }
        let n_heeded = self.requirements.iter().filter(|requirement| is_heeded(requirement)).count();
        match n_heeded {
            0 => Some("ignored"),
            n if n < self.requirements.len() => Some("partially ignored"),
            _ => None,
        }
    }
}

impl SelectorRequirement {
    /// Fields are compared with one value.
    fn is_heeded_of_fields(&self) -> bool {
        self.values.len() == 1 && matches!(self.operator.as_str(), "In" | "NotIn")
    }

    fn is_heeded_of_labels(&self) -> bool {
        let operator = Operator::of_object(&self.operator);
        operator.is_some_and(|operator| Requirement::new(&self.key, operator, self.values.clone()).is_ok())
    }
}

fn field_requirement(requirement: &Cursor<'_>, errors: &mut ErrorList) {
    let key = requirement.field("key");
    if key.is_empty() {
        key.required(errors, "must be specified");
    }
    labels::requirement_values(requirement, errors);
}

impl Spec {
    fn read(review: &Value) -> Result<Self, Status> {
        match review.get("spec") {
            None | Some(Value::Null) => Ok(Self::default()),
            Some(spec) => Self::deserialize(spec).map_err(|e| Status::bad_request(e.to_string())),
        }
    }

    fn subject(&self) -> UserInfo {
        UserInfo {
            name: self.user.clone(),
            uid: self.uid.clone(),
            groups: self.groups.clone(),
            extra: self.extra.iter().map(|(key, values)| (key.clone(), values.clone().unwrap_or_default())).collect(),
        }
    }

    fn errors(&self, review: &Value, asked: Asked) -> ErrorList {
        let mut errors = ErrorList::new();
        match (&self.resource_attributes, &self.non_resource_attributes) {
            (Some(_), Some(other)) => errors.invalid(
                Path::new("spec.nonResourceAttributes"),
                other.go_value(),
                "cannot be specified in combination with resourceAttributes",
            ),
            (None, None) => errors.invalid(
                Path::new("spec.resourceAttributes"),
                Value::Null,
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ),
            _ => {}
        }
        if asked == Asked::OfSomebody && self.user.is_empty() && self.groups.is_empty() {
            errors.invalid(Path::new("spec.user"), "", "at least one of user or group must be specified");
        }
        if let Some(attributes) = &self.resource_attributes {
            let selectors =
                [("fieldSelector", &attributes.field_selector), ("labelSelector", &attributes.label_selector)];
            for (name, selector) in selectors {
                let Some(selector) = selector else { continue };
                let path = Path::new("spec.resourceAttributes").child(name);
                if !selector.raw_selector.is_empty() && !selector.requirements.is_empty() {
                    errors.invalid(
                        path.child("rawSelector"),
                        selector.raw_selector.as_str(),
                        "may not specified at the same time as requirements",
                    );
                }
                if selector.raw_selector.is_empty() && selector.requirements.is_empty() {
                    let detail = format!("when {path} is specified, requirements or rawSelector is required");
                    errors.required(path.child("requirements"), detail);
                }
                // Operators may be those of a newer client.
                let sent = Cursor::root(review).fields(&["spec", "resourceAttributes", name, "requirements"]);
                for requirement in sent.items() {
                    match name {
                        "fieldSelector" => field_requirement(&requirement, &mut errors),
                        _ => labels::selector_requirement(&requirement, &mut errors),
                    }
                }
            }
        }
        errors
    }

    /// What is said of selectors that could not be heeded, in whole or in part.
    fn ignored(&self) -> Vec<String> {
        let Some(attributes) = &self.resource_attributes else { return Vec::new() };
        let fields = attributes.field_selector.as_ref().and_then(|selector| {
            selector.ignored(SelectorRequirement::is_heeded_of_fields, |raw| FieldSelector::parse(raw).is_ok())
        });
        let labels = attributes.label_selector.as_ref().and_then(|selector| {
            selector.ignored(SelectorRequirement::is_heeded_of_labels, |raw| LabelSelector::parse(raw).is_ok())
        });
        let selectors = [("fieldSelector", fields), ("labelSelector", labels)];
        let note = |(name, how): (&str, Option<&str>)| {
            how.map(|how| format!("spec.resourceAttributes.{name} {how} due to parse error"))
        };
        selectors.into_iter().filter_map(note).collect()
    }

    fn action(&self) -> Action {
        match (&self.resource_attributes, &self.non_resource_attributes) {
            (Some(a), _) => Action::Resource {
                verb: a.verb.clone(),
                group: a.group.clone(),
                version: a.version.clone(),
                resource: a.resource.clone(),
                subresource: a.subresource.clone(),
                namespace: a.namespace.clone(),
                name: a.name.clone(),
            },
            (None, Some(a)) => Action::NonResource { verb: a.verb.clone(), path: a.path.clone() },
            (None, None) => Action::NonResource { verb: String::new(), path: String::new() },
        }
    }

    /// `field = value` requirements of the field selector, raw or parsed.
    fn field_equals(&self) -> Vec<(String, String)> {
        let Some(selector) = self.resource_attributes.as_ref().and_then(|a| a.field_selector.as_ref()) else {
            return Vec::new();
        };
        let raw = selector.raw_selector.split(',').filter(|part| !part.contains("!=")).filter_map(|part| {
            let (field, value) = part.split_once('=')?;
            Some((field.to_owned(), value.trim_start_matches('=').to_owned()))
        });
        let parsed = selector.requirements.iter().filter(|r| r.operator == "In").filter_map(|r| match &r.values[..] {
            [value] => Some((r.key.clone(), value.clone())),
            _ => None,
        });
        raw.chain(parsed).collect()
    }
}

/// Upstream names neither kind nor object in these refusals.
fn refuse(errors: &ErrorList) -> Result<(), Status> {
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(GROUP, "", "", errors)) }
}

/// A review is no object: it has no metadata but what is allowed and what the server itself has put there.
fn empty_metadata(review: &Value, allowed: &[&str], detail: &str, errors: &mut ErrorList) {
    let is_own = |field: &Text| field == "managedFields" || allowed.contains(&field.as_str());
    let metadata = review.get("metadata").filter(|m| m.as_object().is_some_and(|fields| !fields.keys().all(is_own)));
    if metadata.is_some() {
        let mut shown = review.clone();
        meta::put_in_order(&mut shown);
        errors.invalid(Path::new("metadata"), shown["metadata"].take(), detail);
    }
}

fn answer(authorizer: &Authorizer, user: &UserInfo, spec: &Spec, review: &mut Value) {
    let decision = authorizer.authorize_selected(user, &spec.action(), &spec.field_equals());
    if review["metadata"].is_null() {
        review["metadata"] = json!({});
    }
    let mut status = json!({"allowed": decision.allowed});
    if decision.denied {
        status["denied"] = json!(true);
    }
    let reason = decision.reason.text();
    if !reason.is_empty() {
        status["reason"] = json!(reason);
    }
    let ignored = spec.ignored();
    if !ignored.is_empty() {
        status["evaluationError"] = json!(ignored.join("; "));
    }
    review["status"] = status;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::MemorySource;

    fn authorizer() -> Authorizer {
        Authorizer::new(MemorySource::new().shared())
    }

    fn sar(spec: Value) -> Result<Value, String> {
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {}, "spec": spec});
        subject_access_review(&authorizer(), review).map(|r| r["status"].clone()).map_err(|s| s.message)
    }

    #[test]
    fn a_superuser_is_allowed_without_a_reason() {
        let spec =
            json!({"user": "x", "groups": ["system:masters"], "resourceAttributes": {"verb": "*", "resource": "*"}});
        assert_eq!(sar(spec), Ok(json!({"allowed": true})));
    }

    #[test]
    fn a_node_gets_the_node_authorizers_reason() {
        let spec = json!({"user": "system:node:x", "groups": ["system:nodes"],
            "resourceAttributes": {"verb": "get", "resource": "secrets", "namespace": "default", "name": "s"}});
        let expected = json!({"allowed": false, "reason": "no relationship found between node 'x' and this object"});
        assert_eq!(sar(spec), Ok(expected));
    }

    #[test]
    fn all_that_is_wrong_is_reported() {
        let neither = "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or \
                       resourceAttributes must be specified";
        let nobody = "spec.user: Invalid value: \"\": at least one of user or group must be specified";
        assert_eq!(
            sar(json!({})).unwrap_err(),
            format!(".authorization.k8s.io \"\" is invalid: [{neither}, {nobody}]")
        );
        let both = json!({"user": "x", "resourceAttributes": {}, "nonResourceAttributes": {}});
        assert_eq!(
            sar(both).unwrap_err(),
            ".authorization.k8s.io \"\" is invalid: spec.nonResourceAttributes: Invalid value: \
             {\"Path\":\"\",\"Verb\":\"\"}: cannot be specified in combination with resourceAttributes"
        );
    }

    #[test]
    fn a_superuser_has_no_rules_but_those_of_roles_and_the_question_is_not_repeated() {
        let user = UserInfo { groups: vec!["system:masters".into()], ..UserInfo::default() };
        let review = json!({"spec": {"namespace": "default"}});
        let answer = self_subject_rules_review(&authorizer(), &user, review).unwrap();
        assert_eq!(
            answer,
            json!({"metadata": {}, "spec": {}, "status": {"resourceRules": [], "nonResourceRules": [], "incomplete": false}})
        );
    }
}
