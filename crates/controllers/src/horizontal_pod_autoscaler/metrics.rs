//! Reads metrics where clusters publish them: the resource, custom and external metrics APIs, which other servers serve through
//! this one.

use api::{Value, json};
use client::Connection;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, MetricIdentifier};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::replicas::{Sample, Samples};
use crate::api_error::ApiErrorExt;
use crate::discovery::Discovered;

const RESOURCE: &str = "/apis/metrics.k8s.io/v1beta1";
const EXTERNAL: &str = "/apis/external.metrics.k8s.io/v1beta1";
const CUSTOM_GROUP: &str = "custom.metrics.k8s.io";
/// Custom metrics without a window cover this much.
const DEFAULT_WINDOW: SignedDuration = SignedDuration::from_mins(1);

#[derive(Deserialize)]
#[serde(bound = "T: Deserialize<'de>")]
struct List<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Deserialize)]
struct PodMetrics {
    metadata: Named,
    timestamp: Option<Timestamp>,
    #[serde(default)]
    window: String,
    #[serde(default)]
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    name: String,
    #[serde(default)]
    usage: api::Map,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricValue {
    described_object: Option<Named>,
    timestamp: Option<Timestamp>,
    window_seconds: Option<i64>,
    value: Value,
}

pub(super) struct Metrics<'a> {
    pub connection: &'a Connection,
    pub discovered: &'a Discovered,
}

impl Metrics<'_> {
    /// Usage of a resource by the pods a selector takes, or by one container of each.
    pub(super) async fn resource(
        &self,
        resource: &str,
        namespace: &str,
        selector: &str,
        container: Option<&str>,
    ) -> Result<Samples, String> {
        let path = format!("{RESOURCE}/namespaces/{namespace}/pods?labelSelector={}", encoded(selector));
        let list: List<PodMetrics> =
            self.get(&path, "get pods.metrics.k8s.io").await.map_err(|error| {
                format!("unable to get metrics for resource {resource}: unable to fetch metrics from resource metrics API: {error}")
            })?;
        if list.items.is_empty() {
            return Err(format!(
                "unable to get metrics for resource {resource}: no metrics returned from resource metrics API"
            ));
        }
        let mut samples = Samples::new();
        for pod in &list.items {
            let mut containers = pod.containers.iter().filter(|one| container.is_none_or(|wanted| one.name == wanted));
            // A pod of which a container is missing is missing.
            let values: Option<Vec<i64>> =
                containers.by_ref().map(|one| one.usage.get(resource).and_then(milli)).collect();
            if let Some(values) = values.filter(|values| !values.is_empty()) {
                let sample = Sample {
                    value: values.iter().fold(0, |sum, value| sum.saturating_add(*value)),
                    at: pod.timestamp,
                    window: window(&pod.window),
                };
                samples.insert(pod.metadata.name.clone(), sample);
            }
        }
        if samples.is_empty()
            && let Some(container) = container
        {
            return Err(format!(
                "failed to get container metrics: container {container} not present in metrics for pod {namespace}/{}",
                list.items[0].metadata.name
            ));
        }
        Ok(samples)
    }

    /// A metric of each pod a selector takes.
    pub(super) async fn pods(
        &self,
        metric: &MetricIdentifier,
        namespace: &str,
        selector: &str,
    ) -> Result<Samples, String> {
        let wrap = |error: String| format!("unable to get metric {}: {error}", metric.name);
        let query = format!("{}&labelSelector={}", metric_query(metric), encoded(selector));
        let values = self.custom(&format!("namespaces/{namespace}/pods/*/{}?{query}", metric.name), metric).await;
        let values = values.map_err(&wrap)?;
        if values.is_empty() {
            return Err(wrap("no metrics returned from custom metrics API".to_owned()));
        }
        let sample = |value: &MetricValue| {
            let pod = value.described_object.as_ref()?.name.clone();
            let window = value.window_seconds.map_or(DEFAULT_WINDOW, SignedDuration::from_secs);
            Some((pod, Sample { value: milli(&value.value)?, at: value.timestamp, window }))
        };
        Ok(values.iter().filter_map(sample).collect())
    }

    /// A metric of one object.
    pub(super) async fn object(
        &self,
        metric: &MetricIdentifier,
        namespace: &str,
        object: &CrossVersionObjectReference,
    ) -> Result<i64, String> {
        let wrap = |error: String| {
            format!("unable to get metric {}: {} on {namespace} {}/{error}", metric.name, object.kind, object.name)
        };
        let group = object.api_version.as_deref().and_then(|version| version.split_once('/')).map_or("", |one| one.0);
        let found = self.discovered.resources.iter().find(|one| one.api.kind == object.kind && one.api.group == group);
        let Some(resource) = found else {
            return Err(wrap(format!("no matches for kind \"{}\" in group \"{group}\"", object.kind)));
        };
        let plural = &resource.api.plural;
        let plural = if group.is_empty() { plural.clone() } else { format!("{plural}.{group}") };
        let path = match (object.kind.as_str(), group, resource.namespaced) {
            ("Namespace", "", _) => format!("namespaces/{}/metrics/{}", object.name, metric.name),
            (_, _, true) => format!("namespaces/{namespace}/{plural}/{}/{}", object.name, metric.name),
            (_, _, false) => format!("{plural}/{}/{}", object.name, metric.name),
        };
        let values = self.custom(&format!("{path}?{}", metric_query(metric)), metric).await.map_err(&wrap)?;
        let value = values.first().and_then(|value| milli(&value.value));
        value.ok_or_else(|| wrap("no metrics returned from custom metrics API".to_owned()))
    }

    /// The values of a metric of something outside the cluster.
    pub(super) async fn external(&self, metric: &MetricIdentifier, namespace: &str) -> Result<i64, String> {
        let selector = metric.selector.as_ref();
        let wrap = |error: String| {
            let selector = shown(selector);
            format!("unable to get external metric {namespace}/{}/{selector}: {error}", metric.name)
        };
        let query = encoded(&selector.map(text).unwrap_or_default());
        let path = format!("{EXTERNAL}/namespaces/{namespace}/{}?labelSelector={query}", metric.name);
        let what = format!("get {}.external.metrics.k8s.io", metric.name);
        let list: Result<List<MetricValue>, String> = self.get(&path, &what).await;
        let list = list.map_err(|error| wrap(format!("unable to fetch metrics from external metrics API: {error}")))?;
        if list.items.is_empty() {
            return Err(wrap("no metrics returned from external metrics API".to_owned()));
        }
        Ok(list.items.iter().filter_map(|value| milli(&value.value)).fold(0, i64::saturating_add))
    }

    async fn custom(&self, path: &str, metric: &MetricIdentifier) -> Result<Vec<MetricValue>, String> {
        let mut versions = self.discovered.resources.iter().filter(|one| one.api.group == CUSTOM_GROUP);
        let Some(version) = versions.next().map(|one| &one.api.version) else {
            return Err(format!(
                "unable to fetch metrics from custom metrics API: no custom metrics API ({CUSTOM_GROUP}) registered"
            ));
        };
        let what = format!("get {}.{CUSTOM_GROUP}", metric.name);
        let list: Result<List<MetricValue>, String> =
            self.get(&format!("/apis/{CUSTOM_GROUP}/{version}/{path}"), &what).await;
        list.map(|list| list.items).map_err(|error| format!("unable to fetch metrics from custom metrics API: {error}"))
    }

    /// `what` names the request in the client's own words for a path that nobody serves.
    async fn get<T: DeserializeOwned>(&self, path: &str, what: &str) -> Result<T, String> {
        let request = http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
        self.connection.client().request(request).await.map_err(|error| match &error {
            kube::Error::Api(status) if status.code == 404 && status.details.is_none() => {
                format!("the server could not find the requested resource ({what})")
            }
            error => error.text(),
        })
    }
}

