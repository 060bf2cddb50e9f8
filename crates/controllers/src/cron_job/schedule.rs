//! Cron schedules: five fields, names of months and days, steps, lists and ranges, and the `@` words. Source: cron(5), robfig/cron.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

/// A schedule that cannot be read; shown to the user as it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ScheduleError {
    #[error("expected exactly 5 fields, found {0}: {1}")]
    Fields(usize, String),
    #[error("unrecognized descriptor: {0}")]
    Word(String),
    #[error("failed to parse field: {0}")]
    Field(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Schedule {
    /// Bit sets of the values that match.
    Fields { minutes: u64, hours: u64, days: u64, months: u64, weekdays: u64, any_day: bool, any_weekday: bool },
    /// `@every 90s`, in whole seconds.
    Every(i64),
}

struct Bounds {
    first: u32,
    last: u32,
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds { first: 0, last: 59, names: &[] };
const HOURS: Bounds = Bounds { first: 0, last: 23, names: &[] };
const DAYS: Bounds = Bounds { first: 1, last: 31, names: &[] };
const MONTHS: Bounds = Bounds {
    first: 1,
    last: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Bounds = Bounds { first: 0, last: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };
const WORDS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];
/// A schedule such as 30 February never comes: the search ends here.
const DAYS_SEARCHED: i64 = 366 * 5;

impl Schedule {
    pub(super) fn parse(text: &str) -> Result<Self, ScheduleError> {
        let text = text.trim();
        if let Some(every) = text.strip_prefix("@every ") {
            let duration: SignedDuration = every.trim().parse().map_err(|_| ScheduleError::Word(text.to_owned()))?;
            return Ok(Schedule::Every(duration.as_secs().max(1)));
        }
        let expanded = match WORDS.iter().find(|(word, _)| *word == text) {
            Some((_, fields)) => fields,
            None if text.starts_with('@') => return Err(ScheduleError::Word(text.to_owned())),
            None => text,
        };
        let fields: Vec<&str> = expanded.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return Err(ScheduleError::Fields(fields.len(), text.to_owned()));
        };
        let is_any = |field: &str| field.starts_with('*') || field.starts_with('?');
        Ok(Schedule::Fields {
            minutes: field(minutes, &MINUTES)?,
            hours: field(hours, &HOURS)?,
            days: field(days, &DAYS)?,
            months: field(months, &MONTHS)?,
            weekdays: field(weekdays, &WEEKDAYS)?,
            any_day: is_any(days),
            any_weekday: is_any(weekdays),
        })
    }

    /// The first time after `after`, in whole minutes of `zone` (or seconds, for `@every`).
    pub(super) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Schedule::Every(seconds) => Timestamp::from_second(after.as_second().checked_add(*seconds)?).ok(),
            Schedule::Fields { minutes, hours, .. } => {
                let local = zone.to_datetime(after);
                let mut date = local.date();
                for _ in 0..DAYS_SEARCHED {
                    if self.takes_day(date) {
                        let on_day = times(*hours, *minutes)
                            .filter_map(|(hour, minute)| date.at(hour, minute, 0, 0).into_time(zone));
                        if let Some(found) = on_day.into_iter().find(|at| *at > after) {
                            return Some(found);
                        }
                    }
                    date = date.checked_add(1.day()).ok()?;
                }
                None
            }
        }
    }

    /// Day of month and day of week: both must match, unless both are restricted, when either is enough.
    fn takes_day(&self, date: Date) -> bool {
        let Schedule::Fields { days, months, weekdays, any_day, any_weekday, .. } = self else { return true };
        let has = |set: u64, value: i8| u32::try_from(value).is_ok_and(|bit| set >> bit & 1 == 1);
        let by_day = has(*days, date.day());
        let by_weekday = has(*weekdays, date.weekday().to_sunday_zero_offset());
        let day_matches = if *any_day || *any_weekday { by_day && by_weekday } else { by_day || by_weekday };
        has(*months, date.month()) && day_matches
    }
}

