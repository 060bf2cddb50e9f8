//! Nobody grants rights that he does not hold: the check behind every write of a role or binding.
//!
//! Exempt are members of `system:masters`, users with the verb `escalate` on the role (for roles) or `bind` on the referenced
//! role (for bindings), and updates that only change owner references or finalizers.

use api::{Status, Value, field::go_quote, status::GroupResource};

use super::{
    Authorizer, PolicyRule, SUPERUSER_GROUP,
    rbac::{GROUP, Rbac, RoleRef},
    rule::{compact_rules, go_quoted_list, uncovered},
};
use crate::attributes::{Action, UserInfo};

/// A write of an RBAC object. `namespace` and `name` are those of the request.
#[derive(Clone, Copy, Debug)]
pub struct RbacWrite<'a> {
    /// `roles`, `clusterroles`, `rolebindings` or `clusterrolebindings`.
    pub resource: &'a str,
    pub namespace: &'a str,
    /// Name in the URL; empty on create.
    pub name: &'a str,
    pub new: &'a Value,
    /// `None` on create.
    pub old: Option<&'a Value>,
}

/// Refuses a write that would give away more than `user` holds.
pub fn check(authorizer: &Authorizer, user: &UserInfo, write: &RbacWrite<'_>) -> Result<(), Status> {
    if user.in_group(SUPERUSER_GROUP) || write.old.is_some_and(|old| only_gc_fields_differ(write.new, old)) {
        return Ok(());
    }
    match write.resource {
        "roles" | "clusterroles" => check_role(authorizer, user, write),
        "rolebindings" | "clusterrolebindings" => check_binding(authorizer, user, write),
        _ => Ok(()),
    }
}

fn check_role(authorizer: &Authorizer, user: &UserInfo, write: &RbacWrite<'_>) -> Result<(), Status> {
    let escalate = rbac_action("escalate", write.resource, write.namespace, write.name);
    if authorizer.authorize(user, &escalate).allowed {
        return Ok(());
    }
    let forbidden = |text: &str| {
        Status::forbidden(GroupResource { group: GROUP, resource: write.resource }, api::meta::name(write.new), text)
    };
    let rules = rules_of(write.new)?;
    confirm(authorizer.rbac(), user, write.namespace, &rules).map_err(|text| forbidden(&text))?;
    let aggregates = has_aggregation_rule(write.new) || write.old.is_some_and(has_aggregation_rule);
    if aggregates && confirm(authorizer.rbac(), user, "", &PolicyRule::full_authority()).is_err() {
        return Err(forbidden("must have cluster-admin privileges to use the aggregationRule"));
    }
    Ok(())
}

fn check_binding(authorizer: &Authorizer, user: &UserInfo, write: &RbacWrite<'_>) -> Result<(), Status> {
    let role_ref = role_ref_of(write.new)?;
    let roles = match role_ref.kind.as_str() {
        "Role" => Some("roles"),
        "ClusterRole" => Some("clusterroles"),
        _ => None,
    };
    let may_bind = roles.is_some_and(|resource| {
        authorizer.authorize(user, &rbac_action("bind", resource, write.namespace, &role_ref.name)).allowed
    });
    if may_bind {
        return Ok(());
    }
    let gr = GroupResource { group: GROUP, resource: write.resource };
    if roles.is_none() {
        let text = format!("unsupported role reference kind: {}", go_quote(&role_ref.kind));
        return Err(Status::internal(text));
    }
    let Some(rules) = authorizer.rbac().role_rules(&role_ref, write.namespace) else {
        return Err(Status::not_found(gr, &role_ref.name));
    };
    confirm(authorizer.rbac(), user, write.namespace, &rules)
        .map_err(|text| Status::forbidden(gr, api::meta::name(write.new), &text))
}

/// `Err` with upstream's text when the user does not hold all of `rules`.
fn confirm(rbac: &Rbac, user: &UserInfo, namespace: &str, rules: &[PolicyRule]) -> Result<(), String> {
    let (owned, errors) = rbac.rules_for(user, namespace);
    let missing = uncovered(&owned, rules);
    if missing.is_empty() {
        return Ok(());
    }
    let mut descriptions: Vec<String> = compact_rules(missing).iter().map(PolicyRule::compact).collect();
    descriptions.sort();
    descriptions.dedup();
    let mut text = format!(
        "user {} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        go_quote(&user.name),
        go_quoted_list(&user.groups),
        descriptions.join("\n")
    );
    if !errors.is_empty() {
        text.push_str(&format!("; resolution errors: [{}]", errors.join(" ")));
    }
    Err(text)
}

fn rbac_action(verb: &str, resource: &str, namespace: &str, name: &str) -> Action {
    Action::Resource {
        verb: verb.into(),
        group: GROUP.into(),
        version: "*".into(),
        resource: resource.into(),
        subresource: String::new(),
        namespace: namespace.into(),
        name: name.into(),
    }
}

