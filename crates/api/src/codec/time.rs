//! Times and durations: Go's parsing with Go's error texts, and the form in which upstream prints them.

/// What follows the seconds in the printed form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precision {
    Seconds,
    Micros,
}

impl Precision {
    fn layout(self) -> &'static str {
        match self {
            Self::Seconds => "2006-01-02T15:04:05Z07:00",
            Self::Micros => "2006-01-02T15:04:05.000000Z07:00",
        }
    }
}

/// The canonical (UTC) form of a time; `None` for Go's zero time, which prints as `null`.
pub(super) fn canonical(text: &str, precision: Precision) -> Result<Option<String>, String> {
    if is_canonical(text.as_bytes(), precision) {
        return Ok(Some(text.to_owned()));
    }
    let mut parser = Parser { text, at: 0, layout: precision.layout() };
    let time = parser.time(precision)?;
    Ok(print(&time.to_utc(), precision))
}

/// A time in UTC; `None` for the zero time.
fn print(time: &Time, precision: Precision) -> Option<String> {
    if (time.year, time.month, time.day) == (1, 1, 1) && time.second_of_day == 0 && time.micros == 0 {
        return None;
    }
    let (h, m, s) = (time.second_of_day / 3600, time.second_of_day / 60 % 60, time.second_of_day % 60);
    let head = format!("{:04}-{:02}-{:02}T{h:02}:{m:02}:{s:02}", time.year, time.month, time.day);
    Some(match precision {
        Precision::Seconds => format!("{head}Z"),
        Precision::Micros => format!("{head}.{:06}Z", time.micros),
    })
}

/// The printed form of a Unix time; `None` for Go's zero time. Years that RFC 3339 cannot write are refused.
pub(super) fn from_unix(seconds: i64, nanos: i32, precision: Precision) -> Result<Option<String>, String> {
    const NANOS_PER_SECOND: i32 = 1_000_000_000;
    let (seconds, nanos) = match precision {
        Precision::Seconds => (seconds, 0),
        Precision::Micros => {
            (seconds.saturating_add(nanos.div_euclid(NANOS_PER_SECOND).into()), nanos.rem_euclid(NANOS_PER_SECOND))
        }
    };
    let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
    if !(0..=9999).contains(&year) {
        return Err("Time.MarshalJSON: year outside of range [0,9999]".into());
    }
    let second_of_day = seconds.rem_euclid(86_400);
    let time = Time { year, month, day, second_of_day, micros: i64::from(nanos / 1000), offset_seconds: 0 };
    Ok(print(&time, precision))
}

/// Seconds and nanoseconds of a time in printed form.
pub(super) fn to_unix(text: &str) -> Option<(i64, i32)> {
    let (precision, layout) = match text.contains('.') {
        true => (Precision::Micros, Precision::Micros.layout()),
        false => (Precision::Seconds, Precision::Seconds.layout()),
    };
    let time = Parser { text, at: 0, layout }.time(precision).ok()?;
    let days = days_from_civil(time.year, time.month, time.day);
    let seconds = days * 86_400 + time.second_of_day - time.offset_seconds;
    Some((seconds, i32::try_from(time.micros * 1000).ok()?))
}

/// The form that needs no parsing: what every server and client writes.
fn is_canonical(text: &[u8], precision: Precision) -> bool {
    let pattern: &[u8] = match precision {
        Precision::Seconds => b"2dd0-00-00T00:00:00Z",
        Precision::Micros => b"2dd0-00-00T00:00:00.000000Z",
    };
    let shaped = text.len() == pattern.len()
        && text.iter().zip(pattern).all(|(t, p)| match p {
            b'0' | b'd' => t.is_ascii_digit(),
            other => t == other,
        });
    if !shaped {
        return false;
    }
    let two = |at: usize| (text[at] - b'0') * 10 + (text[at + 1] - b'0');
    let (month, day) = (two(5), two(8));
    let is_date = (1..=12).contains(&month) && day >= 1 && (day <= 28 || day <= 30 && month != 2);
    is_date && two(11) < 24 && two(14) < 60 && two(17) < 60
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    layout: &'static str,
}

struct Time {
    year: i64,
    month: i64,
    day: i64,
    second_of_day: i64,
    micros: i64,
    offset_seconds: i64,
}

