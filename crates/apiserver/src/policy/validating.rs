//! ValidatingAdmissionPolicy: every matching policy judges, and the first refusal is the answer.

use std::collections::BTreeMap;

use api::cel::policy::{self, Matched, Variables};
use api::cel::{MESSAGE_MAX_BYTES, RUNTIME_BUDGET, Val};
use api::json;
use api::{Status, Value};

use super::definition::{Binding, Policy, Rules, Validation};
use super::{Misconfigured, conditions, invocations, is_exempt, namespace_object};
use crate::admission::forbidden;
use crate::gateway::Gateway;
use crate::webhook::{Attributes, Authority, Inputs, Seen, Surroundings, Traces};

/// Failures that one audit annotation lists.
const AUDITED_FAILURES_MAX: usize = 50;
/// Bytes of an audit annotation's value.
const AUDIT_VALUE_MAX_BYTES: usize = 10 * 1024;

/// Asks all policies in force.
pub(crate) async fn validate(
    gateway: &Gateway,
    attributes: &Attributes<'_>,
    object: &Value,
    old: &Value,
    traces: &mut Traces<'_>,
) -> Result<(), Status> {
    let policies = gateway.policies.validating(gateway.cache.as_ref());
    if policies.is_empty() || is_exempt(attributes) {
        return Ok(());
    }
    let surroundings = Surroundings::new(gateway, attributes);
    let (invocations, misconfigured) = invocations(gateway, &policies, attributes, &surroundings, object, old).await;
    let mut judged = Judged::default();
    misconfigured.iter().for_each(|misconfigured| judged.misconfigured(misconfigured));
    if !invocations.is_empty() {
        let namespace = namespace_object(gateway, attributes, &surroundings).await?;
        let authority = Authority::new(&gateway.authz, attributes);
        let mut seen: Vec<Seen> = Vec::new();
        for invocation in &invocations {
            let known = seen.iter().position(|seen| seen.is_of(&invocation.kind));
            let index = known.unwrap_or_else(|| {
                seen.push(Seen::new(attributes, &invocation.kind, object, old));
                seen.len() - 1
            });
            let inputs = seen[index].inputs(&invocation.param, &namespace);
            let verdict = judge(invocation.policy, &inputs, &authority);
            judged.take(invocation.policy, invocation.binding, verdict, traces);
        }
    }
    judged.publish(traces);
    match judged.denied {
        None => Ok(()),
        Some(denied) => Err(denied.status(attributes, object)),
    }
}

/// What one evaluation of a policy says.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// With the index of the validation.
    pub refusals: Vec<(usize, Refusal)>,
    /// Audit annotations of the policy's own: key and value.
    pub annotations: Vec<(String, String)>,
    /// Annotations that failed, when failures refuse.
    pub failed_annotations: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub message: String,
    /// Empty for the default.
    pub reason: String,
}

impl Refusal {
    fn error(message: String) -> Self {
        Self { message, reason: String::new() }
    }
}

impl Verdict {
    /// The whole policy failed: its failure policy decides.
    fn failed(policy: &Policy, message: String) -> Self {
        let mut verdict = Self::default();
        if !policy.ignores_failures {
            verdict.refusals.push((0, Refusal::error(message)));
        }
        verdict
    }
}

/// Evaluates a policy with one parameter.
pub(super) fn judge(policy: &Policy, inputs: &Inputs<'_>, authority: &Authority) -> Verdict {
    match conditions(policy, inputs, authority) {
        Matched::Yes => {}
        Matched::No => return Verdict::default(),
        Matched::Failed(message) => return Verdict::failed(policy, message),
    }
    let Rules::Validating { validations, audit } = &policy.rules else { return Verdict::default() };
    let bindings = inputs.bindings(Some(authority));
    let variables = Variables::new(&policy.variables, &bindings);
    let mut budget = RUNTIME_BUDGET;
    let mut results = Vec::new();
    for validation in validations {
        let check = &validation.check;
        match policy::evaluate(&check.text, &check.compiled, &bindings, Some(&variables), &mut budget) {
            Ok(result) => results.push(result),
            Err(out) => return Verdict::failed(policy, out.to_string()),
        }
    }
    let mut verdict = Verdict::default();
    let messages = messages(policy, validations, inputs, budget);
    for (index, (validation, result)) in validations.iter().zip(results).enumerate() {
        let refusal = match (result, &messages) {
            (Ok(Val::Bool(true)), _) => continue,
            (Err(message), _) => Refusal::error(message),
            (Ok(_), Err(out)) => Refusal::error(format!("failed messageExpression: {out}")),
            (Ok(_), Ok(messages)) => {
                let message = message(validation, messages.get(index).cloned().flatten());
                verdict.refusals.push((index, Refusal { message, reason: validation.reason.clone() }));
                continue;
            }
        };
        if !policy.ignores_failures {
            verdict.refusals.push((index, refusal));
        }
    }
    annotate(policy, audit, inputs, &mut verdict);
    verdict
}

/// Values of the message expressions, `None` where there is none or it failed.
fn messages(
    policy: &Policy,
    validations: &[Validation],
    inputs: &Inputs<'_>,
    mut budget: u64,
) -> Result<Vec<Option<String>>, policy::OutOfBudget> {
    let bindings = inputs.bindings(None);
    let variables = Variables::new(&policy.variables, &bindings);
    let mut messages = Vec::new();
    for validation in validations {
        let Some(expression) = &validation.message_expression else {
            messages.push(None);
            continue;
        };
        let (text, compiled) = (&expression.text, &expression.compiled);
        let value = policy::evaluate(text, compiled, &bindings, Some(&variables), &mut budget)?;
        messages.push(value.ok().and_then(|value| value.as_str().map(str::to_owned)));
    }
    Ok(messages)
}

