//! Who may write which part of a claim's status. Source: `AuthorizedForBinding` and `AuthorizedForDeviceStatus` of
//! `pkg/registry/resource`.

use std::collections::BTreeSet;

use crate::strategy::{Permission, Writer};
use crate::validate::names;
use crate::validate::text::same;
use crate::{Cursor, Value};

const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Schedulers bind claims, and each driver speaks of its own devices: of those on its own node, or of any.
pub(super) fn of_status(new: &Cursor<'_>, old: &Cursor<'_>, writer: &Writer<'_>) -> Vec<Permission> {
    let (status, before) = (new.field("status"), old.field("status"));
    let changes = |field: &str| !same(status.field(field).value(), before.field(field).value());
    let mut asked = Vec::new();
    if changes("allocation") || changes("reservedFor") {
        asked.push(Permission {
            at: status.field("allocation").path(),
            changing: "status.allocation or status.reservedFor",
            subresource: "binding",
            verbs: vec![writer.verb.to_owned()],
            name: String::new(),
            is_cluster_wide: true,
        });
    }
    // With the allocation go all devices, whoever spoke of them.
    let allocation = status.field("allocation");
    if !allocation.is_set() {
        return asked;
    }
    let prefixes: &[&str] =
        if is_on_node(writer, &allocation) { &["associated-node:", "arbitrary-node:"] } else { &["arbitrary-node:"] };
    let verbs: Vec<String> = prefixes.iter().map(|prefix| format!("{prefix}{}", writer.verb)).collect();
    asked.extend(changed_drivers(&status.field("devices"), &before.field("devices")).into_iter().map(|driver| {
        Permission {
            at: status.field("devices").path(),
            changing: "status.devices",
            subresource: "driver",
            verbs: verbs.clone(),
            name: driver,
            is_cluster_wide: false,
        }
    }));
    asked
}

/// Drivers of devices that are new, gone or otherwise spoken of.
fn changed_drivers(new: &Cursor<'_>, old: &Cursor<'_>) -> BTreeSet<String> {
    let differs =
        |device: &Cursor<'_>, others: &Cursor<'_>| !others.items().any(|other| same(device.value(), other.value()));
    let changed = new.items().filter(|d| differs(d, old)).chain(old.items().filter(|d| differs(d, new)));
    changed.map(|device| device.field("driver").str().to_owned()).collect()
}

/// A service account whose pod runs on the one node that the devices are on.
fn is_on_node(writer: &Writer<'_>, allocation: &Cursor<'_>) -> bool {
    let is_account = writer.name.strip_prefix("system:serviceaccount:").is_some_and(|rest| {
        let mut parts = rest.split(':');
        parts.by_ref().take(2).filter(|part| !part.is_empty()).count() == 2 && parts.next().is_none()
    });
    let own = match writer.extra.get(NODE_NAME).map(Vec::as_slice) {
        Some([node]) if names::dns1123_subdomain(node).is_empty() => node,
        _ => return false,
    };
    is_account && node_of(allocation.value()) == Some(own)
}

/// The node that an allocation is tied to by name.
fn node_of(allocation: &Value) -> Option<&str> {
    let one = |list: &'_ Value| list.as_array().filter(|list| list.len() == 1).is_some();
    let terms = allocation.pointer("/nodeSelector/nodeSelectorTerms").filter(|terms| one(terms))?;
    let term = terms.get(0)?;
    let has_labels = term.get("matchExpressions").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    let field = term.get("matchFields").filter(|fields| one(fields) && !has_labels)?.get(0)?;
    let is_name = field.get("key")? == "metadata.name" && field.get("operator")? == "In";
    field.get("values").filter(|values| one(values) && is_name)?.get(0)?.as_str()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::json;

    use super::*;

    fn asked(new: Value, old: Value, name: &str, node: &str) -> Vec<(&'static str, String, String)> {
        let extra = BTreeMap::from([(NODE_NAME.to_owned(), vec![node.to_owned()])]);
        let writer = Writer { verb: "update", name, extra: &extra };
        let (new, old) = (json!({"status": new}), json!({"status": old}));
        let permissions = of_status(&Cursor::root(&new), &Cursor::root(&old), &writer);
        permissions.into_iter().map(|p| (p.subresource, p.verbs.join(" "), p.name)).collect()
    }

    fn allocation(node: &str) -> Value {
        json!({"nodeSelector": {"nodeSelectorTerms": [{"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": [node]}]}]}})
    }

    #[test]
    fn whoever_binds_is_asked_for_that() {
        let bound = json!({"allocation": allocation("n"), "reservedFor": [{"name": "p"}]});
        assert_eq!(asked(bound.clone(), json!({}), "scheduler", ""), [("binding", "update".to_owned(), String::new())]);
        assert_eq!(asked(bound.clone(), bound, "anybody", ""), []);
    }

    #[test]
    fn a_driver_speaks_of_devices_of_its_node_or_of_any() {
        let before = json!({"allocation": allocation("n")});
        let mut spoken = before.clone();
        spoken["devices"] = json!([{"driver": "d.x", "pool": "p", "device": "a"}]);
        let account = "system:serviceaccount:ns:driver";
        assert_eq!(
            asked(spoken.clone(), before.clone(), account, "n"),
            [("driver", "associated-node:update arbitrary-node:update".to_owned(), "d.x".to_owned())]
        );
        assert_eq!(
            asked(spoken, before, account, "other"),
            [("driver", "arbitrary-node:update".to_owned(), "d.x".to_owned())]
        );
    }
}
