//! Whether the CEL rules of a definition compile, and what they can cost at most.

use std::sync::Arc;

use crate::cel::{CompileErrors, Environment, Program, Structural, Type};
use crate::validate::go;
use crate::{Cursor, ErrorList, Path, Value};

/// The most that one rule may cost, estimated, over all places in an object where it applies.
const RULE_COST_MAX: u64 = 10_000_000;
/// The most that all rules of a schema may cost.
const SCHEMA_COST_MAX: u64 = 100_000_000;
/// Rules that are named when all together cost too much.
const NAMED_MAX: usize = 4;

/// Compiles all rules of a schema. `faults` are the errors found in the schema itself: rules at or above one are not looked at.
/// `unchanged`: the schema was accepted before, and its rules may go on costing what they cost.
pub(super) fn compile(root: &Cursor<'_>, unchanged: bool, faults: &[String], errors: &mut ErrorList) {
    let mut compiler = Compiler { faults, unchanged, total: 0, expensive: Vec::new(), errors };
    compiler.visit(&Place { schema: root.clone(), is_root: true, cardinality: Some(1), uncorrelated: None });
    let Compiler { total, expensive, .. } = compiler;
    if total <= SCHEMA_COST_MAX {
        return;
    }
    for (path, _) in expensive {
        errors.forbidden(
            path,
            "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema",
        );
    }
    let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
    root.forbidden(errors, too_expensive(what, total, SCHEMA_COST_MAX));
}

/// A schema with what matters about where it is.
struct Place<'c> {
    schema: Cursor<'c>,
    is_root: bool,
    /// How often it can occur in an object; `None` when the schemas around it set no limit.
    cardinality: Option<u64>,
    /// The schema around it whose parts cannot be found again in the old object.
    uncorrelated: Option<Path>,
}

struct Compiler<'e> {
    faults: &'e [String],
    unchanged: bool,
    total: u64,
    expensive: Vec<(Path, u64)>,
    errors: &'e mut ErrorList,
}

