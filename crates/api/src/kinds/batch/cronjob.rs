//! CronJob: a schedule, and a job spec that is checked like a job's.

use crate::kinds::batch::{job_spec_without_selector, spec_warnings};
use crate::validate::names;
use crate::validate::text::{nonnegative_fields, required_enum};
use crate::{Cursor, ErrorList, Strategy, meta};

/// Names of jobs are the CronJob's plus eleven characters.
const NAME_MAX_CHARS: usize = 52;

pub const CRON_JOB: Strategy = Strategy {
    name_rule: |name, prefix| {
        let mut messages = names::subdomain_name(name, prefix);
        if !prefix && name.len() > NAME_MAX_CHARS {
            messages.push(names::max_chars_error(NAME_MAX_CHARS));
        }
        messages
    },
    validate: |object, errors| spec(&object.field("spec"), false, errors),
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        let schedule = |c: &Cursor<'_>| c.field("spec").field("schedule").str().to_owned();
        spec(&new.field("spec"), schedule(new) == schedule(old), errors);
    },
    warnings: |new, _, out| {
        let spec = new.field("spec");
        if spec.field("schedule").str().contains("TZ") {
            out.push(format!(
                "{}: cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
                spec.field("schedule").path()
            ));
        }
        let job = spec.field("jobTemplate").field("spec");
        spec_warnings(&job, &job.path(), out);
    },
    ..Strategy::DEFAULT
};

fn spec(spec: &Cursor<'_>, is_same_schedule: bool, errors: &mut ErrorList) {
    let (schedule, zone) = (spec.field("schedule"), spec.field("timeZone"));
    if schedule.is_empty() {
        schedule.required(errors, "");
    } else {
        if let Some(problem) = schedule_problem(schedule.str()) {
            schedule.invalid(errors, problem);
        }
        let names_zone = schedule.str().contains("TZ");
        if names_zone && zone.is_set() {
            schedule.invalid(errors, "cannot use both timeZone field and TZ or CRON_TZ in schedule");
        } else if names_zone && !is_same_schedule {
            schedule.invalid(errors, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
        }
    }
    nonnegative_fields(spec, &["startingDeadlineSeconds"], errors);
    if zone.is_set() {
        time_zone(&zone, errors);
    }
    required_enum(&spec.field("concurrencyPolicy"), &["Allow", "Forbid", "Replace"], errors);
    nonnegative_fields(spec, &["successfulJobsHistoryLimit", "failedJobsHistoryLimit"], errors);
    let job = spec.field("jobTemplate").field("spec");
    job_spec_without_selector(&job, errors);
    // Selectors are generated when the job is made.
    let selector = job.field("selector");
    if selector.is_set() {
        selector.invalid(errors, "`selector` will be auto-generated");
    }
    let manual = job.field("manualSelector");
    if manual.bool() {
        manual.not_supported(errors, &["nil", "false"]);
    }
}

fn time_zone(zone: &Cursor<'_>, errors: &mut ErrorList) {
    let name = zone.str();
    if name.is_empty() {
        zone.invalid(errors, "timeZone must be nil or non-empty string");
    } else if name.eq_ignore_ascii_case("Local") {
        zone.invalid(errors, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones");
    } else if !is_zone_name(name) {
        zone.invalid(errors, format!("unknown time zone {name}"));
    }
}

/// Areas of the time zone database; a name is an area and a place, or one of the few short names.
const AREAS: &[&str] = &[
    "Africa",
    "America",
    "Antarctica",
    "Arctic",
    "Asia",
    "Atlantic",
    "Australia",
    "Brazil",
    "Canada",
    "Chile",
    "Etc",
    "Europe",
    "Indian",
    "Mexico",
    "Pacific",
    "US",
];
const SHORT_NAMES: &[&str] = &[
    "CET",
    "CST6CDT",
    "Cuba",
    "EET",
    "EST",
    "EST5EDT",
    "Egypt",
    "Eire",
    "GB",
    "GB-Eire",
    "GMT",
    "GMT+0",
    "GMT-0",
    "GMT0",
    "Greenwich",
    "HST",
    "Hongkong",
    "Iceland",
    "Iran",
    "Israel",
    "Jamaica",
    "Japan",
    "Kwajalein",
    "Libya",
    "MET",
    "MST",
    "MST7MDT",
    "NZ",
    "NZ-CHAT",
    "Navajo",
    "PRC",
    "PST8PDT",
    "Poland",
    "Portugal",
    "ROC",
    "ROK",
    "Singapore",
    "Turkey",
    "UCT",
    "UTC",
    "Universal",
    "W-SU",
    "WET",
    "Zulu",
];

fn is_zone_name(name: &str) -> bool {
    match name.split_once('/') {
        Some((area, place)) => {
            AREAS.contains(&area)
                && !place.is_empty()
                && place.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'-' | b'+'))
        }
        None => SHORT_NAMES.contains(&name),
    }
}

