use crate::{Value, json};

use crate::codec::{self, FieldValidation, Format};
use crate::kinds;

fn decoded(group: &str, version: &str, kind: &str, body: &Value) -> Value {
    let kind = kinds::builtin().by_kind(group, version, kind).expect("built-in kind");
    let bytes = serde_json::to_vec(body).expect("json");
    codec::decode(&bytes, Format::Json, &**kind, FieldValidation::Strict).expect("decodes").value
}

#[test]
fn an_event_is_stored_in_its_core_form() {
    let event = decoded(
        "events.k8s.io",
        "v1",
        "Event",
        &json!({"metadata": {"name": "e"}, "eventTime": "2024-01-01T00:00:00.000000Z", "reportingController": "c",
                "reason": "R", "regarding": {"kind": "Pod", "name": "p"}, "note": "n", "deprecatedCount": 2}),
    );
    let conversion = super::conversion("events.k8s.io", "v1", "Event").expect("conversion");
    let stored = (conversion.to_storage)(event.clone());
    assert_eq!(
        stored.to_string(),
        concat!(
            r#"{"kind":"Event","apiVersion":"v1","metadata":{"name":"e"},"involvedObject":{"kind":"Pod","name":"p"},"reason":"R","message":"n","#,
            r#""source":{},"firstTimestamp":null,"lastTimestamp":null,"count":2,"eventTime":"2024-01-01T00:00:00.000000Z","#,
            r#""reportingComponent":"c","reportingInstance":""}"#
        )
    );
    assert_eq!((conversion.from_storage)(stored), event);
}

#[test]
fn what_v1_autoscalers_cannot_say_travels_in_annotations() {
    let v2 = decoded(
        "autoscaling",
        "v2",
        "HorizontalPodAutoscaler",
        &json!({"metadata": {"name": "h"}, "spec": {
            "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}, "minReplicas": 1, "maxReplicas": 5,
            "metrics": [
                {"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1k"}}},
                {"type": "External", "external": {"metric": {"name": "q"}, "target": {"type": "Value", "value": "5"}}},
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}},
            ],
            "behavior": {"scaleDown": {"selectPolicy": "Min", "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}}
        }, "status": {"desiredReplicas": 2, "currentMetrics": [
            {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 10, "averageValue": "5m"}}}
        ], "conditions": [{"type": "AbleToScale", "status": "True", "lastTransitionTime": "2024-01-01T00:00:00Z"}]}}),
    );
    let conversion = super::conversion("autoscaling", "v1", "HorizontalPodAutoscaler").expect("conversion");
    let v1 = (conversion.from_storage)(v2.clone());
    assert_eq!(v1["apiVersion"], "autoscaling/v1");
    assert_eq!(v1["spec"]["targetCPUUtilizationPercentage"], 60);
    assert_eq!(v1["status"]["currentCPUUtilizationPercentage"], 10);
    let annotation =
        |name: &str| v1["metadata"]["annotations"][format!("autoscaling.alpha.kubernetes.io/{name}")].as_str();
    assert_eq!(
        annotation("metrics"),
        Some(
            r#"[{"type":"Pods","pods":{"metricName":"m","targetAverageValue":"1k"}},{"type":"External","external":{"metricName":"q","targetValue":"5"}}]"#
        )
    );
    assert_eq!(
        annotation("behavior"),
        Some(
            r#"{"ScaleUp":null,"ScaleDown":{"StabilizationWindowSeconds":null,"SelectPolicy":"Min","Policies":[{"Type":"Pods","Value":1,"PeriodSeconds":60}],"Tolerance":null}}"#
        )
    );
    assert_eq!(
        annotation("current-metrics"),
        Some(
            r#"[{"type":"Resource","resource":{"name":"cpu","currentAverageUtilization":10,"currentAverageValue":"5m"}}]"#
        )
    );
    assert_eq!((conversion.to_storage)(v1), v2);
}

#[test]
fn a_v1_autoscaler_without_metrics_gets_the_default_one() {
    let v1 = decoded(
        "autoscaling",
        "v1",
        "HorizontalPodAutoscaler",
        &json!({"metadata": {"name": "h"}, "spec": {"scaleTargetRef": {"kind": "D", "name": "d"}, "maxReplicas": 3}}),
    );
    let conversion = super::conversion("autoscaling", "v1", "HorizontalPodAutoscaler").expect("conversion");
    let stored = (conversion.to_storage)(v1);
    assert_eq!(
        stored["spec"]["metrics"][0]["resource"]["target"],
        json!({"type": "Utilization", "averageUtilization": 80})
    );
}
