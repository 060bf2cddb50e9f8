//! What an object asks of its namespace: a label without which it is refused (`api::strategy::NamespaceDemand`).

use api::{Cursor, ErrorList, Value};

use crate::gateway::Gateway;
use crate::verbs::Request;
use crate::webhook::read_namespace;

/// The demand of a write that the namespace does not meet, as a field error; empty where there is none. It is said before all
/// else that is wrong.
pub(crate) async fn unmet(gateway: &Gateway, request: &Request, new: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    let old = old.map(Cursor::root);
    let Some(demand) = (request.kind.strategy.namespace_demand)(&Cursor::root(new), old.as_ref()) else {
        return errors;
    };
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
    errors
}
