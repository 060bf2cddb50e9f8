//! What clients saw, held against what happened.
//!
//! etcd says of every answer at which revision it is true, and the events of a watch from the beginning say what happened at each
//! revision. So there is nothing to search for: calls are linearizable (etcd promises so much: strictly serializable, in the order of
//! revisions) when each of them is right at its revision, and none has a revision before that of a call that was over when it began. A
//! write nobody answered may have happened at any revision after its call began, once, or not at all.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// One call of one client. Every write puts a number of its own, so that its event names it.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) invoked: Duration,
    /// When the answer came.
    pub(super) returned: Option<Duration>,
    pub(super) ask: Ask,
    pub(super) answer: Option<Answer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Read {
        key: String,
        /// Not more than what the member has.
        serializable: bool,
    },
    /// `changes` at one revision, each key with its new value or none; only if the key `only_if.0` was last changed at `only_if.1`.
    Write { number: u64, changes: BTreeMap<String, Option<String>>, only_if: Option<(String, i64)> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) revision: i64,
    /// What a read found.
    pub(super) found: Option<Found>,
    /// Whether a write was done.
    pub(super) done: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) value: String,
    pub(super) mod_revision: i64,
    pub(super) version: i64,
}

/// A change as a watch tells it: the new value, or none when the key was deleted.
pub(super) type Change = (String, Option<String>);

/// The key that every write puts its number at.
pub(super) const NUMBER_KEY: &str = "number";

/// The events of one revision each; the first is revision 2.
#[derive(Debug, Default)]
pub(super) struct Revisions(pub(super) Vec<Vec<Change>>);

impl Revisions {
    pub(super) const FIRST: i64 = 2;

    pub(super) fn newest(&self) -> i64 {
        Self::FIRST - 1 + self.0.len() as i64
    }
}

/// Everything that is wrong; empty when all is well.
pub(super) fn violations(calls: &[Call], revisions: &Revisions) -> Vec<String> {
    let mut wrong = Vec::new();
    let happened = numbers(revisions, &mut wrong);
    let mut by_revision: BTreeMap<i64, Vec<&Call>> = BTreeMap::new();
    // When a call takes effect, if it does.
    let mut points: Vec<Option<i64>> = Vec::with_capacity(calls.len());
    let mut known = HashMap::new();
    for call in calls {
        let mut point = call.answer.as_ref().map(|answer| answer.revision);
        if let Ask::Write { number, .. } = &call.ask {
            known.insert(*number, call);
            let at = happened.get(number).copied();
            match &call.answer {
                Some(answer) if answer.done && at != Some(answer.revision) => {
                    wrong.push(format!("acknowledged at {}, happened at {at:?}: {call:?}", answer.revision));
                }
                Some(answer) if !answer.done && at.is_some() => wrong.push(format!("refused, but happened: {call:?}")),
                Some(_) => {}
                None => point = at,
            }
        }
        points.push(point);
        if let Some(point) = point {
            by_revision.entry(point).or_default().push(call);
        }
    }
    for (number, at) in &happened {
        if !known.contains_key(number) {
            wrong.push(format!("nobody wrote number {number} at revision {at}"));
        }
    }
    replay(revisions, &known, &by_revision, &mut wrong);
    in_real_time(calls, &points, &mut wrong);
    wrong
}

/// The revision of each write, by its number.
fn numbers(revisions: &Revisions, wrong: &mut Vec<String>) -> HashMap<u64, i64> {
    let mut happened = HashMap::new();
    for (revision, changes) in (Revisions::FIRST..).zip(&revisions.0) {
        let number =
            changes.iter().find(|(key, _)| key == NUMBER_KEY).and_then(|(_, value)| value.as_ref()?.parse().ok());
        match number {
            None => wrong.push(format!("revision {revision} is nobody's: {changes:?}")),
            Some(number) => {
                if let Some(before) = happened.insert(number, revision) {
                    wrong.push(format!("number {number} happened at {before} and again at {revision}"));
                }
            }
        }
    }
    happened
}

