//! ServiceAccount. Source: `pkg/registry/core/serviceaccount`.

use crate::json;

use crate::strategy::Context;
use crate::validate::names;
use crate::{Strategy, Value, meta};

pub const STRATEGY: Strategy = Strategy {
    prepare_for_create: names_only,
    prepare_for_update: |new, _, ctx| names_only(new, ctx),
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        meta::validate_whole_again(new, true, names::subdomain_name, errors);
    },
    ..Strategy::DEFAULT
};

/// References to secrets keep nothing but the name.
fn names_only(account: &mut Value, _: &Context<'_>) {
    for secret in account.get_mut("secrets").and_then(Value::as_array_mut).into_iter().flatten() {
        *secret = match secret.get("name") {
            Some(name) => json!({"name": name}),
            None => json!({}),
        };
    }
}