fn times(hours: u64, minutes: u64) -> impl Iterator<Item = (i8, i8)> {
    let set = |bits: u64, last: i8| (0..=last).filter(move |bit| bits >> bit & 1 == 1);
    set(hours, 23).flat_map(move |hour| set(minutes, 59).map(move |minute| (hour, minute)))
}

trait IntoTime {
    fn into_time(self, zone: &TimeZone) -> Option<Timestamp>;
}

impl IntoTime for DateTime {
    /// A local time that a change of clocks skips comes at the change's end, as jiff's compatible rule has it.
    fn into_time(self, zone: &TimeZone) -> Option<Timestamp> {
        zone.to_timestamp(self).ok()
    }
}

fn field(text: &str, bounds: &Bounds) -> Result<u64, ScheduleError> {
    let mut set = 0;
    for part in text.split(',').filter(|part| !part.is_empty()) {
        set |= range(part, bounds).ok_or_else(|| ScheduleError::Field(text.to_owned()))?;
    }
    Ok(set)
}

/// `*`, `a`, `a-b`, each with an optional `/step`; `a/step` goes on to the end.
fn range(text: &str, bounds: &Bounds) -> Option<u64> {
    let (range, step) = match text.split_once('/') {
        Some((range, step)) => (range, Some(step.parse::<usize>().ok().filter(|step| *step > 0)?)),
        None => (text, None),
    };
    let (first, last) = match range.split_once('-') {
        _ if range == "*" || range == "?" => (bounds.first, bounds.last),
        Some((first, last)) => (value(first, bounds)?, value(last, bounds)?),
        None if step.is_some() => (value(range, bounds)?, bounds.last),
        None => (value(range, bounds)?, value(range, bounds)?),
    };
    if first < bounds.first || last > bounds.last || first > last {
        return None;
    }
    Some((first..=last).step_by(step.unwrap_or(1)).fold(0, |set, bit| set | 1 << bit))
}

fn value(text: &str, bounds: &Bounds) -> Option<u32> {
    let lower = text.to_ascii_lowercase();
    match bounds.names.iter().position(|name| *name == lower) {
        Some(index) => u32::try_from(index).ok().map(|index| index + bounds.first),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schedule: &str, after: &str, expected: Option<&str>) {
        let next = Schedule::parse(schedule).unwrap().next(after.parse().unwrap(), &TimeZone::UTC);
        assert_eq!(next.map(|at| at.to_string()).as_deref(), expected, "{schedule} after {after}");
    }

    #[test]
    fn schedules_find_their_next_time() {
        check("*/15 * * * *", "2024-02-28T23:50:10Z", Some("2024-02-29T00:00:00Z"));
        check("@hourly", "2024-01-01T10:00:00Z", Some("2024-01-01T11:00:00Z"));
        check("30 4 1,15 * 5", "2024-01-02T00:00:00Z", Some("2024-01-05T04:30:00Z"));
        check("0 0 * feb mon-wed", "2024-01-01T00:00:00Z", Some("2024-02-05T00:00:00Z"));
        check("0 9/6 * * *", "2024-01-01T10:00:00Z", Some("2024-01-01T15:00:00Z"));
        check("@every 90s", "2024-01-01T00:00:00Z", Some("2024-01-01T00:01:30Z"));
        check("0 0 30 2 *", "2024-01-01T00:00:00Z", None);
    }

    #[test]
    fn unreadable_schedules_say_why() {
        assert_eq!(Schedule::parse("* * *"), Err(ScheduleError::Fields(3, "* * *".into())));
        assert_eq!(Schedule::parse("@soon"), Err(ScheduleError::Word("@soon".into())));
        assert_eq!(Schedule::parse("61 * * * *"), Err(ScheduleError::Field("61".into())));
    }
}
