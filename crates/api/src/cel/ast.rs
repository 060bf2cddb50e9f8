//! The expression tree, as the parser makes it and the checker reads it.

use std::sync::Arc;

/// Position in the source, counted in characters.
pub(super) type Offset = u32;

/// One node. Nodes that a macro made stand at the macro's call.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Expr {
    /// Index into the checker's types; copies of a node within one macro share it.
    pub id: u32,
    pub at: Offset,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Literal(Literal),
    Ident(Arc<str>),
    Select {
        operand: Box<Expr>,
        field: Arc<str>,
        test: bool,
    },
    Call {
        target: Option<Box<Expr>>,
        function: Arc<str>,
        args: Vec<Expr>,
    },
    List(Vec<Element>),
    Map(Vec<Entry>),
    Struct {
        name: Arc<str>,
        fields: Vec<FieldInit>,
    },
    Fold(Box<Fold>),
    /// Stands where a syntax error was.
    Missing,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Element {
    pub optional: bool,
    pub value: Expr,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub optional: bool,
    pub key: Expr,
    pub value: Expr,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct FieldInit {
    pub at: Offset,
    pub optional: bool,
    pub name: Arc<str>,
    pub value: Expr,
}

/// A comprehension: what all macros over lists and maps expand to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fold {
    pub range: Expr,
    pub var: Arc<str>,
    /// Second variable: `var` is then the index or key, this one the value.
    pub var2: Option<Arc<str>>,
    pub accu: Arc<str>,
    pub init: Expr,
    pub condition: Expr,
    pub step: Expr,
    pub result: Expr,
}

impl Fold {
    /// A macro that only gives a value a name: there is nothing to iterate.
    pub(super) fn is_bind(&self) -> bool {
        matches!(&self.range.kind, Kind::List(items) if items.is_empty())
            && self.condition.kind == Kind::Literal(Literal::Bool(false))
    }
}

/// The name of the accumulator in folds; no name that can be written in an expression.
pub(super) const ACCUMULATOR: &str = "@result";

/// Calls `visit` for an expression and all below it, parents first.
pub(super) fn walk<'e>(expr: &'e Expr, visit: &mut dyn FnMut(&'e Expr)) {
    visit(expr);
    match &expr.kind {
        Kind::Literal(_) | Kind::Ident(_) | Kind::Missing => {}
        Kind::Select { operand, .. } => walk(operand, visit),
        Kind::Call { target, args, .. } => {
            target.iter().for_each(|target| walk(target, visit));
            args.iter().for_each(|arg| walk(arg, visit));
        }
        Kind::List(items) => items.iter().for_each(|item| walk(&item.value, visit)),
        Kind::Map(entries) => {
            for entry in entries {
                walk(&entry.key, visit);
                walk(&entry.value, visit);
            }
        }
        Kind::Struct { fields, .. } => fields.iter().for_each(|field| walk(&field.value, visit)),
        Kind::Fold(fold) => {
            for part in [&fold.range, &fold.init, &fold.condition, &fold.step, &fold.result] {
                walk(part, visit);
            }
        }
    }
}
