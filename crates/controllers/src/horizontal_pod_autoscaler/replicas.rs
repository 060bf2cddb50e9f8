//! How many replicas a metric asks for. Values are thousandths, as upstream counts them.

use std::collections::{BTreeMap, BTreeSet};

use api::quantity::Quantity;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::ownership::name;
use crate::pods::{condition, is_ready, phase};

/// How far a ratio may be from 1 without anything being done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tolerances {
    pub down: f64,
    pub up: f64,
}

impl Tolerances {
    fn takes(self, ratio: f64) -> bool {
        (1.0 - self.down) <= ratio && ratio <= (1.0 + self.up)
    }
}

/// When samples of a starting pod count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Startup {
    /// How long the CPU usage of a pod may be that of its start.
    pub cpu_initialization: SignedDuration,
    /// How long a pod may take to be ready for the first time.
    pub initial_readiness: SignedDuration,
}

/// One sample of one pod.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    pub value: i64,
    pub at: Option<Timestamp>,
    pub window: SignedDuration,
}

impl Sample {
    fn of(value: i64) -> Self {
        Self { value, at: None, window: SignedDuration::ZERO }
    }
}

pub(super) type Samples = BTreeMap<String, Sample>;

/// The pods behind a scale, and how to read them.
pub(super) struct Pods<'a> {
    pub pods: &'a [&'a Pod],
    pub tolerances: Tolerances,
    pub startup: Startup,
    pub now: Timestamp,
}

/// What a metric asks for, and what it is now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Proposal {
    pub replicas: i32,
    /// Percent of the request; only for utilization targets.
    pub utilization: Option<i32>,
    /// Per pod, or in total for targets of type Value.
    pub value: i64,
}

const NO_PODS: &str = "no pods returned by selector while calculating replica count";
const NO_SAMPLES: &str = "did not receive metrics for any ready pods";

struct Grouped {
    n_ready: usize,
    ignored: BTreeSet<String>,
    missing: BTreeSet<String>,
}

