//! Functions on lists.

use std::cmp::Ordering;

use super::standard;
use super::strings;
use super::value::{Eval, EvalError, List, Val, fail, no_such_overload};

/// Items a list made by `lists.range` may have: what a call may cost, and memory.
const RANGE_MAX: i64 = 1_000_000;

fn list<'v, 'a>(args: &'v [Val<'a>]) -> Eval<&'v List<'a>> {
    match &args[0] {
        Val::List(list) => Ok(list),
        _ => no_such_overload(),
    }
}

fn items<'a>(val: &Val<'a>) -> Eval<Vec<Val<'a>>> {
    match val {
        Val::List(list) => list.iter().collect(),
        _ => no_such_overload(),
    }
}

pub(super) fn is_sorted<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let items = items(&args[0])?;
    for pair in items.windows(2) {
        if pair[0].compare(&pair[1])? == Ordering::Greater {
            return Ok(Val::Bool(false));
        }
    }
    Ok(Val::Bool(true))
}

/// The sum of an empty list is 0, an int.
pub(super) fn sum<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let mut items = items(&args[0])?.into_iter();
    let Some(mut total) = items.next() else { return Ok(Val::Int(0)) };
    for item in items {
        total = standard::add(&[total, item])?;
    }
    Ok(total)
}

fn extreme<'a>(args: &[Val<'a>], name: &str, replaces: Ordering) -> Eval<Val<'a>> {
    let mut best: Option<Val<'a>> = None;
    for item in items(&args[0])? {
        let better = match &best {
            None => true,
            Some(best) => best.compare(&item)? == replaces,
        };
        if better {
            best = Some(item);
        }
    }
    best.map_or_else(|| fail(format!("{name} called on empty list")), Ok)
}

pub(super) fn min<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    extreme(args, "min", Ordering::Greater)
}

pub(super) fn max<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    extreme(args, "max", Ordering::Less)
}

/// Of an element in a list, or of a part in a string.
pub(super) fn index_of<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match &args[0] {
        Val::List(list) => position(list, &args[1], 0..list.len()),
        _ => strings::index_of(args).map(Val::Int),
    }
}

pub(super) fn last_index_of<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    match &args[0] {
        Val::List(list) => position(list, &args[1], (0..list.len()).rev()),
        _ => strings::last_index_of(args).map(Val::Int),
    }
}

fn position<'a>(list: &List<'a>, wanted: &Val<'a>, order: impl Iterator<Item = usize>) -> Eval<Val<'a>> {
    for index in order {
        if let Some(Ok(item)) = list.get(index)
            && item.equals(wanted)?
        {
            return Ok(Val::Int(index as i64));
        }
    }
    Ok(Val::Int(-1))
}

fn int(val: Option<&Val<'_>>) -> Eval<i64> {
    match val {
        Some(Val::Int(n)) => Ok(*n),
        _ => no_such_overload(),
    }
}

pub(super) fn slice<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let (list, start, end) = (list(args)?, int(args.get(1))?, int(args.get(2))?);
    let refused = |why: String| fail(format!("cannot slice({start}, {end}), {why}"));
    let (Ok(from), Ok(to)) = (usize::try_from(start), usize::try_from(end)) else {
        return refused("negative indexes not supported".to_owned());
    };
    if from > to {
        return refused("start index must be less than or equal to end index".to_owned());
    }
    if list.len() < to {
        return refused(format!("list is length {}", list.len()));
    }
    (from..to).filter_map(|index| list.get(index)).collect::<Eval<_>>().map(Val::list)
}

pub(super) fn flatten<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let depth = if args.len() > 1 { int(args.get(1))? } else { 1 };
    if depth < 0 {
        return fail("level must be non-negative");
    }
    let mut out = Vec::new();
    flatten_into(list(args)?, depth, &mut out)?;
    Ok(Val::list(out))
}

fn flatten_into<'a>(list: &List<'a>, depth: i64, out: &mut Vec<Val<'a>>) -> Eval<()> {
    for item in list.iter() {
        match item? {
            Val::List(inner) if depth > 0 => flatten_into(&inner, depth - 1, out)?,
            other => out.push(other),
        }
    }
    Ok(())
}

pub(super) fn sort<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let items = items(&args[0])?;
    sort_by(items.clone(), items)
}

pub(super) fn sort_by_keys<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let (items, keys) = (items(&args[0])?, items(&args[1])?);
    if items.len() != keys.len() {
        return fail(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} \
             elements respectively",
            items.len(),
            keys.len()
        ));
    }
    sort_by(items, keys)
}

fn sort_by<'a>(items: Vec<Val<'a>>, keys: Vec<Val<'a>>) -> Eval<Val<'a>> {
    let Some(first) = keys.first() else { return Ok(Val::list(items)) };
    if first.compare(first).is_err() && !matches!(first, Val::Double(_)) {
        return fail("list elements must be comparable");
    }
    let kind = first.type_of();
    if keys.iter().any(|key| key.type_of() != kind) {
        return fail("list elements must have the same type");
    }
    let mut pairs: Vec<(Val<'a>, Val<'a>)> = keys.into_iter().zip(items).collect();
    pairs.sort_by(|(a, _), (b, _)| a.compare(b).unwrap_or(Ordering::Equal));
    Ok(Val::list(pairs.into_iter().map(|(_, item)| item).collect()))
}

pub(super) fn range<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let count = int(args.first())?;
    if count > RANGE_MAX {
        return Err(EvalError::CostLimit);
    }
    Ok(Val::list((0..count).map(Val::Int).collect()))
}

pub(super) fn reverse<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let mut items = items(&args[0])?;
    items.reverse();
    Ok(Val::list(items))
}

pub(super) fn distinct<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let mut out: Vec<Val<'a>> = Vec::new();
    'items: for item in items(&args[0])? {
        for seen in &out {
            if item.equals(seen)? {
                continue 'items;
            }
        }
        out.push(item);
    }
    Ok(Val::list(out))
}

pub(super) fn first<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    list(args)?.get(0).transpose().map(|found| found.map_or(Val::Optional(None), Val::some))
}

pub(super) fn last<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let list = list(args)?;
    let found = list.len().checked_sub(1).and_then(|index| list.get(index));
    found.transpose().map(|found| found.map_or(Val::Optional(None), Val::some))
}

fn contains_all<'a>(outer: &Val<'a>, inner: &Val<'a>) -> Eval<bool> {
    let Val::List(outer) = outer else { return no_such_overload() };
    for item in items(inner)? {
        if !outer.contains(&item)? {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn sets_contains<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    contains_all(&args[0], &args[1]).map(Val::Bool)
}

pub(super) fn sets_equivalent<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    Ok(Val::Bool(contains_all(&args[0], &args[1])? && contains_all(&args[1], &args[0])?))
}

pub(super) fn sets_intersects<'a>(args: &[Val<'a>]) -> Eval<Val<'a>> {
    let Val::List(other) = &args[1] else { return no_such_overload() };
    for item in items(&args[0])? {
        if other.contains(&item)? {
            return Ok(Val::Bool(true));
        }
    }
    Ok(Val::Bool(false))
}