const DESCRIPTORS: &[&str] = &["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// A field of a cron expression: limits and names.
struct Field {
    min: u32,
    max: u32,
    names: &'static [&'static str],
    /// The number of the first name.
    first: u32,
}

const FIELDS: &[Field] = &[
    Field { min: 0, max: 59, names: &[], first: 0 },
    Field { min: 0, max: 23, names: &[], first: 0 },
    Field { min: 1, max: 31, names: &[], first: 0 },
    Field { min: 1, max: 12, names: MONTHS, first: 1 },
    Field { min: 0, max: 6, names: DAYS, first: 0 },
];

/// What the cron parser says of a schedule.
fn schedule_problem(schedule: &str) -> Option<String> {
    let mut text = schedule;
    if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
        let (zone, rest) = text.split_once(' ')?;
        let zone = zone.split_once('=').map_or("", |(_, z)| z);
        if !is_zone_name(zone) && !zone.is_empty() {
            return Some(format!("provided bad location {zone}: unknown time zone {zone}"));
        }
        text = rest.trim();
    }
    if text.starts_with('@') {
        if let Some(duration) = text.strip_prefix("@every ") {
            let ok = duration.ends_with(['s', 'm', 'h']) && duration.starts_with(|c: char| c.is_ascii_digit());
            return (!ok).then(|| {
                format!("failed to parse duration {text}: time: invalid duration {}", crate::field::go_quote(duration))
            });
        }
        return (!DESCRIPTORS.contains(&text)).then(|| format!("unrecognized descriptor: {text}"));
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Some(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    FIELDS.iter().zip(fields).find_map(|(rule, field)| field.split(',').find_map(|part| part_problem(rule, part)))
}

fn part_problem(rule: &Field, part: &str) -> Option<String> {
    let (range, step) = match part.split('/').collect::<Vec<_>>()[..] {
        [range] => (range, None),
        [range, step] => (range, Some(step)),
        _ => return Some(format!("too many slashes: {part}")),
    };
    let limits: Vec<&str> = range.split('-').collect();
    let (start, end) = if matches!(limits[0], "*" | "?") {
        (rule.min, rule.max)
    } else {
        let start = match number(rule, limits[0]) {
            Ok(n) => n,
            Err(problem) => return Some(problem),
        };
        match limits.len() {
            1 => (start, if step.is_some() { rule.max } else { start }),
            2 => match number(rule, limits[1]) {
                Ok(end) => (start, end),
                Err(problem) => return Some(problem),
            },
            _ => return Some(format!("too many hyphens: {part}")),
        }
    };
    if let Some(step) = step {
        match step.parse::<u32>() {
            Err(_) => return Some(parse_int_problem(step)),
            Ok(0) => return Some(format!("step of range should be a positive number: {part}")),
            Ok(_) => {}
        }
    }
    if start < rule.min {
        return Some(format!("beginning of range ({start}) below minimum ({}): {part}", rule.min));
    }
    if end > rule.max {
        return Some(format!("end of range ({end}) above maximum ({}): {part}", rule.max));
    }
    (start > end).then(|| format!("beginning of range ({start}) beyond end of range ({end}): {part}"))
}

fn number(rule: &Field, text: &str) -> Result<u32, String> {
    let lower = text.to_lowercase();
    if let Some(index) = rule.names.iter().position(|name| *name == lower) {
        return Ok(rule.first + index as u32);
    }
    text.parse::<u32>().map_err(|_| parse_int_problem(text))
}

fn parse_int_problem(text: &str) -> String {
    let quoted = crate::field::go_quote(text);
    format!("failed to parse int from {text}: strconv.Atoi: parsing {quoted}: invalid syntax")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_five_fields_or_a_name() {
        for good in ["@hourly", "*/5 * * * *", "0 0 1 jan mon-fri", "1,2,3-5 * ? * *", "@every 5m"] {
            assert_eq!(schedule_problem(good), None, "{good}");
        }
        assert_eq!(schedule_problem("* * *").as_deref(), Some("expected exactly 5 fields, found 3: [* * *]"));
        assert_eq!(schedule_problem("60 * * * *").as_deref(), Some("end of range (60) above maximum (59): 60"));
    }

    #[test]
    fn names_leave_room_for_the_jobs() {
        assert_eq!((CRON_JOB.name_rule)(&"x".repeat(53), false), ["must be no more than 52 characters"]);
    }
}
