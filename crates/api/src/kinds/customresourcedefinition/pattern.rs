//! Whether a pattern is a regular expression, and Go's words for why not.

use regex_syntax::ast::ErrorKind;
use regex_syntax::{Error, Parser};

/// `error parsing regexp: missing closing ]: `[``, or `None` for a good pattern.
pub(super) fn error(pattern: &str) -> Option<String> {
    let error = match Parser::new().parse(pattern) {
        Ok(_) => return None,
        Err(Error::Parse(error)) => error,
        Err(other) => return Some(format!("error parsing regexp: {other}")),
    };
    let span = error.span();
    let part = pattern.get(span.start.offset..span.end.offset).unwrap_or("");
    let rest = pattern.get(span.start.offset..).unwrap_or("");
    let (what, shown) = match error.kind() {
        ErrorKind::ClassUnclosed => ("missing closing ]", rest),
        ErrorKind::ClassRangeInvalid => ("invalid character class range", part),
        ErrorKind::ClassEscapeInvalid | ErrorKind::EscapeUnrecognized => ("invalid escape sequence", part),
        ErrorKind::EscapeUnexpectedEof => ("trailing backslash at end of expression", ""),
        ErrorKind::GroupUnclosed => ("missing closing )", pattern),
        ErrorKind::GroupUnopened => ("unexpected )", pattern),
        ErrorKind::RepetitionMissing => ("missing argument to repetition operator", operator(rest)),
        ErrorKind::RepetitionCountInvalid => ("invalid repeat count", part),
        ErrorKind::UnsupportedLookAround
        | ErrorKind::FlagUnrecognized
        | ErrorKind::FlagUnexpectedEof
        | ErrorKind::FlagDuplicate { .. }
        | ErrorKind::FlagRepeatedNegation { .. } => ("invalid or unsupported Perl syntax", part),
        ErrorKind::GroupNameInvalid | ErrorKind::GroupNameEmpty | ErrorKind::GroupNameDuplicate { .. } => {
            ("invalid named capture", part)
        }
        _ => ("invalid escape sequence", part),
    };
    Some(match shown {
        "" => format!("error parsing regexp: {what}: ``"),
        shown => format!("error parsing regexp: {what}: `{shown}`"),
    })
}

fn operator(rest: &str) -> &str {
    let end = rest.chars().next().map_or(0, char::len_utf8);
    &rest[..end]
}

#[cfg(test)]
mod tests {
    use super::error;

    #[test]
    fn faults_are_named_as_go_names_them() {
        assert_eq!(error("^[a-z]+$"), None);
        assert_eq!(error("a["), Some("error parsing regexp: missing closing ]: `[`".to_owned()));
        assert_eq!(error("(a"), Some("error parsing regexp: missing closing ): `(a`".to_owned()));
        assert_eq!(error("a)"), Some("error parsing regexp: unexpected ): `a)`".to_owned()));
        assert_eq!(error("*a"), Some("error parsing regexp: missing argument to repetition operator: `*`".to_owned()));
        assert_eq!(error("(?=a)"), Some("error parsing regexp: invalid or unsupported Perl syntax: `(?=`".to_owned()));
        assert_eq!(error("[z-a]"), Some("error parsing regexp: invalid character class range: `z-a`".to_owned()));
        assert_eq!(error("\\y"), Some("error parsing regexp: invalid escape sequence: `\\y`".to_owned()));
    }
}