impl Compiler<'_> {
    fn visit(&mut self, place: &Place<'_>) {
        let schema = &place.schema;
        if !schema.value().is_object() {
            return;
        }
        let own = elements_max(schema);
        let cardinality = match (place.cardinality, own) {
            (Some(outer), Some(own)) => Some(outer.saturating_mul(own)),
            _ => None,
        };
        let below = |schema: Cursor<'_>, breaks: bool| {
            let uncorrelated = if breaks { Some(place.schema.path()) } else { place.uncorrelated.clone() };
            (schema.path(), uncorrelated)
        };
        let mut go = |schema: Cursor<'_>, breaks: bool| {
            let (_, uncorrelated) = below(schema.clone(), breaks);
            self.visit(&Place { schema, is_root: false, cardinality, uncorrelated });
        };
        go(schema.field("additionalProperties"), false);
        let atomic = schema.field("x-kubernetes-map-type").str() == "atomic";
        for (_, property) in schema.field("properties").entries() {
            go(property, atomic);
        }
        go(schema.field("items"), schema.field("x-kubernetes-list-type").str() != "map");
        if !schema.field("x-kubernetes-validations").is_empty() && !self.is_faulty(schema) {
            self.rules(place);
        }
    }

    /// Is there an error in the schema or below it?
    fn is_faulty(&self, schema: &Cursor<'_>) -> bool {
        let path = schema.path();
        let path = path.as_str();
        self.faults
            .iter()
            .any(|fault| fault.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '['])))
    }

    fn rules(&mut self, place: &Place<'_>) {
        let schema = place.schema.value();
        let is_resource = place.is_root || schema["x-kubernetes-embedded-resource"].as_bool() == Some(true);
        let structural = Arc::new(Structural::new(schema, is_resource));
        let list = place.schema.field("x-kubernetes-validations");
        let environments = [false, true].map(|optional| Environment::for_rules(structural.clone(), optional));
        let [Some(plain), Some(optional)] = environments else {
            let detail = "internal error: failed to construct type information for x-kubernetes-validations rules: unable \
                          to convert structural schema to CEL declarations";
            self.errors.internal(list.path(), detail);
            return;
        };
        for rule in list.items() {
            let env = if rule.field("optionalOldSelf").bool() { &optional } else { &plain };
            let times = place.cardinality.unwrap_or_else(|| structural.cardinality_max());
            self.rule(&rule, env, times, place.uncorrelated.as_ref());
        }
    }

    fn rule(&mut self, rule: &Cursor<'_>, env: &Environment, times: u64, uncorrelated: Option<&Path>) {
        let (text, message) = (rule.field("rule"), rule.field("messageExpression"));
        let shown = go::value("crd.ValidationRule", rule.value());
        let program = compile_to(env, text.str(), &Type::Bool);
        let cost = program.as_ref().ok().and_then(Program::cost_max).unwrap_or(0).saturating_mul(times);
        self.charge(text.path(), "estimated rule cost", cost);
        let uses_old = match &program {
            Ok(program) => {
                if !message.is_empty() {
                    self.message(env, &message, shown);
                }
                program.uses("oldSelf")
            }
            Err(Refusal::Compile(errors)) => {
                self.errors.invalid(text.path(), shown, format!("compilation failed: {errors}"));
                false
            }
            Err(Refusal::Type) => {
                self.errors.invalid(text.path(), shown, "cel expression must evaluate to a bool");
                false
            }
        };
        let optional = rule.field("optionalOldSelf");
        if uses_old {
            if let Some(path) = uncorrelated {
                let detail = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {}",
                    path.as_str()
                );
                text.invalid(self.errors, detail);
            }
        } else if optional.is_set() {
            optional.invalid(self.errors, "may not be set if oldSelf is not used in rule");
        }
    }

    fn message(&mut self, env: &Environment, message: &Cursor<'_>, shown: Value) {
        match compile_to(env, message.str(), &Type::String) {
            Ok(program) => {
                self.charge(message.path(), "estimated messageExpression cost", program.cost_max().unwrap_or(0));
            }
            Err(Refusal::Compile(errors)) => {
                let detail = format!("messageExpression compilation failed: {errors}");
                self.errors.invalid(message.path(), shown, detail);
            }
            Err(Refusal::Type) => {
                self.errors.invalid(message.path(), shown, "messageExpression must evaluate to a string");
            }
        }
    }

    fn charge(&mut self, path: Path, what: &str, cost: u64) {
        if cost > RULE_COST_MAX && !self.unchanged {
            self.errors.forbidden(path.clone(), too_expensive(what, cost, RULE_COST_MAX));
        }
        self.total = self.total.saturating_add(cost);
        // A hundredth of what is allowed is not worth naming.
        if cost >= SCHEMA_COST_MAX / 100 {
            self.expensive.push((path, cost));
            self.expensive.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
            self.expensive.truncate(NAMED_MAX);
        }
    }
}

enum Refusal {
    Compile(CompileErrors),
    Type,
}

fn compile_to(env: &Environment, text: &str, wanted: &Type) -> Result<Program, Refusal> {
    let program = env.compile(text).map_err(Refusal::Compile)?;
    if program.result_type() == wanted { Ok(program) } else { Err(Refusal::Type) }
}

/// By how much a schema multiplies what is below it; `None` without limit.
fn elements_max(schema: &Cursor<'_>) -> Option<u64> {
    let limit = |field: &str| schema.field(field).opt_int().map(|n| u64::try_from(n).unwrap_or(0));
    match schema.field("type").str() {
        "object" if schema.field("additionalProperties").is_set() => limit("maxProperties"),
        "array" => limit("maxItems"),
        _ => Some(1),
    }
}

fn too_expensive(what: &str, cost: u64, limit: u64) -> String {
    let by = cost as f64 / limit as f64;
    let factor = match by {
        by if by > 100.0 => "more than 100x".to_owned(),
        by if by < 1.5 => format!("{by:.6}x"),
        by => format!("{by:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}
