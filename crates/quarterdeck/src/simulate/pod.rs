//! What becomes of a pod next: the status a kubelet would report, from the pod and the clock alone.
//!
//! Everything remembered is in the pod's own status (when a container started, how often it was restarted), so a simulation that
//! is stopped and started again goes on where it was.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    Pod, PodCondition, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::program::{self, Program};

/// First wait of a container that keeps ending; doubled each time.
const CRASH_BACKOFF_SECONDS: i64 = 10;
const CRASH_BACKOFF_SECONDS_MAX: i64 = 300;
/// Exit code of a process that had to be killed.
const KILLED: i32 = 137;

/// Where the pod runs.
pub(super) struct Host {
    pub node_ip: String,
    pub pod_ip: String,
}

/// What to do about a pod now.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Step {
    /// Patch of the status; `None` when the pod already says so.
    pub status: Option<Value>,
    /// Remove the pod for good (after the patch).
    pub delete: bool,
    /// Look again after this time even if nothing changes.
    pub again: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    fn of(text: Option<&str>) -> RestartPolicy {
        match text {
            Some("OnFailure") => RestartPolicy::OnFailure,
            Some("Never") => RestartPolicy::Never,
            _ => RestartPolicy::Always,
        }
    }

    fn restarts(self, exit_code: i32) -> bool {
        match self {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => exit_code != 0,
            RestartPolicy::Never => false,
        }
    }
}

/// One pass over a pod's containers.
struct Pass {
    now: Timestamp,
    uid: String,
    wake: Option<Timestamp>,
}

pub(super) fn next(pod: &Pod, host: &Host, now: Timestamp) -> Step {
    let empty = (PodSpec::default(), PodStatus::default());
    let spec = pod.spec.as_ref().unwrap_or(&empty.0);
    let old = pod.status.as_ref().unwrap_or(&empty.1);
    let deleting = pod.metadata.deletion_timestamp.is_some();
    if matches!(old.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Step { delete: deleting, ..Step::default() };
    }
    let mut pass = Pass { now, uid: pod.metadata.uid.clone().unwrap_or_default(), wake: None };
    let started = old.start_time.as_ref().map_or(now, |time| time.0);
    let overdue = pass.deadline(spec, started);
    let policy = RestartPolicy::of(spec.restart_policy.as_deref());
    let (mut inits, initialized) = pass.init_containers(spec, old, policy);
    let mut containers = pass.containers(spec, old, policy, initialized);
    if deleting || overdue {
        let code = if policy == RestartPolicy::Always { 0 } else { KILLED };
        for status in inits.iter_mut().chain(&mut containers) {
            stop(status, code, now);
        }
    }
    let phase = if overdue { "Failed" } else { phase(spec, policy, &inits, &containers, initialized, deleting) };
    let mut status = PodStatus {
        phase: Some(phase.into()),
        start_time: Some(Time(started)),
        host_ip: Some(host.node_ip.clone()),
        pod_ip: Some(if spec.host_network == Some(true) { host.node_ip.clone() } else { host.pod_ip.clone() }),
        conditions: Some(conditions(pod, old, phase, &inits, &containers, initialized, now)),
        container_statuses: Some(containers),
        init_container_statuses: Some(inits).filter(|inits| !inits.is_empty()),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    };
    if overdue {
        status.reason = Some("DeadlineExceeded".into());
        status.message = Some("Pod was active on the node longer than the specified deadline".into());
    }
    let again = pass
        .wake
        .filter(|_| !deleting && !overdue)
        .map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default().max(Duration::from_millis(1)));
    // A pod that never started has nothing to report before it goes.
    let unreported = deleting && old.start_time.is_none() || is_same(old, &status);
    Step { status: if unreported { None } else { Some(patch(&status)) }, delete: deleting, again }
}

