//! What an expression may name, and the way from its text to a program.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::ast::{Expr, walk};
use super::check::{self, Checked};
use super::escape::is_reserved;
use super::estimate;
use super::eval::{Bindings, Evaluation, Fields};
use super::literals;
use super::parse;
use super::plan::{self, Node};
use super::source::CompileErrors;
use super::structural::{ObjectTypes, Structural};
use super::types::Type;
use super::value::{EvalError, Val};

/// Declared variables and object types. All of Kubernetes' libraries are there.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: Vec<(Arc<str>, Type)>,
    objects: ObjectTypes,
    /// The variable whose fields are computed when first used.
    lazy: Option<Arc<str>>,
    /// `Object`, `Object.…` and `JSONPatch` can be made.
    mutations: bool,
    /// Bounds sizes for the estimate of cost.
    structural: Option<Arc<Structural>>,
}

impl Environment {
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares a variable.
    pub fn declare(&mut self, name: &str, t: Type) {
        self.variables.retain(|(known, _)| **known != *name);
        self.variables.push((name.into(), t));
    }

    /// Declares a type with fields.
    pub fn declare_object(&mut self, name: &str, fields: impl IntoIterator<Item = (&'static str, Type)>) {
        let fields = fields.into_iter().map(|(name, t)| (Arc::from(name), t)).collect();
        self.objects.insert(name.into(), fields);
    }

    /// Declares a variable whose fields are added by [`Environment::declare_lazy_field`] and computed when first used.
    pub fn declare_lazy(&mut self, variable: &str, type_name: &str) {
        self.lazy = Some(variable.into());
        self.objects.entry(type_name.into()).or_default();
        self.declare(variable, Type::object(type_name));
    }

    pub fn declare_lazy_field(&mut self, type_name: &str, field: &str, t: Type) {
        self.objects.entry(type_name.into()).or_default().insert(field.into(), t);
    }

    /// Lets expressions make objects and JSON patches.
    pub fn allow_mutations(&mut self) {
        self.mutations = true;
    }

    /// Declares `self` and `oldSelf` of a rule in a CRD's schema. `None`: the schema is one that rules cannot be written for.
    pub fn for_rules(schema: Arc<Structural>, optional_old_self: bool) -> Option<Self> {
        let mut env = Self::new();
        let t = schema.declare("selfType", &mut env.objects)?;
        env.declare("oldSelf", if optional_old_self { Type::optional(t.clone()) } else { t.clone() });
        env.declare("self", t);
        env.structural = Some(schema);
        Some(env)
    }

    /// Declares a variable with a type that is known by its fields; names of nested types begin with `type_name`.
    pub fn declare_typed(&mut self, variable: &str, declared: Declared) {
        let Declared { t, objects } = declared;
        self.objects.extend(objects);
        self.declare(variable, t);
    }

    /// Parses and checks an expression.
    pub fn compile(&self, text: &str) -> Result<Program, CompileErrors> {
        let mut errors = CompileErrors::new(text);
        let parsed = parse::parse(text, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut expr = parsed.expr;
        let checked = check::check(self, &mut expr, parsed.ids, &mut errors);
        if errors.is_empty() {
            literals::validate(&checked, &expr, &mut errors);
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let node = plan::plan(self, &checked, &expr);
        let cost_max = self.structural.as_ref().map(|schema| estimate::cost_max(schema, &checked, &expr));
        let result = checked.type_of(&expr).clone();
        let mut calls_authorizer = false;
        walk(&expr, &mut |e: &Expr| calls_authorizer |= is_check(e, &checked));
        Ok(Program { node, result, names: checked.names, cost_max, calls_authorizer })
    }

    pub(super) fn variable(&self, name: &str) -> Option<&Type> {
        self.variables.iter().find(|(known, _)| **known == *name).map(|(_, t)| t)
    }

    pub(super) fn is_lazy(&self, name: &str) -> bool {
        self.lazy.as_deref() == Some(name)
    }

    /// The type that an expression names, e.g. `int` or `google.protobuf.Timestamp`.
    pub(super) fn type_named(&self, name: &str) -> Option<Type> {
        static STANDARD: OnceLock<BTreeMap<&'static str, Type>> = OnceLock::new();
        let standard = STANDARD.get_or_init(|| {
            let wild = |name: &str| Type::Param(name.into());
            BTreeMap::from([
                ("bool", Type::Bool),
                ("bytes", Type::Bytes),
                ("double", Type::Double),
                ("google.protobuf.Duration", Type::Duration),
                ("google.protobuf.Timestamp", Type::Timestamp),
                ("int", Type::Int),
                ("list", Type::list(wild("A"))),
                ("map", Type::map(wild("A"), wild("B"))),
                ("null_type", Type::Null),
                ("optional_type", Type::optional(wild("A"))),
                ("string", Type::String),
                ("type", Type::Type(None)),
                ("uint", Type::Uint),
                ("net.IP", Type::Opaque("net.IP".into())),
                ("net.CIDR", Type::Opaque("net.CIDR".into())),
            ])
        });
        let name = name.strip_prefix('.').unwrap_or(name);
        if let Some(t) = standard.get(name) {
            return Some(t.clone());
        }
        let made = self.mutations && (name == "Object" || name.starts_with("Object.") || name == "JSONPatch");
        (made || self.objects.contains_key(name)).then(|| Type::object(name))
    }

    /// Type of a field of an object type. Keywords may be written as they are.
    pub(super) fn field(&self, object: &str, field: &str) -> Option<Type> {
        if self.mutations {
            if object == "Object" || object.starts_with("Object.") {
                return Some(Type::Dyn);
            }
            if object == "JSONPatch" {
                return match field {
                    "op" | "from" | "path" => Some(Type::String),
                    "value" => Some(Type::Dyn),
                    _ => None,
                };
            }
        }
        let fields = self.objects.get(object)?;
        match fields.get(field) {
            Some(t) => Some(t.clone()),
            None if is_reserved(field) => fields.get(format!("__{field}__").as_str()).cloned(),
            None => None,
        }
    }
}

fn is_check(expr: &Expr, checked: &Checked) -> bool {
    *checked.type_of(expr) == Type::object(super::functions::DECISION)
}

/// A type and the object types it consists of.
#[derive(Clone, Debug)]
pub struct Declared {
    pub(super) t: Type,
    pub(super) objects: ObjectTypes,
}

impl Declared {
    pub fn result(&self) -> &Type {
        &self.t
    }
}

/// A compiled expression. Cheap to clone, free to share.
#[derive(Clone, Debug)]
pub struct Program {
    node: Node,
    result: Type,
    names: Vec<Arc<str>>,
    cost_max: Option<u64>,
    calls_authorizer: bool,
}

impl Program {
    /// The type of its value.
    pub fn result_type(&self) -> &Type {
        &self.result
    }

    /// Does it name this variable?
    pub fn uses(&self, variable: &str) -> bool {
        self.names.iter().any(|name| **name == *variable)
    }

    /// Does it ask the authorizer anything?
    pub fn calls_authorizer(&self) -> bool {
        self.calls_authorizer
    }

    /// The most that evaluation can cost, estimated; only for rules of a CRD.
    pub fn cost_max(&self) -> Option<u64> {
        self.cost_max
    }

    /// The value and what it cost. Evaluation ends when it costs more than `limit`.
    pub fn evaluate<'a>(&self, bindings: &Bindings<'a>, limit: u64) -> (Result<Val<'a>, EvalError>, u64) {
        self.evaluate_with(bindings, None, limit)
    }

    /// The same with the fields of the lazy variable.
    pub fn evaluate_with<'a>(
        &self,
        bindings: &Bindings<'a>,
        lazy: Option<&dyn Fields<'a>>,
        limit: u64,
    ) -> (Result<Val<'a>, EvalError>, u64) {
        let mut evaluation = Evaluation { bindings, lazy, locals: Vec::new(), cost: 0, limit };
        let result = evaluation.eval(&self.node);
        (result, evaluation.cost)
    }
}
