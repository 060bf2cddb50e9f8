//! PodDisruptionBudget. Source: `pkg/apis/policy/validation`.

use crate::strategy::SubresourceStrategy;
use crate::validate::go;
use crate::validate::labels::{conditions, selector};
use crate::validate::text::{at_most_100_percent, nonnegative_fields, optional_enum, positive_int_or_percent};
use crate::{Cursor, ErrorList, Strategy};

pub const STRATEGY: Strategy = Strategy {
    name_rule: crate::validate::names::path_segment_name,
    validate: |budget, errors| budget_spec(&budget.field("spec"), errors),
    validate_update: |new, _, errors| budget_spec(&new.field("spec"), errors),
    subresources: &[SubresourceStrategy {
        name: "status",
        prepare_for_update: |_, _, _| {},
        validate_update: |new, _, errors| {
            let status = new.field("status");
            conditions(&status.field("conditions"), errors);
            nonnegative_fields(
                &status,
                &["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"],
                errors,
            );
        },
    }],
    ..Strategy::DEFAULT
};

fn budget_spec(spec: &Cursor<'_>, errors: &mut ErrorList) {
    let (available, unavailable) = (spec.field("minAvailable"), spec.field("maxUnavailable"));
    if available.is_set() && unavailable.is_set() {
        let shown = go::value("policy.PodDisruptionBudgetSpec", spec.value());
        errors.invalid(spec.path(), shown, "minAvailable and maxUnavailable cannot be both set");
    }
    for limit in [available, unavailable] {
        if limit.is_set() {
            positive_int_or_percent(&limit, errors);
            at_most_100_percent(&limit, errors);
        }
    }
    selector(&spec.field("selector"), errors);
    optional_enum(&spec.field("unhealthyPodEvictionPolicy"), &["AlwaysAllow", "IfHealthyBudget"], errors);
}
