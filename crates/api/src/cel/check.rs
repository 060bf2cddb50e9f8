//! Type checking: every node gets a type, every call the overloads that fit.

use std::sync::Arc;

use super::ast::{Expr, Fold, Kind, Literal};
use super::environment::Environment;
use super::functions::{self, Overload};
use super::source::CompileErrors;
use super::types::{Substitution, Type, most_general};

/// What checking found out, by node id.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    types: Vec<Type>,
    overloads: Vec<Vec<usize>>,
    /// Variables of the environment that the expression names.
    pub names: Vec<Arc<str>>,
}

impl Checked {
    pub(super) fn type_of(&self, expr: &Expr) -> &Type {
        self.types.get(expr.id as usize).unwrap_or(&Type::Error)
    }

    /// Indices of the overloads of the called function that fit.
    pub(super) fn overloads(&self, expr: &Expr) -> &[usize] {
        self.overloads.get(expr.id as usize).map_or(&[], Vec::as_slice)
    }
}

/// Checks an expression, and rewrites in it what only looks like field selection (`type(x) == google.protobuf.Timestamp`).
pub(super) fn check(env: &Environment, expr: &mut Expr, ids: u32, errors: &mut CompileErrors) -> Checked {
    let mut checker = Checker {
        env,
        errors,
        types: vec![Type::Error; ids as usize],
        overloads: vec![Vec::new(); ids as usize],
        names: Vec::new(),
        scope: Vec::new(),
        substitution: Substitution::default(),
        fresh: 0,
    };
    checker.check(expr);
    let substitution = checker.substitution;
    let types = checker.types.iter().map(|t| substitution.apply(t, true)).collect();
    Checked { types, overloads: checker.overloads, names: checker.names }
}

struct Checker<'c> {
    env: &'c Environment,
    errors: &'c mut CompileErrors,
    types: Vec<Type>,
    overloads: Vec<Vec<usize>>,
    names: Vec<Arc<str>>,
    scope: Vec<(Arc<str>, Type)>,
    substitution: Substitution,
    fresh: usize,
}

