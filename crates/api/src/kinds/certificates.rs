//! CertificateSigningRequest. Source: `pkg/apis/certificates/validation`, `pkg/registry/certificates`.

use crate::json;
use base64::Engine;

use crate::field::go_quote;
use crate::kinds::{carry, volumes};
use crate::occurrences::Occurrences;
use crate::strategy::{Context, SubresourceStrategy};
use crate::validate::names;
use crate::validate::text::supported;
use crate::{Cursor, ErrorList, Strategy, Value, meta};

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const EXPIRATION_SECONDS_MIN: i64 = 600;
const DECISIONS: [&str; 2] = ["Approved", "Denied"];
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";

pub const STRATEGY: Strategy = Strategy {
    name_rule: crate::validate::names::path_segment_name,
    prepare_for_create: |new, ctx| {
        requester(new, ctx);
        carry::set(new, "status", json!({}));
    },
    validate: |request, errors| {
        let spec = request.field("spec");
        request_spec(&spec, errors);
        conditions(request, errors);
    },
    prepare_for_update: |new, old, _| {
        carry::keep_spec(new, old);
        carry::keep_status(new, old);
    },
    validate_update: |new, old, errors| {
        whole_again(new, errors);
        meta::validate_update_again(new, old, errors);
    },
    subresources: &[STATUS, APPROVAL],
    ..Strategy::DEFAULT
};

const STATUS: SubresourceStrategy = SubresourceStrategy {
    name: "status",
    prepare_for_update: |new, old, ctx| {
        carry::keep_spec(new, old);
        keep_decisions(new, old);
        fill_times(new, old, ctx.now);
    },
    validate_update: |new, old, errors| {
        whole_again(new, errors);
        conditions(new, errors);
        let (issued, before) = (new.field("status").field("certificate"), old.field("status").field("certificate"));
        let is_new = issued.value() != before.value();
        if is_new
            && certificate_problem(before.str()).is_none()
            && let Some(problem) = certificate_problem(issued.str())
        {
            errors.invalid(issued.path(), "<certificate data>", problem);
        }
        outcomes(new, old, false, errors);
        if is_new && !before.is_empty() {
            issued.forbidden(errors, "updates may not modify existing certificate content");
        }
        meta::validate_update_again(new, old, errors);
    },
};

const APPROVAL: SubresourceStrategy = SubresourceStrategy {
    name: "approval",
    prepare_for_update: |new, old, ctx| {
        carry::keep_spec(new, old);
        let decided = new.get("status").cloned().unwrap_or_default();
        carry::keep_status(new, old);
        if let Value::Object(fields) = new {
            carry::keep(fields.entry("status").or_insert_with(|| json!({})), &decided, "conditions");
        }
        fill_times(new, old, ctx.now);
    },
    validate_update: |new, old, errors| {
        whole_again(new, errors);
        conditions(new, errors);
        outcomes(new, old, true, errors);
        meta::validate_update_again(new, old, errors);
    },
};

/// The metadata, as that of a new request.
fn whole_again(new: &Cursor<'_>, errors: &mut ErrorList) {
    meta::validate_whole_again(new, false, names::path_segment_name, errors);
}

/// Who asked is what the server knows, not what the client says.
fn requester(request: &mut Value, ctx: &Context<'_>) {
    let Some(Value::Object(spec)) = request.get_mut("spec") else { return };
    for field in ["username", "uid", "groups", "extra"] {
        spec.remove(field);
    }
    if !ctx.user.is_empty() {
        spec.insert("username", ctx.user.into());
    }
    if !ctx.user_uid.is_empty() {
        spec.insert("uid", ctx.user_uid.into());
    }
    if !ctx.groups.is_empty() {
        spec.insert("groups", json!(ctx.groups));
    }
    if !ctx.extra.is_empty() {
        spec.insert("extra", json!(ctx.extra));
    }
}

fn find<'v>(request: &'v Value, kind: &str) -> Option<&'v Value> {
    let list = request.pointer("/status/conditions").and_then(Value::as_array)?;
    list.iter().find(|c| c.get("type").is_some_and(|t| t == kind))
}

/// Decisions only move through `/approval`: as many as there were stay as they were, and more or fewer are refused later.
fn keep_decisions(new: &mut Value, old: &Value) {
    for kind in DECISIONS {
        let is_kind = |c: &Value| c.get("type").is_some_and(|t| t == kind);
        let before = old.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
        let before: Vec<Value> = before.filter(|c| is_kind(c)).cloned().collect();
        let Some(conditions) = new.pointer_mut("/status/conditions").and_then(Value::as_array_mut) else { return };
        let after: Vec<&mut Value> = conditions.iter_mut().filter(|c| is_kind(c)).collect();
        if after.len() == before.len() {
            after.into_iter().zip(before).for_each(|(after, before)| *after = before);
        }
    }
}

