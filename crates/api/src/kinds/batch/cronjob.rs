//! CronJob: a schedule, and a job spec that is checked like a job's.

use crate::kinds::batch::{job_spec_without_selector, spec_warnings};
use crate::kinds::pod;
use crate::validate::names;
use crate::validate::text::{nonnegative_fields, required_enum};
use crate::{Cursor, ErrorList, Strategy, meta, time};

/// Names of jobs are the CronJob's plus eleven characters.
const NAME_MAX_CHARS: usize = 52;
/// Of a part of a zone's name, by the rules of the time zone database.
const ZONE_PART_MAX_CHARS: usize = 14;

pub const CRON_JOB: Strategy = Strategy {
    name_rule: |name, prefix| {
        let mut messages = names::subdomain_name(name, prefix);
        if !prefix && name.len() > NAME_MAX_CHARS {
            messages.push(names::max_chars_error(NAME_MAX_CHARS));
        }
        messages
    },
    validate: |object, errors| spec(&object.field("spec"), None, errors),
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        spec(&new.field("spec"), Some(&old.field("spec")), errors);
    },
    warnings: |new, old, out| {
        let spec = new.field("spec");
        if old.is_none() {
            pod::warnings::owner_name(new, out);
        }
        if pod::warnings::is_worth_a_look(new, old) {
            let job = spec.field("jobTemplate").field("spec");
            spec_warnings(&job, &job.path(), out);
        }
        // Upstream names the path so.
        if old.is_some() && spec.field("schedule").str().contains("TZ") {
            out.push(
                "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see \
                 https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
                    .to_owned(),
            );
        }
    },
    ..Strategy::DEFAULT
};

/// A schedule may name a zone only where the one before did.
fn spec(spec: &Cursor<'_>, old: Option<&Cursor<'_>>, errors: &mut ErrorList) {
    let (schedule, zone) = (spec.field("schedule"), spec.field("timeZone"));
    if schedule.is_empty() {
        schedule.required(errors, "");
    } else {
        if let Some(problem) = schedule_problem(schedule.str()) {
            schedule.invalid(errors, problem);
        }
        let names_zone = schedule.str().contains("TZ");
        let named_zone = old.is_some_and(|old| old.field("schedule").str().contains("TZ"));
        if names_zone && named_zone && zone.is_set() {
            schedule.invalid(errors, "cannot use both timeZone field and TZ or CRON_TZ in schedule");
        } else if names_zone && !named_zone {
            schedule.invalid(errors, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
        }
    }
    nonnegative_fields(spec, &["startingDeadlineSeconds"], errors);
    if zone.is_set() && old.is_none_or(|old| old.field("timeZone").value() != zone.value()) {
        time_zone(&zone, errors);
    }
    required_enum(&spec.field("concurrencyPolicy"), &["Allow", "Forbid", "Replace"], errors);
    let job = spec.field("jobTemplate").field("spec");
    job_spec_without_selector(&job, errors);
    // Selectors are generated when the job is made.
    let selector = job.field("selector");
    if selector.is_set() {
        selector.invalid(errors, "`selector` will be auto-generated");
    }
    let manual = job.field("manualSelector");
    if manual.bool() {
        manual.no_such_choice(errors, &["nil", "false"]);
    }
    nonnegative_fields(spec, &["successfulJobsHistoryLimit", "failedJobsHistoryLimit"], errors);
}

fn time_zone(zone: &Cursor<'_>, errors: &mut ErrorList) {
    let name = zone.str();
    let mut invalid = |detail: &str| errors.invalid_choice(zone.path(), name, detail);
    let unknown = format!("unknown time zone {name}");
    if name.is_empty() {
        return invalid("timeZone must be nil or non-empty string");
    }
    if !is_plausible(name) {
        return invalid(&unknown);
    }
    if name.eq_ignore_ascii_case("Local") {
        invalid("timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones");
    }
    if name != "Local" && !time::is_zone(name) {
        invalid(&unknown);
    }
}

/// Whether each part of a name is one that the time zone database could have.
fn is_plausible(name: &str) -> bool {
    name.split('/').all(|part| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+');
        (1..=ZONE_PART_MAX_CHARS).contains(&part.len())
            && part.bytes().all(fits)
            && !part.starts_with('-')
            && !matches!(part, "." | "..")
    })
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
        if !time::is_zone(zone) && !zone.is_empty() {
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
    FIELDS.iter().zip(fields).find_map(|(rule, field)| {
        field.split(',').filter(|part| !part.is_empty()).find_map(|part| part_problem(rule, part))
    })
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

    fn refused(spec_value: crate::Value, old: Option<crate::Value>) -> Vec<String> {
        let mut errors = ErrorList::new();
        let old = old.as_ref().map(Cursor::root);
        spec(&Cursor::root(&spec_value), old.as_ref(), &mut errors);
        let own = |e: &String| e.starts_with("schedule") || e.starts_with("timeZone");
        errors.iter().map(ToString::to_string).filter(own).collect()
    }

    #[test]
    fn zones_are_those_of_the_database() {
        let zone = |name: &str| refused(crate::json!({"schedule": "@daily", "timeZone": name}), None);
        for good in ["Europe/Rome", "UTC", "Etc/GMT+5", "America/Argentina/Buenos_Aires"] {
            assert_eq!(zone(good), [""; 0], "{good}");
        }
        for unknown in ["Asia/X", "europe/rome", "Europe/../UTC", "Europe//Rome", "abcdefghijklmno", "local/x"] {
            let wanted = format!("timeZone: Invalid value: \"{unknown}\": unknown time zone {unknown}");
            assert_eq!(zone(unknown), [wanted], "{unknown}");
        }
        let explicit = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        assert_eq!(zone("Local"), [format!("timeZone: Invalid value: \"Local\": {explicit}")]);
        assert_eq!(
            zone("local"),
            [
                format!("timeZone: Invalid value: \"local\": {explicit}"),
                "timeZone: Invalid value: \"local\": unknown time zone local".to_owned()
            ]
        );
    }

    #[test]
    fn a_schedule_names_a_zone_only_where_it_did_before() {
        let cron = |zone: Option<&str>| crate::json!({"schedule": "TZ=UTC @daily", "timeZone": zone});
        let refusal = |words: &str| [format!("schedule: Invalid value: \"TZ=UTC @daily\": {words}")];
        let separate = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        assert_eq!(refused(cron(Some("UTC")), None), refusal(separate));
        assert_eq!(refused(cron(None), Some(cron(None))), [""; 0]);
        let both = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
        assert_eq!(refused(cron(Some("UTC")), Some(cron(None))), refusal(both));
    }

    #[test]
    fn names_leave_room_for_the_jobs() {
        assert_eq!((CRON_JOB.name_rule)(&"x".repeat(53), false), ["must be no more than 52 characters"]);
    }
}
