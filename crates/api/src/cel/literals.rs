//! Checks of what is written out in an expression and could only fail: durations, times, patterns, formats, mixed lists.

use super::ast::{Expr, Kind, Literal};
use super::check::Checked;
use super::format::{self, Piece};
use super::source::CompileErrors;
use super::standard;
use super::strings;
use super::types::Type;
use super::value::Val;

pub(super) fn validate(checked: &Checked, expr: &Expr, errors: &mut CompileErrors) {
    visit(checked, expr, false, errors);
}

/// `in_format`: below the arguments of `format`, where lists may be mixed.
fn visit(checked: &Checked, expr: &Expr, in_format: bool, errors: &mut CompileErrors) {
    let mut go = |inner: &Expr, in_format: bool| visit(checked, inner, in_format, errors);
    match &expr.kind {
        Kind::Literal(_) | Kind::Ident(_) | Kind::Missing => {}
        Kind::Select { operand, .. } => go(operand, in_format),
        Kind::Call { target, function, args } => {
            let in_format = in_format || &**function == "format";
            target.iter().for_each(|target| go(target, in_format));
            args.iter().for_each(|arg| go(arg, in_format));
            call(checked, expr, target.as_deref(), function, args, errors);
        }
        Kind::List(items) => {
            items.iter().for_each(|item| go(&item.value, in_format));
            if !in_format {
                let types = items.iter().map(|item| (item.optional, &item.value));
                homogeneous(checked, types, true, errors);
            }
        }
        Kind::Map(entries) => {
            for entry in entries {
                go(&entry.key, in_format);
                go(&entry.value, in_format);
            }
            if !in_format {
                homogeneous(checked, entries.iter().map(|entry| (false, &entry.key)), false, errors);
                homogeneous(checked, entries.iter().map(|entry| (entry.optional, &entry.value)), false, errors);
            }
        }
        Kind::Struct { fields, .. } => fields.iter().for_each(|field| go(&field.value, in_format)),
        Kind::Fold(fold) => {
            for part in [&fold.range, &fold.init, &fold.condition, &fold.step, &fold.result] {
                go(part, in_format);
            }
        }
    }
}

fn homogeneous<'e>(
    checked: &Checked,
    parts: impl Iterator<Item = (bool, &'e Expr)>,
    stop_at_first: bool,
    errors: &mut CompileErrors,
) {
    let mut expected: Option<Type> = None;
    for (optional, part) in parts {
        let mut own = checked.type_of(part).clone();
        if optional {
            own = own.unwrap_optional().0.clone();
        }
        match &expected {
            None => expected = Some(own),
            Some(expected) if !expected.is_equivalent(&own) => {
                let message = format!("expected type '{}' but found '{}'", expected.checker_name(), own.checker_name());
                errors.report(part.at, message);
                if stop_at_first {
                    return;
                }
            }
            Some(_) => {}
        }
    }
}

fn call(
    checked: &Checked,
    expr: &Expr,
    target: Option<&Expr>,
    function: &str,
    args: &[Expr],
    errors: &mut CompileErrors,
) {
    let literal = |arg: &Expr| match &arg.kind {
        Kind::Literal(literal) => Some(literal.clone()),
        _ => None,
    };
    let Some(first) = args.first() else { return };
    let bad = match (function, literal(first)) {
        ("duration", Some(value)) => standard::duration(&[Val::literal(&value)]).is_err(),
        ("timestamp", Some(value)) => standard::timestamp(&[Val::literal(&value)]).is_err(),
        ("matches", Some(Literal::String(pattern))) => strings::compile(&pattern).is_err(),
        _ => false,
    };
    if bad {
        errors.report(first.at, format!("invalid {function} argument"));
    }
    if let ("format", Some(Expr { kind: Kind::Literal(Literal::String(text)), .. }), Kind::List(items)) =
        (function, target, &first.kind)
    {
        let values: Vec<&Expr> = items.iter().map(|item| &item.value).collect();
        check_format(checked, expr, text, &values, errors);
    }
}

fn check_format(checked: &Checked, expr: &Expr, text: &str, values: &[&Expr], errors: &mut CompileErrors) {
    let mut pieces = Vec::new();
    let parsed = format::parse(text, values.len(), &mut pieces);
    let mut taken = 0;
    for piece in pieces {
        let Piece::Clause(clause) = piece else { continue };
        let Some(value) = values.get(taken) else { break };
        if let Some(refusal) = clause.refuses(checked.type_of(value)) {
            errors.report(value.at, format!("error during formatting: {refusal}"));
            return;
        }
        taken += 1;
    }
    if let Err(message) = parsed {
        errors.report(expr.at, message);
    } else if values.len() > taken {
        let message = format!("too many arguments supplied to string.format (expected {taken}, got {})", values.len());
        errors.report(expr.at, message);
    }
}