/// What a failed validation says: its expression's message, its fixed one, or itself.
fn message(validation: &Validation, evaluated: Option<String>) -> String {
    let evaluated = evaluated.unwrap_or_default();
    let evaluated = evaluated.trim();
    if !evaluated.is_empty() && evaluated.len() <= MESSAGE_MAX_BYTES && !evaluated.contains('\n') {
        return evaluated.to_owned();
    }
    match validation.message.trim() {
        "" => format!("failed expression: {}", validation.check.text.trim()),
        message => message.to_owned(),
    }
}

fn annotate(policy: &Policy, audit: &[api::cel::policy::Named], inputs: &Inputs<'_>, verdict: &mut Verdict) {
    let bindings = inputs.bindings(None);
    let variables = Variables::new(&policy.variables, &bindings);
    let mut budget = RUNTIME_BUDGET;
    for annotation in audit {
        let value = policy::evaluate(&annotation.text, &annotation.compiled, &bindings, Some(&variables), &mut budget);
        match value {
            Err(out) => {
                *verdict = Verdict::failed(policy, out.to_string());
                return;
            }
            Ok(Err(message)) if !policy.ignores_failures => verdict.failed_annotations.push(message),
            Ok(Err(_)) => {}
            Ok(Ok(value)) => {
                let text = value.as_str().unwrap_or("").trim();
                if !text.is_empty() {
                    verdict.annotations.push((annotation.name.clone(), text.to_owned()));
                }
            }
        }
    }
}

/// The refusal that is the answer.
struct Denied {
    message: String,
    reason: String,
}

impl Denied {
    fn new(policy: &str, binding: Option<&str>, refusal: &Refusal) -> Self {
        let with = binding.map(|binding| format!(" with binding '{binding}'")).unwrap_or_default();
        Self {
            message: format!("ValidatingAdmissionPolicy '{policy}'{with} denied request: {}", refusal.message),
            reason: refusal.reason.clone(),
        }
    }

    fn status(self, attributes: &Attributes<'_>, object: &Value) -> Status {
        let mut status = forbidden(attributes.group_resource(), &attributes.name, object, &self.message);
        let reason = if self.reason.is_empty() { "Invalid" } else { &self.reason };
        status.code = match reason {
            "Forbidden" => 403,
            "Unauthorized" => 401,
            "RequestEntityTooLarge" => 413,
            _ => 422,
        };
        status.reason = reason.to_owned();
        status.with_cause("", &self.message, "")
    }
}

/// What all policies together say.
#[derive(Default)]
struct Judged {
    denied: Option<Denied>,
    failures: Vec<Value>,
    /// Values by annotation, under the policy's name; each value once.
    annotations: BTreeMap<String, Vec<String>>,
}

impl Judged {
    fn deny(&mut self, policy: &str, binding: Option<&str>, refusal: &Refusal) {
        if self.denied.is_none() {
            self.denied = Some(Denied::new(policy, binding, refusal));
        }
    }

    fn misconfigured(&mut self, misconfigured: &Misconfigured<'_>) {
        let Misconfigured { policy, binding, text } = misconfigured;
        if !policy.ignores_failures {
            self.deny(&policy.name, binding.map(|binding| binding.name.as_str()), &Refusal::error(text.clone()));
        }
    }

    /// Does with each refusal what the binding says.
    fn take(&mut self, policy: &Policy, binding: &Binding, verdict: Verdict, traces: &mut Traces<'_>) {
        for (index, refusal) in verdict.refusals {
            for action in &binding.actions {
                match action.as_str() {
                    "Deny" => self.deny(&policy.name, Some(&binding.name), &refusal),
                    "Audit" => self.failures.push(json!({
                        "message": refusal.message,
                        "policy": policy.name,
                        "binding": binding.name,
                        "expressionIndex": index,
                        "validationActions": binding.actions,
                    })),
                    _ => traces.notes.push(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                        policy.name, binding.name, refusal.message
                    )),
                }
            }
        }
        for (key, mut value) in verdict.annotations {
            let end = (0..=AUDIT_VALUE_MAX_BYTES.min(value.len())).rev().find(|end| value.is_char_boundary(*end));
            value.truncate(end.unwrap_or(0));
            let values = self.annotations.entry(format!("{}/{key}", policy.name)).or_default();
            if !values.contains(&value) {
                values.push(value);
            }
        }
        for message in verdict.failed_annotations {
            self.deny(&policy.name, Some(&binding.name), &Refusal::error(message));
        }
    }

    /// Tells the audit log.
    fn publish(&mut self, traces: &mut Traces<'_>) {
        for (key, values) in std::mem::take(&mut self.annotations) {
            traces.notes.annotate(key, values.join(", "));
        }
        if !self.failures.is_empty() {
            self.failures.truncate(AUDITED_FAILURES_MAX);
            let listed = Value::Array(std::mem::take(&mut self.failures)).to_string();
            traces.notes.annotate("validation.policy.admission.k8s.io/validation_failure".to_owned(), listed);
        }
    }
}