/// Decisions and failures stay; `may_decide`: decisions may be added.
fn outcomes(new: &Cursor<'_>, old: &Cursor<'_>, may_decide: bool, errors: &mut ErrorList) {
    let list = new.field("status").field("conditions");
    let count = |request: &Cursor<'_>, kind: &str| {
        let conditions = request.value().pointer("/status/conditions").and_then(Value::as_array);
        conditions.into_iter().flatten().filter(|c| c.get("type").is_some_and(|t| t == kind)).count()
    };
    for kind in DECISIONS.into_iter().chain(["Failed"]) {
        if count(new, kind) < count(old, kind) {
            list.forbidden(errors, format!("updates may not remove a condition of type \"{kind}\""));
        }
    }
    for kind in DECISIONS.into_iter().filter(|_| !may_decide) {
        if count(new, kind) > count(old, kind) {
            list.forbidden(errors, format!("updates may not add a condition of type \"{kind}\""));
        }
    }
}

fn fill_times(new: &mut Value, old: &Value, now: &str) {
    for condition in new.pointer_mut("/status/conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        let kind = condition.get("type").and_then(Value::as_str).unwrap_or("").to_owned();
        let before = find(old, &kind);
        let unset = |c: &Value, field: &str| c.get(field).is_none_or(Value::is_null);
        if unset(condition, "lastUpdateTime") {
            carry::set(condition, "lastUpdateTime", now.into());
        }
        if unset(condition, "lastTransitionTime") {
            let unchanged = before.filter(|b| b.get("status") == condition.get("status"));
            let time = unchanged.and_then(|b| b.get("lastTransitionTime").cloned()).unwrap_or_else(|| now.into());
            carry::set(condition, "lastTransitionTime", time);
        }
    }
}

fn request_spec(spec: &Cursor<'_>, errors: &mut ErrorList) {
    let request = spec.field("request");
    if let Some(problem) = request_problem(request.str()) {
        request.invalid(errors, problem);
    }
    let usages = spec.field("usages");
    if usages.is_empty() {
        usages.required(errors, "");
    }
    let mut seen: Occurrences<&str> = Occurrences::new();
    for usage in usages.items() {
        supported(&usage, USAGES, errors);
        if seen.contains(&usage.str()) {
            errors.duplicate(usage.path(), usage.str());
        }
        seen.push(usage.str());
    }
    let signer = spec.field("signerName");
    if signer.str() == LEGACY_SIGNER {
        signer.invalid(errors, "the legacy signerName is not allowed via this API version");
    } else {
        volumes::signer_name(&signer, errors);
    }
    let seconds = spec.field("expirationSeconds");
    if seconds.opt_int().is_some_and(|n| n < EXPIRATION_SECONDS_MIN) {
        seconds.invalid(errors, "may not specify a duration less than 600 seconds (10 minutes)");
    }
}

fn decoded(base64: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(base64).unwrap_or_default()
}

/// A block of a PEM text.
struct PemBlock {
    label: String,
    has_headers: bool,
    contents: Vec<u8>,
}

/// The first block, and the text after it.
fn pem_block(text: &str) -> Option<(PemBlock, &str)> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, rest) = rest.split_once(&format!("-----END {label}-----"))?;
    let (headers, base64): (Vec<&str>, Vec<&str>) = body.lines().partition(|line| line.contains(':'));
    let base64: String = base64.concat().split_whitespace().collect();
    let contents = base64::engine::general_purpose::STANDARD.decode(base64).ok()?;
    Some((PemBlock { label: label.to_owned(), has_headers: !headers.is_empty(), contents }, rest))
}

/// What is wrong with certificates, if there are any.
fn certificate_problem(base64: &str) -> Option<String> {
    let pem = decoded(base64);
    if pem.is_empty() {
        return None;
    }
    let mut rest = std::str::from_utf8(&pem).unwrap_or("");
    let mut n_blocks = 0;
    while let Some((block, after)) = pem_block(rest) {
        if block.label != "CERTIFICATE" {
            let found = go_quote(&block.label);
            return Some(format!("only CERTIFICATE PEM blocks are allowed, found {found}"));
        }
        if block.has_headers {
            return Some("no PEM block headers are permitted".to_owned());
        }
        if block.contents.is_empty() {
            return Some("found CERTIFICATE PEM block containing 0 certificates".to_owned());
        }
        if !is_der_sequence(&block.contents) {
            return Some("x509: malformed certificate".to_owned());
        }
        (rest, n_blocks) = (after, n_blocks + 1);
    }
    (n_blocks == 0).then(|| "must contain at least one CERTIFICATE PEM block".to_owned())
}

fn request_problem(base64: &str) -> Option<String> {
    let pem = decoded(base64);
    match std::str::from_utf8(&pem).ok().and_then(pem_block) {
        Some((block, _)) if block.label == "CERTIFICATE REQUEST" => {
            (!is_der_sequence(&block.contents)).then(|| "asn1: structure error: tags don't match".to_owned())
        }
        _ => Some("PEM block type must be CERTIFICATE REQUEST".to_owned()),
    }
}