/// Goes through the revisions with the state of each, and looks at all calls of that revision.
fn replay(
    revisions: &Revisions,
    known: &HashMap<u64, &Call>,
    by_revision: &BTreeMap<i64, Vec<&Call>>,
    wrong: &mut Vec<String>,
) {
    let mut state: BTreeMap<String, Found> = BTreeMap::new();
    let mut check = |revision: i64, before: &BTreeMap<String, i64>, state: &BTreeMap<String, Found>| {
        for call in by_revision.get(&revision).into_iter().flatten() {
            let (Some(answer), ask) = (&call.answer, &call.ask) else { continue };
            match ask {
                Ask::Read { key, .. } => {
                    if state.get(key) != answer.found.as_ref() {
                        wrong.push(format!("it was {:?} then: {call:?}", state.get(key)));
                    }
                }
                Ask::Write { only_if: Some((key, at)), .. } => {
                    let seen =
                        if answer.done { before.get(key).copied() } else { state.get(key).map(|kv| kv.mod_revision) };
                    if (seen.unwrap_or(0) == *at) != answer.done {
                        wrong.push(format!("{key} was last changed at {seen:?}: {call:?}"));
                    }
                }
                Ask::Write { only_if: None, .. } => {}
            }
        }
    };
    check(Revisions::FIRST - 1, &BTreeMap::new(), &state);
    let mut torn = Vec::new();
    for (revision, changes) in (Revisions::FIRST..).zip(&revisions.0) {
        let before: BTreeMap<String, i64> =
            changes.iter().filter_map(|(key, _)| Some((key.clone(), state.get(key)?.mod_revision))).collect();
        for (key, value) in changes {
            match value {
                Some(value) => {
                    let version = state.get(key).map_or(0, |kv| kv.version) + 1;
                    state.insert(key.clone(), Found { value: value.clone(), mod_revision: revision, version });
                }
                None => {
                    state.remove(key);
                }
            }
        }
        let told: BTreeMap<_, _> = changes.iter().filter(|(key, _)| key != NUMBER_KEY).cloned().collect();
        let number =
            changes.iter().find(|(key, _)| key == NUMBER_KEY).and_then(|(_, value)| value.as_ref()?.parse().ok());
        let asked = number.and_then(|number: u64| known.get(&number));
        if let Some(Call { ask: Ask::Write { changes: wanted, .. }, .. }) = asked {
            // Deleting what is not there is no event.
            let wanted: BTreeMap<_, _> = wanted
                .iter()
                .filter(|(key, value)| value.is_some() || before.contains_key(*key))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            if wanted != told {
                torn.push(format!("{wanted:?} was asked for at revision {revision}, {told:?} happened"));
            }
        }
        check(revision, &before, &state);
    }
    let newest = revisions.newest();
    for (revision, calls) in by_revision.range(newest + 1..) {
        wrong.push(format!("revision {revision} is beyond the newest, {newest}: {:?}", calls[0]));
    }
    wrong.append(&mut torn);
}