impl Parser<'_> {
    fn time(&mut self, precision: Precision) -> Result<Time, String> {
        let year = self.digits(4, "2006")?;
        self.expect("-")?;
        let month = self.digits(2, "01")?;
        if !(1..=12).contains(&month) {
            return Err(self.out_of_range("month"));
        }
        self.expect("-")?;
        let day = self.digits(2, "02")?;
        self.expect("T")?;
        let hour = self.hour()?;
        self.expect(":")?;
        let minute = self.digits(2, "04")?;
        if minute > 59 {
            return Err(self.out_of_range("minute"));
        }
        self.expect(":")?;
        let second = self.digits(2, "05")?;
        if second > 59 {
            return Err(self.out_of_range("second"));
        }
        let micros = match precision {
            Precision::Seconds => self.optional_fraction(),
            Precision::Micros => self.fraction()?,
        };
        let offset_seconds = self.zone()?;
        if self.at != self.text.len() {
            let extra = quote(self.rest());
            return Err(format!("parsing time {}: extra text: {extra}", self.quoted()));
        }
        if day < 1 || day > days_in(year, month) {
            return Err(self.out_of_range("day"));
        }
        Ok(Time { year, month, day, second_of_day: hour * 3600 + minute * 60 + second, micros, offset_seconds })
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn quoted(&self) -> String {
        quote(self.text)
    }

    fn out_of_range(&self, what: &str) -> String {
        format!("parsing time {}: {what} out of range", self.quoted())
    }

    fn refuse(&self, element: &str) -> String {
        let rest = quote(self.rest());
        format!("parsing time {} as \"{}\": cannot parse {rest} as \"{element}\"", self.quoted(), self.layout)
    }

    fn digits(&mut self, n: usize, element: &str) -> Result<i64, String> {
        let digits = self.rest().get(..n).filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        let number = digits.and_then(|d| d.parse().ok()).ok_or_else(|| self.refuse(element))?;
        self.at += n;
        Ok(number)
    }

    /// Go reads an hour of one digit as well.
    fn hour(&mut self) -> Result<i64, String> {
        let n = self.rest().bytes().take(2).take_while(u8::is_ascii_digit).count();
        if n == 0 {
            return Err(self.refuse("15"));
        }
        let hour = self.digits(n, "15")?;
        if hour > 23 { Err(self.out_of_range("hour")) } else { Ok(hour) }
    }

    fn expect(&mut self, literal: &str) -> Result<(), String> {
        if !self.rest().starts_with(literal) {
            return Err(self.refuse(literal));
        }
        self.at += literal.len();
        Ok(())
    }

    /// A fraction after the seconds is read even where the layout has none.
    fn optional_fraction(&mut self) -> i64 {
        let rest = self.rest();
        if !rest.starts_with(['.', ',']) {
            return 0;
        }
        let digits: String = rest[1..].bytes().take_while(u8::is_ascii_digit).map(char::from).collect();
        if digits.is_empty() {
            return 0;
        }
        self.at += 1 + digits.len();
        format!("{digits:0<6}")[..6].parse().unwrap_or(0)
    }

    /// Exactly six digits.
    fn fraction(&mut self) -> Result<i64, String> {
        let rest = self.rest();
        let digits = rest.strip_prefix(['.', ',']).and_then(|r| r.get(..6));
        let micros = digits.filter(|d| d.bytes().all(|b| b.is_ascii_digit())).and_then(|d| d.parse().ok());
        let micros = micros.ok_or_else(|| self.refuse(".000000"))?;
        self.at += 7;
        Ok(micros)
    }

    fn zone(&mut self) -> Result<i64, String> {
        let rest = self.rest();
        if rest.starts_with('Z') {
            self.at += 1;
            return Ok(0);
        }
        let bytes = rest.as_bytes();
        let well_formed = bytes.len() >= 6
            && matches!(bytes[0], b'+' | b'-')
            && bytes[3] == b':'
            && [1, 2, 4, 5].iter().all(|&i| bytes[i].is_ascii_digit());
        if !well_formed {
            return Err(self.refuse("Z07:00"));
        }
        let two = |at: usize| i64::from(bytes[at] - b'0') * 10 + i64::from(bytes[at + 1] - b'0');
        let (hours, minutes, negative) = (two(1), two(4), bytes[0] == b'-');
        if hours > 24 {
            return Err(self.out_of_range("time zone offset hour"));
        }
        if minutes > 60 {
            return Err(self.out_of_range("time zone offset minute"));
        }
        self.at += 6;
        let seconds = hours * 3600 + minutes * 60;
        Ok(if negative { -seconds } else { seconds })
    }
}

impl Time {
    fn to_utc(&self) -> Time {
        let seconds = self.second_of_day - self.offset_seconds;
        let days = days_from_civil(self.year, self.month, self.day) + seconds.div_euclid(86_400);
        let (year, month, day) = civil_from_days(days);
        let second_of_day = seconds.rem_euclid(86_400);
        Time { year, month, day, second_of_day, micros: self.micros, offset_seconds: 0 }
    }
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

/// Go's `time.ParseDuration` and `Duration.String`.
pub(super) fn canonical_duration(text: &str) -> Result<String, String> {
    let (nanos, negative) = parse_duration(text)?;
    Ok(print_duration(nanos, negative))
}

/// How Go prints a number of nanoseconds.
pub fn duration_text(nanos: i64) -> String {
    print_duration(nanos.unsigned_abs().into(), nanos < 0)
}

/// The nanoseconds of a duration in printed form (`1h30m`, `-2s`); `None` if it is not one, or longer than 292 years.
pub fn duration_nanos(text: &str) -> Option<i64> {
    read_duration(text).ok()
}

/// The same, or in Go's words why it is none.
pub fn read_duration(text: &str) -> Result<i64, String> {
    let (nanos, negative) = parse_duration(text)?;
    i64::try_from(if negative { -nanos } else { nanos }).map_err(|_| invalid_duration(text))
}

fn invalid_duration(text: &str) -> String {
    format!("time: invalid duration {}", crate::field::go_quote(text))
}

/// The magnitude in nanoseconds, and whether it is negative.
fn parse_duration(text: &str) -> Result<(i128, bool), String> {
    let invalid = || invalid_duration(text);
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok((0, false));
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanos: i128 = 0;
    while !rest.is_empty() {
        let n_digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, tail) = rest.split_at(n_digits(rest));
        let (fraction, tail) = tail.strip_prefix('.').map_or(("", tail), |tail| tail.split_at(n_digits(tail)));
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let scale: i128 = match unit {
            "" => return Err(format!("time: missing unit in duration {}", crate::field::go_quote(text))),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            other => {
                let (unit, text) = (crate::field::go_quote(other), crate::field::go_quote(text));
                return Err(format!("time: unknown unit {unit} in duration {text}"));
            }
        };
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        nanos += whole.checked_mul(scale).ok_or_else(invalid)?;
        let mut place = scale;
        for digit in fraction.bytes() {
            place /= 10;
            nanos += i128::from(digit - b'0') * place;
        }
        if nanos > i128::from(i64::MAX) {
            return Err(invalid());
        }
        rest = tail;
    }
    Ok((nanos, negative))
}

