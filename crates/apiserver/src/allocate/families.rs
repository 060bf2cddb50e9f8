//! `clusterIPs`, `ipFamilies` and `ipFamilyPolicy`: checked, defaulted and kept in step before addresses are given out.

use std::net::IpAddr;

use api::json;
use api::kinds::service;
use api::{Cursor, ErrorList, Path, Value};

use super::Family;

pub(super) const NONE: &str = "None";

/// Which families the cluster has ranges for, the default first.
pub(super) type Configured<'a> = &'a [Family];

pub(super) fn strings(service: &Value, field: &str) -> Vec<String> {
    let list = service["spec"][field].as_array();
    list.into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn policy(service: &Value) -> &str {
    service["spec"]["ipFamilyPolicy"].as_str().unwrap_or_default()
}

fn text<'a>(service: &'a Value, field: &str) -> &'a str {
    service["spec"][field].as_str().unwrap_or_default()
}

fn is_selectorless_headless(service: &Value) -> bool {
    let no_selector = service["spec"]["selector"].as_object().is_none_or(|selector| selector.is_empty());
    text(service, "clusterIP") == NONE && no_selector
}

/// Fills allocated fields that an update left out, and keeps `clusterIP` and `clusterIPs` in step for clients that know only
/// the older one.
pub(super) fn carry_over(new: &mut Value, old: Option<&Value>) {
    if let Some(old) = old {
        service::keep_allocations(new, old);
    }
    let ip = text(new, "clusterIP").to_owned();
    let ips = strings(new, "clusterIPs");
    let Some(old) = old else {
        if !ip.is_empty() && ips.is_empty() {
            new["spec"]["clusterIPs"] = json!([ip]);
        }
        return;
    };
    let old_ip = text(old, "clusterIP");
    let same_ips = strings(old, "clusterIPs") == ips;
    if !ip.is_empty() && ips.is_empty() && old_ip.is_empty() {
        new["spec"]["clusterIPs"] = json!([ip]);
    } else if ip != old_ip && ip.is_empty() && same_ips {
        // Clearing the one field clears both.
        remove(new, "clusterIPs");
    } else if ip != old_ip && same_ips {
        // A client that knows only clusterIP changed it.
        new["spec"]["clusterIPs"] = json!([ip]);
    }
}

/// Checks and fills the family fields of a Service that gets addresses.
pub(super) fn init(new: &mut Value, old: Option<&Value>, configured: Configured<'_>) -> Result<(), ErrorList> {
    if text(new, "type") == "ExternalName" || old.is_some_and(|old| is_settled_dual_stack(new, old)) {
        return Ok(());
    }
    if new.pointer("/spec/ipFamilyPolicy").is_none_or(Value::is_null) {
        let default = match old.map(policy) {
            Some(before) if !before.is_empty() => before,
            _ if is_selectorless_headless(new) => "RequireDualStack",
            _ => "SingleStack",
        };
        new["spec"]["ipFamilyPolicy"] = json!(default);
    }
    let mut errors = ErrorList::new();
    service::cluster_ips(&Cursor::root(new), old.map(Cursor::root).as_ref(), &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    if let Some(old) = old {
        reduce(new, old, &mut errors);
    }
    infer_families(new, configured, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut families = strings(new, "ipFamilies");
    if is_selectorless_headless(new) {
        // It may name families the cluster has no ranges for: it gets no addresses.
        if families.is_empty() {
            families.push(configured[0].name().into());
        }
        add_second_family(&mut families, policy(new) != "SingleStack");
        new["spec"]["ipFamilies"] = json!(families);
        return Ok(());
    }
    let is_dual_cluster = configured.len() == 2;
    if policy(new) == "RequireDualStack" && !is_dual_cluster {
        errors.invalid(
            Path::new("spec.ipFamilyPolicy"),
            policy(new),
            "this cluster is not configured for dual-stack services",
        );
    }
    for (i, family) in families.iter().enumerate() {
        if !Family::from_name(family).is_some_and(|f| configured.contains(&f)) {
            let path = Path::new("spec.ipFamilies").index(i);
            errors.invalid(path, family.as_str(), "not configured on this cluster");
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    if families.is_empty() {
        families.push(configured[0].name().into());
    }
    add_second_family(&mut families, policy(new) != "SingleStack" && is_dual_cluster);
    new["spec"]["ipFamilies"] = json!(families);
    Ok(())
}

fn add_second_family(families: &mut Vec<String>, wanted: bool) {
    if let ([first], true) = (families.as_slice(), wanted)
        && let Some(family) = Family::from_name(first)
    {
        families.push(family.other().name().into());
    }
}

/// A PreferDualStack Service is neither upgraded nor downgraded by the cluster changing under it.
pub(super) fn is_settled_dual_stack(new: &Value, old: &Value) -> bool {
    policy(new) == "PreferDualStack"
        && text(old, "type") == text(new, "type")
        && matches!(text(new, "type"), "ClusterIP" | "NodePort" | "LoadBalancer")
        && matches!(policy(old), "" | "PreferDualStack")
        && strings(old, "clusterIPs") == strings(new, "clusterIPs")
        && strings(old, "ipFamilies") == strings(new, "ipFamilies")
}

/// An update to SingleStack releases the second address; anything else must not lose one.
fn reduce(new: &mut Value, old: &Value, errors: &mut ErrorList) {
    for (field, detail) in [
        ("clusterIPs", "must be 'SingleStack' to release the secondary cluster IP"),
        ("ipFamilies", "must be 'SingleStack' to release the secondary IP family"),
    ] {
        let (before, now) = (strings(old, field), strings(new, field));
        if policy(new) == "SingleStack" {
            if before == now && now.len() > 1 {
                new["spec"][field] = json!([now[0]]);
            }
        } else if !now.is_empty() && now.len() < before.len() {
            errors.invalid(Path::new("spec.ipFamilyPolicy"), policy(new), detail);
        }
    }
}

fn infer_families(new: &mut Value, configured: Configured<'_>, errors: &mut ErrorList) {
    let ips = strings(new, "clusterIPs");
    let mut families = strings(new, "ipFamilies");
    let policy_path = Path::new("spec.ipFamilyPolicy");
    if policy(new) == "SingleStack" {
        if ips.len() == 2 {
            let detail = "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified";
            errors.invalid(policy_path.clone(), policy(new), detail);
        }
        if families.len() == 2 {
            let detail = "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified";
            errors.invalid(policy_path, policy(new), detail);
        }
    }
    for (i, ip) in ips.iter().enumerate() {
        let Ok(ip) = ip.parse::<IpAddr>() else { break };
        if i < families.len() {
            continue;
        }
        let family = Family::of(ip);
        if configured.contains(&family) {
            families.push(family.name().into());
        } else {
            let detail = format!("{} is not configured on this cluster", family.name());
            errors.invalid(Path::new("spec.clusterIPs").index(i), json!(ips), detail);
        }
    }
    if !families.is_empty() {
        new["spec"]["ipFamilies"] = json!(families);
    }
}

pub(super) fn remove(service: &mut Value, field: &str) {
    if let Some(spec) = service["spec"].as_object_mut() {
        spec.remove(field);
    }
}
