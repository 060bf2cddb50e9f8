//! From a checked tree to one that can be evaluated: names become places, functions become code, constants are computed.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::Regex;

use super::ast::{ACCUMULATOR, Expr, Fold, Kind, Literal};
use super::check::Checked;
use super::environment::Environment;
use super::implementations::{Implementation, implementation};
use super::types::Type;
use super::value::Val;
use super::{kubernetes, strings};

/// One step of evaluation.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Constant(Val<'static>),
    /// A variable of a fold, by its place on the stack.
    Local(usize),
    Global(Arc<str>),
    /// A variable that is computed when first used, by name.
    Lazy(Arc<str>),
    Select(Box<Node>, Arc<str>),
    Has(Box<Node>, Arc<str>),
    OptionalSelect(Box<Node>, Arc<str>),
    Index(Box<Node>, Box<Node>),
    OptionalIndex(Box<Node>, Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Conditional(Box<[Node; 3]>),
    /// `or`: the first optional that has a value.
    Alternative(Box<Node>, Box<Node>),
    /// `orValue`
    Fallback(Box<Node>, Box<Node>),
    NotStrictlyFalse(Box<Node>),
    Call(Box<Call>),
    List(Vec<(bool, Node)>),
    Map(Vec<(bool, Node, Node)>),
    Struct(Arc<str>, Vec<(Arc<str>, bool, Node)>),
    Fold(Box<FoldPlan>),
    /// A named value within another.
    Bind(Box<[Node; 2]>),
}

#[derive(Clone, Debug)]
pub(super) struct Call {
    pub function: Arc<str>,
    pub code: Code,
    pub args: Vec<Node>,
}

#[derive(Clone, Debug)]
pub(super) enum Code {
    Function(Implementation),
    /// A function of a pattern; compiled already when the pattern is a constant.
    Pattern(Option<Regex>),
    Constant(Val<'static>),
}

#[derive(Clone, Debug)]
pub(super) struct FoldPlan {
    pub range: Node,
    pub two: bool,
    pub init: Node,
    pub condition: Option<Node>,
    pub step: Step,
    pub result: Node,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Any step; its value is the next accumulator.
    Value(Node),
    /// Adds one element, if the filter lets it.
    Append(Option<Node>, Node),
    /// Adds one entry, or the entries of a map.
    Insert(Option<Node>, Vec<Node>),
}

pub(super) fn plan(env: &Environment, checked: &Checked, expr: &Expr) -> Node {
    Planner { env, checked, scope: Vec::new() }.node(expr)
}

struct Planner<'p> {
    env: &'p Environment,
    checked: &'p Checked,
    scope: Vec<Arc<str>>,
}

