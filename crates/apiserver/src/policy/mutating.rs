//! MutatingAdmissionPolicy: policies change the object one after the other, by configurations or by JSON patches.

use std::sync::Arc;

use api::cel::policy::{self, Matched, Variables};
use api::cel::{RUNTIME_BUDGET, Struct, Val};
use api::codec;
use api::json;
use api::patch::{Patch, PatchType};
use api::{Kind, Status, Value, apply, defaults, meta};

use super::definition::{Mutation, Policy, Rules};
use super::{Invocation, Misconfigured, conditions, invocations, is_exempt, namespace_object};
use crate::admission::{Operation, forbidden};
use crate::gateway::Gateway;
use crate::reinvocation::Rounds;
use crate::webhook::{Attributes, Authority, Inputs, Seen, Surroundings, has_own_body, target};
use crate::write::{Moment, convert};

/// Lets all policies in force change the object. True: one of them did.
pub(crate) async fn mutate(
    gateway: &Gateway,
    attributes: &Attributes<'_>,
    object: &mut Value,
    old: &Value,
    rounds: &mut Rounds,
) -> Result<bool, Status> {
    let policies = gateway.policies.mutating(gateway.cache.as_ref());
    if policies.is_empty() || is_exempt(attributes) || attributes.operation == Operation::Delete {
        return Ok(false);
    }
    let surroundings = Surroundings::new(gateway, attributes);
    let (invocations, misconfigured) = invocations(gateway, &policies, attributes, &surroundings, object, old).await;
    let mut refusals: Vec<String> = misconfigured.iter().filter_map(misconfiguration).collect();
    let mut changed = false;
    if !invocations.is_empty() {
        let namespace = namespace_object(gateway, attributes, &surroundings).await?;
        let authority = Authority::new(&gateway.authz, attributes);
        for invocation in &invocations {
            let before = object.clone();
            let outcome = invoke(attributes, invocation, (object, old), &namespace, &authority, rounds)?;
            if let Err(text) = outcome
                && !invocation.policy.ignores_failures
            {
                refusals.push(refusal(&invocation.policy.name, Some(&invocation.binding.name), &text));
            }
            if *object != before {
                changed = true;
                rounds.overtake();
            }
            if matches!(invocation.policy.rules, Rules::Mutating { reinvocable: true, .. }) {
                rounds.wait(key(invocation));
            }
        }
    }
    rounds.finish(object);
    if refusals.is_empty() { Ok(changed) } else { Err(denial(attributes, object, &refusals)) }
}

fn key(invocation: &Invocation<'_>) -> String {
    let (namespace, name) = (meta::namespace(&invocation.param), meta::name(&invocation.param));
    format!("{}/{}/{namespace}/{name}", invocation.policy.name, invocation.binding.name)
}

fn refusal(policy: &str, binding: Option<&str>, text: &str) -> String {
    match binding {
        Some(binding) => format!("policy '{policy}' with binding '{binding}' denied request: {text}"),
        None => format!("policy {policy:?} denied request: {text}"),
    }
}

fn misconfiguration(misconfigured: &Misconfigured<'_>) -> Option<String> {
    let Misconfigured { policy, binding, text } = misconfigured;
    (!policy.ignores_failures).then(|| refusal(&policy.name, binding.map(|binding| binding.name.as_str()), text))
}

/// A refusal by one policy or more; its message is the first one's, with nothing before it.
fn denial(attributes: &Attributes<'_>, object: &Value, refusals: &[String]) -> Status {
    let mut status = forbidden(attributes.group_resource(), &attributes.name, object, "");
    status.message = refusals.first().cloned().unwrap_or_default();
    status.reason = "Invalid".to_owned();
    refusals.iter().fold(status, |status, refusal| status.with_cause("", refusal, ""))
}

/// Runs the mutations of one policy. The inner error is the policy's, whose failure policy decides; mutations before it stay.
fn invoke(
    attributes: &Attributes<'_>,
    invocation: &Invocation<'_>,
    (object, old): (&mut Value, &Value),
    namespace: &Value,
    authority: &Authority,
    rounds: &Rounds,
) -> Result<Result<(), String>, Status> {
    let (policy, kind) = (invocation.policy, &invocation.kind);
    let seen = Seen::new(attributes, kind, object, old);
    match conditions(policy, &seen.inputs(&invocation.param, namespace), authority) {
        Matched::Yes => {}
        Matched::No => return Ok(Ok(())),
        Matched::Failed(text) => return Ok(Err(text)),
    }
    if !rounds.includes(&key(invocation)) {
        return Ok(Ok(()));
    }
    let Rules::Mutating { mutations, .. } = &policy.rules else { return Ok(Ok(())) };
    let mut shown = seen;
    let mut outcome = Ok(());
    for mutation in mutations {
        if shown.object.is_null() {
            continue;
        }
        let inputs = shown.inputs(&invocation.param, namespace);
        match mutated(policy, mutation, &inputs, authority, kind, attributes) {
            Ok(Some(patched)) => {
                shown.object = settled(patched, kind, attributes)?;
            }
            Ok(None) => {}
            // Upstream goes on with the next mutation, and refuses in the end.
            Err(text) => outcome = outcome.and(Err(text)),
        }
    }
    *object = if has_own_body(kind, attributes.subresource) {
        shown.object
    } else {
        convert(shown.object, kind, attributes.kind)
    };
    Ok(outcome)
}