impl Pass {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |earlier| earlier.min(at)));
    }

    /// Whether the pod has run for longer than it may.
    fn deadline(&mut self, spec: &PodSpec, started: Timestamp) -> bool {
        let Some(seconds) = spec.active_deadline_seconds else { return false };
        let deadline = later(started, seconds);
        if deadline > self.now {
            self.wake_at(deadline);
        }
        deadline <= self.now
    }

    /// The init containers one after the other; true when the pod's containers may start.
    fn init_containers(
        &mut self,
        spec: &PodSpec,
        old: &PodStatus,
        policy: RestartPolicy,
    ) -> (Vec<ContainerStatus>, bool) {
        // Init containers of pods that run for ever are tried until they succeed.
        let policy = if policy == RestartPolicy::Always { RestartPolicy::OnFailure } else { policy };
        let mut may_start = true;
        let mut statuses = Vec::new();
        for container in spec.init_containers.iter().flatten() {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            let (program, policy) = match sidecar {
                true => (program::of_container(container), RestartPolicy::Always),
                false => (program::of_init_container(container), policy),
            };
            let before = find(old.init_container_statuses.as_deref(), &container.name);
            let wake = self.wake;
            let mut status = self.advance(container, program, policy, before, may_start);
            let finished = state(&status).terminated.as_ref().is_some_and(|end| end.exit_code == 0);
            // What ends at once has ended when anybody looks.
            if !sidecar
                && !finished
                && program == (Program::Ends { after: Duration::ZERO, code: 0 })
                && is_running(&status)
            {
                stop(&mut status, 0, self.now);
                self.wake = wake;
            }
            let finished = state(&status).terminated.as_ref().is_some_and(|end| end.exit_code == 0);
            status.ready = if sidecar { is_running(&status) } else { finished };
            may_start &= status.ready;
            statuses.push(status);
        }
        (statuses, may_start)
    }

    fn containers(
        &mut self,
        spec: &PodSpec,
        old: &PodStatus,
        policy: RestartPolicy,
        may_start: bool,
    ) -> Vec<ContainerStatus> {
        let each = |container: &Container| {
            let before = find(old.container_statuses.as_deref(), &container.name);
            let mut status = self.advance(container, program::of_container(container), policy, before, may_start);
            status.ready = is_running(&status);
            status
        };
        spec.containers.iter().map(each).collect()
    }

    fn advance(
        &mut self,
        container: &Container,
        program: Program,
        policy: RestartPolicy,
        before: Option<&ContainerStatus>,
        may_start: bool,
    ) -> ContainerStatus {
        let image = container.image.clone().unwrap_or_default();
        let mut status = before.cloned().unwrap_or_else(|| ContainerStatus {
            name: container.name.clone(),
            image_id: String::new(),
            image,
            ..ContainerStatus::default()
        });
        let current = state(&status).clone();
        if let Some(end) = &current.terminated {
            if policy.restarts(end.exit_code) {
                status.last_state = Some(ContainerState { terminated: Some(end.clone()), ..ContainerState::default() });
                self.restart_or_wait(&mut status, end);
            }
        } else if let Some(run) = &current.running {
            if let Program::Ends { after, code } = program {
                let started = run.started_at.as_ref().map_or(self.now, |time| time.0);
                let end = started.checked_add(after).unwrap_or(Timestamp::MAX);
                if end <= self.now {
                    stop(&mut status, code, self.now);
                    if policy.restarts(code) {
                        self.wake_at(self.now);
                    }
                } else {
                    self.wake_at(end);
                }
            }
        } else if let Some(end) = crashed(&status) {
            self.restart_or_wait(&mut status, &end);
        } else if may_start {
            self.start(&mut status);
        } else {
            wait(&mut status, "PodInitializing", None);
        }
        if let (Some(run), Program::Ends { after, .. }) = (&state(&status).running, program) {
            let started = run.started_at.as_ref().map_or(self.now, |time| time.0);
            self.wake_at(started.checked_add(after).unwrap_or(Timestamp::MAX));
        }
        if is_running(&status) {
            // What a running container has is what the pod asks for now: resizes are done at once.
            let resources = container.resources.clone().unwrap_or_default();
            status.allocated_resources = resources.requests.clone();
            status.resources = Some(resources);
        }
        status
    }

    fn restart_or_wait(&mut self, status: &mut ContainerStatus, end: &ContainerStateTerminated) {
        let finished = end.finished_at.as_ref().map_or(self.now, |time| time.0);
        let delay = match status.restart_count {
            0 => 0,
            count => CRASH_BACKOFF_SECONDS.saturating_mul(1 << (count - 1).clamp(0, 10)).min(CRASH_BACKOFF_SECONDS_MAX),
        };
        let retry = later(finished, delay);
        if retry <= self.now {
            status.restart_count += 1;
            self.start(status);
            return;
        }
        self.wake_at(retry);
        wait(
            status,
            "CrashLoopBackOff",
            Some(format!("back-off {delay}s restarting failed container={}", status.name)),
        );
    }

    fn start(&self, status: &mut ContainerStatus) {
        status.state = Some(ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time(self.now)) }),
            ..ContainerState::default()
        });
        status.started = Some(true);
        status.image_id = format!("simulated://{}", status.image);
        status.container_id = Some(format!("simulated://{}/{}/{}", self.uid, status.name, status.restart_count));
    }
}

