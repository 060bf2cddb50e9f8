//! An applied configuration laid over the live object, and paths taken out of an object.

use super::element::Element;
use super::node::{Atom, Items, Node, Steps, entries, items};
use super::set::Set;
use crate::{Map, Value};

/// The live object with every field of the configuration in place. Nothing is removed.
pub(super) fn merge(node: Node<'_>, live: &Value, config: &Value) -> Value {
    both(node, Some(live), Some(config)).unwrap_or(Value::Null)
}

fn both(node: Node<'_>, live: Option<&Value>, config: Option<&Value>) -> Option<Value> {
    let (Some(old), Some(new)) = (live, config) else { return config.or(live).cloned() };
    let atom = node.atom(Some(new));
    match &atom {
        Atom::List { element, items: kind } if !atom.is_atomic() => {
            if items(live).is_empty() && items(config).is_empty() {
                return Some(new.clone());
            }
            Some(lists(*element, *kind, items(live), items(config)))
        }
        Atom::Map { .. } if !atom.is_atomic() => {
            let (old, new_map) = (entries(Some(old)), entries(Some(new)));
            if old.is_none_or(Map::is_empty) && new_map.is_none_or(Map::is_empty) {
                return Some(new.clone());
            }
            Some(maps(node, &atom, old, new_map))
        }
        _ => Some(new.clone()),
    }
}

fn maps(node: Node<'_>, atom: &Atom<'_>, live: Option<&Map>, config: Option<&Map>) -> Value {
    let mut out = live.cloned().unwrap_or_default();
    for (name, value) in config.into_iter().flatten() {
        let merged = match (atom.field(node, name), out.get(name)) {
            (Some(below), Some(old)) => both(below, Some(old), Some(value)).unwrap_or(Value::Null),
            _ => value.clone(),
        };
        out.insert(name.clone(), merged);
    }
    Value::Object(out)
}

/// Items of the configuration keep their order; live items that it does not name stay between their neighbours.
fn lists(element: Node<'_>, kind: Items<'_>, live: &[Value], config: &[Value]) -> Value {
    let (in_live, in_config) = (element.steps(kind, live), element.steps(kind, config));
    let (live_steps, config_steps) = (in_live.keys(), in_config.keys());
    let is_in = |steps: &Steps, step: &Option<Element>| step.is_some() && steps.contains(step);
    let mut shared = config_steps.iter().filter(|step| is_in(&in_live, step));
    let mut next_shared = shared.next();
    let mut out = Vec::with_capacity(live.len() + config.len());
    let (mut l, mut c) = (0, 0);
    while l < live.len() || c < config.len() {
        if let (Some(live_step), Some(config_step)) = (live_steps.get(l), config_steps.get(c))
            && is_in(&in_config, live_step)
            && live_step != config_step
            && next_shared.is_some_and(|next| next != live_step)
        {
            // Shared, but its turn comes where the configuration has it.
            l += 1;
            continue;
        }
        if let Some(live_step) = live_steps.get(l)
            && !is_in(&in_config, live_step)
        {
            out.push(live[l].clone());
            l += 1;
            continue;
        }
        let Some(step) = config_steps.get(c) else {
            l += 1;
            continue;
        };
        let old = in_live.first(step).filter(|_| step.is_some() && !in_live.is_repeated(step)).map(|at| &live[at]);
        out.extend(both(element, old, Some(&config[c])));
        if live_steps.get(l) == Some(step) {
            l += 1;
        }
        if next_shared == Some(step) {
            next_shared = shared.next();
        }
        c += 1;
    }
    Value::Array(out)
}

/// The value without the paths of the set. What loses its last part becomes null, which decoding takes as absent.
pub(super) fn remove(node: Node<'_>, value: &Value, gone: &Set) -> Value {
    let atom = node.atom(Some(value));
    if atom.is_atomic() {
        return Value::Null;
    }
    match &atom {
        Atom::Scalar(_) => value.clone(),
        Atom::List { element, items: kind } => {
            let mut out = Vec::new();
            for item in items(Some(value)) {
                let Ok(step) = element.item(*kind, item) else {
                    out.push(item.clone());
                    continue;
                };
                if gone.has(&step) {
                    continue;
                }
                out.push(match gone.below(&step) {
                    Some(below) => remove(*element, item, below),
                    None => item.clone(),
                });
            }
            if out.is_empty() { Value::Null } else { Value::Array(out) }
        }
        Atom::Map { .. } => {
            let mut out = Map::new();
            for (name, entry) in entries(Some(value)).into_iter().flatten() {
                let step = Element::field(name);
                if gone.has(&step) {
                    continue;
                }
                let kept = match (gone.below(&step), atom.field(node, name)) {
                    (Some(below), Some(node)) => remove(node, entry, below),
                    _ => entry.clone(),
                };
                out.insert(name.clone(), kept);
            }
            if out.is_empty() { Value::Null } else { Value::Object(out) }
        }
    }
}