/// No call takes effect before one that was over when it began.
fn in_real_time(calls: &[Call], points: &[Option<i64>], wrong: &mut Vec<String>) {
    let mut begins: Vec<usize> = (0..calls.len()).filter(|at| points[*at].is_some()).collect();
    begins.sort_by_key(|at| calls[*at].invoked);
    let is_serializable = |at: usize| matches!(calls[at].ask, Ask::Read { serializable: true, .. });
    let mut ends: Vec<usize> = begins.iter().copied().filter(|at| calls[*at].returned.is_some()).collect();
    // What a member happened to have says nothing about what others must see.
    ends.retain(|at| !is_serializable(*at));
    ends.sort_by_key(|at| calls[*at].returned);
    let mut ends = ends.into_iter().peekable();
    let mut floor = (0, None);
    for at in begins {
        while let Some(end) = ends.next_if(|end| calls[*end].returned < Some(calls[at].invoked)) {
            if points[end] > Some(floor.0) {
                floor = (points[end].unwrap_or(0), Some(end));
            }
        }
        if is_serializable(at) {
            continue;
        }
        let point = points[at].unwrap_or(0);
        let is_done =
            matches!(calls[at].ask, Ask::Write { .. }) && calls[at].answer.as_ref().is_none_or(|answer| answer.done);
        if point < floor.0 || (is_done && point == floor.0) {
            let before = floor.1.map(|end| &calls[end]);
            wrong.push(format!("{:?} takes effect at {point}, after {before:?} was over", calls[at]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(at: u64) -> Duration {
        Duration::from_millis(at)
    }

    fn write(number: u64, key: &str, at: (u64, Option<u64>), revision: i64) -> Call {
        let changes = [(key.to_owned(), Some(number.to_string()))].into();
        let answer = at.1.map(|_| Answer { revision, found: None, done: true });
        Call { invoked: ms(at.0), returned: at.1.map(ms), ask: Ask::Write { number, changes, only_if: None }, answer }
    }

    fn read(key: &str, at: (u64, u64), revision: i64, found: Option<(&str, i64, i64)>) -> Call {
        let found = found.map(|(value, mod_revision, version)| Found { value: value.into(), mod_revision, version });
        let answer = Some(Answer { revision, found, done: false });
        let ask = Ask::Read { key: key.into(), serializable: false };
        Call { invoked: ms(at.0), returned: Some(ms(at.1)), ask, answer }
    }

    fn revisions(writes: &[(u64, &str)]) -> Revisions {
        let changes = |(number, key): &(u64, &str)| {
            let number = number.to_string();
            vec![(NUMBER_KEY.to_owned(), Some(number.clone())), ((*key).to_owned(), Some(number))]
        };
        Revisions(writes.iter().map(changes).collect())
    }

    #[test]
    fn a_history_in_the_order_of_revisions_is_fine() {
        let calls = [
            write(1, "a", (0, Some(10)), 2),
            // Nobody answered, and it happened.
            write(2, "a", (5, None), 0),
            // Nobody answered, and it did not.
            write(9, "b", (5, None), 0),
            read("a", (11, 12), 2, Some(("1", 2, 1))),
            read("a", (13, 14), 3, Some(("2", 3, 2))),
            read("b", (13, 14), 3, None),
        ];
        assert_eq!(violations(&calls, &revisions(&[(1, "a"), (2, "a")])), [""; 0]);
    }

    #[test]
    fn lost_repeated_stale_and_torn_writes_are_found() {
        let found = |calls: &[Call], happened: &[(u64, &str)]| violations(calls, &revisions(happened)).join("\n");
        let acknowledged = write(1, "a", (0, Some(10)), 2);
        assert!(found(std::slice::from_ref(&acknowledged), &[]).contains("acknowledged at 2, happened at None"));
        let twice = found(std::slice::from_ref(&acknowledged), &[(1, "a"), (1, "a")]);
        assert!(twice.contains("number 1 happened at 2 and again at 3"), "{twice}");
        let stale = found(&[acknowledged.clone(), read("a", (11, 12), 1, None)], &[(1, "a")]);
        assert!(stale.contains("takes effect at 1, after"), "{stale}");
        let wrong_value = found(&[acknowledged.clone(), read("a", (11, 12), 2, Some(("7", 2, 1)))], &[(1, "a")]);
        assert!(wrong_value.contains("it was Some"), "{wrong_value}");
        let elsewhere = found(std::slice::from_ref(&acknowledged), &[(1, "b")]);
        assert!(elsewhere.contains("was asked for at revision 2"), "{elsewhere}");
        let nobodys = found(&[], &[(5, "a")]);
        assert!(nobodys.contains("nobody wrote number 5"), "{nobodys}");
        let early = found(&[acknowledged, write(2, "a", (11, None), 0)], &[(2, "a"), (1, "a")]);
        assert!(early.contains("acknowledged at 2, happened at Some(3)"), "{early}");
    }

    #[test]
    fn a_swap_is_done_exactly_if_it_saw_the_newest() {
        let swap = |number, at, revision, seen, done| {
            let call: Call = write(number, "a", at, revision);
            let Ask::Write { number, changes, .. } = call.ask else { unreachable!() };
            let ask = Ask::Write { number, changes, only_if: Some(("a".into(), seen)) };
            Call { ask, answer: Some(Answer { revision, found: None, done }), ..call }
        };
        let first = write(1, "a", (0, Some(1)), 2);
        let happened = [(1, "a"), (2, "a")];
        let good = [first.clone(), swap(2, (2, Some(3)), 3, 2, true), swap(3, (4, Some(5)), 3, 2, false)];
        assert_eq!(violations(&good, &revisions(&happened)), [""; 0]);
        let blind = [first.clone(), swap(2, (2, Some(3)), 3, 1, true)];
        assert!(violations(&blind, &revisions(&happened))[0].contains("was last changed at Some(2)"));
        let refused = [first, swap(3, (2, Some(3)), 2, 2, false)];
        assert!(violations(&refused, &revisions(&happened[..1]))[0].contains("was last changed at Some(2)"));
    }
}
