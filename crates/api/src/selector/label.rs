//! Label selectors: requirements on labels that must all hold.

use std::fmt;

use crate::{ErrorList, Path, Value, selector::SelectorError, validate::names};

use super::lex::{Token, tokens};

const BINARY_OPERATORS: &str = "in, notin, =, ==, !=, gt, lt";

/// How a requirement compares the label's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

impl Operator {
    /// From its name in a `meta/v1` LabelSelector.
    pub fn of_object(name: &str) -> Option<Self> {
        Some(match name {
            "In" => Self::In,
            "NotIn" => Self::NotIn,
            "Exists" => Self::Exists,
            "DoesNotExist" => Self::DoesNotExist,
            _ => return None,
        })
    }
}

/// One condition on one label. Values of the string form are sorted and unique.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

/// Requirements that must all hold, sorted by key. [`LabelSelector::nothing`] matches no labels at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Requirement {
    /// A checked requirement; the error lists all that is wrong.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, SelectorError> {
        let mut errors = ErrorList::new();
        let bad_key = names::qualified_name(key);
        if !bad_key.is_empty() {
            errors.invalid(Path::new("key"), key, bad_key.join("; "));
        }
        let path = Path::new("values");
        let mut refuse = |detail: &str| errors.invalid(Path::new("values"), Value::from(values.clone()), detail);
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                refuse("for 'in', 'notin' operators, values set can't be empty");
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                refuse("exact-match compatibility requires one single value");
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                refuse("values set must be empty for exists and does not exist");
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    refuse("for 'Gt', 'Lt' operators, exactly one value is required");
                }
                for (i, value) in values.iter().enumerate() {
                    if go_int(value).is_none() {
                        let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                        errors.invalid(path.index(i), value.as_str(), detail);
                    }
                }
            }
            _ => {}
        }
        for (i, value) in values.iter().enumerate() {
            let bad_value = names::label_value(value);
            if !bad_value.is_empty() {
                errors.invalid(path.index(i).key(key), value.as_str(), bad_value.join("; "));
            }
        }
        if errors.is_empty() {
            Ok(Self { key: key.to_owned(), operator, values })
        } else {
            Err(SelectorError(errors.aggregate_message()))
        }
    }

    /// Whether the label's value (`None`: no such label) satisfies this requirement.
    pub fn holds(&self, label: Option<&str>) -> bool {
        let among = |v: &str| self.values.iter().any(|x| x == v);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => label.is_some_and(among),
            Operator::NotIn | Operator::NotEquals => !label.is_some_and(among),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let (Some(have), Some(bound)) = (label.and_then(go_int), self.values.first().and_then(|v| go_int(v)))
                else {
                    return false;
                };
                if self.operator == Operator::GreaterThan { have > bound } else { have < bound }
            }
        }
    }
}