fn later(from: Timestamp, seconds: i64) -> Timestamp {
    from.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

fn find<'a>(statuses: Option<&'a [ContainerStatus]>, name: &str) -> Option<&'a ContainerStatus> {
    statuses.unwrap_or_default().iter().find(|status| status.name == name)
}

fn state(status: &ContainerStatus) -> &ContainerState {
    static NONE: ContainerState = ContainerState { running: None, terminated: None, waiting: None };
    status.state.as_ref().unwrap_or(&NONE)
}

fn is_running(status: &ContainerStatus) -> bool {
    state(status).running.is_some()
}

/// The end of the last run of a container that waits to be restarted.
fn crashed(status: &ContainerStatus) -> Option<ContainerStateTerminated> {
    let waiting = state(status).waiting.as_ref()?;
    (waiting.reason.as_deref() == Some("CrashLoopBackOff")).then_some(())?;
    status.last_state.as_ref()?.terminated.clone()
}

fn wait(status: &mut ContainerStatus, reason: &str, message: Option<String>) {
    status.state = Some(ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.into()), message }),
        ..ContainerState::default()
    });
    status.started = Some(false);
    status.ready = false;
}

/// Ends a running container; others stay as they are.
fn stop(status: &mut ContainerStatus, code: i32, now: Timestamp) {
    let Some(run) = state(status).running.clone() else { return };
    status.state = Some(ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: code,
            reason: Some(if code == 0 { "Completed" } else { "Error" }.into()),
            started_at: run.started_at,
            finished_at: Some(Time(now)),
            container_id: status.container_id.clone(),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    });
    status.started = Some(false);
    status.ready = false;
}

fn phase(
    spec: &PodSpec,
    policy: RestartPolicy,
    inits: &[ContainerStatus],
    containers: &[ContainerStatus],
    initialized: bool,
    deleting: bool,
) -> &'static str {
    let failed_for_good = |status: &ContainerStatus| {
        let sidecar =
            spec.init_containers.iter().flatten().any(|container| {
                container.name == status.name && container.restart_policy.as_deref() == Some("Always")
            });
        let failed = state(status).terminated.as_ref().is_some_and(|end| end.exit_code != 0);
        failed && !sidecar && policy == RestartPolicy::Never
    };
    if !deleting && inits.iter().any(failed_for_good) {
        return "Failed";
    }
    if !initialized && !deleting {
        return "Pending";
    }
    let ends: Vec<i32> =
        containers.iter().filter_map(|status| state(status).terminated.as_ref()).map(|end| end.exit_code).collect();
    let over = ends.len() == containers.len() && (deleting || !ends.iter().any(|code| policy.restarts(*code)));
    match (over, ends.iter().all(|code| *code == 0)) {
        (true, true) => "Succeeded",
        (true, false) => "Failed",
        (false, _) if deleting && ends.is_empty() => "Pending",
        (false, _) => "Running",
    }
}

