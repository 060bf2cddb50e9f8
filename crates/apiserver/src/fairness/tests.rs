use api::json;

use super::seats::{Demand, Limits, lend, nominal};
use super::shuffle::deal;
use super::timing::Course;
use super::*;
use crate::bootstrap::flowcontrol;
use crate::source::testing::MemorySource;

/// What a request may take.
const MINUTE: Duration = Duration::from_secs(60);

fn user(name: &str, groups: &[&str]) -> UserInfo {
    UserInfo {
        name: name.into(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        ..UserInfo::default()
    }
}

fn action(verb: &str, resource: &str, namespace: &str) -> Action {
    Action::Resource {
        verb: verb.into(),
        group: String::new(),
        version: "v1".into(),
        resource: resource.into(),
        subresource: String::new(),
        namespace: namespace.into(),
        name: String::new(),
    }
}

/// A server's own objects, and the named ones.
fn fairness(seats: usize, more: &[(&str, api::Value)]) -> Fairness {
    let source = MemorySource::new();
    for change in flowcontrol::plan(&source) {
        source.put(GROUP, change.resource, change.object.clone());
    }
    for (resource, object) in more {
        source.put(GROUP, resource, object.clone());
    }
    let fairness = Fairness::new(seats);
    fairness.refresh(&source);
    fairness
}

fn schema_of(fairness: &Fairness, user: &UserInfo, action: &Action) -> String {
    let snapshot = Arc::clone(&fairness.snapshot.read());
    snapshot.schemas.iter().find(|schema| schema.matches(user, action)).map(|schema| schema.name.to_string()).unwrap()
}

#[test]
fn the_schema_of_least_precedence_that_matches_is_a_requests() {
    let fairness = fairness(600, &[]);
    let schema = |name: &str, groups: &[&str], action: &Action| schema_of(&fairness, &user(name, groups), action);
    let known = "system:authenticated";
    assert_eq!(schema("a", &["system:masters", known], &action("get", "pods", "x")), "exempt");
    assert_eq!(schema("system:node:n", &["system:nodes", known], &action("update", "nodes", "")), "system-node-high");
    assert_eq!(schema("system:node:n", &["system:nodes", known], &action("get", "pods", "x")), "system-nodes");
    let account = "system:serviceaccount:kube-system:c";
    let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system", known];
    assert_eq!(schema(account, &groups, &action("list", "pods", "")), "kube-system-service-accounts");
    assert_eq!(schema("jane", &[known], &action("get", "pods", "x")), "global-default");
    let health = Action::NonResource { verb: "get".into(), path: "/healthz".into() };
    assert_eq!(schema("system:anonymous", &["system:unauthenticated"], &health), "probes");
}

#[test]
fn shares_are_divided_and_rounded_up() {
    let level = |shares: u32, lendable: u32| json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": shares, "lendablePercent": lendable}}});
    let limits = nominal(&[level(30, 33), level(5, 0)], 100);
    assert_eq!(limits[0], Limits { nominal: 86, lower: 58, upper: 186 });
    assert_eq!(limits[1], Limits { nominal: 15, lower: 15, upper: 115 });
}

#[test]
fn idle_seats_are_lent_to_the_level_that_needs_them() {
    let limits = |nominal, lower, upper| Limits { nominal, lower, upper };
    let of = |limits, high: f64| {
        let course = Course { seconds: 10.0, average: high, deviation: 0.0, max: high };
        Demand { is_exempt: false, limits, course, smoothed: high }
    };
    let lend = |seats, demands: &[Demand]| lend(seats, demands).seats;
    let lent = lend(100, &[of(limits(50, 10, 200), 0.0), of(limits(50, 50, 200), 90.0)]);
    assert_eq!(lent, [10, 90]);
    let both = lend(100, &[of(limits(50, 10, 200), 50.0), of(limits(50, 50, 200), 90.0)]);
    assert_eq!(both, [50, 50]);
    let bounded = lend(100, &[of(limits(50, 10, 200), 0.0), of(limits(50, 50, 60), 90.0)]);
    assert_eq!(bounded, [40, 60]);
}

#[test]
fn a_hand_has_no_card_twice_and_differs_between_flows() {
    for hash in [0, 1, 12_345_678_901, u64::MAX] {
        let mut hand = deal(hash, 64, 6);
        hand.sort_unstable();
        hand.dedup();
        assert_eq!(hand.len(), 6);
        assert!(hand.iter().all(|card| *card < 64));
    }
    assert_eq!(deal(7, 3, 8).len(), 3);
    assert_ne!(deal(1, 128, 6), deal(2, 128, 6));
}

fn small_level(queues: u32, length: u32) -> [(&'static str, api::Value); 2] {
    let level = json!({
        "metadata": {"name": "small", "uid": "level-uid"},
        "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": 1,
            "borrowingLimitPercent": 0,
            "limitResponse": {"type": "Queue", "queuing": {"queues": queues, "handSize": 1, "queueLengthLimit": length}},
        }},
    });
    let schema = json!({
        "metadata": {"name": "small", "uid": "schema-uid"},
        "spec": {
            "matchingPrecedence": 2, "priorityLevelConfiguration": {"name": "small"},
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [{
                "subjects": [{"kind": "Group", "group": {"name": "small"}}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}],
            }],
        },
    });
    [("prioritylevelconfigurations", level), ("flowschemas", schema)]
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_seat_waits_for_one_and_who_finds_no_queue_is_sent_away() {
    // One share among 246 of 246 seats.
    let fairness = Arc::new(fairness(246, &small_level(1, 1)));
    let jane = user("jane", &["small"]);
    let get = Arc::new(action("get", "pods", "x"));
    let first = fairness.admit(&jane, &get, MINUTE, || 0).await;
    assert!(first.place.is_some());
    let mut headers = HeaderMap::new();
    first.mark(&mut headers);
    assert_eq!(headers[SCHEMA_UID], "schema-uid");
    assert_eq!(headers[LEVEL_UID], "level-uid");
    let waits = {
        let (fairness, jane, get) = (Arc::clone(&fairness), jane.clone(), get.clone());
        tokio::spawn(async move { fairness.admit(&jane, &get, MINUTE, || 0).await })
    };
    tokio::task::yield_now().await;
    let shown = fairness.dump("/debug/api_priority_and_fairness/dump_requests", true).unwrap();
    let rows: Vec<Vec<&str>> = shown.lines().skip(1).map(|line| line.split(',').map(str::trim).collect()).collect();
    // One that waits, and the one that is worked on and has not been in a queue.
    let places: Vec<_> = rows.iter().map(|cells| (cells[2], cells[3], cells[9].starts_with("0001"))).collect();
    assert_eq!(places, [("0", "0", true), ("-1", "-1", false)], "{shown}");
    assert_eq!(rows[0][10..13], ["jane", "get", "/api/v1/namespaces/x/pods"]);
    assert!(fairness.admit(&jane, &get, MINUTE, || 0).await.place.is_none(), "the queue is full");
    drop(first);
    let second = waits.await.unwrap();
    assert!(second.place.is_some());
    // Nobody leaves: the next one waits in vain.
    assert!(fairness.admit(&jane, &get, MINUTE, || 0).await.place.is_none());
    // A quarter of what it may take, and no more.
    let before = tokio::time::Instant::now();
    assert!(fairness.admit(&jane, &get, Duration::from_secs(4), || 0).await.place.is_none());
    assert_eq!(before.elapsed().as_secs(), 1);
    let levels = fairness.dump("/debug/api_priority_and_fairness/dump_priority_levels", false).unwrap();
    let small = levels.lines().find(|line| line.starts_with("small")).unwrap();
    let cells: Vec<&str> = small.split(',').map(str::trim).collect();
    assert_eq!(cells, ["small", "0", "false", "false", "0", "1", "2", "1", "2", "0"]);
}

