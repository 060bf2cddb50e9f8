//! What a container would have printed, told from its command.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStatus, Pod};

/// Lines of one log that are remembered; a real log is rotated as well.
const LINES_MAX: usize = 10_000;

/// A log's lines with their times.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Printed {
    pub lines: Vec<(Timestamp, String)>,
    /// More may come.
    pub running: bool,
}

/// The query of a log request.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    pub follow: bool,
    pub previous: bool,
    timestamps: bool,
    tail_lines: Option<usize>,
    limit_bytes: Option<usize>,
    since_seconds: Option<i64>,
    since_time: Option<Timestamp>,
}

impl Options {
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut options = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let bad = || format!("invalid {name}: {value}");
            match name {
                "follow" => options.follow = value == "true",
                "previous" => options.previous = value == "true",
                "timestamps" => options.timestamps = value == "true",
                "tailLines" => options.tail_lines = Some(value.parse().map_err(|_| bad())?),
                "limitBytes" => options.limit_bytes = Some(value.parse().map_err(|_| bad())?),
                "sinceSeconds" => options.since_seconds = Some(value.parse().map_err(|_| bad())?),
                "sinceTime" => options.since_time = Some(value.replace("%3A", ":").parse().map_err(|_| bad())?),
                _ => {}
            }
        }
        Ok(options)
    }

    /// The lines that were asked for; those after `seen` only, when some have been sent already.
    pub(super) fn render(&self, lines: &[(Timestamp, String)], seen: Option<Timestamp>, now: Timestamp) -> Vec<u8> {
        let ago = self.since_seconds.and_then(|s| now.checked_sub(SignedDuration::from_secs(s)).ok());
        let since = self.since_time.max(ago);
        let wanted = |at: Timestamp| since.is_none_or(|since| at >= since) && seen.is_none_or(|seen| at > seen);
        let lines: Vec<_> = lines.iter().filter(|(at, _)| wanted(*at)).collect();
        let tail = self.tail_lines.filter(|_| seen.is_none()).unwrap_or(lines.len());
        let mut out = Vec::new();
        for (at, line) in &lines[lines.len().saturating_sub(tail)..] {
            if self.timestamps {
                out.extend_from_slice(format!("{at:.9} ").as_bytes());
            }
            out.extend_from_slice(line.as_bytes());
            out.push(b'\n');
        }
        out.truncate(self.limit_bytes.unwrap_or(out.len()));
        out
    }
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

pub(super) fn has_container(pod: &Pod, name: &str) -> bool {
    containers(pod).any(|container| container.name == name)
}

fn status<'p>(pod: &'p Pod, name: &str) -> Option<&'p ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    all.into_iter().find(|status| status.name == name)
}

pub(super) fn is_running(pod: &Pod, name: &str) -> bool {
    status(pod, name).and_then(|status| status.state.as_ref()).is_some_and(|state| state.running.is_some())
}

/// What a container has printed until now, or why there is no log, in the kubelet's words.
pub(super) fn printed(pod: &Pod, name: &str, previous: bool, now: Timestamp) -> Result<Printed, String> {
    let pod_name = pod.metadata.name.as_deref().unwrap_or("");
    let waiting = |reason: &str| format!("container \"{name}\" in pod \"{pod_name}\" is waiting to start: {reason}");
    let container = containers(pod).find(|container| container.name == name).ok_or_else(|| waiting("unknown"))?;
    let status = status(pod, name).ok_or_else(|| waiting("ContainerCreating"))?;
    let state = if previous { status.last_state.as_ref() } else { status.state.as_ref() };
    let run = |state: &ContainerState| {
        let running = state.running.as_ref().map(|run| (run.started_at.as_ref(), None));
        let ended = state.terminated.as_ref().map(|end| (end.started_at.as_ref(), end.finished_at.as_ref()));
        let (start, end) = running.or(ended)?;
        Some((start.map_or(now, |time| time.0), end.map(|time| time.0)))
    };
    let found = state.and_then(run);
    let Some((start, end)) = found.or_else(|| status.last_state.as_ref().filter(|_| !previous).and_then(run)) else {
        return Err(match (previous, state.and_then(|state| state.waiting.as_ref())) {
            (true, _) => format!("previous terminated container \"{name}\" in pod \"{pod_name}\" not found"),
            (false, waits) => waiting(waits.and_then(|w| w.reason.as_deref()).unwrap_or("ContainerCreating")),
        });
    };
    Ok(Printed { lines: lines(container, start, end.unwrap_or(now)), running: end.is_none() && found.is_some() })
}

