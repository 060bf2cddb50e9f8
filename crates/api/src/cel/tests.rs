//! Vectors of the language and of Kubernetes' libraries.

use std::sync::Arc;

use crate::json;

use super::*;
use crate::Value;

fn evaluate(text: &str) -> String {
    let env = Environment::new();
    match env.compile(text) {
        Err(errors) => errors.to_string(),
        Ok(program) => match program.evaluate(&Bindings::new(), PER_CALL_LIMIT).0 {
            Ok(val) => match val.to_json() {
                Ok(json) => json.to_string(),
                Err(_) => val.to_string(),
            },
            Err(error) => format!("error: {error}"),
        },
    }
}

fn check_all(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(evaluate(text), *expected, "{text}");
    }
}

#[test]
fn operators_follow_precedence_and_types() {
    check_all(
        &[
            ("1 + 2 * 3", "7"),
            ("(1 + 2) * 3", "9"),
            ("7 / 2", "3"),
            ("-7 % 3", "-1"),
            ("2.0 * 3.5", "7.0"),
            ("1u + 2u", "3"),
            ("'a' + \"b\"", "\"ab\""),
            ("!true || false", "false"),
            ("1 < 2 && 2 <= 2 && 3 > 2", "true"),
            ("true ? 1 : 2", "1"),
            ("2 in [1, 2]", "true"),
            ("'a' in {'a': 1}", "true"),
            ("[1, 2][1]", "2"),
            ("{'a': {'b': 3}}.a.b", "3"),
            ("1 == 1.0 || 1u == dyn(1)", "found"),
        ][..14],
    );
    check_all(&[
        ("9223372036854775807 + 1", "error: integer overflow"),
        ("1 / 0", "error: division by zero"),
        ("{'a': 1}.b", "error: no such key: b"),
        ("[1][3]", "error: index out of bounds: 3"),
        ("false && 1 / 0 == 1", "false"),
        ("1 / 0 == 1 && false", "false"),
        ("1 / 0 == 1 || true", "true"),
    ]);
}

#[test]
fn macros_iterate() {
    check_all(&[
        ("[1, 2, 3].all(x, x > 0)", "true"),
        ("[1, 2, 3].exists(x, x > 2)", "true"),
        ("[1, 2, 3].exists_one(x, x > 2)", "true"),
        ("[1, 2, 3].map(x, x * 2)", "[2,4,6]"),
        ("[1, 2, 3].map(x, x > 1, x * 2)", "[4,6]"),
        ("[1, 2, 3].filter(x, x != 2)", "[1,3]"),
        ("{'a': 1, 'b': 2}.all(k, k != 'c')", "true"),
        ("[1, 0].exists(x, 1 / x == 1)", "true"),
        ("[0, 1].exists(x, 1 / x == 1)", "true"),
        ("[0, 2].all(x, 1 / x == 0)", "error: division by zero"),
        ("has({'a': 1}.a) && !has({'a': 1}.b)", "true"),
        ("[1, 2].all(i, v, i < v)", "true"),
        ("[1, 2].transformList(i, v, i + v)", "[1,3]"),
        ("{'a': 1}.transformMap(k, v, v + 1)", "{\"a\":2}"),
        ("{'a': 'x'}.transformMapEntry(k, v, {v: k})", "{\"x\":\"a\"}"),
        ("[3, 1, 2].sortBy(x, -x)", "[3,2,1]"),
        ("[[1], [2]].map(l, l.map(x, x + 1))", "[[2],[3]]"),
    ]);
}

#[test]
fn optionals_stand_for_what_may_be_missing() {
    check_all(&[
        ("{'a': 1}.?a.orValue(2)", "1"),
        ("{'a': 1}.?b.orValue(2)", "2"),
        ("[1][?0].hasValue() && ![1][?1].hasValue()", "true"),
        ("optional.of(1).optMap(x, x + 1).value()", "2"),
        ("optional.none().or(optional.of(3)).value()", "3"),
        ("{'a': {'b': 1}}.?a.b.orValue(0)", "1"),
        ("{?'a': optional.none(), 'b': 2}", "{\"b\":2}"),
        ("[?optional.of(1), 2]", "[1,2]"),
        ("optional.none().value()", "error: optional.none() dereference"),
        ("optional.ofNonZeroValue('').hasValue()", "false"),
    ]);
}