impl LabelSelector {
    /// Matches every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches no object: what an absent `LabelSelector` object means.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// Parses the string form, e.g. `app=web,tier in (a,b),!legacy,gen>3`. The empty string matches everything.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parser = Parser { tokens: tokens(text), position: 0 };
        let requirements = parser.parse().map_err(SelectorError)?;
        Ok(Self::from_requirements(requirements))
    }

    pub fn from_requirements(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }

    /// From a `meta/v1` LabelSelector (`matchLabels`, `matchExpressions`). Null or absent selects nothing, `{}` everything.
    pub fn from_object(selector: &Value) -> Result<Self, SelectorError> {
        let Some(selector) = selector.as_object() else { return Ok(Self::nothing()) };
        let mut requirements = Vec::new();
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or("").to_owned();
            requirements.push(Requirement::new(key, Operator::Equals, vec![value])?);
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let text = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or("");
            let operator = Operator::of_object(text("operator")).ok_or_else(|| {
                let quoted = crate::field::go_quote(text("operator"));
                SelectorError(format!("{quoted} is not a valid label selector operator"))
            })?;
            let values = expression.get("values").and_then(Value::as_array);
            let values = values.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
            requirements.push(Requirement::new(text("key"), operator, values)?);
        }
        Ok(Self::from_requirements(requirements))
    }

    /// From a plain map of labels (`spec.selector` of a Service): all must be equal. Not checked; empty or absent is everything.
    pub fn from_map(labels: &Value) -> Self {
        let entries = labels.as_object().into_iter().flatten();
        let requirements = entries
            .map(|(key, value)| Requirement {
                key: key.to_string(),
                operator: Operator::Equals,
                values: vec![value.as_str().unwrap_or("").to_owned()],
            })
            .collect();
        Self::from_requirements(requirements)
    }

    /// Every object matches.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// No object can match.
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether labels found through `lookup` match.
    pub fn matches<'l>(&self, lookup: impl Fn(&str) -> Option<&'l str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.holds(lookup(&r.key)))
    }

    /// Whether a map of labels (null reads as empty) matches.
    pub fn matches_labels(&self, labels: &Value) -> bool {
        self.matches(|key| labels.get(key).and_then(Value::as_str))
    }

    /// Whether the labels of an object match.
    pub fn matches_object(&self, object: &Value) -> bool {
        static NULL: Value = Value::Null;
        self.matches_labels(object.pointer("/metadata/labels").unwrap_or(&NULL))
    }

    /// The one value that `key` must have, when the selector says so.
    pub fn exact(&self, key: &str) -> Option<&str> {
        let requirement = self.requirements.iter().find(|r| r.key == key)?;
        match (requirement.operator, requirement.values.as_slice()) {
            (Operator::Equals | Operator::DoubleEquals | Operator::In, [value]) => Some(value),
            _ => None,
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut values = self.values.clone();
        values.sort();
        let values = values.join(",");
        let key = &self.key;
        match self.operator {
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

/// Go's `strconv.ParseInt(s, 10, 64)`: like Rust's, a leading `+` is allowed.
fn go_int(text: &str) -> Option<i64> {
    text.parse().ok()
}

struct Parser {
    tokens: Vec<(Token, String)>,
    position: usize,
}

impl Parser {
    fn peek(&self) -> (Token, &str) {
        // The end token is the last one and is never passed, so the index is always good.
        let (token, text) = &self.tokens[self.position.min(self.tokens.len() - 1)];
        (*token, text)
    }

    fn peek_value(&self) -> (Token, &str) {
        let (token, text) = self.peek();
        (token.as_value(), text)
    }

    fn next(&mut self) -> (Token, String) {
        let (token, text) = self.peek();
        let item = (token, text.to_owned());
        self.position += 1;
        item
    }

    fn next_value(&mut self) -> (Token, String) {
        let (token, text) = self.next();
        (token.as_value(), text)
    }

    fn parse(&mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            let (token, text) = self.peek_value();
            match token {
                Token::Identifier | Token::Not => {}
                Token::End => return Ok(requirements),
                _ => return Err(format!("found '{text}', expected: !, identifier, or 'end of string'")),
            }
            let requirement = self.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?;
            requirements.push(requirement);
            match self.next_value() {
                (Token::End, _) => return Ok(requirements),
                (Token::Comma, _) => {
                    let (token, text) = self.peek_value();
                    if !matches!(token, Token::Identifier | Token::Not) {
                        return Err(format!("found '{text}', expected: identifier after ','"));
                    }
                }
                (_, text) => return Err(format!("found '{text}', expected: ',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut token, mut key) = self.next_value();
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.next_value();
        }
        if token != Token::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        let bad_key = names::qualified_name(&key);
        if !bad_key.is_empty() {
            let mut errors = ErrorList::new();
            errors.invalid(Path::root(), key, bad_key.join("; "));
            return Err(errors.aggregate_message());
        }
        if negated {
            return Requirement::new(&key, Operator::DoesNotExist, Vec::new()).map_err(|e| e.0);
        }
        if matches!(self.peek_value().0, Token::End | Token::Comma) {
            return Requirement::new(&key, Operator::Exists, Vec::new()).map_err(|e| e.0);
        }
        let operator = self.operator()?;
        let mut values = match operator {
            Operator::In | Operator::NotIn => self.value_set()?,
            _ => vec![self.exact_value()?],
        };
        values.sort();
        values.dedup();
        Requirement::new(&key, operator, values).map_err(|e| e.0)
    }

    fn operator(&mut self) -> Result<Operator, String> {
        let (token, text) = self.next();
        Ok(match token {
            Token::In => Operator::In,
            Token::Equals => Operator::Equals,
            Token::DoubleEquals => Operator::DoubleEquals,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            Token::NotIn => Operator::NotIn,
            Token::NotEquals => Operator::NotEquals,
            _ => return Err(format!("found '{text}', expected: {BINARY_OPERATORS}")),
        })
    }

    fn value_set(&mut self) -> Result<Vec<String>, String> {
        let (token, text) = self.next_value();
        if token != Token::OpenPar {
            return Err(format!("found '{text}' expected: '('"));
        }
        let (token, text) = self.peek_value();
        match token {
            Token::Identifier | Token::Comma => {
                let first = text.to_owned();
                let values = self.identifiers()?;
                match self.next_value().0 {
                    Token::ClosePar => Ok(values),
                    _ => Err(format!("found '{first}', expected: ')'")),
                }
            }
            Token::ClosePar => {
                self.next();
                Ok(vec![String::new()])
            }
            _ => Err(format!("found '{text}', expected: ',', ')' or identifier")),
        }
    }

    /// A comma-separated list up to the closing parenthesis; nothing between two commas is the empty value.
    fn identifiers(&mut self) -> Result<Vec<String>, String> {
        let mut values = Vec::new();
        loop {
            match self.next_value() {
                (Token::Identifier, text) => {
                    values.push(text);
                    match self.peek_value() {
                        (Token::Comma, _) => {}
                        (Token::ClosePar, _) => return Ok(values),
                        (_, text) => return Err(format!("found '{text}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    match self.peek_value().0 {
                        Token::ClosePar => {
                            values.push(String::new());
                            return Ok(values);
                        }
                        Token::Comma => values.push(String::new()),
                        _ => {}
                    }
                }
                (_, text) => return Err(format!("found '{text}', expected: ',', or identifier")),
            }
        }
    }

    fn exact_value(&mut self) -> Result<String, String> {
        if matches!(self.peek_value().0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.next_value() {
            (Token::Identifier, text) => Ok(text),
            (_, text) => Err(format!("found '{text}', expected: identifier")),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    fn error(text: &str) -> String {
        LabelSelector::parse(text).expect_err(text).to_string()
    }

    #[test]
    fn parse_errors_are_upstreams() {
        let cases = [
            ("x in (1", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("=1", "found '=', expected: !, identifier, or 'end of string'"),
            ("x===1", "unable to parse requirement: found '=', expected: identifier"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("x=1,", "found '', expected: identifier after ','"),
            (",x=1", "found ',', expected: !, identifier, or 'end of string'"),
            ("x=bad value", "found 'value', expected: ',' or 'end of string'"),
            ("!x=1", "found '=', expected: ',' or 'end of string'"),
            ("x in", "unable to parse requirement: found '' expected: '('"),
            (
                "-bad-=1",
                "unable to parse requirement: <nil>: Invalid value: \"-bad-\": name part must consist of alphanumeric characters, \
                 '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or \
                 '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            ),
        ];
        for (text, want) in cases {
            assert_eq!(error(text), want, "{text}");
        }
        let long = "v".repeat(64);
        let want = format!(
            "unable to parse requirement: values[0][x]: Invalid value: \"{long}\": must be no more than 63 bytes"
        );
        assert_eq!(error(&format!("x={long}")), want);
        let want = "unable to parse requirement: values[0]: Invalid value: \"a\": for 'Gt', 'Lt' operators, the value must be an integer";
        assert_eq!(error("x>a"), want);
    }

    #[test]
    fn operators_match_as_upstream() {
        let labels = json!({"x": "2", "t": "in"});
        let cases = [
            ("", true),
            ("x", true),
            ("!x", false),
            ("x=2", true),
            ("x==2", true),
            ("x!=2", false),
            ("y!=2", true),
            ("y", false),
            ("x in (1,2)", true),
            ("x notin (1)", true),
            ("y notin (1)", true),
            ("x in (1,)", false),
            ("x>1", true),
            ("x<2", false),
            ("t>1", false),
            ("t in (in,notin)", true),
            ("t = in , x", true),
            ("x=", false),
        ];
        for (text, want) in cases {
            assert_eq!(LabelSelector::parse(text).expect(text).matches_labels(&labels), want, "{text}");
        }
    }

    #[test]
    fn selectors_print_sorted_by_key() {
        let selector = LabelSelector::parse("z notin (b,a), !m, a==1,c>3,d").expect("parses");
        assert_eq!(selector.to_string(), "a==1,c>3,d,!m,z notin (a,b)");
    }

    #[test]
    fn an_absent_selector_object_selects_nothing_and_an_empty_one_everything() {
        assert!(LabelSelector::from_object(&Value::Null).expect("ok").is_nothing());
        assert!(LabelSelector::from_object(&json!({})).expect("ok").is_everything());
        let expression = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]});
        let selector = LabelSelector::from_object(&expression).expect("ok");
        assert_eq!(selector.to_string(), "a=b,c");
        assert!(selector.matches_labels(&json!({"a": "b", "c": ""})));
        assert!(!selector.matches_labels(&json!({"a": "b"})));
        let bad = json!({"matchExpressions": [{"key": "c", "operator": "Foo"}]});
        let error = LabelSelector::from_object(&bad).expect_err("bad operator").to_string();
        assert_eq!(error, "\"Foo\" is not a valid label selector operator");
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics(text in "[ a-z0-9=!<>(),./\\x00-]{0,40}") {
            let _ = LabelSelector::parse(&text);
        }
    }
}
