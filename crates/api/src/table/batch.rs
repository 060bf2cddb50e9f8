//! Rows of Jobs and CronJobs.

use crate::{Value, time};

use super::row::{NONE, Row, UNSET};

/// Conditions that name a job's state, most final first; what is asked in between is whether the job is being deleted.
const JOB_STATES: [&str; 5] = ["Complete", "Failed", "Suspended", "FailureTarget", "SuccessCriteriaMet"];

pub(super) fn job(row: &Row<'_>) -> Vec<Value> {
    let is_true =
        |state: &str| row.items("/status/conditions").any(|c| c.str("/type") == state && c.str("/status") == "True");
    let mut state = JOB_STATES.into_iter().find(|state| is_true(state)).unwrap_or("Running");
    if row.is_being_deleted() && !matches!(state, "Complete" | "Failed") {
        state = "Terminating";
    }
    let succeeded = row.int("/status/succeeded");
    let parallelism = row.int("/spec/parallelism");
    let completions = match row.get("/spec/completions").and_then(Value::as_i64) {
        Some(completions) => format!("{succeeded}/{completions}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    };
    let duration = time::parse(row.str("/status/startTime")).map_or(String::new(), |start| {
        let end = time::parse(row.str("/status/completionTime")).unwrap_or(row.now);
        time::human_duration(end.duration_since(start).as_secs())
    });
    let [names, images] = row.containers("/spec/template/spec/containers");
    vec![
        row.name(),
        state.into(),
        completions.into(),
        duration.into(),
        row.age(),
        names,
        images,
        row.selector("/spec/selector"),
    ]
}

pub(super) fn cron_job(row: &Row<'_>) -> Vec<Value> {
    let suspend = match row.get("/spec/suspend").and_then(Value::as_bool) {
        Some(true) => "True",
        Some(false) => "False",
        None => UNSET,
    };
    let last =
        if row.has("/status/lastScheduleTime") { row.since("/status/lastScheduleTime") } else { NONE.to_owned() };
    let [names, images] = row.containers("/spec/jobTemplate/spec/template/spec/containers");
    vec![
        row.name(),
        row.text("/spec/schedule"),
        row.text_or("/spec/timeZone", NONE),
        suspend.into(),
        row.count("/status/active").into(),
        last.into(),
        row.age(),
        names,
        images,
        row.selector("/spec/jobTemplate/spec/selector"),
    ]
}
