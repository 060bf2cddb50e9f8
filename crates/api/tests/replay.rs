//! Creates recorded from a real server, replayed through decoding, defaulting, strategy and validation: the same objects are
//! refused in the same words. Scenarios whose answer depends on more than this crate (allocation, CEL, admission) are named
//! below; the list may only get shorter.

mod write;

use std::path::PathBuf;

use api::codec;
use api::patch::{Patch, PatchType};
use api::{Cursor, Kind, Value};
use write::{UID, answer, create, kind_of, part_checked, replaced};

/// Answers that need the server around this crate, by scenario, with what decides them.
const ELSEWHERE: &[(&str, &str)] = &[
    ("validation/namespaces/name", "pod security admission"),
    ("crd/invalid-cel-2", "CEL"),
    ("crd/invalid-cel-3", "CEL"),
    ("crd/invalid-defaults-1", "values of custom resources"),
    ("crd/invalid-defaults-2", "values of custom resources"),
    ("validation/services/clusterip-1", "address allocation"),
    ("validation/services/clusterip-2", "address allocation"),
    ("validation/validatingadmissionpolicies", "CEL"),
    ("validation/validatingwebhookconfigurations/spec-2", "CEL"),
    ("validation/deviceclasses", "CEL"),
];

fn shared(path: &str) -> Option<Value> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/testdata/parity").join(path);
    let Ok(bytes) = std::fs::read(&file) else {
        eprintln!("skipped: {} is not there", file.display());
        return None;
    };
    serde_json::from_slice(&bytes).ok()
}

/// A stored object after a patch to it, or the message of the refusal.
fn update(kind: &Kind, old: &Value, patch_type: PatchType, patch: &str) -> Result<Value, String> {
    let patch = Patch::decode(patch_type, patch.as_bytes(), true).map_err(|e| e.to_string())?;
    let patched = patch.apply_to(kind, old).map_err(|e| e.to_string())?;
    let object = codec::normalize(&patched.object, kind).map_err(|e| e.to_string())?.value;
    let (object, errors) = replaced(kind, object, old);
    answer(kind, object, &errors)
}

/// Recorded text with its placeholders filled in.
fn filled(text: &str) -> String {
    let mut out = text.replace("${ns}", "ns");
    while let Some(start) = out.find("${x*") {
        let Some(end) = out[start..].find('}').map(|e| start + e) else { break };
        let n: usize = out[start + 4..end].parse().unwrap_or(0);
        out.replace_range(start..=end, &"x".repeat(n));
    }
    while let Some(start) = out.find("<uid:") {
        let Some(end) = out[start..].find('>').map(|e| start + e) else { break };
        out.replace_range(start..=end, UID);
    }
    out
}

fn replay(file: &str) -> Option<(usize, Vec<String>)> {
    let recorded = shared(file)?;
    let (mut n_same, mut different) = (0, Vec::new());
    for scenario in recorded["scenarios"].as_array().into_iter().flatten() {
        let name = scenario["name"].as_str().unwrap_or("");
        if ELSEWHERE.iter().any(|(prefix, _)| name.starts_with(prefix)) {
            continue;
        }
        for step in scenario["steps"].as_array().into_iter().flatten() {
            let status = step["expect"]["status"].as_i64();
            let is_create = step["method"] == "POST"
                && step["body"].is_object()
                && step["body"]["metadata"]["generateName"].is_null();
            let Some(kind) = kind_of(step["path"].as_str().unwrap_or("")).filter(|_| is_create) else { continue };
            if !matches!(status, Some(201 | 422)) || kind.storage_prefix.is_empty() {
                continue;
            }
            let expected = step["expect"]["body"]["message"].as_str().map(filled).filter(|_| status == Some(422));
            if status == Some(422) && expected.as_deref().is_none_or(|m| m == "<any>" || m.contains("fieldValidation"))
            {
                continue;
            }
            let body = filled(&step["body"].to_string());
            let ours = create(kind, &body, "ns").err();
            if ours == expected {
                n_same += 1;
            } else {
                different.push(format!("{name}\n   body {body}\n   ours {ours:?}\n   them {expected:?}"));
            }
        }
    }
    Some((n_same, different))
}

/// Differences that remain, per file.
const KNOWN: &[(&str, usize)] = &[
    ("validation.json", 0),
    ("errors.json", 0),
    ("immutable.json", 0),
    ("update.json", 0),
    ("defaults.json", 0),
    ("warnings.json", 0),
    ("crud.json", 0),
    ("crd.json", 0),
];

#[test]
fn recorded_creates_are_answered_alike() {
    let mut n_new = 0;
    for (file, known) in KNOWN {
        let Some((n_same, different)) = replay(file) else { return };
        for text in &different {
            eprintln!("{text}");
        }
        eprintln!("{file}: {n_same} alike, {} different", different.len());
        n_new += different.len().saturating_sub(*known);
    }
    assert_eq!(n_new, 0, "differences that are not known");
}

/// Patches whose answer shows what admission put into the pod, or needs what controllers and allocators did.
const PATCHED_ELSEWHERE: &[&str] =
    &["immutable/pods/spec", "immutable/pods/gated", "immutable/services", "immutable/controllerrevisions/data"];

/// Patches that tell an empty list from none, which a decoded object no longer does.
const EMPTY_LISTS: &[&str] = &["podFailurePolicy\":{\"rules\":[]}", "devices\":{\"requests\":[]}"];