fn rules_of(role: &Value) -> Result<Vec<PolicyRule>, Status> {
    match role.get("rules") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(rules) => serde::Deserialize::deserialize(rules).map_err(Status::internal),
    }
}

fn role_ref_of(binding: &Value) -> Result<RoleRef, Status> {
    match binding.get("roleRef") {
        None | Some(Value::Null) => Ok(RoleRef::default()),
        Some(role_ref) => serde::Deserialize::deserialize(role_ref).map_err(Status::internal),
    }
}

fn has_aggregation_rule(role: &Value) -> bool {
    role.pointer("/aggregationRule/clusterRoleSelectors").and_then(Value::as_array).is_some_and(|list| !list.is_empty())
}

/// The two objects are equal but for what the garbage collector and field management write.
fn only_gc_fields_differ(new: &Value, old: &Value) -> bool {
    fn stripped(object: &Value) -> Value {
        let mut copy = object.clone();
        if let Some(metadata) = copy.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in ["ownerReferences", "finalizers", "managedFields", "selfLink"] {
                metadata.remove(field);
            }
        }
        copy
    }
    stripped(new) == stripped(old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::MemorySource;
    use api::json;

    fn user() -> UserInfo {
        UserInfo { name: "u".into(), groups: vec!["system:authenticated".into()], ..UserInfo::default() }
    }

    fn authorizer() -> Authorizer {
        let source = MemorySource::new();
        source.put(
            GROUP,
            "clusterroles",
            json!({"metadata": {"name": "adm"}, "rules": [
                {"apiGroups": [GROUP], "resources": ["roles", "rolebindings"], "verbs": ["create"]},
                {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]}),
        );
        source.put(
            GROUP,
            "clusterroles",
            json!({"metadata": {"name": "cluster-admin"}, "rules": [
                {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}, {"nonResourceURLs": ["*"], "verbs": ["*"]}]}),
        );
        source.put(
            GROUP,
            "clusterrolebindings",
            json!({"metadata": {"name": "adm"}, "roleRef": {"kind": "ClusterRole", "name": "adm"},
                   "subjects": [{"kind": "User", "name": "u"}]}),
        );
        Authorizer::new(source.shared())
    }

    fn create(resource: &str, new: &Value) -> Result<(), String> {
        let write = RbacWrite { resource, namespace: "ns", name: "", new, old: None };
        check(&authorizer(), &user(), &write).map_err(|status| status.message)
    }

    #[test]
    fn a_role_within_ones_own_rights_passes() {
        let role = json!({"metadata": {"name": "ok"}, "rules": [
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]});
        assert_eq!(create("roles", &role), Ok(()));
    }

    #[test]
    fn what_is_missing_is_listed_in_order() {
        let role = json!({"metadata": {"name": "bad"}, "rules": [
            {"apiGroups": [""], "resources": ["secrets", "configmaps"], "verbs": ["get", "delete"]}]});
        assert_eq!(
            create("roles", &role).unwrap_err(),
            "roles.rbac.authorization.k8s.io \"bad\" is forbidden: user \"u\" (groups=[\"system:authenticated\"]) is \
             attempting to grant RBAC permissions not currently held:\n\
             {APIGroups:[\"\"], Resources:[\"configmaps\"], Verbs:[\"delete\"]}\n\
             {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"delete\"]}"
        );
    }

    #[test]
    fn binding_a_role_needs_its_rules() {
        let binding = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"}});
        assert_eq!(
            create("rolebindings", &binding).unwrap_err(),
            "rolebindings.rbac.authorization.k8s.io \"b\" is forbidden: user \"u\" (groups=[\"system:authenticated\"]) is \
             attempting to grant RBAC permissions not currently held:\n\
             {APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}\n{NonResourceURLs:[\"*\"], Verbs:[\"*\"]}"
        );
        let binding = json!({"metadata": {"name": "c"}, "roleRef": {"kind": "Role", "name": "missing"}});
        assert_eq!(
            create("rolebindings", &binding).unwrap_err(),
            "rolebindings.rbac.authorization.k8s.io \"missing\" not found"
        );
    }

    #[test]
    fn aggregation_needs_everything() {
        let role = json!({"metadata": {"name": "agg"}, "aggregationRule": {"clusterRoleSelectors": [{}]}});
        let write = RbacWrite { resource: "clusterroles", namespace: "", name: "", new: &role, old: None };
        assert_eq!(
            check(&authorizer(), &user(), &write).unwrap_err().message,
            "clusterroles.rbac.authorization.k8s.io \"agg\" is forbidden: must have cluster-admin privileges to use the \
             aggregationRule"
        );
    }

    #[test]
    fn an_update_of_finalizers_alone_is_not_checked() {
        let old = json!({"metadata": {"name": "r", "finalizers": ["a/b"]}, "rules": [
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]});
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!([]);
        let write = RbacWrite { resource: "roles", namespace: "ns", name: "r", new: &new, old: Some(&old) };
        assert_eq!(check(&authorizer(), &user(), &write), Ok(()));
    }
}
