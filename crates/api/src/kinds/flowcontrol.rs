//! FlowSchema and PriorityLevelConfiguration. Source: `pkg/apis/flowcontrol/validation`.

use crate::json;

use crate::occurrences::Occurrences;
use crate::strategy::SubresourceStrategy;
use crate::validate::text::{formatted, same};
use crate::validate::{go, names};
use crate::{Cursor, ErrorList, Strategy, Value, meta};

const PRECEDENCE_MAX: i64 = 10_000;
const QUEUES_MAX: i64 = 10_000_000;
const EXEMPT: &str = "exempt";
const CATCH_ALL: &str = "catch-all";
const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

pub const FLOW_SCHEMA: Strategy = Strategy {
    validate: flow_schema,
    validate_update: |new, _, errors| {
        meta::validate_whole_again(new, false, names::subdomain_name, errors);
        flow_schema(new, errors);
    },
    subresources: &[SubresourceStrategy {
        name: "status",
        prepare_for_update: |_, _, _| {},
        validate_update: |new, _, errors| conditions(&new.field("status").field("conditions"), errors),
    }],
    ..Strategy::DEFAULT
};

fn conditions(list: &Cursor<'_>, errors: &mut ErrorList) {
    let mut seen: Occurrences<&str> = Occurrences::new();
    for condition in list.items() {
        let kind = condition.field("type");
        if seen.contains(&kind.str()) {
            errors.duplicate(kind.path(), kind.str());
        }
        seen.push(kind.str());
        if kind.is_empty() {
            kind.required(errors, "");
        }
    }
}

