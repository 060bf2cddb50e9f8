//! What looks like a call and is not one: `has`, and everything that names a variable.

use std::sync::Arc;

use super::ast::{ACCUMULATOR, Element, Expr, Fold, Kind, Literal, Offset};
use super::parse::Nodes;
use super::source::CompileErrors;

/// Nodes of an expression, after which no macro is expanded: some copy their arguments, and nested copies grow without end.
const NODES_MAX: u32 = 100_000;

/// Name of the variable that folds without iterations do not use.
const UNUSED: &str = "#unused";

/// `Some` when the call is a macro's, even if its arguments are no good.
pub(super) fn expand_global(
    nodes: &mut Nodes,
    errors: &mut CompileErrors,
    at: Offset,
    name: &str,
    args: &[Expr],
) -> Option<Expr> {
    let ("has", [arg]) = (name, args) else { return None };
    let mut make = Maker { nodes, at };
    match &arg.kind {
        Kind::Select { operand, field, test: false } => {
            Some(make.node(Kind::Select { operand: operand.clone(), field: field.clone(), test: true }))
        }
        _ => {
            errors.report(arg.at, "invalid argument to has() macro");
            Some(make.node(Kind::Missing))
        }
    }
}

type Expand = fn(&mut Maker<'_>, &Expr, &[Expr]) -> Result<Expr, (Offset, String)>;

/// Macros called on a value, with the number of arguments.
const MEMBER_MACROS: &[(&str, usize, Expand)] = &[
    ("all", 2, |m, target, args| m.all(target, &[&args[0]], &args[1])),
    ("all", 3, |m, target, args| m.all(target, &[&args[0], &args[1]], &args[2])),
    ("exists", 2, |m, target, args| m.exists(target, &[&args[0]], &args[1])),
    ("exists", 3, |m, target, args| m.exists(target, &[&args[0], &args[1]], &args[2])),
    ("exists_one", 2, |m, target, args| m.exists_one(target, &[&args[0]], &args[1])),
    ("exists_one", 3, |m, target, args| m.exists_one(target, &[&args[0], &args[1]], &args[2])),
    ("existsOne", 2, |m, target, args| m.exists_one(target, &[&args[0]], &args[1])),
    ("existsOne", 3, |m, target, args| m.exists_one(target, &[&args[0], &args[1]], &args[2])),
    ("map", 2, |m, target, args| m.map(target, &args[0], None, &args[1])),
    ("map", 3, |m, target, args| m.map(target, &args[0], Some(&args[1]), &args[2])),
    ("filter", 2, |m, target, args| m.map(target, &args[0], Some(&args[1]), &args[0])),
    ("transformList", 3, |m, target, args| m.transform_list(target, args, None)),
    ("transformList", 4, |m, target, args| m.transform_list(target, args, Some(&args[2]))),
    ("transformMap", 3, |m, target, args| m.transform_map(target, args, None)),
    ("transformMap", 4, |m, target, args| m.transform_map(target, args, Some(&args[2]))),
    ("transformMapEntry", 3, |m, target, args| m.transform_map_entry(target, args, None)),
    ("transformMapEntry", 4, |m, target, args| m.transform_map_entry(target, args, Some(&args[2]))),
    ("optMap", 2, |m, target, args| m.opt_map(target, &args[0], &args[1])),
    ("optFlatMap", 2, |m, target, args| m.opt_flat_map(target, &args[0], &args[1])),
    ("sortBy", 2, |m, target, args| m.sort_by(target, &args[0], &args[1])),
];

pub(super) fn expand_member(
    nodes: &mut Nodes,
    errors: &mut CompileErrors,
    at: Offset,
    name: &str,
    target: &Expr,
    args: &[Expr],
) -> Option<Expr> {
    if nodes.count() > NODES_MAX {
        errors.report(at, "expression is too large");
        return Some(nodes.make(at, Kind::Missing));
    }
    let (_, _, expand) = MEMBER_MACROS.iter().find(|(known, count, _)| *known == name && *count == args.len())?;
    let mut make = Maker { nodes, at };
    Some(expand(&mut make, target, args).unwrap_or_else(|(at, message)| {
        errors.report(at, message);
        make.node(Kind::Missing)
    }))
}

/// Names of one or two iteration variables.
type Variables = (Arc<str>, Option<Arc<str>>);

struct Maker<'n> {
    nodes: &'n mut Nodes,
    at: Offset,
}

type Expanded = Result<Expr, (Offset, String)>;