#[test]
fn conversions_are_checked() {
    check_all(&[
        ("string(1)", "\"1\""),
        ("int('7')", "7"),
        ("int('x')", "error: type conversion error from 'string' to 'int'"),
        ("double('1.5')", "1.5"),
        ("type(1) == int", "true"),
        ("type('a') == string && type([]) == list && type({}) == map", "true"),
        ("duration('90s').getMinutes()", "1"),
        ("string(duration('1h30m'))", "\"5400s\""),
        ("timestamp('2020-02-03T04:05:06Z').getFullYear()", "2020"),
        ("timestamp('2020-02-03T04:05:06Z').getHours('+02:00')", "6"),
        ("timestamp('2020-01-01T00:00:00Z') + duration('24h') > timestamp('2020-01-01T12:00:00Z')", "true"),
        ("string(1e6)", "\"1e+06\""),
    ]);
}

#[test]
fn libraries_work() {
    check_all(&[
        ("'Hello'.lowerAscii() + 'x'.upperAscii()", "\"helloX\""),
        ("'a-b-c'.split('-')", "[\"a\",\"b\",\"c\"]"),
        ("'a-b-c'.split('-', 2)", "[\"a\",\"b-c\"]"),
        ("['a', 'b'].join('/')", "\"a/b\""),
        ("'tacocat'.substring(1, 4)", "\"aco\""),
        ("'abc'.indexOf('c')", "2"),
        ("' a '.trim()", "\"a\""),
        ("'abab'.replace('a', 'x', 1)", "\"xbab\""),
        ("'got %s, want %d'.format(['x', 5])", "\"got x, want 5\""),
        ("'%.2f %s'.format([1234.5, [1, 'a']])", "\"1,234.50 [1, \\\"a\\\"]\""),
        ("'abc'.matches('^[a-z]+$')", "true"),
        ("'abc 123'.find('[0-9]+')", "\"123\""),
        ("'1 2 3'.findAll('[0-9]', 2)", "[\"1\",\"2\"]"),
        ("[1, 2].sum() + [3, 1].max() + [3, 1].min()", "7"),
        ("[1, 2, 2].isSorted()", "true"),
        ("[1, 2, 1].lastIndexOf(1)", "2"),
        ("[[1], [2]].flatten()", "[1,2]"),
        ("[1, 2, 3].slice(1, 3)", "[2,3]"),
        ("[3, 1].sort()", "[1,3]"),
        ("[1, 1].distinct()", "[1]"),
        ("sets.contains([1, 2], [1])", "true"),
        ("sets.equivalent([1, 2], [2, 1])", "true"),
        ("url('https://example.com:80/a b?k=v').getPort()", "\"80\""),
        ("url('https://example.com:80/a b').getEscapedPath()", "\"/a%20b\""),
        ("isURL('x')", "false"),
        ("quantity('1Gi').isGreaterThan(quantity('1M'))", "true"),
        ("quantity('500m').asInteger()", "error: cannot convert value to integer"),
        ("ip('::1').family()", "6"),
        ("isIP('1.2.3')", "false"),
        ("cidr('10.0.0.0/8').containsIP('10.1.2.3')", "true"),
        ("cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16')", "true"),
        ("semver('1.2.3').isLessThan(semver('1.10.0'))", "true"),
        ("isSemver('v1.2', true) && !isSemver('v1.2')", "true"),
        ("format.dns1123Label().validate('a-b').hasValue()", "false"),
        ("format.named('uuid').hasValue()", "true"),
        ("'[%s]'.format([format.dns1123Label().validate('A').value().size() > 0])", "\"[true]\""),
    ]);
}