/// One DER sequence that fills the bytes: what every certificate and request is on the outside.
fn is_der_sequence(der: &[u8]) -> bool {
    let (Some(0x30), Some(&length)) = (der.first(), der.get(1)) else { return false };
    let (header, length) = if length < 0x80 {
        (2, usize::from(length))
    } else {
        let n = usize::from(length & 0x7f);
        let Some(bytes) = der.get(2..2 + n).filter(|_| n <= 4) else { return false };
        (2 + n, bytes.iter().fold(0, |sum, b| sum << 8 | usize::from(*b)))
    };
    der.len() == header + length
}

fn conditions(request: &Cursor<'_>, errors: &mut ErrorList) {
    let list = request.field("status").field("conditions");
    let mut seen: Occurrences<&str> = Occurrences::new();
    let (mut approved, mut denied) = (false, false);
    for condition in list.items() {
        let (kind, status) = (condition.field("type"), condition.field("status"));
        if kind.is_empty() {
            kind.required(errors, "");
        }
        match kind.str() {
            "Approved" => approved = true,
            "Denied" => denied = true,
            _ => {}
        }
        if approved && denied {
            let message = "Approved and Denied conditions are mutually exclusive";
            errors.invalid(list.path(), kind.value().clone(), message);
        }
        let is_decision = matches!(kind.str(), "Approved" | "Denied" | "Failed");
        match status.str() {
            "" => status.required(errors, ""),
            "True" => {}
            "False" | "Unknown" if !is_decision => {}
            _ => {
                let all: &[&str] = if is_decision { &["True"] } else { &["False", "True", "Unknown"] };
                status.no_such_choice(errors, all);
            }
        }
        if seen.contains(&kind.str()) {
            errors.duplicate(kind.path(), kind.str());
        }
        seen.push(kind.str());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_request_is_told_all_it_lacks() {
        let request = json!({"metadata": {"name": "a"}, "spec": {}});
        let mut errors = ErrorList::new();
        (STRATEGY.validate)(&Cursor::root(&request), &mut errors);
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "spec.request: Invalid value: null: PEM block type must be CERTIFICATE REQUEST",
                "spec.usages: Required value",
                "spec.signerName: Required value"
            ]
        );
    }

    #[test]
    fn a_status_update_neither_adds_decisions_nor_drops_any() {
        let conditions = |kinds: &[&str]| -> Value {
            let list: Vec<Value> = kinds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
            json!({"status": {"conditions": list}})
        };
        let faults = |old: &[&str], new: &[&str]| {
            let (old, mut new) = (conditions(old), conditions(new));
            keep_decisions(&mut new, &old);
            let mut errors = ErrorList::new();
            outcomes(&Cursor::root(&new), &Cursor::root(&old), false, &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(faults(&["Approved"], &["Failed", "Approved"]).is_empty());
        assert_eq!(
            faults(&["Approved"], &["Denied"]),
            [
                "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\"",
                "status.conditions: Forbidden: updates may not add a condition of type \"Denied\"",
            ]
        );
        let old = json!({"status": {"conditions": [{"type": "Approved", "reason": "a"}]}});
        let mut new = json!({"status": {"conditions": [{"type": "Failed"}, {"type": "Approved", "reason": "b"}]}});
        keep_decisions(&mut new, &old);
        assert_eq!(new["status"]["conditions"], json!([{"type": "Failed"}, {"type": "Approved", "reason": "a"}]));
    }

    #[test]
    fn a_certificate_is_told_from_what_only_looks_like_one() {
        let problem = |pem: &str| certificate_problem(&base64::engine::general_purpose::STANDARD.encode(pem));
        let block = |label: &str, body: &str| format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
        let (certificate, key) = (block("CERTIFICATE", "MAA="), block("RSA PRIVATE KEY", "MAA="));
        for (pem, told) in [
            (String::new(), None),
            (format!("{certificate}{certificate}"), None),
            ("x".to_owned(), Some("must contain at least one CERTIFICATE PEM block")),
            (format!("{certificate}{key}"), Some("only CERTIFICATE PEM blocks are allowed, found \"RSA PRIVATE KEY\"")),
            (block("CERTIFICATE", "a: b\n\nMAA="), Some("no PEM block headers are permitted")),
            (block("CERTIFICATE", "YQ=="), Some("x509: malformed certificate")),
        ] {
            assert_eq!(problem(&pem).as_deref(), told, "{pem}");
        }
    }

    #[test]
    fn an_approval_that_is_taken_back_is_refused() {
        let extra = std::collections::BTreeMap::new();
        let ctx = Context { now: "", user: "", groups: &[], user_uid: "", sent: b"", extra: &extra, uid: "" };
        let old = json!({"metadata": {"name": "a", "resourceVersion": "1"}, "status": {
            "conditions": [{"type": "Approved", "status": "True"}]}});
        let mut new = json!({"metadata": {"name": "a", "resourceVersion": "1"}, "status": {}});
        (APPROVAL.prepare_for_update)(&mut new, &old, &ctx);
        let mut errors = ErrorList::new();
        (APPROVAL.validate_update)(&Cursor::root(&new), &Cursor::root(&old), &mut errors);
        let told = "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\"";
        assert_eq!(errors.aggregate_message(), told);
    }
}
