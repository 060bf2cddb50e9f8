//! The pages under /debug/api_priority_and_fairness: tables of levels, queues and waiting requests.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::level::{About, Level, Queue};
use crate::attributes::Action;

/// Go's zero time.
const NOT_STARTED: &str = "0001-01-01T00:00:00Z";
const PREFIX: &str = "/debug/api_priority_and_fairness/dump_";

pub(super) fn page(levels: &BTreeMap<String, Arc<Level>>, path: &str, details: bool) -> Option<String> {
    let rows = match path.strip_prefix(PREFIX)? {
        "priority_levels" => priority_levels(levels),
        "queues" => queues(levels),
        "requests" => requests(levels, details),
        _ => return None,
    };
    Some(table(&rows))
}

fn row<const N: usize>(cells: [&dyn ToString; N]) -> Vec<String> {
    cells.iter().map(|cell| cell.to_string()).collect()
}

fn head(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn priority_levels(levels: &BTreeMap<String, Arc<Level>>) -> Vec<Vec<String>> {
    let mut rows = vec![head(&[
        "PriorityLevelName",
        "ActiveQueues",
        "IsIdle",
        "IsQuiescing",
        "WaitingRequests",
        "ExecutingRequests",
        "DispatchedRequests",
        "RejectedRequests",
        "TimedoutRequests",
        "CancelledRequests",
    ])];
    for level in levels.values() {
        let active = level.with_queues(|queues| queues.iter().filter(|queue| !queue.requests.is_empty()).count());
        let (waiting, executing) = level.load();
        rows.push(row([
            &level.name,
            &active,
            &(waiting + executing == 0),
            &false,
            &waiting,
            &executing,
            &level.dispatched.load(SeqCst),
            &level.rejected.load(SeqCst),
            &level.timed_out.load(SeqCst),
            &0,
        ]));
    }
    rows
}

fn queues(levels: &BTreeMap<String, Arc<Level>>) -> Vec<Vec<String>> {
    let mut rows = vec![head(&[
        "PriorityLevelName",
        "Index",
        "PendingRequests",
        "ExecutingRequests",
        "SeatsInUse",
        "NextDispatchR",
        "InitialSeatsSum",
        "MaxSeatsSum",
        "TotalWorkSum",
    ])];
    for level in levels.values() {
        let of = |(at, queue): (usize, &Queue)| {
            let seats: usize = queue.requests.iter().map(|request| request.width).sum();
            let (start, work) = (format!("{:.8}ss", queue.next_start), format!("{:.8}ss", seats as f64 * 0.003));
            let pending = queue.requests.len();
            row([&level.name, &at, &pending, &queue.executing, &queue.seats_in_use, &start, &seats, &seats, &work])
        };
        level.with_queues(|queues| rows.extend(queues.iter().enumerate().map(of)));
    }
    rows
}

fn requests(levels: &BTreeMap<String, Arc<Level>>, details: bool) -> Vec<Vec<String>> {
    let mut names = vec![
        "PriorityLevelName",
        "FlowSchemaName",
        "QueueIndex",
        "RequestIndexInQueue",
        "FlowDistingsher",
        "ArriveTime",
        "InitialSeats",
        "FinalSeats",
        "AdditionalLatency",
        "StartTime",
    ];
    if details {
        names.extend(["UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource"]);
    }
    let mut rows = vec![head(&names)];
    for level in levels.values() {
        let mut show = |(queue, place): (isize, isize), width: usize, about: &About, start: &dyn ToString| {
            let mut cells = row([
                &level.name,
                &about.schema,
                &queue,
                &place,
                &about.distinguisher,
                &about.arrived,
                &width,
                &0,
                &"0s",
                start,
            ]);
            if details {
                cells.extend(what(about));
            }
            rows.push(cells);
        };
        let executions = level.executions();
        level.with_queues(|queues| {
            for (index, queue) in (0..).zip(queues) {
                for (place, request) in (0..).zip(&queue.requests) {
                    show((index, place), request.width, &request.about, &NOT_STARTED);
                }
                let of_queue = executions.iter().filter(|one| one.queue.is_some_and(|at| at as isize == index));
                of_queue.for_each(|one| show((index, -1), one.width, &one.about, &one.started));
            }
        });
        // Those who found seats at once have not been in a queue.
        let at_once = executions.iter().filter(|one| one.queue.is_none());
        at_once.for_each(|one| show((-1, -1), one.width, &one.about, &one.started));
    }
    rows
}

fn what(request: &About) -> Vec<String> {
    let none = String::new;
    match request.action.as_ref() {
        Action::NonResource { verb, path } => {
            vec![request.user.to_string(), verb.clone(), path.clone(), none(), none(), none(), none(), none()]
        }
        Action::Resource { verb, group, version, resource, subresource, namespace, name } => {
            let api_version = if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
            let root = if group.is_empty() { "/api" } else { "/apis" };
            let mut path = format!("{root}/{api_version}");
            if !namespace.is_empty() {
                let _a_string_takes_everything = write!(path, "/namespaces/{namespace}");
            }
            for part in [resource, name, subresource] {
                if !part.is_empty() {
                    path.push('/');
                    path.push_str(part);
                }
            }
            vec![
                request.user.to_string(),
                verb.clone(),
                path,
                namespace.clone(),
                name.clone(),
                api_version,
                resource.clone(),
                subresource.clone(),
            ]
        }
    }
}

/// Cells end in a comma and are filled up to the width of their column, at least eight.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let longest = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count() + 1).max();
        (longest.unwrap_or(0) + 1).max(8)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            if column + 1 == row.len() {
                out.push_str(cell);
            } else {
                let _a_string_takes_everything = write!(out, "{:<width$}", format!("{cell},"), width = widths[column]);
            }
        }
        out.push('\n');
    }
    out
}