impl Pods<'_> {
    fn check_any(&self) -> Result<(), String> {
        if self.pods.is_empty() { Err(NO_PODS.to_owned()) } else { Ok(()) }
    }

    fn group(&self, samples: &Samples, is_cpu: bool) -> Grouped {
        let mut grouped = Grouped { n_ready: 0, ignored: BTreeSet::new(), missing: BTreeSet::new() };
        for pod in self.pods {
            let pod_name = name(&pod.metadata);
            if pod.metadata.deletion_timestamp.is_some() || phase(pod) == "Failed" {
                continue;
            }
            match samples.get(pod_name) {
                _ if phase(pod) == "Pending" => drop(grouped.ignored.insert(pod_name.to_owned())),
                None => drop(grouped.missing.insert(pod_name.to_owned())),
                Some(sample) if is_cpu && self.is_of_startup(pod, sample) => {
                    grouped.ignored.insert(pod_name.to_owned());
                }
                Some(_) => grouped.n_ready += 1,
            }
        }
        grouped
    }

    /// Whether a CPU sample says more about the pod's start than about its load.
    fn is_of_startup(&self, pod: &Pod, sample: &Sample) -> bool {
        let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
        let (Some(ready), Some(started)) = (condition(pod, "Ready"), started) else { return true };
        let unready = ready.status == "False";
        let since = ready.last_transition_time.as_ref().map(|at| at.0);
        if started.0 + self.startup.cpu_initialization > self.now {
            return unready || since.is_some_and(|since| sample.at.is_none_or(|at| at < since + sample.window));
        }
        unready && since.is_none_or(|since| started.0 + self.startup.initial_readiness > since)
    }

    /// For a share of what the pods request.
    pub(super) fn by_utilization(
        &self,
        current: i32,
        target_percent: i32,
        resource: &str,
        container: Option<&str>,
        mut samples: Samples,
    ) -> Result<Proposal, String> {
        self.check_any()?;
        let grouped = self.group(&samples, resource == "cpu");
        samples.retain(|pod, _| !grouped.ignored.contains(pod));
        let requests = self.requests(resource, container)?;
        if samples.is_empty() {
            return Err(NO_SAMPLES.to_owned());
        }
        let (ratio, percent, value) = utilization(&samples, &requests, target_percent)?;
        let keep = Proposal { replicas: current, utilization: Some(percent), value };
        let assumed = |pod: &str| requests.get(pod).copied().unwrap_or(0);
        let again = |samples: &Samples| utilization(samples, &requests, target_percent).map(|(ratio, _, _)| ratio);
        let replicas = self.replicas(current, ratio, samples, &grouped, assumed, again)?;
        Ok(Proposal { replicas, ..keep })
    }

    /// For an average value per pod.
    pub(super) fn by_average(
        &self,
        current: i32,
        target: i64,
        is_cpu: bool,
        mut samples: Samples,
    ) -> Result<Proposal, String> {
        self.check_any()?;
        let grouped = self.group(&samples, is_cpu);
        samples.retain(|pod, _| !grouped.ignored.contains(pod));
        if samples.is_empty() {
            return Err(NO_SAMPLES.to_owned());
        }
        let (ratio, value) = average(&samples, target);
        let again = |samples: &Samples| Ok(average(samples, target).0);
        let replicas = self.replicas(current, ratio, samples, &grouped, |_| target, again)?;
        Ok(Proposal { replicas, utilization: None, value })
    }

    /// The ratio applied, with cautious guesses about pods without samples: they are assumed to need nothing when that means
    /// growing less, and all of it when that means shrinking less.
    fn replicas(
        &self,
        current: i32,
        ratio: f64,
        mut samples: Samples,
        grouped: &Grouped,
        full: impl Fn(&str) -> i64,
        again: impl Fn(&Samples) -> Result<f64, String>,
    ) -> Result<i32, String> {
        let counts_ignored = !grouped.ignored.is_empty() && ratio > 1.0;
        if !counts_ignored && grouped.missing.is_empty() {
            return Ok(if self.tolerances.takes(ratio) { current } else { ceil(ratio * grouped.n_ready as f64) });
        }
        for pod in &grouped.missing {
            if ratio < 1.0 {
                samples.insert(pod.clone(), Sample::of(full(pod)));
            } else if ratio > 1.0 {
                samples.insert(pod.clone(), Sample::of(0));
            }
        }
        if counts_ignored {
            samples.extend(grouped.ignored.iter().map(|pod| (pod.clone(), Sample::of(0))));
        }
        let new = again(&samples)?;
        let turns = (ratio < 1.0 && new > 1.0) || (ratio > 1.0 && new < 1.0);
        let replicas = ceil(new * samples.len() as f64);
        let contradicts = (new < 1.0 && replicas > current) || (new > 1.0 && replicas < current);
        Ok(if self.tolerances.takes(new) || turns || contradicts { current } else { replicas })
    }

    /// For the value of something outside the pods: the ratio applied to the ready ones.
    pub(super) fn by_total(&self, current: i32, target: i64, value: i64) -> Result<Proposal, String> {
        let ratio = value as f64 / target as f64;
        let replicas = match current {
            // From nothing: enough for one times the target each.
            0 => ceil(ratio),
            _ if self.tolerances.takes(ratio) => current,
            _ => {
                self.check_any().map_err(|error| format!("unable to calculate ready pods: {error}"))?;
                let ready = self.pods.iter().filter(|pod| phase(pod) == "Running" && is_ready(pod));
                ceil(ratio * ready.count() as f64)
            }
        };
        Ok(Proposal { replicas, utilization: None, value })
    }

    /// For the value of something outside the pods, divided among them.
    pub(super) fn by_share(&self, current: i32, target: i64, value: i64) -> Proposal {
        let ratio = value as f64 / (target as f64 * f64::from(current));
        let replicas = if self.tolerances.takes(ratio) { current } else { ceil(value as f64 / target as f64) };
        let share = if current == 0 { value } else { (value as f64 / f64::from(current)).ceil() as i64 };
        Proposal { replicas, utilization: None, value: share }
    }

    /// What each pod requests, or one container of it.
    fn requests(&self, resource: &str, container: Option<&str>) -> Result<BTreeMap<String, i64>, String> {
        let mut requests = BTreeMap::new();
        for pod in self.pods {
            let pod_name = name(&pod.metadata);
            let spec = pod.spec.as_ref();
            let sidecars = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten());
            let sidecars = sidecars.filter(|one| one.restart_policy.as_deref() == Some("Always"));
            let all = spec.into_iter().flat_map(|spec| &spec.containers).chain(sidecars);
            let mut sum = 0i64;
            for one in all.filter(|one| container.is_none_or(|wanted| wanted == one.name)) {
                let Some(request) = request(one, resource) else {
                    return Err(format!("missing request for {resource} in container {} of Pod {pod_name}", one.name));
                };
                sum = sum.saturating_add(request);
            }
            requests.insert(pod_name.to_owned(), sum);
        }
        Ok(requests)
    }
}

fn request(container: &Container, resource: &str) -> Option<i64> {
    let request = container.resources.as_ref()?.requests.as_ref()?.get(resource)?;
    request.0.trim().parse().ok().map(|quantity: Quantity| quantity.milli_value())
}

/// Ratio to the target, percent of the requests, and average value.
fn utilization(
    samples: &Samples,
    requests: &BTreeMap<String, i64>,
    target_percent: i32,
) -> Result<(f64, i32, i64), String> {
    let (mut used, mut requested, mut n_pods) = (0i64, 0i64, 0i64);
    for (pod, sample) in samples {
        // Samples of pods that are no longer there say nothing.
        let Some(request) = requests.get(pod) else { continue };
        used = used.saturating_add(sample.value);
        requested = requested.saturating_add(*request);
        n_pods += 1;
    }
    if requested == 0 {
        return Err("no metrics returned matched known pods".to_owned());
    }
    let percent = i32::try_from(used.saturating_mul(100) / requested).unwrap_or(i32::MAX);
    Ok((f64::from(percent) / f64::from(target_percent), percent, used / n_pods.max(1)))
}

