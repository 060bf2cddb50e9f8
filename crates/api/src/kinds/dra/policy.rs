//! How much of a shared device's capacity one request may take: some amounts, or a range with steps. Source: `validateRequestPolicy`.

use crate::kinds::dra::at_most;
use crate::occurrences::Occurrences;
use crate::quantity::Quantity;
use crate::validate::resources::quantity;
use crate::{Cursor, ErrorList};

const VALID_VALUES_MAX: usize = 10;

pub(super) fn check(policy: &Cursor<'_>, capacity: &Cursor<'_>, errors: &mut ErrorList) {
    let (values, range, default) = (policy.field("validValues"), policy.field("validRange"), policy.field("default"));
    let capacity = quantity(capacity.value());
    match (!values.is_empty(), range.is_set()) {
        (false, false) => {}
        (true, true) => policy.forbidden(
            errors,
            "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time",
        ),
        (true, false) if !default.is_set() => default.required(errors, "required when validValues is defined"),
        (false, true) if !default.is_set() => default.required(errors, "required when validRange is defined"),
        (true, false) => valid_values(&values, &quantity(default.value()), &capacity, errors),
        (false, true) => valid_range(&range, &quantity(default.value()), &capacity, errors),
    }
}

fn valid_values(values: &Cursor<'_>, default: &Quantity, capacity: &Quantity, errors: &mut ErrorList) {
    let amounts: Vec<(Cursor<'_>, Quantity)> =
        values.items().map(|value| (value.clone(), quantity(value.value()))).collect();
    for pair in amounts.windows(2) {
        if let [(_, before), (at, amount)] = pair
            && before > amount
        {
            errors.invalid(at.path(), amount.to_string(), "values must be sorted in ascending order");
        }
    }
    let mut has_default = false;
    for value in at_most(values, VALID_VALUES_MAX, errors) {
        let amount = quantity(value.value());
        if amount > *capacity {
            let detail = format!("option is larger than capacity value: {capacity}");
            errors.invalid(value.path(), amount.to_string(), detail);
        }
        has_default |= amount == *default;
    }
    let mut seen: Occurrences<i64> = Occurrences::new();
    for (at, amount) in amounts.iter().filter(|_| amounts.len() <= VALID_VALUES_MAX) {
        // Told apart by whole units, as upstream.
        if seen.contains(&amount.value()) {
            errors.duplicate(at.path(), amount.value().to_string());
        }
        seen.push(amount.value());
    }
    if !has_default {
        let detail = "default value is not valid according to the requestPolicy";
        errors.invalid(values.path(), default.to_string(), detail);
    }
}

fn valid_range(range: &Cursor<'_>, default: &Quantity, capacity: &Quantity, errors: &mut ErrorList) {
    let (min_at, max_at, step_at) = (range.field("min"), range.field("max"), range.field("step"));
    if !min_at.is_set() {
        min_at.required(errors, "required when validRange is defined");
        return;
    }
    let min = quantity(min_at.value());
    let mut refuse =
        |at: &Cursor<'_>, bad: &Quantity, detail: String| errors.invalid(at.path(), bad.to_string(), detail);
    if min > *capacity {
        refuse(&min_at, &min, format!("min is larger than capacity value: {capacity}"));
    }
    if *default < min {
        refuse(&min_at, default, format!("default is less than min: {min}"));
    }
    let max = max_at.is_set().then(|| quantity(max_at.value()));
    if let Some(max) = &max {
        if min > *max {
            refuse(&max_at, &min, format!("min is larger than max: {max}"));
        }
        if *max > *capacity {
            refuse(&max_at, max, format!("max is larger than capacity value: {capacity}"));
        }
        if *default > *max {
            refuse(&max_at, default, format!("default is more than max: {max}"));
        }
    }
    if !step_at.is_set() {
        return;
    }
    let step = quantity(step_at.value());
    let one_step = min.add(&step);
    if one_step > *capacity {
        refuse(&step_at, &step, format!("one step {one_step} is larger than capacity value: {capacity}"));
    }
    for value in [Some(default), max.as_ref()].into_iter().flatten() {
        // Upstream divides by a step of zero, and fails; nothing is a multiple of that.
        if value.value().wrapping_sub(min.value()).checked_rem(step.value()) != Some(0) {
            refuse(&step_at, value, format!("value is not a multiple of a given step ({step}) from ({min})"));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Value, json};

    use super::*;

    fn refused(policy: Value) -> Vec<String> {
        let (mut errors, capacity) = (ErrorList::new(), json!("10"));
        check(&Cursor::root(&policy), &Cursor::root(&capacity), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn values_are_sorted_within_the_capacity_and_hold_the_default() {
        assert_eq!(refused(json!({"default": "2", "validValues": ["1", "2"]})), [""; 0]);
        assert_eq!(
            refused(json!({"default": "3", "validValues": ["2", "1", "11", "11"]})),
            [
                "validValues[1]: Invalid value: \"1\": values must be sorted in ascending order",
                "validValues[2]: Invalid value: \"11\": option is larger than capacity value: 10",
                "validValues[3]: Invalid value: \"11\": option is larger than capacity value: 10",
                "validValues[3]: Duplicate value: \"11\"",
                "validValues: Invalid value: \"3\": default value is not valid according to the requestPolicy",
            ]
        );
    }

    #[test]
    fn a_range_has_a_minimum_and_whole_steps() {
        assert_eq!(
            refused(json!({"default": "1", "validRange": {}})),
            ["validRange.min: Required value: required when validRange is defined"]
        );
        assert_eq!(
            refused(json!({"default": "4", "validRange": {"min": "1", "max": "8", "step": "2"}})),
            [
                "validRange.step: Invalid value: \"4\": value is not a multiple of a given step (2) from (1)",
                "validRange.step: Invalid value: \"8\": value is not a multiple of a given step (2) from (1)",
            ]
        );
        assert_eq!(
            refused(json!({"default": "1", "validRange": {"min": "1", "step": "0"}})),
            ["validRange.step: Invalid value: \"1\": value is not a multiple of a given step (0) from (1)"]
        );
    }
}