/// A changed object, decoded by schema and with defaults again.
fn settled(object: Value, kind: &Arc<Kind>, attributes: &Attributes<'_>) -> Result<Value, Status> {
    let target = target(kind, attributes.subresource);
    let mut settled = codec::normalize(&object, target).map_err(|error| Status::internal(error.message))?.value;
    defaults::apply_at(target, &mut settled, &Moment::now().now);
    Ok(settled)
}

/// What one mutation makes of the object; `None` leaves it.
pub(super) fn mutated(
    policy: &Policy,
    mutation: &Mutation,
    inputs: &Inputs<'_>,
    authority: &Authority,
    kind: &Kind,
    attributes: &Attributes<'_>,
) -> Result<Option<Value>, String> {
    let expression = &mutation.expression;
    if let Err(why) = &expression.compiled {
        return Err(why.clone());
    }
    let bindings = inputs.bindings(Some(authority));
    let variables = Variables::new(&policy.variables, &bindings);
    let mut budget = RUNTIME_BUDGET;
    let value = policy::evaluate(&expression.text, &expression.compiled, &bindings, Some(&variables), &mut budget)
        .map_err(|out| out.to_string())??;
    if mutation.is_json_patch {
        patched(&value, inputs.object)
    } else {
        configured(&value, inputs.object, kind, attributes)
    }
}

/// An apply configuration, merged without a word about who owns what.
fn configured(
    value: &Val<'_>,
    object: &Value,
    kind: &Kind,
    attributes: &Attributes<'_>,
) -> Result<Option<Value>, String> {
    let Val::Struct(made) = value else {
        return Err(format!("unsupported return type from ApplyConfiguration expression: {value}"));
    };
    let mut misnamed = Vec::new();
    check_names(made, "Object", &mut misnamed);
    if !misnamed.is_empty() {
        return Err(format!("type mismatch: {}", misnamed.join("\n")));
    }
    let mut config = value.to_json()?;
    config["apiVersion"] = object["apiVersion"].clone();
    config["kind"] = object["kind"].clone();
    let target = target(kind, attributes.subresource);
    apply::lay_over(target, object, &config).map(Some).map_err(|error| format!("error applying patch: {error}"))
}

/// The type of each part must be that of its place: `Object.spec` for `spec`.
fn check_names(made: &Struct<'_>, path: &str, misnamed: &mut Vec<String>) {
    if *made.name != *path {
        misnamed.push(format!(
            "unexpected type name {:?}, expected {path:?}, which matches field name path from root Object type",
            &*made.name
        ));
    }
    for (field, value) in &made.fields {
        check_value(value, &format!("{path}.{field}"), misnamed);
    }
}

fn check_value(value: &Val<'_>, path: &str, misnamed: &mut Vec<String>) {
    match value {
        Val::Struct(made) => check_names(made, path, misnamed),
        Val::List(list) => list.iter().flatten().for_each(|item| check_value(&item, path, misnamed)),
        Val::Map(map) => {
            for key in map.keys() {
                if let Ok(Some(value)) = map.get(&key) {
                    check_value(&value, path, misnamed);
                }
            }
        }
        _ => {}
    }
}

/// A JSON patch. One whose test fails leaves the object as it is.
fn patched(value: &Val<'_>, object: &Value) -> Result<Option<Value>, String> {
    let Val::List(list) = value else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array".to_owned());
    };
    let mut operations = Vec::new();
    for item in list.iter() {
        operations.push(operation(&item.map_err(|error| error.to_string())?)?);
    }
    let document = Value::Array(operations).to_string();
    let refused = |error: String| format!("JSON Patch: {error}");
    let patch =
        Patch::decode(PatchType::Json, document.as_bytes(), true).map_err(|error| refused(error.to_string()))?;
    match patch.apply_schemaless(object) {
        Ok(patched) => Ok(Some(patched.object)),
        Err(error) if error.is_failed_test() => Ok(None),
        Err(error) => Err(refused(error.to_string())),
    }
}

fn operation(item: &Val<'_>) -> Result<Value, String> {
    let Val::Struct(made) = item else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch".to_owned());
    };
    let mut operation = json!({"op": "", "path": ""});
    for (field, value) in &made.fields {
        if let Val::Struct(inner) = value {
            let mut misnamed = Vec::new();
            check_names(inner, &inner.name, &mut misnamed);
            if !misnamed.is_empty() {
                return Err(format!("type mismatch: {}", misnamed.join("\n")));
            }
        }
        let json = value.to_json().map_err(|error| {
            format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {error}")
        })?;
        if &**field != "from" || json != "" {
            operation[&**field] = json;
        }
    }
    Ok(operation)
}
