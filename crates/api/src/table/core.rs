//! Rows of the core group's simple kinds, and of small groups with one kind each.

use crate::{Value, time};

use super::row::{NONE, Row, UNKNOWN};

pub(super) fn name_and_age(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.age()]
}

pub(super) fn config_map(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), (row.count("/data") + row.count("/binaryData")).into(), row.age()]
}

pub(super) fn secret(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.text("/type"), row.count("/data").into(), row.age()]
}

pub(super) fn namespace(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.text("/status/phase"), row.age()]
}

pub(super) fn pod_template(row: &Row<'_>) -> Vec<Value> {
    let [names, images] = row.containers("/template/spec/containers");
    vec![row.name(), names, images, row.labels("/template/metadata/labels")]
}

pub(super) fn component_status(row: &Row<'_>) -> Vec<Value> {
    let healthy = row.items("/conditions").find(|c| c.str("/type") == "Healthy");
    let status = match healthy.map(|c| c.str("/status")) {
        Some("True") => "Healthy",
        Some("False") => "Unhealthy",
        _ => "Unknown",
    };
    let text = |field: &str| healthy.map_or("", |c| c.str(field));
    vec![row.name(), status.into(), text("/message").into(), text("/error").into()]
}

pub(super) fn resource_quota(row: &Row<'_>) -> Vec<Value> {
    let mut names: Vec<&str> = row.entries("/status/hard").map(|(name, _)| name).collect();
    names.sort_unstable();
    let show = |limits: bool| {
        let parts: Vec<String> = names
            .iter()
            .filter(|name| name.starts_with("limits") == limits)
            .map(|name| {
                let pointer = name.replace('~', "~0").replace('/', "~1");
                let of = |map: &str| row.quantity(&format!("/status/{map}/{pointer}"));
                format!("{name}: {}/{}", of("used"), of("hard"))
            })
            .collect();
        Value::from(parts.join(", "))
    };
    vec![row.name(), show(false), show(true), row.age()]
}

/// Events of both groups; those of events.k8s.io carry the same facts under other names.
pub(super) fn event(row: &Row<'_>) -> Vec<Value> {
    let either = |a: &str, b: &str| if row.has(a) { row.str(a).to_owned() } else { row.str(b).to_owned() };
    let since = |text: &str| time::age(text, row.now);
    let about = row.get("/involvedObject").or(row.get("/regarding")).map(|v| row.at(v));
    let kind = about.map_or("", |o| o.str("/kind")).to_lowercase();
    let object = match about.map_or("", |o| o.str("/name")) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };

    let mut first = since(&either("/firstTimestamp", "/deprecatedFirstTimestamp"));
    if first == UNKNOWN {
        first = row.since("/eventTime");
    }
    let mut last = since(&either("/lastTimestamp", "/deprecatedLastTimestamp"));
    if last == UNKNOWN {
        last = first.clone();
    }
    let mut count = row.int("/count").max(row.int("/deprecatedCount")).max(1);
    if row.has("/series") {
        last = row.since("/series/lastObservedTime");
        count = row.int("/series/count");
    }

    let source = row.get("/source").or(row.get("/deprecatedSource")).map(|v| row.at(v));
    let or = |text: &str, default: String| if text.is_empty() { default } else { text.to_owned() };
    let component = source.map_or("", |s| s.str("/component"));
    let component = or(component, either("/reportingComponent", "/reportingController"));
    let host = or(source.map_or("", |s| s.str("/host")), row.str("/reportingInstance").to_owned());
    let source = if host.is_empty() { component } else { format!("{component}, {host}") };
    vec![
        last.into(),
        row.text("/type"),
        row.text("/reason"),
        object.into(),
        about.map_or("", |o| o.str("/fieldPath")).into(),
        source.into(),
        either("/message", "/note").trim().into(),
        first.into(),
        count.into(),
        row.name(),
    ]
}

pub(super) fn lease(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.text("/spec/holderIdentity"), row.age()]
}

pub(super) fn certificate_signing_request(row: &Row<'_>) -> Vec<Value> {
    let has = |condition: &str| row.condition(condition).is_some();
    let mut status = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    }
    .to_owned();
    if has("Failed") {
        status.push_str(",Failed");
    }
    if !row.str("/status/certificate").is_empty() {
        status.push_str(",Issued");
    }
    let duration = match row.get("/spec/expirationSeconds").and_then(Value::as_i64) {
        Some(seconds) => time::human_duration(seconds),
        None => NONE.to_owned(),
    };
    vec![
        row.name(),
        row.age(),
        row.text_or("/spec/signerName", NONE),
        row.text("/spec/username"),
        duration.into(),
        status.into(),
    ]
}

pub(super) fn api_service(row: &Row<'_>) -> Vec<Value> {
    let service = if row.has("/spec/service") {
        format!("{}/{}", row.str("/spec/service/namespace"), row.str("/spec/service/name"))
    } else {
        "Local".to_owned()
    };
    let available = match row.condition("Available") {
        Some(condition) if condition.str("/status") == "True" => "True".to_owned(),
        Some(condition) => format!("{} ({})", condition.str("/status"), condition.str("/reason")),
        None => "Unknown".to_owned(),
    };
    vec![row.name(), service.into(), available.into(), row.age()]
}