impl Maker<'_> {
    fn node(&mut self, kind: Kind) -> Expr {
        self.nodes.make(self.at, kind)
    }

    fn literal(&mut self, literal: Literal) -> Expr {
        self.node(Kind::Literal(literal))
    }

    fn ident(&mut self, name: &str) -> Expr {
        self.node(Kind::Ident(name.into()))
    }

    fn accu(&mut self) -> Expr {
        self.ident(ACCUMULATOR)
    }

    fn call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        self.node(Kind::Call { target: None, function: function.into(), args })
    }

    fn member(&mut self, target: Expr, function: &str, args: Vec<Expr>) -> Expr {
        self.node(Kind::Call { target: Some(Box::new(target)), function: function.into(), args })
    }

    fn list(&mut self, items: Vec<Expr>) -> Expr {
        self.node(Kind::List(items.into_iter().map(|value| Element { optional: false, value }).collect()))
    }

    fn always(&mut self) -> Expr {
        self.literal(Literal::Bool(true))
    }

    /// The iteration variables; `message` says what is wrong with one that is no name.
    fn variables(&self, vars: &[&Expr], message: &str) -> Result<Variables, (Offset, String)> {
        let mut names: Vec<Arc<str>> = Vec::new();
        for var in vars {
            let Kind::Ident(name) = &var.kind else { return Err((var.at, message.to_owned())) };
            if names.contains(name) {
                return Err((var.at, format!("duplicate variable name: {name}")));
            }
            if **name == *"__result__" {
                return Err((var.at, "iteration variable overwrites accumulator variable".to_owned()));
            }
            names.push(name.clone());
        }
        let mut names = names.into_iter();
        Ok((names.next().unwrap_or_else(|| UNUSED.into()), names.next()))
    }

    fn quantifier(
        &mut self,
        target: &Expr,
        vars: &[&Expr],
        init: Literal,
        parts: impl FnOnce(&mut Self) -> (Expr, Expr, Expr),
    ) -> Expanded {
        let (var, var2) = self.variables(vars, "argument must be a simple name")?;
        let init = self.literal(init);
        let (condition, step, result) = parts(self);
        Ok(self.node(Kind::Fold(Box::new(Fold {
            range: target.clone(),
            var,
            var2,
            accu: ACCUMULATOR.into(),
            init,
            condition,
            step,
            result,
        }))))
    }

    fn all(&mut self, target: &Expr, vars: &[&Expr], predicate: &Expr) -> Expanded {
        self.quantifier(target, vars, Literal::Bool(true), |m| {
            let accu = m.accu();
            let condition = m.call("@not_strictly_false", vec![accu]);
            let accu = m.accu();
            let step = m.call("_&&_", vec![accu, predicate.clone()]);
            (condition, step, m.accu())
        })
    }

    fn exists(&mut self, target: &Expr, vars: &[&Expr], predicate: &Expr) -> Expanded {
        self.quantifier(target, vars, Literal::Bool(false), |m| {
            let accu = m.accu();
            let not = m.call("!_", vec![accu]);
            let condition = m.call("@not_strictly_false", vec![not]);
            let accu = m.accu();
            let step = m.call("_||_", vec![accu, predicate.clone()]);
            (condition, step, m.accu())
        })
    }

    fn exists_one(&mut self, target: &Expr, vars: &[&Expr], predicate: &Expr) -> Expanded {
        self.quantifier(target, vars, Literal::Int(0), |m| {
            let condition = m.always();
            let (accu, one) = (m.accu(), m.literal(Literal::Int(1)));
            let more = m.call("_+_", vec![accu, one]);
            let accu = m.accu();
            let step = m.call("_?_:_", vec![predicate.clone(), more, accu]);
            let (accu, one) = (m.accu(), m.literal(Literal::Int(1)));
            (condition, step, m.call("_==_", vec![accu, one]))
        })
    }

    /// A fold that builds something up from `init` by `step`, for elements that pass the filter.
    fn build(&mut self, target: &Expr, (var, var2): Variables, init: Expr, step: Expr, filter: Option<&Expr>) -> Expr {
        let condition = self.always();
        let step = match filter {
            Some(filter) => {
                let accu = self.accu();
                self.call("_?_:_", vec![filter.clone(), step, accu])
            }
            None => step,
        };
        let (accu, result) = (ACCUMULATOR.into(), self.accu());
        let range = target.clone();
        self.node(Kind::Fold(Box::new(Fold { range, var, var2, accu, init, condition, step, result })))
    }

    fn append(&mut self, value: &Expr) -> Expr {
        let (accu, one) = (self.accu(), self.list(vec![value.clone()]));
        self.call("_+_", vec![accu, one])
    }

    fn map(&mut self, target: &Expr, var: &Expr, filter: Option<&Expr>, transform: &Expr) -> Expanded {
        let vars = self.variables(&[var], "argument is not an identifier")?;
        let (init, step) = (self.list(Vec::new()), self.append(transform));
        Ok(self.build(target, vars, init, step, filter))
    }

    fn transform_list(&mut self, target: &Expr, args: &[Expr], filter: Option<&Expr>) -> Expanded {
        let vars = self.variables(&[&args[0], &args[1]], "argument must be a simple name")?;
        let (init, step) = (self.list(Vec::new()), self.append(&args[args.len() - 1]));
        Ok(self.build(target, vars, init, step, filter))
    }

    fn transform_map(&mut self, target: &Expr, args: &[Expr], filter: Option<&Expr>) -> Expanded {
        let vars = self.variables(&[&args[0], &args[1]], "argument must be a simple name")?;
        let (accu, key) = (self.accu(), self.ident(&vars.0));
        let step = self.call("cel.@mapInsert", vec![accu, key, args[args.len() - 1].clone()]);
        let init = self.node(Kind::Map(Vec::new()));
        Ok(self.build(target, vars, init, step, filter))
    }

    fn transform_map_entry(&mut self, target: &Expr, args: &[Expr], filter: Option<&Expr>) -> Expanded {
        let vars = self.variables(&[&args[0], &args[1]], "argument must be a simple name")?;
        let accu = self.accu();
        let step = self.call("cel.@mapInsert", vec![accu, args[args.len() - 1].clone()]);
        let init = self.node(Kind::Map(Vec::new()));
        Ok(self.build(target, vars, init, step, filter))
    }

    /// Gives a value a name within an expression.
    fn bind(&mut self, name: &str, value: Expr, within: Expr) -> Expr {
        let (range, condition) = (self.list(Vec::new()), self.literal(Literal::Bool(false)));
        let step = self.ident(name);
        let (var, accu) = (UNUSED.into(), name.into());
        self.node(Kind::Fold(Box::new(Fold {
            range,
            var,
            var2: None,
            accu,
            init: value,
            condition,
            step,
            result: within,
        })))
    }

    fn opt_map(&mut self, target: &Expr, var: &Expr, transform: &Expr) -> Expanded {
        let bound = self.opt_bind("optMap", target, var, transform)?;
        let some = self.call("optional.of", vec![bound]);
        Ok(self.if_present(target, some))
    }

    fn opt_flat_map(&mut self, target: &Expr, var: &Expr, transform: &Expr) -> Expanded {
        let bound = self.opt_bind("optFlatMap", target, var, transform)?;
        Ok(self.if_present(target, bound))
    }

    fn opt_bind(&mut self, what: &str, target: &Expr, var: &Expr, transform: &Expr) -> Expanded {
        let Kind::Ident(name) = &var.kind else {
            return Err((var.at, format!("{what}() variable name must be a simple identifier")));
        };
        let copy = self.copy(target);
        let value = self.member(copy, "value", Vec::new());
        Ok(self.bind(name, value, transform.clone()))
    }

    fn if_present(&mut self, target: &Expr, then: Expr) -> Expr {
        let present = self.member(target.clone(), "hasValue", Vec::new());
        let none = self.call("optional.none", Vec::new());
        self.call("_?_:_", vec![present, then, none])
    }

    fn sort_by(&mut self, target: &Expr, var: &Expr, key: &Expr) -> Expanded {
        const INPUT: &str = "@__sortBy_input__";
        if matches!(target.kind, Kind::Literal(_) | Kind::Map(_) | Kind::Struct { .. } | Kind::Missing) {
            let message = "sortBy can only be applied to a list, identifier, comprehension, call or select expression";
            return Err((target.at, message.to_owned()));
        }
        let input = self.ident(INPUT);
        let keys = self.map(&input, var, None, key)?;
        let input = self.ident(INPUT);
        let sorted = self.member(input, "@sortByAssociatedKeys", vec![keys]);
        Ok(self.bind(INPUT, target.clone(), sorted))
    }

    /// The same expression with ids of its own: it will be checked a second time.
    fn copy(&mut self, expr: &Expr) -> Expr {
        let mut copy = expr.clone();
        self.renumber(&mut copy);
        copy
    }

    fn renumber(&mut self, expr: &mut Expr) {
        expr.id = self.nodes.make(expr.at, Kind::Missing).id;
        match &mut expr.kind {
            Kind::Literal(_) | Kind::Ident(_) | Kind::Missing => {}
            Kind::Select { operand, .. } => self.renumber(operand),
            Kind::Call { target, args, .. } => {
                target.iter_mut().for_each(|target| self.renumber(target));
                args.iter_mut().for_each(|arg| self.renumber(arg));
            }
            Kind::List(items) => items.iter_mut().for_each(|item| self.renumber(&mut item.value)),
            Kind::Map(entries) => {
                for entry in entries {
                    self.renumber(&mut entry.key);
                    self.renumber(&mut entry.value);
                }
            }
            Kind::Struct { fields, .. } => fields.iter_mut().for_each(|field| self.renumber(&mut field.value)),
            Kind::Fold(fold) => {
                let fold = &mut **fold;
                for part in [&mut fold.range, &mut fold.init, &mut fold.condition, &mut fold.step, &mut fold.result] {
                    self.renumber(part);
                }
            }
        }
    }
}