/// The lines of one run. A script prints what it echoes; anything else says that it runs.
fn lines(container: &Container, start: Timestamp, end: Timestamp) -> Vec<(Timestamp, String)> {
    let words: Vec<&str> =
        container.command.iter().flatten().chain(container.args.iter().flatten()).map(String::as_str).collect();
    let script = words.last().filter(|_| words.contains(&"-c")).copied().unwrap_or("");
    let echoed = echoes(script);
    if echoed.is_empty() {
        let image = container.image.as_deref().unwrap_or("no image");
        let said = match words.as_slice() {
            ["echo" | "/bin/echo", said @ ..] => said.join(" "),
            _ => format!("{}: simulated container of {image} started", container.name),
        };
        return vec![(start, said)];
    }
    if !script.contains("while ") {
        return echoed.into_iter().map(|line| (start, line)).collect();
    }
    let period = pause(script).unwrap_or(Duration::from_secs(1)).max(Duration::from_millis(10));
    let period = SignedDuration::try_from(period).unwrap_or(SignedDuration::from_secs(1));
    let rounds = end.duration_since(start).as_millis() / period.as_millis().max(1);
    let rounds_max = i128::try_from(LINES_MAX / echoed.len()).unwrap_or(1);
    let first = (rounds + 1 - rounds_max).max(0);
    let mut out = Vec::new();
    for round in first..=rounds {
        let Ok(round) = i32::try_from(round) else { break };
        let Ok(at) = start.checked_add(period * round) else { break };
        out.extend(echoed.iter().map(|line| (at, line.clone())));
    }
    out
}

/// What a script echoes in one round, quotes taken off.
fn echoes(script: &str) -> Vec<String> {
    let commands = script.split([';', '\n', '&', '|']).map(str::trim);
    let commands = commands.map(|command| command.strip_prefix("do ").unwrap_or(command).trim());
    let said = commands
        .filter_map(|command| command.strip_prefix("echo").filter(|rest| rest.is_empty() || rest.starts_with(' ')));
    let said = said.map(|said| said.split('>').next().unwrap_or("").trim());
    said.map(|said| said.trim_matches(['"', '\'']).to_owned()).collect()
}

/// How long a script sleeps in one round.
fn pause(script: &str) -> Option<Duration> {
    let seconds: f64 =
        script.split("sleep ").nth(1)?.split([' ', ';', '\n']).next()?.trim_end_matches('s').parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(script: &str, state: serde_json::Value) -> Pod {
        let pod = json!({"metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c", "image": "busybox", "command": ["sh", "-c", script]}]},
            "status": {"containerStatuses": [{"name": "c", "image": "busybox", "imageID": "", "ready": true, "restartCount": 0,
                "state": state}]}});
        serde_json::from_value(pod).expect("a pod")
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn a_loop_prints_once_a_round_until_now() {
        let running = json!({"running": {"startedAt": "2024-01-01T00:00:00Z"}});
        let pod = pod("i=0; while true; do echo \"tick tock\"; sleep 2; done", running);
        let log = printed(&pod, "c", false, at("2024-01-01T00:00:05Z")).expect("a log");
        assert!(log.running);
        let text = |options: &str, now: &str| {
            let options = Options::parse(options).expect("options");
            String::from_utf8(options.render(&log.lines, None, at(now))).expect("text")
        };
        assert_eq!(text("", "2024-01-01T00:00:05Z"), "tick tock\ntick tock\ntick tock\n");
        assert_eq!(
            text("tailLines=1&timestamps=true", "2024-01-01T00:00:05Z"),
            "2024-01-01T00:00:04.000000000Z tick tock\n"
        );
        assert_eq!(text("sinceSeconds=2&limitBytes=4", "2024-01-01T00:00:05Z"), "tick");
        let options = Options::parse("tailLines=9").expect("options");
        assert_eq!(
            options.render(&log.lines, Some(at("2024-01-01T00:00:03Z")), at("2024-01-01T00:00:05Z")),
            b"tick tock\n"
        );
    }

    #[test]
    fn a_container_that_never_ran_has_no_log() {
        let pod = pod("echo hi", json!({"waiting": {"reason": "ImagePullBackOff"}}));
        let refusal = printed(&pod, "c", false, Timestamp::UNIX_EPOCH).unwrap_err();
        assert_eq!(refusal, "container \"c\" in pod \"p\" is waiting to start: ImagePullBackOff");
        let refusal = printed(&pod, "c", true, Timestamp::UNIX_EPOCH).unwrap_err();
        assert_eq!(refusal, "previous terminated container \"c\" in pod \"p\" not found");
    }
}