#[test]
fn recorded_patches_are_answered_alike() {
    let Some(recorded) = shared("immutable.json") else { return };
    let (mut n_same, mut n_different) = (0, 0);
    for scenario in recorded["scenarios"].as_array().into_iter().flatten() {
        let name = scenario["name"].as_str().unwrap_or("");
        if PATCHED_ELSEWHERE.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let mut stored: Option<(&Kind, Value)> = None;
        for step in scenario["steps"].as_array().into_iter().flatten() {
            let body = filled(&step["body"].to_string());
            if step["method"] == "POST" {
                let Some(kind) = kind_of(step["path"].as_str().unwrap_or("")) else { continue };
                let mut object = create(kind, &body, "ns").expect("the object of the scenario is valid");
                object["metadata"]["resourceVersion"] = "1".into();
                stored = Some((kind, object));
                continue;
            }
            let patch_type = step["headers"]["Content-Type"].as_str().and_then(PatchType::from_media_type);
            let (Some(patch_type), Some((kind, old))) = (patch_type, &mut stored) else { continue };
            // The path may name a subresource, which has rules of its own.
            let is_main = step["path"].as_str().is_some_and(|p| p.split('/').rev().nth(1) == Some(&*kind.resource));
            let status = step["expect"]["status"].as_i64();
            let expected = match status {
                Some(200) => None,
                Some(422) => step["expect"]["body"]["message"].as_str().map(filled),
                _ => continue,
            };
            if !is_main || EMPTY_LISTS.iter().any(|part| body.contains(part)) {
                continue;
            }
            let ours = match update(kind, old, patch_type, &body) {
                Ok(object) => {
                    *old = object;
                    None
                }
                Err(message) => Some(message),
            };
            if ours == expected {
                n_same += 1;
            } else {
                n_different += 1;
                eprintln!("{name}\n   patch {body}\n   ours {ours:?}\n   them {expected:?}");
            }
        }
    }
    eprintln!("{n_same} alike, {n_different} different");
    assert_eq!(n_different, 0);
}

/// A stored object after a patch to one of its subresources.
fn update_part(kind: &Kind, part: &str, old: &Value, patch_type: PatchType, patch: &str) -> Result<Value, String> {
    let rule = kind.strategy.subresource(part).ok_or_else(|| format!("{} has no rules for {part}", kind.kind))?;
    let patch = Patch::decode(patch_type, patch.as_bytes(), true).map_err(|e| e.to_string())?;
    let patched = patch.apply_to(kind, old).map_err(|e| e.to_string())?;
    let object = codec::normalize(&patched.object, kind).map_err(|e| e.to_string())?.value;
    let (object, errors) = part_checked(kind, rule, object, old);
    answer(kind, object, &errors)
}

#[test]
fn recorded_subresource_patches_are_answered_alike() {
    let Some(recorded) = shared("subresources.json") else { return };
    let (mut n_same, mut n_different) = (0, 0);
    for scenario in recorded["scenarios"].as_array().into_iter().flatten() {
        let name = scenario["name"].as_str().unwrap_or("");
        let mut stored: Option<(&Kind, Value)> = None;
        for step in scenario["steps"].as_array().into_iter().flatten() {
            let body = filled(&step["body"].to_string());
            let path = step["path"].as_str().unwrap_or("");
            if step["method"] == "POST" && stored.is_none() {
                let Some(kind) = kind_of(path).filter(|_| step["body"].is_object()) else { continue };
                let Ok(mut object) = create(kind, &body, "ns") else { continue };
                object["metadata"]["resourceVersion"] = "1".into();
                stored = Some((kind, object));
                continue;
            }
            let patch_type = step["headers"]["Content-Type"].as_str().and_then(PatchType::from_media_type);
            let (Some(patch_type), Some((kind, old))) = (patch_type, &mut stored) else { continue };
            let parts: Vec<&str> = path.rsplit('/').take(3).collect();
            let [part, _, resource] = parts[..] else { continue };
            let is_part = resource == &*kind.resource && matches!(part, "status" | "ephemeralcontainers" | "resize");
            let expected = match step["expect"]["status"].as_i64() {
                Some(200) => None,
                Some(422) => step["expect"]["body"]["message"].as_str().map(filled),
                _ => continue,
            };
            if !is_part {
                continue;
            }
            let ours = match update_part(kind, part, old, patch_type, &body) {
                Ok(object) => {
                    *old = object;
                    None
                }
                Err(message) => Some(message),
            };
            if ours == expected {
                n_same += 1;
            } else {
                n_different += 1;
                eprintln!("{name} {part}\n   patch {body}\n   ours {ours:?}\n   them {expected:?}");
            }
        }
    }
    eprintln!("{n_same} alike, {n_different} different");
    assert_eq!(n_different, 0);
}

#[test]
fn recorded_warnings_are_given_alike() {
    let Some(recorded) = shared("warnings.json") else { return };
    let mut n_different = 0;
    for scenario in recorded["scenarios"].as_array().into_iter().flatten() {
        let name = scenario["name"].as_str().unwrap_or("");
        let step = &scenario["steps"][0];
        let Some(kind) = kind_of(step["path"].as_str().unwrap_or("")) else { continue };
        let Ok(object) = create(kind, &filled(&step["body"].to_string()), "ns") else { continue };
        let mut ours = Vec::new();
        ours.extend(api::kinds::deprecation(kind).map(str::to_owned));
        (kind.strategy.warnings)(&Cursor::root(&object), None, &mut ours);
        let recorded = step["expect"]["headers"]["Warning"].as_array();
        let theirs: Vec<String> = recorded
            .into_iter()
            .flatten()
            .filter_map(|w| serde_json::from_str::<String>(w.as_str()?.strip_prefix("299 - ")?).ok())
            .collect();
        if ours != theirs {
            n_different += 1;
            eprintln!("{name}\n   ours {ours:?}\n   them {theirs:?}");
        }
    }
    assert_eq!(n_different, 0);
}