fn milli(value: &Value) -> Option<i64> {
    api::quantity::Quantity::from_value(value).ok().map(|quantity| quantity.milli_value())
}

/// A duration such as `30s` or `1m0s`.
fn window(text: &str) -> SignedDuration {
    text.parse().unwrap_or(SignedDuration::ZERO)
}

fn metric_query(metric: &MetricIdentifier) -> String {
    format!("metricLabelSelector={}", encoded(&metric.selector.as_ref().map(text).unwrap_or_default()))
}

/// The selector as a query has it.
fn text(selector: &LabelSelector) -> String {
    api::selector::LabelSelector::from_object(&json!(selector)).map(|parsed| parsed.to_string()).unwrap_or_default()
}

fn encoded(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// A selector as Go prints it.
pub(super) fn shown(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".to_owned() };
    let labels: String =
        selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}: {value},")).collect();
    let expressions: String = selector
        .match_expressions
        .iter()
        .flatten()
        .map(|one| {
            let values = one.values.as_deref().unwrap_or_default().join(" ");
            format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},", one.key, one.operator)
        })
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded_and_selectors_shown_as_go_does() {
        assert_eq!(encoded("app=a,b in (c)"), "app%3Da%2Cb%20in%20%28c%29");
        let selector: LabelSelector = api::value::from_value(json!({ "matchLabels": { "a": "b" } })).unwrap();
        assert_eq!(text(&selector), "a=b");
        assert_eq!(
            shown(Some(&selector)),
            "&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{},}"
        );
        assert_eq!((milli(&json!("250m")), milli(&json!(2))), (Some(250), Some(2000)));
        assert_eq!(window("1m0s"), SignedDuration::from_mins(1));
    }
}
