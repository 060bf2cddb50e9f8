//! What a write asks for beyond the permission to make it: of its namespace a label without which the object is refused, of who
//! writes a status a permission of its own for parts of it.

use api::strategy::{Permission, Writer};
use api::{Cursor, ErrorList, Value};

use crate::attributes::Action;
use crate::gateway::Gateway;
use crate::verbs::Request;
use crate::webhook::read_namespace;

/// The demands that are not met, as field errors. They are said before all else that is wrong.
pub(crate) async fn unmet(gateway: &Gateway, request: &Request, new: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (new, old) = (Cursor::root(new), old.map(Cursor::root));
    of_namespace(gateway, request, &new, old.as_ref(), &mut errors).await;
    if let Some(old) = old.filter(|_| request.subresource == "status") {
        let writer = Writer { verb: request.verb, name: &request.user.name, extra: &request.user.extra };
        for permission in (request.kind.strategy.status_permissions)(&new, &old, &writer) {
            of_writer(gateway, request, permission, &mut errors);
        }
    }
    errors
}

async fn of_namespace(
    gateway: &Gateway,
    request: &Request,
    new: &Cursor<'_>,
    old: Option<&Cursor<'_>>,
    errors: &mut ErrorList,
) {
    let Some(demand) = (request.kind.strategy.namespace_demand)(new, old) else { return };
    let (key, value) = demand.label;
    match read_namespace(gateway, &request.namespace).await {
        Ok(namespace) => {
            let labels = namespace.pointer("/metadata/labels").unwrap_or(&Value::Null);
            if labels.get(key).and_then(Value::as_str) != Some(value) {
                errors.forbidden(demand.at, demand.refused);
            }
        }
        Err(status) => errors.internal(demand.at, format!("{}: {}", demand.unread, status.message)),
    }
}

fn of_writer(gateway: &Gateway, request: &Request, permission: Permission, errors: &mut ErrorList) {
    let mut refused = None;
    for verb in &permission.verbs {
        let action = Action::Resource {
            verb: verb.clone(),
            group: request.kind.group.to_string(),
            version: request.kind.version.to_string(),
            resource: request.kind.resource.to_string(),
            subresource: permission.subresource.to_owned(),
            namespace: if permission.is_cluster_wide { String::new() } else { request.namespace.clone() },
            name: permission.name.clone(),
        };
        match gateway.authz.require(&request.user, &action, &[]) {
            Ok(()) => return,
            Err(status) => refused.get_or_insert(status.message),
        };
    }
    let verbs = match &permission.verbs[..] {
        [verb] if permission.is_cluster_wide => verb.clone(),
        verbs => format!("[{}]", verbs.join(" ")),
    };
    let (changing, part) = (permission.changing, permission.subresource);
    let detail = format!(
        "changing {changing} requires resource=\"{}/{part}\", verb=\"{verbs}\" permission: {}",
        request.kind.resource,
        refused.unwrap_or_default()
    );
    errors.forbidden(permission.at, detail);
}
