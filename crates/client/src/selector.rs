//! Whether a label selector takes an object's labels.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

pub type Labels = BTreeMap<String, String>;

/// Matching for `metav1.LabelSelector`. An empty selector takes everything, as upstream's does.
pub trait LabelSelectorExt {
    fn takes(&self, labels: Option<&Labels>) -> bool;
    fn is_empty_selector(&self) -> bool;
}

impl LabelSelectorExt for LabelSelector {
    fn takes(&self, labels: Option<&Labels>) -> bool {
        let wanted = self.match_labels.iter().flatten();
        let label = |key: &str| labels.and_then(|labels| labels.get(key));
        wanted.into_iter().all(|(key, value)| label(key) == Some(value))
            && self
                .match_expressions
                .iter()
                .flatten()
                .all(|requirement| satisfies(requirement, label(&requirement.key)))
    }

    fn is_empty_selector(&self) -> bool {
        self.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
            && self.match_expressions.as_ref().is_none_or(Vec::is_empty)
    }
}

/// An operator nobody knows takes nothing.
fn satisfies(requirement: &LabelSelectorRequirement, value: Option<&String>) -> bool {
    let listed = |value: &String| requirement.values.iter().flatten().any(|one| one == value);
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

/// Whether every pair of a plain map selector (Services, ReplicationControllers) is among the labels.
pub fn map_takes(selector: &Labels, labels: Option<&Labels>) -> bool {
    selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    fn expression(key: &str, operator: &str, values: &[&str]) -> LabelSelector {
        let values = values.iter().map(|value| (*value).into()).collect();
        let requirement = LabelSelectorRequirement { key: key.into(), operator: operator.into(), values: Some(values) };
        LabelSelector { match_labels: None, match_expressions: Some(vec![requirement]) }
    }

    #[test]
    fn operators_follow_the_api_reference() {
        let web = labels(&[("app", "web")]);
        for (operator, values, expected, without_label) in [
            ("In", &["web", "db"][..], true, false),
            ("In", &["db"], false, false),
            ("NotIn", &["db"], true, true),
            ("NotIn", &["web"], false, true),
            ("Exists", &[], true, false),
            ("DoesNotExist", &[], false, true),
        ] {
            let selector = expression("app", operator, values);
            assert_eq!(selector.takes(Some(&web)), expected, "{operator} {values:?}");
            assert_eq!(selector.takes(None), without_label, "{operator} {values:?} without the label");
        }
        assert!(LabelSelector::default().takes(None));
    }
}
