//! The row of a pod: its aggregate readiness, state and restarts.

use crate::json;

use crate::{Value, time};

use super::row::{NONE, Row};

/// Sums over the containers, as they are visited.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<jiff::Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Row<'_>) {
        self.count += status.int("/restartCount");
        let finished = time::parse(status.str("/lastState/terminated/finishedAt"));
        self.last = self.last.max(finished);
    }

    fn show(&self, now: jiff::Timestamp) -> String {
        match self.last {
            Some(last) if self.count != 0 => {
                format!("{} ({} ago)", self.count, time::human_duration(now.duration_since(last).as_secs()))
            }
            _ => self.count.to_string(),
        }
    }
}

pub(super) fn pod(row: &Row<'_>) -> Vec<Value> {
    let (ready, reason, restarts) = state(row);
    let sidecars = row.items("/spec/initContainers").filter(is_sidecar).count();
    let total = row.count("/spec/containers") + sidecars;
    let ip = row.items("/status/podIPs").next().map_or("", |ip| ip.str("/ip"));
    let gates = row.count("/spec/readinessGates");
    let gates = if gates == 0 {
        NONE.to_owned()
    } else {
        let is_true = |gate: &Row<'_>| {
            row.condition(gate.str("/conditionType")).is_some_and(|condition| condition.str("/status") == "True")
        };
        format!("{}/{gates}", row.items("/spec/readinessGates").filter(is_true).count())
    };
    vec![
        row.name(),
        format!("{ready}/{total}").into(),
        reason.into(),
        restarts.show(row.now).into(),
        row.age(),
        if ip.is_empty() { NONE.into() } else { ip.into() },
        row.text_or("/spec/nodeName", NONE),
        row.text_or("/status/nominatedNodeName", NONE),
        gates.into(),
    ]
}

/// A row condition of a pod that has ended.
pub(super) fn conditions(row: &Row<'_>) -> Vec<Value> {
    let message = match row.str("/status/phase") {
        "Succeeded" => "The pod has completed successfully.",
        "Failed" => "The pod failed.",
        _ => return Vec::new(),
    };
    let reason = row.str("/status/phase");
    vec![json!({"type": "Completed", "status": "True", "reason": reason, "message": message})]
}

fn is_sidecar(container: &Row<'_>) -> bool {
    container.str("/restartPolicy") == "Always"
}

/// Ready containers, the word for the pod's state, and restarts.
fn state(row: &Row<'_>) -> (usize, String, Restarts) {
    let mut ready = 0;
    let mut reason = match row.str("/status/reason") {
        "" => row.str("/status/phase").to_owned(),
        reason => reason.to_owned(),
    };
    if let Some(scheduled) = row.condition("PodScheduled")
        && scheduled.str("/reason") == "SchedulingGated"
    {
        reason = "SchedulingGated".to_owned();
    }

    let mut init_restarts = Restarts::default();
    let mut restarts = Restarts::default();
    let mut initializing = false;
    let n_init = row.count("/spec/initContainers");
    for (i, status) in row.items("/status/initContainerStatuses").enumerate() {
        init_restarts.add(&status);
        let spec = row.items("/spec/initContainers").find(|c| c.str("/name") == status.str("/name"));
        let sidecar = spec.is_some_and(|c| is_sidecar(&c));
        if sidecar {
            restarts.add(&status);
        }
        let terminated = status.get("/state/terminated").map(|t| status.at(t));
        if terminated.is_some_and(|t| t.int("/exitCode") == 0) {
            continue;
        }
        if sidecar && status.get("/started").and_then(Value::as_bool) == Some(true) {
            if status.get("/ready").and_then(Value::as_bool) == Some(true) {
                ready += 1;
            }
            continue;
        }
        let waiting = status.str("/state/waiting/reason");
        reason = if let Some(terminated) = terminated {
            format!("Init:{}", ended(&terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{i}/{n_init}")
        };
        initializing = true;
        break;
    }

    if initializing && row.condition("Initialized").is_none_or(|c| c.str("/status") != "True") {
        restarts = init_restarts;
    } else {
        let mut running = false;
        let mut failure = None;
        for status in row.items("/status/containerStatuses").rev() {
            restarts.add(&status);
            let waiting = status.str("/state/waiting/reason");
            if !waiting.is_empty() {
                reason = waiting.to_owned();
            } else if let Some(terminated) = status.get("/state/terminated") {
                let terminated = status.at(terminated);
                reason = ended(&terminated);
                if terminated.int("/exitCode") != 0 {
                    failure = Some(reason.clone());
                }
            } else if status.get("/ready").and_then(Value::as_bool) == Some(true) && status.has("/state/running") {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" {
            let pod_ready = row.condition("Ready").is_some_and(|c| c.str("/status") == "True");
            match failure {
                _ if running && pod_ready => reason = "Running".to_owned(),
                Some(failure) => reason = failure,
                None if running => reason = "NotReady".to_owned(),
                None => {}
            }
        }
    }

    if row.is_being_deleted() {
        if row.str("/status/reason") == "NodeLost" {
            reason = "Unknown".to_owned();
        } else if !matches!(row.str("/status/phase"), "Succeeded" | "Failed") {
            reason = "Terminating".to_owned();
        }
    }
    (ready, reason, restarts)
}

/// Why a container ended: its reason, signal or exit code.
fn ended(terminated: &Row<'_>) -> String {
    let signal = terminated.int("/signal");
    match terminated.str("/reason") {
        "" if signal != 0 => format!("Signal:{signal}"),
        "" => format!("ExitCode:{}", terminated.int("/exitCode")),
        reason => reason.to_owned(),
    }
}