fn flow_schema(schema: &Cursor<'_>, errors: &mut ErrorList) {
    let spec = schema.field("spec");
    let name = schema.field("metadata").field("name").str();
    let precedence = spec.field("matchingPrecedence");
    if precedence.int() <= 0 {
        errors.invalid(precedence.path(), precedence.int(), "must be a positive value");
    }
    if precedence.int() > PRECEDENCE_MAX {
        precedence.invalid(errors, format!("must not be greater than {PRECEDENCE_MAX}"));
    }
    if precedence.int() == 1 && name != EXEMPT {
        precedence.invalid(errors, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    let distinguisher = spec.field("distinguisherMethod");
    if distinguisher.is_set() {
        let kind = distinguisher.field("type");
        if !matches!(kind.str(), "ByNamespace" | "ByUser") {
            errors.not_supported(kind.path(), json!({"Type": kind.str()}), &["ByNamespace", "ByUser"]);
        }
    }
    let level = spec.field("priorityLevelConfiguration").field("name");
    if level.is_empty() {
        level.required(errors, "must reference a priority level");
    } else {
        formatted(&level, names::dns1123_subdomain, errors);
    }
    for rule in spec.field("rules").items() {
        flow_rule(&rule, errors);
    }
    mandatory_schema(name, &spec, errors);
}

/// The two schemas that every server has stay as they are. Source: `pkg/apis/flowcontrol/bootstrap`.
fn mandatory_schema(name: &str, spec: &Cursor<'_>, errors: &mut ErrorList) {
    let fixed = match name {
        EXEMPT => json!({
            "priorityLevelConfiguration": {"name": EXEMPT},
            "matchingPrecedence": 1,
            "rules": [everything_by(&["system:masters"])],
        }),
        CATCH_ALL => json!({
            "priorityLevelConfiguration": {"name": CATCH_ALL},
            "matchingPrecedence": PRECEDENCE_MAX,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [everything_by(&["system:unauthenticated", "system:authenticated"])],
        }),
        _ => return,
    };
    if !same(spec.value(), &fixed) {
        let shown = go::value("fc.FlowSchemaSpec", spec.value());
        errors.invalid(spec.path(), shown, format!("spec of '{name}' must equal the fixed value"));
    }
}

fn everything_by(groups: &[&str]) -> Value {
    let subjects: Vec<Value> = groups.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect();
    json!({
        "subjects": subjects,
        "resourceRules": [{
            "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"],
        }],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    })
}

fn flow_rule(rule: &Cursor<'_>, errors: &mut ErrorList) {
    let subjects = rule.field("subjects");
    if subjects.is_empty() {
        subjects.required(errors, "subjects must contain at least one value");
    }
    for subject in subjects.items() {
        flow_subject(&subject, errors);
    }
    let (resources, urls) = (rule.field("resourceRules"), rule.field("nonResourceRules"));
    if resources.is_empty() && urls.is_empty() {
        rule.required(errors, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for resource in resources.items() {
        resource_rule(&resource, errors);
    }
    for url in urls.items() {
        url_rule(&url, errors);
    }
}

fn flow_subject(subject: &Cursor<'_>, errors: &mut ErrorList) {
    let kind = subject.field("kind");
    let members = [("User", "user"), ("Group", "group"), ("ServiceAccount", "serviceAccount")];
    let Some((_, own)) = members.iter().find(|(name, _)| *name == kind.str()) else {
        kind.no_such_choice(errors, &["Group", "ServiceAccount", "User"]);
        return;
    };
    let member = subject.field(own);
    if member.is_set() {
        let name = member.field("name");
        if *own == "serviceAccount" {
            let namespace = member.field("namespace");
            if name.is_empty() {
                name.required(errors, "");
            } else if name.str() != "*" {
                formatted(&name, names::dns1123_subdomain, errors);
            }
            if namespace.is_empty() {
                namespace.required(errors, "must specify namespace for service account");
            } else {
                formatted(&namespace, names::dns1123_label, errors);
            }
        } else if name.is_empty() {
            name.required(errors, "");
        }
    } else {
        member.required(errors, &format!("{own} is required when subject kind is '{}'", kind.str()));
    }
    for (_, other) in members.iter().filter(|(_, field)| field != own) {
        if subject.field(other).is_set() {
            subject
                .field(other)
                .forbidden(errors, format!("{other} is forbidden when subject kind is not '{}'", kind_of(other)));
        }
    }
}

fn kind_of(member: &str) -> &'static str {
    match member {
        "user" => "User",
        "group" => "Group",
        _ => "ServiceAccount",
    }
}

fn verbs(verbs: &Cursor<'_>, errors: &mut ErrorList) {
    let list: Vec<&str> = verbs.items().map(|v| v.str()).collect();
    if list.is_empty() {
        verbs.required(errors, "verbs must contain at least one value");
    } else if list.contains(&"*") {
        if list.len() > 1 {
            verbs.invalid(errors, "if '*' is present, must not specify other verbs");
        }
    } else if list.iter().any(|v| !VERBS.contains(v)) {
        errors.not_supported(verbs.path(), verbs.value().clone(), VERBS);
    }
}

fn wildcard_alone(list: &Cursor<'_>, missing: &str, what: &str, errors: &mut ErrorList) {
    if list.is_empty() {
        list.required(errors, missing);
    } else if list.len() > 1 && list.items().any(|v| v.str() == "*") {
        list.invalid(errors, format!("if '*' is present, must not specify other {what}"));
    }
}

fn resource_rule(rule: &Cursor<'_>, errors: &mut ErrorList) {
    verbs(&rule.field("verbs"), errors);
    wildcard_alone(&rule.field("apiGroups"), "resource rules must supply at least one api group", "api groups", errors);
    wildcard_alone(&rule.field("resources"), "resource rules must supply at least one resource", "resources", errors);
    let (namespaces, cluster) = (rule.field("namespaces"), rule.field("clusterScope"));
    if namespaces.is_empty() && !cluster.bool() {
        namespaces.required(errors, "resource rules that are not cluster scoped must supply at least one namespace");
    }
    let has_wildcard = namespaces.items().any(|n| n.str() == "*");
    if has_wildcard && namespaces.len() > 1 {
        namespaces.invalid(errors, "if '*' is present, must not specify other namespaces");
    }
    for namespace in namespaces.items().filter(|n| n.str() != "*") {
        for message in names::dns1123_label(namespace.str()) {
            namespace.invalid(errors, format!("each member of this list must be '*' or a DNS-1123 label; {message}"));
        }
    }
}

fn url_rule(rule: &Cursor<'_>, errors: &mut ErrorList) {
    verbs(&rule.field("verbs"), errors);
    let urls = rule.field("nonResourceURLs");
    if urls.is_empty() {
        urls.required(errors, "nonResourceURLs must contain at least one value");
        return;
    }
    if urls.items().any(|u| u.str() == "*") {
        if urls.len() > 1 {
            urls.invalid(errors, "if '*' is present, must not specify other non-resource URLs");
        }
        return;
    }
    for url in urls.items() {
        let text = url.str();
        let problem = if text.is_empty() {
            "must not be empty"
        } else if text == "/" {
            continue;
        } else if !text.starts_with('/') {
            "must start with slash"
        } else if text.contains(' ') {
            "must not contain white-space"
        } else if text.contains("//") {
            "must not contain double slash"
        } else if text.trim_end_matches("/*").contains('*') {
            "wildcard can only do suffix matching"
        } else {
            continue;
        };
        url.invalid(errors, problem);
    }
}

pub const PRIORITY_LEVEL: Strategy = Strategy {
    validate: priority_level,
    validate_update: |new, _, errors| {
        meta::validate_whole_again(new, false, names::subdomain_name, errors);
        priority_level(new, errors);
    },
    subresources: &[SubresourceStrategy {
        name: "status",
        prepare_for_update: |_, _, _| {},
        validate_update: |new, old, errors| {
            conditions(&new.field("status").field("conditions"), errors);
            meta::validate_update_again(new, old, errors);
        },
    }],
    ..Strategy::DEFAULT
};

fn priority_level(level: &Cursor<'_>, errors: &mut ErrorList) {
    let spec = level.field("spec");
    let name = level.field("metadata").field("name").str();
    let (kind, limited, exempt) = (spec.field("type"), spec.field("limited"), spec.field("exempt"));
    if (name == EXEMPT) != (kind.str() == "Exempt") && !kind.is_empty() && matches!(kind.str(), "Exempt" | "Limited") {
        kind.invalid(errors, "must be 'Exempt' if and only if `name` is 'exempt'");
    }
    match kind.str() {
        "Exempt" => {
            if limited.is_set() {
                limited.forbidden(errors, "must be nil if the type is not Limited");
            }
            if exempt.is_set() {
                shares(&exempt, errors);
            }
        }
        "Limited" => {
            if exempt.is_set() {
                exempt.forbidden(errors, "must be nil if the type is Limited");
            }
            if limited.is_set() {
                limited_level(&limited, errors);
            } else {
                limited.required(errors, "must not be empty when type is Limited");
            }
        }
        _ => errors.no_such_choice(kind.path(), kind.str(), &["Exempt", "Limited"]),
    }
    mandatory_level(name, &spec, errors);
}

/// The two levels that every server has are as they are, but for how much the exempt one lends.
fn mandatory_level(name: &str, spec: &Cursor<'_>, errors: &mut ErrorList) {
    let mut found = spec.value().clone();
    let (fixed, except) = match name {
        EXEMPT => {
            found.as_object_mut().and_then(|spec| spec.remove("exempt"));
            (json!({"type": "Exempt"}), " except the 'spec.exempt' field")
        }
        CATCH_ALL => {
            let limited =
                json!({"nominalConcurrencyShares": 5, "limitResponse": {"type": "Reject"}, "lendablePercent": 0});
            (json!({"type": "Limited", "limited": limited}), "")
        }
        _ => return,
    };
    if !same(&found, &fixed) {
        let shown = go::value("fc.PriorityLevelConfigurationSpec", spec.value());
        errors.invalid(spec.path(), shown, format!("spec of '{name}'{except} must equal the fixed value"));
    }
}

fn shares(level: &Cursor<'_>, errors: &mut ErrorList) {
    let (nominal, lendable) = (level.field("nominalConcurrencyShares"), level.field("lendablePercent"));
    if nominal.opt_int().is_some_and(|n| n < 0) {
        nominal.invalid(errors, "must be a non-negative integer");
    }
    if lendable.opt_int().is_some_and(|n| !(0..=100).contains(&n)) {
        lendable.invalid(errors, "must be between 0 and 100, inclusive");
    }
}

fn limited_level(limited: &Cursor<'_>, errors: &mut ErrorList) {
    let nominal = limited.field("nominalConcurrencyShares");
    if nominal.opt_int().is_some_and(|n| n < 0) {
        nominal.invalid(errors, "must be a non-negative integer");
    }
    limit_response(&limited.field("limitResponse"), errors);
    let lendable = limited.field("lendablePercent");
    if lendable.opt_int().is_some_and(|n| !(0..=100).contains(&n)) {
        lendable.invalid(errors, "must be between 0 and 100, inclusive");
    }
    let borrowing = limited.field("borrowingLimitPercent");
    if borrowing.opt_int().is_some_and(|n| n < 0) {
        borrowing.invalid(errors, "if specified, must be a non-negative integer");
    }
}

fn limit_response(response: &Cursor<'_>, errors: &mut ErrorList) {
    let (kind, queuing) = (response.field("type"), response.field("queuing"));
    match kind.str() {
        "Reject" => {
            if queuing.is_set() {
                queuing.forbidden(errors, "must be nil if limited.limitResponse.type is not Limited");
            }
        }
        "Queue" => {
            if queuing.is_set() {
                queuing_rules(&queuing, errors);
            } else {
                queuing.required(errors, "must not be empty if limited.limitResponse.type is Limited");
            }
        }
        _ => errors.no_such_choice(kind.path(), kind.str(), &["Queue", "Reject"]),
    }
}

/// Bits of randomness that dealing a hand takes, which a 64-bit hash has to supply; counting stops above the limit.
fn required_entropy_bits(queues: i64, hand: i64) -> f64 {
    let mut bits = 0.0;
    for i in 0..hand {
        bits += ((queues - i) as f64).log2();
        if bits > ENTROPY_BITS_MAX {
            break;
        }
    }
    f64::ceil(bits)
}

const ENTROPY_BITS_MAX: f64 = 60.0;

fn queuing_rules(queuing: &Cursor<'_>, errors: &mut ErrorList) {
    let (length, queues, hand) =
        (queuing.field("queueLengthLimit"), queuing.field("queues"), queuing.field("handSize"));
    if length.int() <= 0 {
        errors.invalid(length.path(), length.int(), "must be positive");
    }
    if queues.int() <= 0 {
        errors.invalid(queues.path(), queues.int(), "must be positive");
    } else if queues.int() > QUEUES_MAX {
        queues.invalid(errors, format!("must not be greater than {QUEUES_MAX}"));
    }
    if hand.int() <= 0 {
        errors.invalid(hand.path(), hand.int(), "must be positive");
    } else if hand.int() > queues.int() {
        hand.invalid(errors, format!("should not be greater than queues ({})", queues.int()));
    } else {
        let bits = required_entropy_bits(queues.int(), hand.int());
        if bits > ENTROPY_BITS_MAX {
            let detail = format!(
                "required entropy bits of deckSize {} and handSize {} should not be greater than 60",
                queues.int(),
                hand.int()
            );
            hand.invalid(errors, detail);
        }
    }
}