impl Checker<'_> {
    fn set(&mut self, expr: &Expr, t: Type) {
        if let Some(slot) = self.types.get_mut(expr.id as usize) {
            *slot = t;
        }
    }

    fn get(&self, expr: &Expr) -> Type {
        self.types.get(expr.id as usize).cloned().unwrap_or(Type::Error)
    }

    fn error(&mut self, expr: &Expr, message: String) {
        self.errors.report(expr.at, message);
    }

    fn mismatch(&mut self, expr: &Expr, expected: &Type, actual: &Type) {
        let message = format!("expected type '{}' but found '{}'", expected.checker_name(), actual.checker_name());
        self.error(expr, message);
    }

    fn undeclared(&mut self, expr: &Expr, name: &str) {
        self.error(expr, format!("undeclared reference to '{name}' (in container '')"));
        self.set(expr, Type::Error);
    }

    fn fresh(&mut self) -> Type {
        let name = format!("_var{}", self.fresh);
        self.fresh += 1;
        Type::Param(name.into())
    }

    fn apply(&self, t: &Type) -> Type {
        self.substitution.apply(t, false)
    }

    fn check(&mut self, expr: &mut Expr) {
        match &mut expr.kind {
            Kind::Literal(literal) => {
                let t = literal_type(literal);
                self.set(expr, t);
            }
            Kind::Ident(_) => self.ident(expr),
            Kind::Select { .. } => self.select(expr),
            Kind::Call { .. } => self.call(expr),
            Kind::List(_) => self.list(expr),
            Kind::Map(_) => self.map(expr),
            Kind::Struct { .. } => self.structure(expr),
            Kind::Fold(_) => self.fold(expr),
            Kind::Missing => {}
        }
    }

    /// Type of a name: of the innermost fold, of the environment, or of a type.
    fn lookup(&mut self, name: &str) -> Option<Type> {
        if let Some((_, t)) = self.scope.iter().rev().find(|(own, _)| **own == *name) {
            return Some(t.clone());
        }
        let name = name.strip_prefix('.').unwrap_or(name);
        if let Some(t) = self.env.variable(name) {
            let t = t.clone();
            if !self.names.iter().any(|known| **known == *name) {
                self.names.push(name.into());
            }
            return Some(t);
        }
        self.env.type_named(name).map(|t| Type::Type(Some(Arc::new(t))))
    }

    /// Does a dotted name begin with a variable of a fold?
    fn is_local(&self, name: &str) -> bool {
        let first = name.split('.').next().unwrap_or(name);
        self.scope.iter().any(|(own, _)| **own == *first)
    }

    fn ident(&mut self, expr: &Expr) {
        let Kind::Ident(name) = &expr.kind else { return };
        match self.lookup(name) {
            Some(t) => self.set(expr, t),
            None => self.undeclared(expr, name),
        }
    }

    fn select(&mut self, expr: &mut Expr) {
        if let Some(name) = qualified(expr)
            && !self.is_local(&name)
            && let Some(t) = self.lookup(&name)
        {
            expr.kind = Kind::Ident(name.into());
            self.set(expr, t);
            return;
        }
        let Kind::Select { operand, field, test } = &mut expr.kind else { return };
        let (field, test) = (field.clone(), *test);
        self.check(operand);
        let operand = self.get(operand);
        let selected = self.field(expr, &operand, &field, false);
        let t = if test { Type::Bool } else { self.apply(&selected) };
        self.set(expr, t);
    }

    /// Type of a field of an operand of some type.
    fn field(&mut self, expr: &Expr, operand: &Type, field: &str, optional: bool) -> Type {
        let operand = self.apply(operand);
        let (target, was_optional) = operand.unwrap_optional();
        let selected = match target {
            Type::Map(pair) => pair.1.clone(),
            Type::Object(name) => match self.env.field(name, field) {
                Some(t) => t,
                None => {
                    self.error(expr, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            Type::Param(_) => {
                self.substitution.assign(&Type::Dyn, target);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                self.error(expr, format!("type '{}' does not support field selection", other.checker_name()));
                Type::Dyn
            }
        };
        if was_optional || optional { Type::optional(selected) } else { selected }
    }

    fn call(&mut self, expr: &mut Expr) {
        let Kind::Call { target, function, args } = &mut expr.kind else { return };
        if &**function == "_?._" {
            return self.optional_select(expr);
        }
        args.iter_mut().for_each(|arg| self.check(arg));
        let mut types: Vec<Type> = args.iter().map(|arg| self.get(arg)).collect();
        let name = function.clone();
        let Some(receiver) = target else {
            return match functions::overloads(&name) {
                Some(overloads) => self.resolve(expr, &name, overloads, types, false),
                None => self.undeclared(expr, &name),
            };
        };
        // `a.b.c()` calls `c` on `a.b`, or the function `a.b.c`.
        if let Some(prefix) = qualified(receiver) {
            let full = format!("{prefix}.{name}");
            if let Some(overloads) = functions::overloads(&full) {
                *target = None;
                *function = full.as_str().into();
                return self.resolve(expr, &full, overloads, types, false);
            }
        }
        self.check(receiver);
        types.insert(0, self.get(receiver));
        match functions::overloads(&name) {
            Some(overloads) => self.resolve(expr, &name, overloads, types, true),
            None => self.undeclared(expr, &name),
        }
    }

    fn optional_select(&mut self, expr: &mut Expr) {
        let Kind::Call { args, .. } = &mut expr.kind else { return };
        let [operand, name] = args.as_mut_slice() else { return };
        self.check(operand);
        let Kind::Literal(Literal::String(field)) = &name.kind else { return };
        let (operand, field) = (self.get(operand), field.clone());
        let selected = self.field(expr, &operand, &field, true);
        let t = self.apply(&selected);
        self.set(expr, t);
    }

    fn resolve(&mut self, expr: &Expr, name: &str, overloads: &[Overload], types: Vec<Type>, member: bool) {
        if matches!(name, "_&&_" | "_||_") {
            return self.logical(expr, &types);
        }
        let mut result: Option<Type> = None;
        let mut fitting = Vec::new();
        for (index, overload) in overloads.iter().enumerate() {
            if overload.member != member {
                continue;
            }
            let mut instance = Substitution::default();
            for param in &overload.params {
                instance.bind(param.clone(), self.fresh());
            }
            let wanted: Vec<Type> = overload.args.iter().map(|t| instance.apply(t, false)).collect();
            if !self.substitution.assign_all(&types, &wanted) {
                continue;
            }
            fitting.push(index);
            let own = self.apply(&instance.apply(&overload.result, false));
            result = Some(match result {
                None => own,
                Some(earlier) if earlier.is_dyn() || earlier == own => earlier,
                Some(_) => Type::Dyn,
            });
        }
        match result {
            Some(t) => {
                self.set(expr, t);
                if let Some(slot) = self.overloads.get_mut(expr.id as usize) {
                    *slot = fitting;
                }
            }
            None => {
                let mut names = types.iter().map(|t| self.substitution.apply(t, true).checker_name());
                let receiver = if member { names.next().map(|name| format!("{name}.")) } else { None };
                let args: Vec<String> = names.collect();
                let signature = format!("{}({})", receiver.unwrap_or_default(), args.join(", "));
                self.error(expr, format!("found no matching overload for '{name}' applied to '{signature}'"));
                self.set(expr, Type::Error);
            }
        }
    }

    /// Each operand is judged for itself.
    fn logical(&mut self, expr: &Expr, types: &[Type]) {
        let mut result = Type::Bool;
        let Kind::Call { args, .. } = &expr.kind else { return };
        for (arg, t) in args.iter().zip(types) {
            if !self.substitution.assign(t, &Type::Bool) {
                self.mismatch(arg, &Type::Bool, t);
                result = Type::Error;
            }
        }
        self.set(expr, result);
        if let Some(slot) = self.overloads.get_mut(expr.id as usize) {
            *slot = vec![0];
        }
    }

    /// The type of a part that is written with a question mark, which must be optional.
    fn optional_part(&mut self, part: &Expr, t: Type) -> Type {
        let (inner, was_optional) = t.unwrap_optional();
        let inner = inner.clone();
        if !was_optional && !inner.is_dyn() {
            self.mismatch(part, &Type::optional(inner.clone()), &inner);
        }
        inner
    }

    /// The common type of what came before and one more. That elements of a literal must agree is asked later.
    fn join(&mut self, previous: Option<Type>, current: Type) -> Type {
        match previous {
            None => current,
            Some(previous) if self.substitution.assign(&previous, &current) => most_general(&previous, &current),
            Some(_) => Type::Dyn,
        }
    }

    fn list(&mut self, expr: &mut Expr) {
        let Kind::List(items) = &mut expr.kind else { return };
        let mut element = None;
        for item in items {
            self.check(&mut item.value);
            let mut t = self.get(&item.value);
            if item.optional {
                t = self.optional_part(&item.value, t);
            }
            element = Some(self.join(element, t));
        }
        let element = element.unwrap_or_else(|| self.fresh());
        self.set(expr, Type::list(element));
    }

    fn map(&mut self, expr: &mut Expr) {
        let Kind::Map(entries) = &mut expr.kind else { return };
        let (mut key, mut value) = (None, None);
        for entry in entries {
            self.check(&mut entry.key);
            let own = self.get(&entry.key);
            key = Some(self.join(key, own));
            self.check(&mut entry.value);
            let mut own = self.get(&entry.value);
            if entry.optional {
                own = self.optional_part(&entry.value, own);
            }
            value = Some(self.join(value, own));
        }
        let (key, value) = match (key, value) {
            (Some(key), Some(value)) => (key, value),
            _ => (self.fresh(), self.fresh()),
        };
        self.set(expr, Type::map(key, value));
    }

    fn structure(&mut self, expr: &mut Expr) {
        let Kind::Struct { name, fields } = &mut expr.kind else { return };
        let name = name.clone();
        let known = self.env.type_named(&name);
        let Some(Type::Object(object)) = known else {
            return match known {
                None => self.undeclared(expr, &name),
                Some(_) => {
                    self.error(expr, format!("'{name}' is not a message type"));
                    self.set(expr, Type::Error);
                }
            };
        };
        for init in fields.iter_mut() {
            self.check(&mut init.value);
            let mut t = self.get(&init.value);
            if init.optional {
                t = self.optional_part(&init.value, t);
            }
            let wanted = match self.env.field(&object, &init.name) {
                Some(wanted) => wanted,
                None => {
                    self.errors.report(init.at, format!("undefined field '{}'", init.name));
                    Type::Error
                }
            };
            if !self.substitution.assign(&wanted, &t) {
                let message = format!(
                    "expected type of field '{}' is '{}' but provided type is '{}'",
                    init.name,
                    wanted.checker_name(),
                    t.checker_name()
                );
                self.errors.report(init.at, message);
            }
        }
        self.set(expr, Type::Object(object));
    }

    fn fold(&mut self, expr: &mut Expr) {
        let Kind::Fold(fold) = &mut expr.kind else { return };
        let Fold { range, var, var2, accu, init, condition, step, result } = &mut **fold;
        self.check(range);
        self.check(init);
        let range_type = self.apply(&self.get(range));
        let accu_type = self.get(init);
        let (first, second) = match &range_type {
            Type::List(element) if var2.is_some() => (Type::Int, (**element).clone()),
            Type::List(element) => ((**element).clone(), Type::Error),
            Type::Map(pair) => (pair.0.clone(), pair.1.clone()),
            Type::Dyn | Type::Error | Type::Param(_) => {
                self.substitution.assign(&Type::Dyn, &range_type);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{}' cannot be range of a comprehension (must be list, map, or dynamic)",
                    other.checker_name()
                );
                self.error(range, message);
                (Type::Error, Type::Error)
            }
        };
        let outer = self.scope.len();
        self.scope.push((accu.clone(), accu_type.clone()));
        self.scope.push((var.clone(), first));
        if let Some(var2) = var2 {
            self.scope.push((var2.clone(), second));
        }
        self.check(condition);
        self.assert(condition, &Type::Bool);
        self.check(step);
        self.assert(step, &accu_type);
        self.scope.truncate(outer + 1);
        self.check(result);
        self.scope.truncate(outer);
        let t = self.apply(&self.get(result));
        self.set(expr, t);
    }

    fn assert(&mut self, expr: &Expr, t: &Type) {
        let own = self.get(expr);
        if !self.substitution.assign(t, &own) {
            self.mismatch(expr, t, &own);
        }
    }
}

fn literal_type(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}

/// `a.b.c` when the expression is nothing but names joined by dots.
fn qualified(expr: &Expr) -> Option<String> {
    match &expr.kind {
        Kind::Ident(name) => Some(name.to_string()),
        Kind::Select { operand, field, test: false } => Some(format!("{}.{field}", qualified(operand)?)),
        _ => None,
    }
}