impl Planner<'_> {
    fn boxed(&mut self, expr: &Expr) -> Box<Node> {
        Box::new(self.node(expr))
    }

    fn node(&mut self, expr: &Expr) -> Node {
        match &expr.kind {
            Kind::Literal(literal) => Node::Constant(Val::literal(literal)),
            Kind::Ident(name) => self.ident(expr, name),
            Kind::Select { operand, field, test } => self.select(operand, field, *test),
            Kind::Call { target, function, args } => self.call(target.as_deref(), function, args),
            Kind::List(items) => {
                let nodes: Vec<_> = items.iter().map(|item| (item.optional, self.node(&item.value))).collect();
                constant_list(&nodes).unwrap_or(Node::List(nodes))
            }
            Kind::Map(entries) => {
                Node::Map(entries.iter().map(|e| (e.optional, self.node(&e.key), self.node(&e.value))).collect())
            }
            Kind::Struct { name, fields } => {
                let name = name.strip_prefix('.').map_or_else(|| name.clone(), Arc::from);
                let fields = fields.iter().map(|f| (f.name.clone(), f.optional, self.node(&f.value))).collect();
                Node::Struct(name, fields)
            }
            Kind::Fold(fold) => self.fold(fold),
            Kind::Missing => Node::Constant(Val::Null),
        }
    }

    fn ident(&self, expr: &Expr, name: &Arc<str>) -> Node {
        if let Some(place) = self.scope.iter().rposition(|own| own == name) {
            return Node::Local(place);
        }
        let plain = name.strip_prefix('.').unwrap_or(name);
        if self.env.variable(plain).is_some() {
            return Node::Global(plain.into());
        }
        match self.checked.type_of(expr) {
            Type::Type(Some(t)) => Node::Constant(Val::Type((**t).clone())),
            _ => Node::Global(plain.into()),
        }
    }

    fn select(&mut self, operand: &Expr, field: &Arc<str>, test: bool) -> Node {
        let is_lazy =
            matches!(&operand.kind, Kind::Ident(name) if self.env.is_lazy(name) && !self.scope.contains(name));
        match (is_lazy, test) {
            (true, true) => Node::Constant(Val::Bool(true)),
            (true, false) => Node::Lazy(field.clone()),
            (false, true) => Node::Has(self.boxed(operand), field.clone()),
            (false, false) => Node::Select(self.boxed(operand), field.clone()),
        }
    }

    fn call(&mut self, target: Option<&Expr>, function: &Arc<str>, args: &[Expr]) -> Node {
        match (&**function, target, args) {
            ("_&&_", _, [a, b]) => return Node::And(self.boxed(a), self.boxed(b)),
            ("_||_", _, [a, b]) => return Node::Or(self.boxed(a), self.boxed(b)),
            ("_?_:_", _, [a, b, c]) => {
                return Node::Conditional(Box::new([self.node(a), self.node(b), self.node(c)]));
            }
            ("@not_strictly_false", _, [a]) => return Node::NotStrictlyFalse(self.boxed(a)),
            ("_[_]", _, [a, b]) => return Node::Index(self.boxed(a), self.boxed(b)),
            ("_[?_]", _, [a, b]) => return Node::OptionalIndex(self.boxed(a), self.boxed(b)),
            ("_?._", _, [a, Expr { kind: Kind::Literal(Literal::String(field)), .. }]) => {
                return Node::OptionalSelect(self.boxed(a), field.clone());
            }
            ("or", Some(a), [b]) => return Node::Alternative(self.boxed(a), self.boxed(b)),
            ("orValue", Some(a), [b]) => return Node::Fallback(self.boxed(a), self.boxed(b)),
            _ => {}
        }
        let args: Vec<Node> = target.into_iter().chain(args).map(|arg| self.node(arg)).collect();
        let code = match (&**function, args.get(1)) {
            ("matches" | "find" | "findAll", Some(Node::Constant(Val::String(pattern)))) => {
                Code::Pattern(strings::compile(pattern).ok())
            }
            ("matches" | "find" | "findAll", _) => Code::Pattern(None),
            (name, _) => match (implementation(name), kubernetes::format_constant(name)) {
                (Some(code), _) => Code::Function(code),
                (None, Some(format)) => Code::Constant(format),
                (None, None) => Code::Function(|_| super::value::no_such_overload()),
            },
        };
        Node::Call(Box::new(Call { function: function.clone(), code, args }))
    }

    fn fold(&mut self, fold: &Fold) -> Node {
        if fold.is_bind() {
            let value = self.node(&fold.init);
            self.scope.push(fold.accu.clone());
            let within = self.node(&fold.result);
            self.scope.pop();
            return Node::Bind(Box::new([value, within]));
        }
        let (range, init) = (self.node(&fold.range), self.node(&fold.init));
        let outer = self.scope.len();
        self.scope.push(fold.accu.clone());
        self.scope.push(fold.var.clone());
        self.scope.extend(fold.var2.clone());
        let condition = match &fold.condition.kind {
            Kind::Literal(Literal::Bool(true)) => None,
            _ => Some(self.node(&fold.condition)),
        };
        let step = self.step(&fold.step);
        self.scope.truncate(outer + 1);
        let result = self.node(&fold.result);
        self.scope.truncate(outer);
        Node::Fold(Box::new(FoldPlan { range, two: fold.var2.is_some(), init, condition, step, result }))
    }

    /// Recognizes the steps that build lists and maps, which would copy what they built each time.
    fn step(&mut self, step: &Expr) -> Step {
        let is_accu = |expr: &Expr| matches!(&expr.kind, Kind::Ident(name) if **name == *ACCUMULATOR);
        let (filter, inner) = match &step.kind {
            Kind::Call { function, args, .. } if &**function == "_?_:_" && args.len() == 3 && is_accu(&args[2]) => {
                (Some(&args[0]), &args[1])
            }
            _ => (None, step),
        };
        if let Kind::Call { function, args, target: None } = &inner.kind {
            match (&**function, args.as_slice()) {
                ("_+_", [accu, Expr { kind: Kind::List(items), .. }]) if is_accu(accu) && items.len() == 1 => {
                    let filter = filter.map(|filter| self.node(filter));
                    return Step::Append(filter, self.node(&items[0].value));
                }
                ("cel.@mapInsert", [accu, rest @ ..]) if is_accu(accu) => {
                    let filter = filter.map(|filter| self.node(filter));
                    return Step::Insert(filter, rest.iter().map(|arg| self.node(arg)).collect());
                }
                _ => {}
            }
        }
        Step::Value(self.node(step))
    }
}

/// A list of nothing but constants is one.
fn constant_list(nodes: &[(bool, Node)]) -> Option<Node> {
    if nodes.is_empty() {
        return None;
    }
    let items: Option<Vec<Val<'static>>> = nodes
        .iter()
        .map(|(optional, node)| match node {
            Node::Constant(val) if !optional => Some(val.clone()),
            _ => None,
        })
        .collect();
    Some(Node::Constant(Val::list(items?)))
}

/// Fields of a struct that have been given values.
pub(super) type Given<'a> = BTreeMap<Arc<str>, Val<'a>>;
