//! Webhook configurations, admission policies and their bindings. Source: `pkg/apis/admissionregistration/validation`.

use std::collections::HashSet;

use crate::cel::Type;
use crate::cel::policy::{self, Compiled, Compiler, Declarations};
use crate::field::go_quote;
use crate::occurrences::Occurrences;
use crate::strategy::SubresourceStrategy;
use crate::url::Url;
use crate::validate::labels::{conditions, invalid_each, selector};
use crate::validate::text::{formatted, optional_enum, required_enum, required_formatted, supported};
use crate::validate::{go, names};
use crate::{Cursor, ErrorList, Strategy, Value, meta};

const MATCH_CONDITIONS_MAX: usize = 64;
const AUDIT_ANNOTATIONS_MAX: usize = 20;
const AUDIT_EXPRESSION_MAX_BYTES: usize = 5 * 1024;
const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
const REINVOCATION_POLICIES: &[&str] = &["IfNeeded", "Never"];
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];

pub const VALIDATING_WEBHOOKS: Strategy = Strategy {
    validate: |object, errors| webhooks(object, false, errors),
    validate_update: |new, _, errors| {
        whole_again(new, errors);
        webhooks(new, false, errors);
    },
    ..Strategy::DEFAULT
};

pub const MUTATING_WEBHOOKS: Strategy = Strategy {
    validate: |object, errors| webhooks(object, true, errors),
    validate_update: |new, _, errors| {
        whole_again(new, errors);
        webhooks(new, true, errors);
    },
    ..Strategy::DEFAULT
};

/// Metadata is looked at again as that of a new object, and nothing of it is compared with the old.
fn whole_again(new: &Cursor<'_>, errors: &mut ErrorList) {
    meta::object_meta(&new.field("metadata"), false, names::subdomain_name, errors);
}

fn webhooks(object: &Cursor<'_>, mutating: bool, errors: &mut ErrorList) {
    let mut seen: Occurrences<&str> = Occurrences::new();
    for hook in object.field("webhooks").items() {
        webhook(&hook, mutating, errors);
        review_versions(&hook.field("admissionReviewVersions"), errors);
        let name = hook.field("name");
        if !name.is_empty() && seen.contains(&name.str()) {
            errors.duplicate(name.path(), name.str());
        }
        seen.push(name.str());
    }
}

fn webhook(hook: &Cursor<'_>, mutating: bool, errors: &mut ErrorList) {
    let field = |name: &str| hook.field(name);
    fully_qualified(&field("name"), errors);
    for rule in field("rules").items() {
        operation_rule(&rule, errors);
    }
    optional_enum(&field("failurePolicy"), FAILURE_POLICIES, errors);
    optional_enum(&field("matchPolicy"), MATCH_POLICIES, errors);
    let effects = field("sideEffects");
    if !effects.is_set() {
        effects.required(errors, "must specify one of None, NoneOnDryRun");
    } else {
        supported(&effects, &["None", "NoneOnDryRun"], errors);
    }
    let timeout = field("timeoutSeconds");
    if timeout.opt_int().is_some_and(|n| !(1..=30).contains(&n)) {
        timeout.invalid(errors, "the timeout value must be between 1 and 30 seconds");
    }
    selector(&field("namespaceSelector"), errors);
    selector(&field("objectSelector"), errors);
    if mutating {
        optional_enum(&field("reinvocationPolicy"), REINVOCATION_POLICIES, errors);
    }
    client_config(&field("clientConfig"), errors);
    match_conditions(&field("matchConditions"), false, errors);
}

fn review_versions(versions: &Cursor<'_>, errors: &mut ErrorList) {
    if versions.is_empty() {
        versions.required(errors, "must specify one of v1, v1beta1");
        return;
    }
    let mut seen: Occurrences<&str> = Occurrences::new();
    for version in versions.items() {
        if seen.contains(&version.str()) {
            version.invalid(errors, "duplicate version");
            continue;
        }
        seen.push(version.str());
        formatted(&version, names::dns1035_label, errors);
    }
    if !seen.keys().iter().any(|v| REVIEW_VERSIONS.contains(v)) {
        versions.invalid(errors, "must include at least one of v1, v1beta1");
    }
}