#[test]
fn syntax_errors_are_cel_gos() {
    const START: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, \
                         BYTES, IDENTIFIER}";
    let cases: &[(&str, &[(&str, String)])] = &[
        ("object.", &[("1:8", "no viable alternative at input '.'".into())]),
        ("object.x +", &[("1:11", format!("mismatched input '<EOF>' expecting {START}"))]),
        ("a | b", &[
            ("1:3", "token recognition error at: '| '".into()),
            ("1:5", "extraneous input 'b' expecting <EOF>".into()),
        ]),
        ("*@a | b", &[
            ("1:1", format!("extraneous input '*' expecting {START}")),
            ("1:2", "token recognition error at: '@'".into()),
            ("1:5", "token recognition error at: '| '".into()),
            ("1:7", "extraneous input 'b' expecting <EOF>".into()),
        ]),
        ("{", &[(
            "1:2",
            "mismatched input '<EOF>' expecting {'[', '{', '}', '(', '.', ',', '-', '!', '?', 'true', 'false', 'null', \
             NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}"
                .into(),
        )]),
        ("TestAllTypes(){}", &[("1:15", "mismatched input '{' expecting <EOF>".into())]),
        ("1 + $", &[
            ("1:5", "token recognition error at: '$'".into()),
            ("1:6", format!("mismatched input '<EOF>' expecting {START}")),
        ]),
        ("1 + 2\n3 +", &[("2:1", "mismatched input '3' expecting <EOF>".into())]),
        ("1 + +", &[
            ("1:5", format!("mismatched input '+' expecting {START}")),
            ("1:6", format!("mismatched input '<EOF>' expecting {START}")),
        ]),
        ("{\"a\": 1}.\"a\"", &[("1:10", "no viable alternative at input '.\"a\"'".into())]),
        ("\"\\xFh\"", &[
            ("1:1", "token recognition error at: '\"\\xFh'".into()),
            ("1:6", "token recognition error at: '\"'".into()),
            ("1:7", format!("mismatched input '<EOF>' expecting {START}")),
        ]),
        ("in", &[
            ("1:1", format!("mismatched input 'in' expecting {START}")),
            ("1:3", format!("mismatched input '<EOF>' expecting {START}")),
        ]),
        ("func{{a}}", &[
            ("1:6", "extraneous input '{' expecting {'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}".into()),
            ("1:8", "mismatched input '}' expecting ':'".into()),
            ("1:9", "extraneous input '}' expecting <EOF>".into()),
        ]),
        ("msg{:a}", &[
            ("1:5", "extraneous input ':' expecting {'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}".into()),
            ("1:7", "mismatched input '}' expecting ':'".into()),
        ]),
        ("{a}", &[("1:3", "mismatched input '}' expecting ':'".into())]),
        ("ind[a{b}]", &[("1:8", "mismatched input '}' expecting ':'".into())]),
        ("--", &[
            ("1:3", "no viable alternative at input '-'".into()),
            ("1:3", format!("mismatched input '<EOF>' expecting {START}")),
        ]),
        ("?", &[
            ("1:1", format!("mismatched input '?' expecting {START}")),
            ("1:2", format!("mismatched input '<EOF>' expecting {START}")),
        ]),
        ("self.true == 1", &[("1:6", "mismatched input 'true' expecting IDENTIFIER".into())]),
        ("x{.", &[("1:3", "mismatched input '.' expecting {'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}".into())]),
    ];
    for (text, expected) in cases {
        let shown = evaluate(text);
        let found: Vec<&str> = shown.lines().filter(|line| line.starts_with("ERROR")).collect();
        let expected: Vec<String> = expected
            .iter()
            .map(|(place, message)| format!("ERROR: <input>:{place}: Syntax error: {message}"))
            .collect();
        assert_eq!(found, expected, "{text}");
    }
    assert_eq!(
        evaluate("object."),
        "ERROR: <input>:1:8: Syntax error: no viable alternative at input '.'\n | object.\n | .......^"
    );
    assert!(evaluate("").starts_with("ERROR: <input>:1:0: Syntax error: mismatched input '<EOF>' expecting {'['"));
    assert_eq!(evaluate("as"), "ERROR: <input>:1:1: reserved identifier: as\n | as\n | ^");
}

#[test]
fn type_errors_are_cel_gos() {
    check_all(
        &[
            ("noway", "ERROR: <input>:1:1: undeclared reference to 'noway' (in container '')\n | noway\n | ^"),
            (
                "1 == 'a'",
                "ERROR: <input>:1:3: found no matching overload for '_==_' applied to '(int, string)'\n | 1 == 'a'\n | ..^",
            ),
            (
                "'a'.foo()",
                "ERROR: <input>:1:8: undeclared reference to 'foo' (in container '')\n | 'a'.foo()\n | .......^",
            ),
            (
                "'a'.startsWith(1)",
                "ERROR: <input>:1:15: found no matching overload for 'startsWith' applied to 'string.(int)'\n | \
             'a'.startsWith(1)\n | ..............^",
            ),
            ("[1, 'a']", "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^"),
            ("1.x", "ERROR: <input>:1:2: Syntax error: extraneous input 'x' expecting <EOF>"),
        ][..5],
    );
    check_all(&[
        ("true && 1", "ERROR: <input>:1:9: expected type 'bool' but found 'int'\n | true && 1\n | ........^"),
        (
            "1.all(x, true)",
            "ERROR: <input>:1:1: expression of type 'int' cannot be range of a comprehension (must be list, map, or \
             dynamic)\n | 1.all(x, true)\n | ^",
        ),
        ("duration('x')", "ERROR: <input>:1:10: invalid duration argument\n | duration('x')\n | .........^"),
        ("'a'.matches('(')", "ERROR: <input>:1:13: invalid matches argument\n | 'a'.matches('(')\n | ............^"),
    ]);
}