fn average(samples: &Samples, target: i64) -> (f64, i64) {
    let sum: i64 = samples.values().fold(0, |sum, sample| sum.saturating_add(sample.value));
    let average = sum / i64::try_from(samples.len()).unwrap_or(i64::MAX).max(1);
    (average as f64 / target as f64, average)
}

fn ceil(replicas: f64) -> i32 {
    // Saturates; a ratio to a target of zero is refused by validation.
    replicas.ceil() as i32
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(pod_name: &str, ready: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": pod_name },
            "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": "1" } } }] },
            "status": {
                "phase": "Running", "startTime": "2024-01-01T00:00:00Z",
                "conditions": [{ "type": "Ready", "status": ready, "lastTransitionTime": "2024-01-01T00:00:10Z" }],
            },
        }))
        .unwrap()
    }

    fn samples(values: &[(&str, i64)]) -> Samples {
        let at: Timestamp = "2024-01-01T01:00:00Z".parse().unwrap();
        let sample = |value| Sample { value, at: Some(at), window: SignedDuration::from_secs(30) };
        values.iter().map(|(pod, value)| ((*pod).to_owned(), sample(*value))).collect()
    }

    fn with<R>(pods: &[Pod], act: impl FnOnce(&Pods<'_>) -> R) -> R {
        let pods: Vec<&Pod> = pods.iter().collect();
        act(&Pods {
            pods: &pods,
            tolerances: Tolerances { down: 0.1, up: 0.1 },
            startup: Startup {
                cpu_initialization: SignedDuration::from_mins(5),
                initial_readiness: SignedDuration::from_secs(30),
            },
            now: "2024-01-01T02:00:00Z".parse().unwrap(),
        })
    }

    #[test]
    fn replicas_follow_the_ratio_beyond_the_tolerance() {
        let pods = [pod("a", "True"), pod("b", "True"), pod("c", "True")];
        for (values, expected) in [
            ([500, 500, 500], 5), // 50 % of 30 %
            ([310, 310, 310], 3), // within the tolerance
            ([100, 100, 100], 1),
        ] {
            let samples = samples(&[("a", values[0]), ("b", values[1]), ("c", values[2])]);
            let proposal = with(&pods, |pods| pods.by_utilization(3, 30, "cpu", None, samples)).unwrap();
            assert_eq!(proposal.replicas, expected, "{values:?}");
        }
    }

    #[test]
    fn pods_without_samples_are_guessed_against_the_change() {
        let pods = [pod("a", "True"), pod("b", "True"), pod("c", "True")];
        let up = with(&pods, |pods| pods.by_utilization(3, 30, "cpu", None, samples(&[("a", 900), ("b", 900)])));
        assert_eq!(up.unwrap().replicas, 6, "the third is assumed idle: 60 %");
        let down = with(&pods, |pods| pods.by_utilization(3, 50, "cpu", None, samples(&[("a", 100), ("b", 100)])));
        assert_eq!(down.unwrap().replicas, 3, "the third is assumed full: 40 %, three pods");
        let unready = [pod("a", "True"), pod("b", "False")];
        let values = samples(&[("a", 900), ("b", 900)]);
        let proposal = with(&unready, |pods| pods.by_utilization(2, 30, "cpu", None, values)).unwrap();
        assert_eq!(proposal.replicas, 3, "a pod that was never ready counts as idle: 45 %");
    }

    #[test]
    fn errors_are_upstreams() {
        let none = with(&[], |pods| pods.by_average(1, 1, false, samples(&[])));
        assert_eq!(none.unwrap_err(), "no pods returned by selector while calculating replica count");
        let pods = [pod("a", "True")];
        let silent = with(&pods, |pods| pods.by_average(1, 1, false, samples(&[])));
        assert_eq!(silent.unwrap_err(), "did not receive metrics for any ready pods");
        let memory = with(&pods, |pods| pods.by_utilization(1, 50, "memory", None, samples(&[("a", 1)])));
        assert_eq!(memory.unwrap_err(), "missing request for memory in container c of Pod a");
    }

    #[test]
    fn totals_are_divided_or_applied() {
        let pods = [pod("a", "True"), pod("b", "True")];
        with(&pods, |pods| {
            assert_eq!(pods.by_total(2, 10_000, 20_000).unwrap().replicas, 4);
            assert_eq!(pods.by_total(0, 10_000, 25_000).unwrap().replicas, 3);
            assert_eq!(pods.by_share(2, 10_000, 50_000), Proposal { replicas: 5, utilization: None, value: 25_000 });
            assert_eq!(pods.by_share(2, 10_000, 20_500).replicas, 2);
        });
    }
}