fn fully_qualified(name: &Cursor<'_>, errors: &mut ErrorList) {
    if name.is_empty() {
        name.required(errors, "");
        return;
    }
    let messages = names::dns1123_subdomain(name.str());
    if !messages.is_empty() {
        name.invalid(errors, messages.join(","));
    } else if name.str().split('.').count() < 3 {
        name.invalid(errors, "should be a domain with at least three segments separated by dots");
    }
}

/// What a webhook, or a conversion, is called at: a URL or a service, not both.
pub fn client_config(config: &Cursor<'_>, errors: &mut ErrorList) {
    let (url, service) = (config.field("url"), config.field("service"));
    if url.is_set() == service.is_set() {
        config.required(errors, "exactly one of url or service is required");
    } else if url.is_set() {
        webhook_url(&url, errors);
    } else {
        webhook_service(&service, errors);
    }
}

fn webhook_url(url: &Cursor<'_>, errors: &mut ErrorList) {
    const FORM: &str = "; desired format: https://host[/path]";
    let parsed = match Url::parse(url.str()) {
        Ok(parsed) => parsed,
        Err(error) => return url.required(errors, &format!("url must be a valid URL: {error}{FORM}")),
    };
    let mut refuse = |shown: &str, detail: &str| errors.invalid(url.path(), shown, detail);
    if parsed.scheme != "https" {
        refuse(&parsed.scheme, &format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if parsed.host.is_empty() {
        refuse("", &format!("host must be specified{FORM}"));
    }
    if let Some(user) = &parsed.user {
        refuse(user, "user information is not permitted in the URL");
    }
    if !parsed.fragment.is_empty() {
        refuse(&parsed.fragment, "fragments are not permitted in the URL");
    }
    if !parsed.query.is_empty() {
        refuse(&parsed.query, "query parameters are not permitted in the URL");
    }
}

fn webhook_service(service: &Cursor<'_>, errors: &mut ErrorList) {
    let (name, namespace) = (service.field("name"), service.field("namespace"));
    // Upstream takes one for the other.
    if namespace.is_empty() {
        name.required(errors, "");
    }
    if name.is_empty() {
        namespace.required(errors, "");
    }
    let port = service.field("port");
    for message in names::port_number(port.int()) {
        errors.invalid(port.path(), port.int(), format!("port is not valid: {message}"));
    }
    let path = service.field("path");
    let text = path.str();
    if !path.is_set() || text.is_empty() || text == "/" {
        return;
    }
    if text.len() > 2 && text.ends_with("//") {
        path.invalid(errors, "segment[0] may not be empty");
        return;
    }
    if !text.starts_with('/') {
        path.invalid(errors, "must start with a '/'");
    }
    // Without a leading slash the first character is taken for one, as upstream does.
    let segments = text.get(1..).unwrap_or("");
    let segments = segments.strip_suffix('/').unwrap_or(segments);
    for (index, segment) in segments.split('/').enumerate() {
        if segment.is_empty() {
            path.invalid(errors, format!("segment[{index}] may not be empty"));
            continue;
        }
        for message in names::dns1123_subdomain(segment) {
            path.invalid(errors, format!("segment[{index}]: {message}"));
        }
    }
}

fn has_wildcard(list: &Cursor<'_>) -> bool {
    list.items().any(|v| v.str() == "*")
}

fn operation_rule(rule: &Cursor<'_>, errors: &mut ErrorList) {
    let operations = rule.field("operations");
    if operations.is_empty() {
        operations.required(errors, "");
    }
    if operations.len() > 1 && has_wildcard(&operations) {
        operations.invalid(errors, "if '*' is present, must not specify other operations");
    }
    for operation in operations.items() {
        supported(&operation, OPERATIONS, errors);
    }
    for (field, what) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        let list = rule.field(field);
        if list.is_empty() {
            list.required(errors, "");
        }
        if list.len() > 1 && has_wildcard(&list) {
            list.invalid(errors, format!("if '*' is present, must not specify other {what}"));
        }
        if field == "apiVersions" {
            for version in list.items().filter(|v| v.is_empty()) {
                version.required(errors, "");
            }
        }
    }
    rule_resources(&rule.field("resources"), errors);
    optional_enum(&rule.field("scope"), SCOPES, errors);
}

fn rule_resources(resources: &Cursor<'_>, errors: &mut ErrorList) {
    if resources.is_empty() {
        resources.required(errors, "");
    }
    let list: Vec<&str> = resources.items().map(|r| r.str()).collect();
    // `*/x` covers x of all resources, `a/*` all subresources of a; naming one of them again is a mistake.
    let mut subresources: HashSet<&str> = HashSet::new();
    let mut parents: HashSet<&str> = HashSet::new();
    // Upstream looks at the last resource without a subresource only.
    let mut ends_plain = false;
    for (index, resource) in list.iter().enumerate() {
        let path = resources.path().index(index);
        if resource.is_empty() {
            errors.required(path, "");
            continue;
        }
        let Some((parent, sub)) = resource.split_once('/') else {
            ends_plain = *resource != "*";
            continue;
        };
        if parents.contains(parent) {
            errors.invalid(path.clone(), *resource, format!("if '{parent}/*' is present, must not specify {resource}"));
        }
        if subresources.contains(sub) {
            errors.invalid(path, *resource, format!("if '*/{sub}' is present, must not specify {resource}"));
        }
        if parent == "*" {
            subresources.insert(sub);
        }
        if sub == "*" {
            parents.insert(parent);
        }
    }
    if list.len() > 1 && list.contains(&"*/*") {
        resources.invalid(errors, "if '*/*' is present, must not specify other resources");
    }
    if list.contains(&"*") && ends_plain {
        resources.invalid(errors, "if '*' is present, must not specify other resources without subresources");
    }
}

/// What is wrong with an expression, if anything.
fn compiles(expression: &Cursor<'_>, compiled: &Compiled, errors: &mut ErrorList) {
    if let Err(detail) = compiled {
        expression.invalid(errors, detail);
    }
}

/// `params`: conditions may name the parameters of their policy.
fn match_conditions(list: &Cursor<'_>, params: bool, errors: &mut ErrorList) {
    if list.len() > MATCH_CONDITIONS_MAX {
        errors.too_many(list.path(), list.len(), MATCH_CONDITIONS_MAX);
    }
    let mut seen: Occurrences<&str> = Occurrences::new();
    for condition in list.items() {
        let (name, expression) = (condition.field("name"), condition.field("expression"));
        let text = expression.str().trim();
        if text.is_empty() {
            expression.required(errors, "");
        } else if let Err(detail) = policy::compile_condition(text, params) {
            errors.invalid(expression.path(), text, detail);
        }
        if name.is_empty() {
            name.required(errors, "");
        } else {
            formatted(&name, names::qualified_name, errors);
            if seen.contains(&name.str()) {
                errors.duplicate(name.path(), name.str());
            }
            seen.push(name.str());
        }
    }
}

pub const VALIDATING_POLICY: Strategy = Strategy {
    validate: |policy, errors| validating_policy(policy, errors),
    validate_update: |new, _, errors| {
        whole_again(new, errors);
        validating_policy(new, errors);
    },
    subresources: &[POLICY_STATUS],
    ..Strategy::DEFAULT
};

const POLICY_STATUS: SubresourceStrategy = SubresourceStrategy {
    name: "status",
    prepare_for_update: |_, _, _| {},
    validate_update: |new, _, errors| {
        let status = new.field("status");
        for warning in status.field("typeChecking").field("expressionWarnings").items() {
            let (text, place) = (warning.field("warning"), warning.field("fieldRef"));
            if text.is_empty() {
                text.required(errors, "");
            }
            if place.str().trim().is_empty() {
                place.required(errors, "");
            }
        }
        conditions(&status.field("conditions"), errors);
    },
};

fn validating_policy(policy: &Cursor<'_>, errors: &mut ErrorList) {
    let spec = policy.field("spec");
    policy_kind(&spec, errors);
    let declared = Declarations { params: spec.field("paramKind").is_set(), authorizer: true, patches: false };
    match_constraints(&spec.field("matchConstraints"), errors);
    match_conditions(&spec.field("matchConditions"), declared.params, errors);
    let mut compiler = compiler(&spec);
    for variable in spec.field("variables").items() {
        policy_variable(&variable, declared, &mut compiler, errors);
    }
    let (validations, annotations) = (spec.field("validations"), spec.field("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        const NEITHER: &str = "validations or auditAnnotations must contain at least one item";
        validations.required(errors, NEITHER);
        annotations.required(errors, NEITHER);
        return;
    }
    for validation in validations.items() {
        policy_validation(&validation, declared, &mut compiler, errors);
    }
    audit_annotations(&annotations, policy.field("metadata").field("name").str(), declared, &mut compiler, errors);
}

/// Knows `variables` only if the policy has any.
fn compiler(spec: &Cursor<'_>) -> Compiler {
    if spec.field("variables").is_empty() { Compiler::without_variables() } else { Compiler::with_variables() }
}

/// Failure policy and parameter kind.
fn policy_kind(spec: &Cursor<'_>, errors: &mut ErrorList) {
    let failure = spec.field("failurePolicy");
    if !failure.is_set() {
        failure.required(errors, "");
    } else {
        supported(&failure, FAILURE_POLICIES, errors);
    }
    let kind = spec.field("paramKind");
    if !kind.is_set() {
        return;
    }
    let version = kind.field("apiVersion");
    if version.is_empty() {
        version.required(errors, "");
    } else if version.str().split('/').count() > 2 {
        let detail = format!("unexpected GroupVersion string: {}", version.str());
        version.invalid(errors, detail);
    } else {
        group_version(&version, errors);
    }
    let name = kind.field("kind");
    let messages = names::dns1035_label(&name.str().to_lowercase());
    if name.is_empty() {
        name.required(errors, "");
    } else if !messages.is_empty() {
        name.invalid(errors, format!("may have mixed case, but should otherwise match: {}", messages.join(",")));
    }
}

/// Group and version, as they may be called in an APIService; the part at fault is shown.
fn group_version(version: &Cursor<'_>, errors: &mut ErrorList) {
    let (group, own) = version.str().split_once('/').unwrap_or(("", version.str()));
    let mut refuse = |shown: &str, messages: names::Messages| {
        if !messages.is_empty() {
            errors.invalid(version.path(), shown, messages.join(","));
        }
    };
    if !group.is_empty() {
        refuse(group, names::dns1123_subdomain(group));
    }
    if own.is_empty() {
        refuse(version.str(), vec!["version must be specified".to_owned()]);
    } else {
        refuse(own, names::dns1035_label(own));
    }
}

fn policy_variable(variable: &Cursor<'_>, declared: Declarations, compiler: &mut Compiler, errors: &mut ErrorList) {
    let (name, expression) = (variable.field("name"), variable.field("expression"));
    if name.str().trim().is_empty() {
        name.required(errors, "name is not specified");
    } else if !names::c_identifier(name.str()).is_empty() {
        name.invalid(errors, "must be a valid CEL identifier");
    }
    if expression.str().trim().is_empty() {
        expression.required(errors, "expression is not specified");
    } else {
        compiles(&expression, &compiler.variable(name.str(), expression.str(), declared), errors);
    }
}

fn match_constraints(resources: &Cursor<'_>, errors: &mut ErrorList) {
    if !resources.is_set() {
        resources.required(errors, "");
        return;
    }
    match_resources(resources, errors);
    if resources.field("resourceRules").is_empty() {
        resources.field("resourceRules").required(errors, "");
    }
}

fn match_resources(resources: &Cursor<'_>, errors: &mut ErrorList) {
    let policy = resources.field("matchPolicy");
    if !policy.is_set() {
        policy.required(errors, "");
    } else {
        supported(&policy, MATCH_POLICIES, errors);
    }
    for field in ["namespaceSelector", "objectSelector"] {
        let own = resources.field(field);
        if !own.is_set() {
            own.required(errors, "");
        } else {
            selector(&own, errors);
        }
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in resources.field(list).items() {
            let mut seen: Occurrences<&str> = Occurrences::new();
            for name in rule.field("resourceNames").items() {
                invalid_each(errors, &name.path(), name.str(), names::path_segment(name.str()));
                if seen.contains(&name.str()) {
                    errors.duplicate(name.path(), name.str());
                }
                seen.push(name.str());
            }
            operation_rule(&rule, errors);
        }
    }
}

fn policy_validation(validation: &Cursor<'_>, declared: Declarations, compiler: &mut Compiler, errors: &mut ErrorList) {
    let (expression, message) = (validation.field("expression"), validation.field("message"));
    if expression.str().trim().is_empty() {
        expression.required(errors, "expression is not specified");
    } else {
        compiles(&expression, &compiler.compile(expression.str(), declared, &[Type::Bool]), errors);
    }
    let dynamic = validation.field("messageExpression");
    if !dynamic.is_empty() && dynamic.str().trim().is_empty() {
        dynamic.invalid(errors, "must be non-empty if specified");
    } else if !dynamic.is_empty() {
        let declared = Declarations { authorizer: false, ..declared };
        compiles(&dynamic, &compiler.compile(dynamic.str(), declared, &[Type::String]), errors);
    }
    if !message.is_empty() && message.str().trim().is_empty() {
        message.invalid(errors, "must be non-empty if specified");
    } else if message.str().trim().contains(['\n', '\r']) {
        message.invalid(errors, "must not contain line breaks");
    }
    optional_enum(&validation.field("reason"), &["Forbidden", "Invalid", "RequestEntityTooLarge"], errors);
}

fn audit_annotations(
    list: &Cursor<'_>,
    policy: &str,
    declared: Declarations,
    compiler: &mut Compiler,
    errors: &mut ErrorList,
) {
    if list.len() > AUDIT_ANNOTATIONS_MAX {
        let detail = format!("must not have more than {AUDIT_ANNOTATIONS_MAX} auditAnnotations");
        errors.invalid(list.path(), go::list("adm.AuditAnnotation", list.value()), detail);
    }
    let mut seen: Occurrences<&str> = Occurrences::new();
    for annotation in list.items() {
        let (key, expression) = (annotation.field("key"), annotation.field("valueExpression"));
        if !policy.is_empty() {
            let full = format!("{policy}/{}", key.str());
            invalid_each(errors, &key.path(), &full, names::qualified_name(&full));
        } else {
            // The key is stored as `name/key`, so there is no key without a name.
            errors.invalid(key.path(), key.str(), "requires metadata.name be non-empty");
        }
        let text = expression.str().trim();
        if text.is_empty() {
            expression.required(errors, "valueExpression is not specified");
        } else if text.len() > AUDIT_EXPRESSION_MAX_BYTES {
            errors.required(expression.path(), format!("must not exceed {AUDIT_EXPRESSION_MAX_BYTES} bytes in length"));
        } else {
            let types = [Type::String, Type::Null];
            compiles(&expression, &compiler.compile(text, declared, &types), errors);
        }
        if seen.contains(&key.str()) {
            errors.duplicate(key.path(), key.str());
        }
        seen.push(key.str());
    }
}

pub const VALIDATING_BINDING: Strategy = Strategy {
    validate: |binding, errors| validating_binding(&binding.field("spec"), errors),
    validate_update: |new, _, errors| {
        whole_again(new, errors);
        validating_binding(&new.field("spec"), errors);
    },
    ..Strategy::DEFAULT
};

fn policy_name(name: &Cursor<'_>, errors: &mut ErrorList) {
    required_formatted(name, names::dns1123_subdomain, errors);
}

fn validating_binding(spec: &Cursor<'_>, errors: &mut ErrorList) {
    policy_name(&spec.field("policyName"), errors);
    param_ref(&spec.field("paramRef"), errors);
    binding_resources(&spec.field("matchResources"), errors);
    let actions = spec.field("validationActions");
    let mut seen: Occurrences<&str> = Occurrences::new();
    for action in actions.items() {
        supported(&action, &["Audit", "Deny", "Warn"], errors);
        if seen.contains(&action.str()) {
            errors.duplicate(action.path(), action.str());
        }
        seen.push(action.str());
    }
    if seen.contains(&"Deny") && seen.contains(&"Warn") {
        actions.invalid(
            errors,
            "must not contain both Deny and Warn (repeating the same validation failure information in the API response and \
             headers serves no purpose)",
        );
    }
    if actions.is_empty() {
        actions.required(errors, "at least one validation action is required");
    }
}

fn binding_resources(resources: &Cursor<'_>, errors: &mut ErrorList) {
    if resources.is_set() {
        match_resources(resources, errors);
    }
}

fn param_ref(reference: &Cursor<'_>, errors: &mut ErrorList) {
    if !reference.is_set() {
        return;
    }
    let (name, own, action) =
        (reference.field("name"), reference.field("selector"), reference.field("parameterNotFoundAction"));
    if !name.is_empty() {
        formatted(&name, names::path_segment, errors);
        if own.is_set() {
            name.forbidden(errors, EXCLUSIVE);
        }
    }
    if own.is_set() {
        selector(&own, errors);
        if !name.is_empty() {
            own.forbidden(errors, EXCLUSIVE);
        }
    }
    if name.is_empty() && !own.is_set() {
        reference.required(errors, "one of name or selector must be specified");
    }
    required_enum(&action, &["Deny", "Allow"], errors);
}

const EXCLUSIVE: &str = "name and selector are mutually exclusive";

/// Operations that a mutating policy can take part in.
const MUTATING_OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];

pub const MUTATING_POLICY: Strategy = Strategy {
    validate: |policy, errors| mutating_policy(&policy.field("spec"), errors),
    validate_update: |new, _, errors| {
        whole_again(new, errors);
        mutating_policy(&new.field("spec"), errors);
    },
    ..Strategy::DEFAULT
};

fn mutating_policy(spec: &Cursor<'_>, errors: &mut ErrorList) {
    policy_kind(spec, errors);
    let constraints = spec.field("matchConstraints");
    match_constraints(&constraints, errors);
    mutating_operations(&constraints, errors);
    let declared = Declarations { params: spec.field("paramKind").is_set(), authorizer: true, patches: false };
    match_conditions(&spec.field("matchConditions"), declared.params, errors);
    let mut compiler = Compiler::with_variables();
    for variable in spec.field("variables").items() {
        policy_variable(&variable, declared, &mut compiler, errors);
    }
    let mutations = spec.field("mutations");
    if mutations.is_empty() {
        mutations.required(errors, "mutations must contain at least one item");
    }
    let declared = Declarations { patches: true, ..declared };
    for mutation in mutations.items() {
        policy_mutation(&mutation, declared, &mut compiler, errors);
    }
    let reinvocation = spec.field("reinvocationPolicy");
    if reinvocation.is_empty() {
        reinvocation.required(errors, "");
    } else {
        supported(&reinvocation, REINVOCATION_POLICIES, errors);
    }
}

/// Reads and deletes cannot be mutated. Upstream does not say which rule names them.
fn mutating_operations(resources: &Cursor<'_>, errors: &mut ErrorList) {
    let path = resources.path().child("resourceRules").child("operations");
    for rule in resources.field("resourceRules").items() {
        for operation in rule.field("operations").items() {
            supported(&Cursor::at(operation.value(), path.clone()), MUTATING_OPERATIONS, errors);
        }
    }
}

fn policy_mutation(mutation: &Cursor<'_>, declared: Declarations, compiler: &mut Compiler, errors: &mut ErrorList) {
    let kind = mutation.field("patchType");
    let members = [("ApplyConfiguration", "applyConfiguration"), ("JSONPatch", "jsonPatch")];
    let Some((_, own)) = members.iter().find(|(name, _)| *name == kind.str()) else {
        required_enum(&kind, &["ApplyConfiguration", "JSONPatch"], errors);
        return;
    };
    let member = mutation.field(own);
    if !member.is_set() {
        member.required(errors, &format!("must be specified when patchType is {}", kind.str()));
    } else if member.field("expression").str().trim().is_empty() {
        member.field("expression").required(errors, "");
    } else {
        let expression = member.field("expression");
        let text = expression.str().trim();
        let wanted = match kind.str() {
            "ApplyConfiguration" => Type::object("Object"),
            _ => Type::list(Type::object("JSONPatch")),
        };
        if let Err(detail) = &compiler.compile(text, declared, &[wanted]) {
            errors.invalid(expression.path(), text, detail);
        }
    }
    for (_, field) in members {
        let other = mutation.field(field);
        if field != *own && other.is_set() {
            let detail = format!("must not be specified when patchType is {}", kind.str());
            errors.invalid(other.path(), format!("{{{field}}}"), detail);
        }
    }
}

pub const MUTATING_BINDING: Strategy = Strategy {
    validate: |binding, errors| mutating_binding(&binding.field("spec"), errors),
    validate_update: |new, _, errors| {
        whole_again(new, errors);
        mutating_binding(&new.field("spec"), errors);
    },
    ..Strategy::DEFAULT
};

fn mutating_binding(spec: &Cursor<'_>, errors: &mut ErrorList) {
    policy_name(&spec.field("policyName"), errors);
    param_ref(&spec.field("paramRef"), errors);
    binding_resources(&spec.field("matchResources"), errors);
    mutating_operations(&spec.field("matchResources"), errors);
}

/// APIService. Source: `kube-aggregator/pkg/apis/apiregistration/validation`.
pub const API_SERVICE: Strategy = Strategy {
    name_rule: names::path_segment_name,
    prepare_for_create: |new, ctx| {
        if new.pointer("/spec/service").is_none_or(Value::is_null) {
            let condition = crate::json!({
                "type": "Available", "status": "True", "lastTransitionTime": ctx.now, "reason": "Local",
                "message": "Local APIServices are always available"
            });
            crate::kinds::carry::set(new, "status", crate::json!({"conditions": [condition]}));
        }
    },
    validate: api_service,
    validate_update: |new, old, errors| {
        meta::object_meta_update(new, old, errors);
        meta::object_meta(&new.field("metadata"), false, names::path_segment_name, errors);
        api_service(new, errors);
    },
    subresources: &[SubresourceStrategy {
        name: "status",
        prepare_for_update: |_, _, _| {},
        validate_update: |new, old, errors| {
            meta::object_meta_update(new, old, errors);
            for condition in new.field("status").field("conditions").items() {
                supported(&condition.field("status"), &["True", "False", "Unknown"], errors);
            }
        },
    }],
    ..Strategy::DEFAULT
};

fn api_service(object: &Cursor<'_>, errors: &mut ErrorList) {
    let (spec, metadata) = (object.field("spec"), object.field("metadata"));
    let (group, version) = (spec.field("group"), spec.field("version"));
    let required = format!("{}.{}", version.str(), group.str());
    let expected = if group.is_empty() { format!("{}.", version.str()) } else { required };
    for name in [metadata.field("generateName"), metadata.field("name")] {
        if !name.is_empty() && name.str() != expected {
            let detail = format!("must be `spec.version+\".\"+spec.group`: {}", go_quote(&expected));
            name.invalid(errors, detail);
        }
    }
    if group.is_empty() {
        if version.str() != "v1" {
            group.required(errors, "only v1 may have an empty group and it better be legacy kube");
        }
    } else {
        let messages = names::dns1123_subdomain(group.str());
        if !messages.is_empty() {
            group.invalid(errors, messages.join(","));
        }
    }
    let messages = names::dns1035_label(version.str());
    if !messages.is_empty() {
        errors.invalid(version.path(), version.str(), messages.join(","));
    }
    for (field, max) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let priority = spec.field(field);
        if !(1..=max).contains(&priority.int()) {
            errors.invalid(priority.path(), priority.int(), format!("must be positive and less than {max}"));
        }
    }
    let (service, bundle, insecure) =
        (spec.field("service"), spec.field("caBundle"), spec.field("insecureSkipTLSVerify"));
    if !service.is_set() {
        if !bundle.is_empty() {
            let shown = format!("{} bytes", bundle.str().len() / 4 * 3);
            errors.invalid(bundle.path(), shown, "local APIServices may not have a caBundle");
        }
        if insecure.bool() {
            insecure.invalid(errors, "local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    }
    for field in ["namespace", "name"] {
        if service.field(field).is_empty() {
            service.field(field).required(errors, "");
        }
    }
    let port = service.field("port");
    for message in port.opt_int().map(names::port_number).unwrap_or_default() {
        port.invalid(errors, format!("port is not valid: {message}"));
    }
    if insecure.bool() && !bundle.is_empty() {
        insecure.invalid(errors, "may not be true if caBundle is present");
    }
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    fn errors_of(hook: Value) -> Vec<String> {
        let mut own = json!({"name": "a.e.com", "clientConfig": {"url": "https://e.com"}, "sideEffects": "None",
            "admissionReviewVersions": ["v1"]});
        for (key, value) in hook.as_object().cloned().unwrap_or_default() {
            own[key] = value;
        }
        let object = json!({"webhooks": [own]});
        let mut errors = ErrorList::new();
        webhooks(&Cursor::root(&object), false, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn webhooks_are_called_at_https_urls_or_services() {
        assert_eq!(
            errors_of(json!({"clientConfig": {"url": "https://u@e.com/?a=b#c"}})),
            [
                "webhooks[0].clientConfig.url: Invalid value: \"u\": user information is not permitted in the URL",
                "webhooks[0].clientConfig.url: Invalid value: \"c\": fragments are not permitted in the URL",
                "webhooks[0].clientConfig.url: Invalid value: \"a=b\": query parameters are not permitted in the URL",
            ]
        );
        assert_eq!(errors_of(json!({"clientConfig": {"url": "HTTPS://e.com"}})), Vec::<String>::new());
        assert_eq!(
            errors_of(json!({"clientConfig": {"url": " https://e.com"}})),
            [
                "webhooks[0].clientConfig.url: Required value: url must be a valid URL: parse \" https://e.com\": first path \
              segment in URL cannot contain colon; desired format: https://host[/path]"
            ]
        );
        assert_eq!(
            errors_of(json!({"clientConfig": {"service": {"name": "s", "namespace": "n", "path": "x", "port": 0}}})),
            [
                "webhooks[0].clientConfig.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, \
                 inclusive",
                "webhooks[0].clientConfig.service.path: Invalid value: \"x\": must start with a '/'",
                "webhooks[0].clientConfig.service.path: Invalid value: \"x\": segment[0] may not be empty",
            ]
        );
    }

    #[test]
    fn wildcards_stand_alone() {
        assert_eq!(
            errors_of(json!({"rules": [{"operations": ["BOGUS"], "apiGroups": ["*", "a"], "apiVersions": [],
                "resources": ["*", "pods", "a/*", "a/b"]}]})),
            [
                "webhooks[0].rules[0].operations[0]: Unsupported value: \"BOGUS\": supported values: \"*\", \"CONNECT\", \
                 \"CREATE\", \"DELETE\", \"UPDATE\"",
                "webhooks[0].rules[0].apiGroups: Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other API \
                 groups",
                "webhooks[0].rules[0].apiVersions: Required value",
                "webhooks[0].rules[0].resources[3]: Invalid value: \"a/b\": if 'a/*' is present, must not specify a/b",
                "webhooks[0].rules[0].resources: Invalid value: [\"*\",\"pods\",\"a/*\",\"a/b\"]: if '*' is present, must not \
                 specify other resources without subresources",
            ]
        );
    }
}