fn conditions(
    pod: &Pod,
    old: &PodStatus,
    phase: &str,
    inits: &[ContainerStatus],
    containers: &[ContainerStatus],
    initialized: bool,
    now: Timestamp,
) -> Vec<PodCondition> {
    let names = |statuses: &[ContainerStatus]| {
        statuses.iter().filter(|status| !status.ready).map(|status| status.name.clone()).collect::<Vec<_>>().join(" ")
    };
    let over = match phase {
        "Succeeded" => Some(("PodCompleted", String::new())),
        "Failed" => Some(("PodFailed", String::new())),
        _ => None,
    };
    let unready = names(containers);
    let not_ready = over.clone().or_else(|| {
        (!unready.is_empty()).then(|| ("ContainersNotReady", format!("containers with unready status: [{unready}]")))
    });
    let not_initialized = (!initialized)
        .then(|| ("ContainersNotInitialized", format!("containers with incomplete status: [{}]", names(inits))));
    let gate = unmet_gate(pod, old).map(|message| ("ReadinessGatesNotReady", message));
    let facts = [
        ("PodReadyToStartContainers", over.clone().map(|_| ("", String::new()))),
        ("Initialized", not_initialized),
        ("Ready", not_ready.clone().or(gate)),
        ("ContainersReady", not_ready),
        ("PodScheduled", None),
    ];
    facts.into_iter().map(|(kind, problem)| condition(pod, old, kind, problem, now)).collect()
}

/// A condition that holds unless there is a problem; keeps its transition time while its status stays.
fn condition(pod: &Pod, old: &PodStatus, kind: &str, problem: Option<(&str, String)>, now: Timestamp) -> PodCondition {
    let status = if problem.is_none() { "True" } else { "False" };
    let before = old.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == status);
    let since = before.and_then(|before| before.last_transition_time.clone()).unwrap_or(Time(now));
    let (reason, message) = problem.unwrap_or_default();
    PodCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.to_owned()).filter(|reason| !reason.is_empty()),
        message: Some(message).filter(|message| !message.is_empty()),
        last_transition_time: Some(since),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    }
}

fn unmet_gate(pod: &Pod, old: &PodStatus) -> Option<String> {
    let gates = pod.spec.as_ref()?.readiness_gates.as_ref()?;
    let held = |kind: &str| old.conditions.iter().flatten().find(|c| c.type_ == kind).map(|c| c.status.as_str());
    let problems: Vec<String> = gates
        .iter()
        .filter_map(|gate| match held(&gate.condition_type) {
            Some("True") => None,
            Some(_) => {
                Some(format!("the status of pod readiness gate {:?} is not \"True\", but False", gate.condition_type))
            }
            None => {
                Some(format!("corresponding condition of pod readiness gate {:?} does not exist.", gate.condition_type))
            }
        })
        .collect();
    (!problems.is_empty()).then(|| problems.join(", "))
}

/// Whether the pod already reports all this.
fn is_same(old: &PodStatus, new: &PodStatus) -> bool {
    let conditions = |condition: &PodCondition| {
        old.conditions.iter().flatten().any(|held| {
            held.type_ == condition.type_
                && held.status == condition.status
                && held.reason.as_deref().unwrap_or_default() == condition.reason.as_deref().unwrap_or_default()
                && held.message.as_deref().unwrap_or_default() == condition.message.as_deref().unwrap_or_default()
        })
    };
    old.phase == new.phase
        && old.pod_ip == new.pod_ip
        && old.host_ip == new.host_ip
        && old.observed_generation == new.observed_generation
        && old.container_statuses.as_deref().unwrap_or_default()
            == new.container_statuses.as_deref().unwrap_or_default()
        && old.init_container_statuses.as_deref().unwrap_or_default()
            == new.init_container_statuses.as_deref().unwrap_or_default()
        && new.conditions.iter().flatten().all(conditions)
}