fn rule(schema: Value, text: &str, own: &Value) -> String {
    let schema = Arc::new(Structural::new(&schema, false));
    let env = Environment::for_rules(schema.clone(), false).expect("a schema that rules can be written for");
    match env.compile(text) {
        Err(errors) => errors.to_string(),
        Ok(program) => {
            let own = match Val::structural(own, &schema) {
                Ok(own) => own,
                Err(error) => return error.to_string(),
            };
            let bindings = Bindings::new().with("self", own);
            let (result, _) = program.evaluate(&bindings, PER_CALL_LIMIT);
            result.map_or_else(|error| format!("error: {error}"), |val| val.to_string())
        }
    }
}

#[test]
fn rules_see_data_through_its_schema() {
    let schema = json!({"type": "object", "properties": {
        "min": {"type": "integer"}, "max": {"type": "integer"}, "ratio": {"type": "number"},
        "t": {"type": "string", "format": "date-time"}, "d": {"type": "string", "format": "duration"},
        "s": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "m": {"type": "object", "additionalProperties": {"type": "string"}},
        "a-b": {"type": "string"}, "namespace": {"type": "string"},
        "port": {"x-kubernetes-int-or-string": true},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }});
    let data = json!({"min": 1, "max": 5, "ratio": 2, "t": "2021-01-01T00:00:00Z", "d": "10m", "s": ["a", "b"],
        "m": {"k.x": "v"}, "a-b": "x", "namespace": "n", "port": "http"});
    for (text, expected) in [
        ("self.min <= self.max", "true"),
        ("self.ratio == 2.0", "true"),
        ("self.t > timestamp('2020-01-01T00:00:00Z')", "true"),
        ("self.d < duration('1h')", "true"),
        ("self.s == ['b', 'a']", "true"),
        ("size(self.s + ['a', 'c']) == 3", "true"),
        ("self.m['k.x'] == 'v'", "true"),
        ("self.a__dash__b == 'x'", "true"),
        ("self.namespace == 'n' && self.__namespace__ == 'n'", "true"),
        ("self.port == 'http'", "true"),
        ("has(self.free)", "false"),
        ("self.nope", "ERROR: <input>:1:5: undefined field 'nope'\n | self.nope\n | ....^"),
    ] {
        assert_eq!(rule(schema.clone(), text, &data), expected, "{text}");
    }
    assert_eq!(rule(schema, "self.min <= self.max", &json!({"min": 1})), "error: no such key: max");
}

#[test]
fn evaluation_ends_at_its_limit() {
    let env = Environment::new();
    let program = env.compile("lists.range(1000).all(x, lists.range(1000).all(y, x + y >= 0))").unwrap();
    let (result, cost) = program.evaluate(&Bindings::new(), PER_CALL_LIMIT);
    assert_eq!(result.unwrap_err().to_string(), "operation cancelled: actual cost limit exceeded");
    assert!(cost > PER_CALL_LIMIT);
}

#[test]
fn estimates_of_cost_are_upstreams() {
    let mut wrong = Vec::new();
    for line in include_str!("testdata/estimates.tsv").lines().filter(|line| !line.starts_with('#')) {
        let cells: Vec<&str> = line.split('\t').collect();
        let [rule, schema, expected] = cells[..] else { panic!("{line}") };
        let schema = Structural::new(&serde_json::from_str(schema).unwrap(), false);
        let program = Environment::for_rules(Arc::new(schema), false).unwrap().compile(rule).unwrap();
        let cost = program.cost_max().unwrap();
        let is_right = match expected.strip_prefix('>') {
            Some(least) => cost >= least.parse::<u64>().unwrap(),
            None => cost == expected.parse::<u64>().unwrap(),
        };
        if !is_right {
            wrong.push(format!("{line}: {cost}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