#[tokio::test]
async fn what_happens_over_time_is_measured_by_upstreams_names() {
    let fairness = fairness(246, &small_level(1, 1));
    let mut registry = prometheus_client::registry::Registry::default();
    fairness.register(&mut registry);
    let watch = Arc::new(action("watch", "pods", "x"));
    let held = fairness.admit(&user("jane", &["small"]), &watch, MINUTE, || 0).await;
    fairness.lend();
    let shown = |registry: &prometheus_client::registry::Registry| {
        let mut out = String::new();
        prometheus_client::encoding::text::encode(&mut out, registry).unwrap();
        out
    };
    let text = shown(&registry);
    let value = |text: &str, series: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("apiserver_flowcontrol_{series} ")));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .unwrap_or_else(|| panic!("{series} in {text}"))
    };
    assert!(value(&text, "priority_level_seat_utilization_sum{phase=\"executing\",priority_level=\"small\"}") > 0.0);
    assert!(value(&text, "priority_level_request_utilization_sum{phase=\"executing\",priority_level=\"small\"}") > 0.0);
    assert!(value(&text, "read_vs_write_current_requests_sum{phase=\"executing\",request_kind=\"readOnly\"}") > 0.0);
    assert_eq!(value(&text, "read_vs_write_current_requests_sum{phase=\"waiting\",request_kind=\"mutating\"}"), 0.0);
    assert!(value(&text, "demand_seats_count{priority_level=\"small\"}") > 0.0);
    assert_eq!(value(&text, "demand_seats_high_watermark{priority_level=\"small\"}"), 1.0);
    let schema = "priority_level=\"small\",flow_schema=\"small\"";
    assert_eq!(value(&text, &format!("work_estimated_seats_count{{{schema}}}")), 1.0);
    assert_eq!(value(&text, &format!("request_execution_seconds_count{{{schema},type=\"watch\"}}")), 0.0);
    drop(held);
    assert_eq!(value(&shown(&registry), &format!("request_execution_seconds_count{{{schema},type=\"watch\"}}")), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_floods_does_not_keep_another_waiting() {
    let fairness = Arc::new(fairness(246, &small_level(64, 50)));
    let get = Arc::new(action("get", "pods", "x"));
    let held = fairness.admit(&user("flood", &["small"]), &get, MINUTE, || 0).await;
    let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    for name in ["flood", "flood", "flood", "jane"] {
        let (fairness, get, order) = (Arc::clone(&fairness), get.clone(), Arc::clone(&order));
        tasks.spawn(async move {
            let place = fairness.admit(&user(name, &["small"]), &get, MINUTE, || 0).await.place;
            order.lock().push(name);
            tokio::task::yield_now().await;
            drop(place);
        });
        tokio::task::yield_now().await;
    }
    drop(held);
    while tasks.join_next().await.is_some() {}
    let order = order.lock();
    assert!(order.iter().position(|name| *name == "jane").unwrap() <= 1, "{order:?}");
}
