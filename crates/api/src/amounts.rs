//! Amounts of resources by name, and how those of a pod's containers add up. Source: `component-helpers/resource`.

use std::collections::BTreeMap;

use crate::quantity::Quantity;
use crate::validate::resources::is_pod_level;
use crate::{Map, Value};

/// Amounts by the name of a resource, or by that of a quota: `pods`, `requests.cpu`, `count/deployments.apps`.
pub type Amounts = BTreeMap<String, Quantity>;

/// A resource list. What is no amount, which decoding refuses, is not in it.
pub fn of_list(list: &Value) -> Amounts {
    let entries = list.as_object().into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.to_string(), Quantity::from_value(value).ok()?))).collect()
}

/// Adds to a total.
pub fn add(total: &mut Amounts, more: Amounts) {
    for (name, amount) in more {
        match total.get_mut(&name) {
            Some(before) => *before = before.add(&amount),
            None => drop(total.insert(name, amount)),
        }
    }
}

/// Raises each amount to that of another list, where that has more.
pub fn raise(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        if total.get(name).is_none_or(|before| before < amount) {
            total.insert(name.clone(), amount.clone());
        }
    }
}

/// What the pod says as a whole stands for what its containers say together.
pub fn replace(total: &mut Amounts, of_pod: &Amounts) {
    for (name, amount) in of_pod.iter().filter(|(name, _)| is_pod_level(name)) {
        total.insert(name.clone(), amount.clone());
    }
}

/// What an init container needs.
#[derive(Clone, Debug, Default)]
pub struct Starting {
    pub amounts: Amounts,
    /// It runs on beside the others.
    pub is_sidecar: bool,
}

/// What containers need at their peak: they and the sidecars together, or an init container with the sidecars before it where
/// that is more.
pub fn peak(containers: impl IntoIterator<Item = Amounts>, starting: impl IntoIterator<Item = Starting>) -> Amounts {
    let mut running = Amounts::new();
    containers.into_iter().for_each(|amounts| add(&mut running, amounts));
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for Starting { amounts, is_sidecar } in starting {
        if is_sidecar {
            add(&mut running, amounts.clone());
            add(&mut sidecars, amounts);
            raise(&mut peak, &sidecars);
        } else {
            let mut together = sidecars.clone();
            add(&mut together, amounts);
            raise(&mut peak, &together);
        }
    }
    raise(&mut running, &peak);
    running
}

/// The `requests` or the `limits` of all containers that a pod's spec names, at their peak.
pub fn of_containers(spec: &Map, list: &str) -> Amounts {
    let items = |field: &str| spec.get(field).and_then(Value::as_array).into_iter().flatten();
    let own = |container: &Value| of_list(&container["resources"][list]);
    let starting = items("initContainers")
        .map(|container| Starting { amounts: own(container), is_sidecar: container["restartPolicy"] == "Always" });
    peak(items("containers").map(own), starting)
}