/// The strategic merge patch of these fields.
fn patch(status: &PodStatus) -> Value {
    let mut patch = json!(status);
    patch["hostIPs"] = json!([{"ip": status.host_ip}]);
    patch["podIPs"] = json!([{"ip": status.pod_ip}]);
    for condition in patch["conditions"].as_array_mut().into_iter().flatten() {
        // A reason that no longer holds has to be taken away in so many words.
        for field in ["reason", "message"] {
            if condition.get(field).is_none() {
                condition[field] = Value::Null;
            }
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn host() -> Host {
        Host { node_ip: "172.16.0.1".into(), pod_ip: "10.0.0.2".into() }
    }

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec, "status": {"phase": "Pending"}}),
        )
        .unwrap()
    }

    /// Applies a step's status, as the API server would.
    fn live(pod: &mut Pod, second: i64) -> Step {
        let step = next(pod, &host(), at(second));
        if let Some(status) = &step.status {
            pod.status = Some(serde_json::from_value(status.clone()).unwrap());
        }
        step
    }

    fn phase_of(pod: &Pod) -> &str {
        pod.status.as_ref().unwrap().phase.as_deref().unwrap()
    }

    fn is_ready(pod: &Pod) -> bool {
        let conditions = pod.status.as_ref().unwrap().conditions.iter().flatten();
        conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
    }

    #[test]
    fn server_becomes_ready_at_once_and_then_rests() {
        let mut pod =
            pod(json!({"initContainers": [{"name": "setup"}], "containers": [{"name": "web", "image": "nginx"}]}));
        let step = live(&mut pod, 100);
        assert_eq!(step.again, None);
        assert_eq!(phase_of(&pod), "Running");
        assert!(is_ready(&pod));
        assert_eq!(pod.status.as_ref().unwrap().pod_ip.as_deref(), Some("10.0.0.2"));
        assert_eq!(live(&mut pod, 101), Step::default());
    }

    #[test]
    fn job_runs_for_its_time_and_succeeds_or_fails() {
        for (code, expected) in [(0, "Succeeded"), (3, "Failed")] {
            let script = format!("sleep 5; exit {code}");
            let mut pod = pod(json!({"restartPolicy": "Never",
                "containers": [{"name": "c", "command": ["sh", "-c", script]}]}));
            assert_eq!(live(&mut pod, 100).again, Some(Duration::from_secs(5)));
            assert_eq!(phase_of(&pod), "Running");
            assert_eq!(live(&mut pod, 105).again, None);
            assert_eq!(phase_of(&pod), expected);
            assert!(!is_ready(&pod));
            assert_eq!(live(&mut pod, 106), Step::default());
        }
    }

    #[test]
    fn failing_container_is_restarted_at_once_and_then_with_growing_pauses() {
        let mut pod = pod(json!({"restartPolicy": "OnFailure", "containers": [{"name": "c", "command": ["false"]}]}));
        let restarts = |pod: &Pod| pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].restart_count;
        live(&mut pod, 100);
        live(&mut pod, 100);
        live(&mut pod, 100);
        assert_eq!(restarts(&pod), 1);
        live(&mut pod, 100);
        let step = live(&mut pod, 101);
        let status = &pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0];
        assert_eq!(
            status.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(),
            Some("CrashLoopBackOff")
        );
        assert_eq!(step.again, Some(Duration::from_secs(9)));
        assert_eq!(phase_of(&pod), "Running");
        live(&mut pod, 110);
        assert_eq!(restarts(&pod), 2);
    }

    #[test]
    fn failed_init_container_ends_a_pod_that_is_never_restarted() {
        let mut pod = pod(json!({"restartPolicy": "Never", "initContainers": [{"name": "i", "command": ["false"]}],
            "containers": [{"name": "c"}]}));
        live(&mut pod, 100);
        assert_eq!(phase_of(&pod), "Pending");
        live(&mut pod, 100);
        assert_eq!(phase_of(&pod), "Failed");
    }

    #[test]
    fn deleted_pod_is_stopped_reported_and_removed() {
        let mut pod = pod(json!({"containers": [{"name": "c"}]}));
        live(&mut pod, 100);
        pod.metadata.deletion_timestamp = Some(Time(at(130)));
        let step = live(&mut pod, 101);
        assert!(step.delete);
        assert_eq!(phase_of(&pod), "Succeeded");
        assert_eq!(live(&mut pod, 101), Step { delete: true, ..Step::default() });
    }

    #[test]
    fn pod_that_outlives_its_deadline_fails() {
        let mut pod =
            pod(json!({"activeDeadlineSeconds": 10, "restartPolicy": "Never", "containers": [{"name": "c"}]}));
        assert_eq!(live(&mut pod, 100).again, Some(Duration::from_secs(10)));
        live(&mut pod, 110);
        let status = pod.status.as_ref().unwrap();
        assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("DeadlineExceeded")));
    }
}