fn print_duration(nanos: i128, negative: bool) -> String {
    let sign = if negative && nanos != 0 { "-" } else { "" };
    let with_fraction = |value: i128, unit: i128| {
        let fraction = format!("{:0width$}", value % unit, width = unit.to_string().len() - 1);
        let fraction = fraction.trim_end_matches('0');
        let dot = if fraction.is_empty() || unit == 1 { String::new() } else { format!(".{fraction}") };
        format!("{}{dot}", value / unit)
    };
    match nanos {
        0 => "0s".into(),
        1..1_000 => format!("{sign}{nanos}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", with_fraction(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", with_fraction(nanos, 1_000_000)),
        _ => {
            const SECOND: i128 = 1_000_000_000;
            let seconds = with_fraction(nanos % (60 * SECOND), SECOND);
            let (hours, minutes) = (nanos / (3600 * SECOND), nanos / (60 * SECOND) % 60);
            match (hours, minutes) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, m) => format!("{sign}{m}m{seconds}s"),
                (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
            }
        }
    }
}

/// A text as Go's reader of times quotes it: what is not plain ASCII goes byte by byte.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend(['\\', char::from(byte)]),
            b' '..=b'~' | 0x7f => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_in_utc_without_fraction() {
        let ok = |text: &str| canonical(text, Precision::Seconds);
        assert_eq!(ok("2024-01-02T03:04:05Z"), Ok(Some("2024-01-02T03:04:05Z".into())));
        assert_eq!(ok("2024-01-02T03:04:05.999Z"), Ok(Some("2024-01-02T03:04:05Z".into())));
        assert_eq!(ok("2024-01-01T00:30:00+01:00"), Ok(Some("2023-12-31T23:30:00Z".into())));
        assert_eq!(ok("2024-02-29T00:00:00Z"), Ok(Some("2024-02-29T00:00:00Z".into())));
        assert_eq!(ok("0001-01-01T00:00:00Z"), Ok(None));
    }

    #[test]
    fn bad_times_are_refused_in_gos_words() {
        let err = |text: &str, precision| canonical(text, precision).expect_err("refused");
        assert_eq!(
            err("bogus", Precision::Micros),
            r#"parsing time "bogus" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "bogus" as "2006""#
        );
        assert_eq!(
            err("2024-01-01T00:00:00Z", Precision::Micros),
            r#"parsing time "2024-01-01T00:00:00Z" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "Z" as ".000000""#
        );
        assert_eq!(
            err("2024-13-01T00:00:00Z", Precision::Seconds),
            r#"parsing time "2024-13-01T00:00:00Z": month out of range"#
        );
        assert_eq!(
            err("2023-02-29T00:00:00Z", Precision::Seconds),
            r#"parsing time "2023-02-29T00:00:00Z": day out of range"#
        );
        assert_eq!(
            err("2024-01-01", Precision::Seconds),
            r#"parsing time "2024-01-01" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "T""#
        );
    }

    #[test]
    fn durations_print_as_go_prints_them() {
        assert_eq!(canonical_duration("90s").as_deref(), Ok("1m30s"));
        assert_eq!(canonical_duration("1h").as_deref(), Ok("1h0m0s"));
        assert_eq!(canonical_duration("1.5s").as_deref(), Ok("1.5s"));
        assert_eq!(canonical_duration("-2ms").as_deref(), Ok("-2ms"));
        assert_eq!(canonical_duration("1.s").as_deref(), Ok("1s"));
        for (text, fault) in [
            ("invalid", "invalid duration"),
            (".s", "invalid duration"),
            ("1s.", "invalid duration"),
            ("5", "missing unit in duration"),
            ("1.2.3s", "missing unit in duration"),
            ("1s x", r#"unknown unit "s x" in duration"#),
        ] {
            assert_eq!(canonical_duration(text), Err(format!("time: {fault} {text:?}")));
        }
    }
}
