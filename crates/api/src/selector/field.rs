//! Field selectors: `label=value` and `label!=value`, all of which must hold; `\`, `,` and `=` in values are escaped by `\`.

use std::fmt;

use crate::selector::SelectorError;

/// One condition on one field label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldRequirement {
    pub field: String,
    /// `false`: the value must differ.
    pub equal: bool,
    pub value: String,
}

/// Conditions that must all hold; none matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Parses the string form; empty terms are skipped, terms are kept in sorted order.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = split_terms(text);
        terms.sort_unstable();
        let mut requirements = Vec::new();
        for term in terms.into_iter().filter(|t| !t.is_empty()) {
            let Some((field, operator, value)) = split_term(term) else {
                return Err(SelectorError(format!("invalid selector: '{text}'; can't understand '{term}'")));
            };
            let value = unescape(value)?;
            // A condition on nothing is none, whichever it is.
            if !field.is_empty() || !value.is_empty() {
                requirements.push(FieldRequirement { field: field.to_owned(), equal: operator != "!=", value });
            }
        }
        Ok(Self { requirements })
    }

    /// The selector of one exact value, e.g. `metadata.name` in a watch of one object.
    pub fn exactly(field: &str, value: &str) -> Self {
        Self { requirements: vec![FieldRequirement { field: field.to_owned(), equal: true, value: value.to_owned() }] }
    }

    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Both selectors.
    pub fn and(mut self, other: FieldSelector) -> Self {
        self.requirements.extend(other.requirements);
        self
    }

    /// Whether the fields read through `value` match; an absent field reads as the empty string.
    pub fn matches<'v>(&self, value: impl Fn(&str) -> &'v str) -> bool {
        self.requirements.iter().all(|r| (value(&r.field) == r.value) == r.equal)
    }

    /// The one value `field` must have, when the selector says so.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements.iter().find(|r| r.equal && r.field == field).map(|r| r.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let operator = if requirement.equal { "=" } else { "!=" };
            write!(f, "{comma}{}{operator}{}", requirement.field, escape(&requirement.value))?;
        }
        Ok(())
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == ',' {
            terms.push(&text[start..i]);
            start = i + 1;
        }
    }
    terms.push(&text[start..]);
    terms
}

/// Splits at the first operator; `==` is seen before `=`.
fn split_term(term: &str) -> Option<(&str, &str, &str)> {
    for (i, _) in term.char_indices() {
        for operator in ["!=", "==", "="] {
            if let Some(value) = term[i..].strip_prefix(operator) {
                return Some((&term[..i], operator, value));
            }
        }
    }
    None
}

fn unescape(text: &str) -> Result<String, SelectorError> {
    let invalid =
        |sequence: String| SelectorError(format!("invalid field selector: invalid escape sequence: {sequence}"));
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => out.push(escaped),
                Some(other) => return Err(invalid(format!("\\{other}"))),
                None => return Err(invalid("\\".to_owned())),
            },
            // Upstream prints the rune's number.
            ',' | '=' => {
                let text = format!("invalid field selector: unescaped character in value: {}", c as u32);
                return Err(SelectorError(text));
            }
            other => out.push(other),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_sorted_and_escapes_undone() {
        let selector = FieldSelector::parse("spec.nodeName!=,a=x\\,y\\=z\\\\,,m==1").expect("parses");
        let got: Vec<_> =
            selector.requirements().iter().map(|r| (r.field.as_str(), r.equal, r.value.as_str())).collect();
        assert_eq!(got, [("a", true, "x,y=z\\"), ("m", true, "1"), ("spec.nodeName", false, "")]);
        assert_eq!(selector.to_string(), "a=x\\,y\\=z\\\\,m=1,spec.nodeName!=");
        assert_eq!(selector.exact("m"), Some("1"));
    }

    #[test]
    fn refusals_are_upstreams() {
        let error = |t: &str| FieldSelector::parse(t).expect_err(t).to_string();
        assert_eq!(error("abc"), "invalid selector: 'abc'; can't understand 'abc'");
        assert_eq!(error("a=b=c"), "invalid field selector: unescaped character in value: 61");
        assert_eq!(error("a=\\x"), "invalid field selector: invalid escape sequence: \\x");
        assert_eq!(error("a=\\"), "invalid field selector: invalid escape sequence: \\");
    }

    #[test]
    fn absent_fields_read_as_empty() {
        let selector = FieldSelector::parse("spec.nodeName=,status.phase!=Failed").expect("parses");
        assert!(selector.matches(|f| if f == "status.phase" { "Running" } else { "" }));
        assert!(!selector.matches(|f| if f == "status.phase" { "Failed" } else { "" }));
    }
}
