//! LimitRange. Source: `pkg/apis/core/validation`.

use crate::occurrences::Occurrences;
use crate::quantity::{Format, Quantity};
use crate::validate::names;
use crate::validate::resources::{amount, container_resource_name, is_overcommit_allowed, resource_name};
use crate::{Cursor, ErrorList, Path, Strategy, Value, meta};

pub const STRATEGY: Strategy = Strategy {
    prepare_for_create: |new, ctx| {
        if meta::name(new).is_empty()
            && let Some(Value::Object(metadata)) = new.get_mut("metadata")
        {
            metadata.insert("name", ctx.uid.into());
        }
    },
    validate,
    validate_update: |new, _, errors| {
        meta::validate_whole_again(new, true, names::subdomain_name, errors);
        validate(new, errors);
    },
    ..Strategy::DEFAULT
};

fn validate(range: &Cursor<'_>, errors: &mut ErrorList) {
    let mut types: Occurrences<&str> = Occurrences::new();
    for limit in range.field("spec").field("limits").items() {
        let kind = limit.field("type");
        limit_type(&kind, errors);
        if types.contains(&kind.str()) {
            errors.duplicate(kind.path(), kind.str());
        }
        types.push(kind.str());
        one_limit(&limit, errors);
    }
}

fn limit_type(kind: &Cursor<'_>, errors: &mut ErrorList) {
    let messages = names::qualified_name(kind.str());
    if !messages.is_empty() {
        messages.into_iter().for_each(|message| errors.invalid_choice(kind.path(), kind.str(), message));
    } else if !kind.str().contains('/') && !matches!(kind.str(), "Pod" | "Container" | "PersistentVolumeClaim") {
        errors.invalid_choice(kind.path(), kind.str(), "must be a standard limit type or fully qualified");
    }
}

fn one_limit(limit: &Cursor<'_>, errors: &mut ErrorList) {
    let kind = limit.field("type").str();
    let mut keys: Occurrences<&str> = Occurrences::new();
    for list in ["max", "min"] {
        resource_names(&limit.field(list), kind, &mut keys, errors);
    }
    for list in ["default", "defaultRequest"] {
        let amounts = limit.field(list);
        if kind != "Pod" {
            resource_names(&amounts, kind, &mut keys, errors);
        } else if !amounts.is_empty() {
            amounts.forbidden(errors, "may not be specified when `type` is 'Pod'");
        }
    }
    let storage = |list: &str| amount(&limit.field(list), "storage").is_some();
    if kind == "PersistentVolumeClaim" && !storage("min") && !storage("max") {
        limit
            .field("limits")
            .required(errors, "either minimum or maximum storage value is required, but neither was provided");
    }
    resource_names(&limit.field("maxLimitRequestRatio"), kind, &mut keys, errors);
    for key in keys.keys() {
        amounts_agree(limit, key, kind, errors);
    }
}

fn resource_names<'a>(list: &Cursor<'a>, kind: &str, keys: &mut Occurrences<&'a str>, errors: &mut ErrorList) {
    for (name, value) in list.entries() {
        if matches!(kind, "Pod" | "Container") {
            container_resource_name(name, &value.path(), errors);
        } else {
            resource_name(name, &value.path(), errors);
        }
        if !keys.contains(&name) {
            keys.push(name);
        }
    }
}

/// min <= defaultRequest <= default <= max, and the ratio between 1 and max/min.
fn amounts_agree(limit: &Cursor<'_>, key: &str, kind: &str, errors: &mut ErrorList) {
    let of =
        |list: &str| if kind == "Pod" && list.starts_with("default") { None } else { amount(&limit.field(list), key) };
    let (min, max, default, request) = (of("min"), of("max"), of("default"), of("defaultRequest"));
    let path = |list: &str| limit.path().child(list).key(key);
    let mut check =
        |low: &Option<Quantity>, high: &Option<Quantity>, at: Path, shown: &Option<Quantity>, text: (&str, &str)| {
            if let (Some(low), Some(high), Some(shown)) = (low, high, shown)
                && low > high
            {
                let detail = format!("{} value {low} is greater than {} value {high}", text.0, text.1);
                errors.invalid(at, shown.to_string(), detail);
            }
        };
    check(&min, &max, path("min"), &min, ("min", "max"));
    check(&min, &request, path("defaultRequest"), &request, ("min", "default request"));
    check(&request, &max, path("defaultRequest"), &request, ("default request", "max"));
    check(&request, &default, path("defaultRequest"), &request, ("default request", "default limit"));
    check(&min, &default, path("default"), &min, ("min", "default"));
    check(&default, &max, path("default"), &max, ("default", "max"));
    if let Some(ratio) = of("maxLimitRequestRatio") {
        let at = path("maxLimitRequestRatio");
        if ratio < Quantity::new(1, Format::DecimalSi) {
            errors.invalid(at.clone(), ratio.to_string(), format!("ratio {ratio} is less than 1"));
        }
        if let (Some(min), Some(max)) = (&min, &max) {
            let limit = max.to_f64() / min.to_f64();
            if ratio.to_f64() > limit {
                let detail = format!("ratio {ratio} is greater than max/min = {limit:.6}");
                errors.invalid(at, ratio.to_string(), detail);
            }
        }
    }
    if let (false, Some(default), Some(request)) = (is_overcommit_allowed(key), &default, &request)
        && default != request
    {
        let detail = format!("default value {default} must equal to defaultRequest value {request} in {key}");
        errors.invalid(path("defaultRequest"), request.to_string(), detail);
    }
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    #[test]
    fn limits_are_ordered() {
        let range = json!({"spec": {"limits": [{"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}]}});
        let mut errors = ErrorList::new();
        validate(&Cursor::root(&range), &mut errors);
        assert_eq!(
            errors.aggregate_message(),
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"
        );
    }
}
