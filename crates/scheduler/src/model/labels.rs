//! Label selectors and node selectors, parsed once and matched often.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

/// The labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A label selector. Which objects an absent selector means is the caller's rule (`nothing` for pods).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Is(String),
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    Greater(i64),
    Less(i64),
    /// An operator or value the API server would have refused.
    Never,
}

impl Selector {
    /// Matches no object.
    pub fn nothing() -> Selector {
        Selector { requirements: Vec::new(), nothing: true }
    }

    pub fn from_map(labels: &Labels) -> Selector {
        let mut selector = Selector::default();
        for (key, value) in labels {
            selector.require(key, value);
        }
        selector
    }

    /// `None` matches nothing, an empty selector matches everything.
    pub fn from_label_selector(source: Option<&meta::LabelSelector>) -> Selector {
        let Some(source) = source else { return Selector::nothing() };
        let mut selector = source.match_labels.as_ref().map(Selector::from_map).unwrap_or_default();
        for expression in source.match_expressions.iter().flatten() {
            selector.requirements.push(Requirement {
                key: expression.key.clone(),
                test: test(&expression.operator, expression.values.as_deref().unwrap_or_default()),
            });
        }
        selector
    }

    /// Adds `key = value`.
    pub fn require(&mut self, key: &str, value: &str) {
        self.requirements.push(Requirement { key: key.into(), test: Test::Is(value.into()) });
    }

    /// Adds everything the other requires.
    pub fn and(&mut self, other: &Selector) {
        self.requirements.extend(other.requirements.iter().cloned());
        self.nothing |= other.nothing;
    }

    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(labels))
    }
}

impl Requirement {
    fn matches(&self, labels: &Labels) -> bool {
        self.test.passes(labels.get(&self.key).map(String::as_str))
    }
}

impl Test {
    fn passes(&self, value: Option<&str>) -> bool {
        match self {
            Test::Is(wanted) => value == Some(wanted),
            Test::In(values) => value.is_some_and(|value| values.iter().any(|v| v == value)),
            Test::NotIn(values) => value.is_none_or(|value| !values.iter().any(|v| v == value)),
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
            Test::Greater(bound) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v > *bound),
            Test::Less(bound) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v < *bound),
            Test::Never => false,
        }
    }
}

fn test(operator: &str, values: &[String]) -> Test {
    let number = || values.first().and_then(|value| value.parse().ok());
    match operator {
        "In" => Test::In(values.to_vec()),
        "NotIn" => Test::NotIn(values.to_vec()),
        "Exists" => Test::Exists,
        "DoesNotExist" => Test::DoesNotExist,
        "Gt" => number().map_or(Test::Never, Test::Greater),
        "Lt" => number().map_or(Test::Never, Test::Less),
        _ => Test::Never,
    }
}

/// One term of a node selector: label and field requirements, all of which must hold. A term without any matches no node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeTerm {
    labels: Vec<Requirement>,
    names: Vec<Test>,
}

impl NodeTerm {
    pub fn new(source: &core::NodeSelectorTerm) -> NodeTerm {
        let compile = |r: &core::NodeSelectorRequirement| test(&r.operator, r.values.as_deref().unwrap_or_default());
        NodeTerm {
            labels: source
                .match_expressions
                .iter()
                .flatten()
                .map(|r| Requirement { key: r.key.clone(), test: compile(r) })
                .collect(),
            // metadata.name is the only field nodes can be selected by.
            names: source
                .match_fields
                .iter()
                .flatten()
                .map(|r| if r.key == "metadata.name" { compile(r) } else { Test::Never })
                .collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.names.is_empty()
    }

    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        !self.is_empty()
            && self.labels.iter().all(|requirement| requirement.matches(labels))
            && self.names.iter().all(|test| test.passes(Some(name)))
    }

    /// The node names the term is limited to; `None` when any name may match.
    pub fn only_names(&self) -> Option<BTreeSet<String>> {
        let mut only: Option<BTreeSet<String>> = None;
        for test in &self.names {
            if let Test::In(values) = test {
                let values: BTreeSet<String> = values.iter().cloned().collect();
                only = Some(only.map_or(values.clone(), |names| names.intersection(&values).cloned().collect()));
            }
        }
        only
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    #[test]
    fn absent_selector_matches_nothing_and_empty_selector_matches_everything() {
        assert!(!Selector::from_label_selector(None).matches(&labels(&[])));
        assert!(Selector::from_label_selector(Some(&meta::LabelSelector::default())).matches(&labels(&[("a", "b")])));
    }

    #[test]
    fn expressions_are_all_required() {
        let source: meta::LabelSelector =
            serde_json::from_value(json!({"matchLabels": {"app": "web"}, "matchExpressions": [
            {"key": "tier", "operator": "NotIn", "values": ["db"]}, {"key": "zone", "operator": "Exists"}]}))
            .unwrap();
        let selector = Selector::from_label_selector(Some(&source));
        assert!(selector.matches(&labels(&[("app", "web"), ("zone", "a")])));
        assert!(!selector.matches(&labels(&[("app", "web"), ("zone", "a"), ("tier", "db")])));
        assert!(!selector.matches(&labels(&[("app", "web")])));
    }

    #[test]
    fn node_terms_compare_numbers_and_names() {
        let term: core::NodeSelectorTerm = serde_json::from_value(json!({
            "matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["8"]}],
            "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1", "n2"]}]}))
        .unwrap();
        let term = NodeTerm::new(&term);
        assert!(term.matches("n1", &labels(&[("cores", "16")])));
        assert!(!term.matches("n3", &labels(&[("cores", "16")])));
        assert!(!term.matches("n1", &labels(&[("cores", "8")])));
        assert_eq!(term.only_names(), Some(["n1".to_owned(), "n2".to_owned()].into()));
        assert!(!NodeTerm::new(&core::NodeSelectorTerm::default()).matches("n1", &labels(&[])));
    }
}
