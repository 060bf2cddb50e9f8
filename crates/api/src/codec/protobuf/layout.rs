//! Field numbers to fields. Fields of messages that JSON embeds are reached through the numbers of those messages.

use std::sync::OnceLock;

use crate::schema::{Schema, Type, TypeId};

/// The fields of one message, by ascending number.
pub(super) type Layout = Vec<Entry>;

pub(super) struct Entry {
    pub(super) number: u32,
    pub(super) place: Place,
}

pub(super) enum Place {
    /// Index of the field in its type.
    Field(usize),
    /// A message whose fields JSON shows in its parent.
    Inline(Layout),
}

/// The layout of a built-in type. Types of custom resources have none: upstream does not speak protobuf for them either.
pub(super) fn layout(id: TypeId) -> &'static Layout {
    static LAYOUTS: OnceLock<Vec<Layout>> = OnceLock::new();
    static NONE: Layout = Vec::new();
    let all = LAYOUTS.get_or_init(|| Schema::builtin().types().map(|(_, ty)| layout_of(ty)).collect());
    all.get(id.0 as usize).unwrap_or(&NONE)
}

fn layout_of(ty: &Type) -> Layout {
    let mut root = Layout::new();
    for (index, field) in ty.fields.iter().enumerate() {
        if let Some((&last, outer)) = field.proto.split_last() {
            inline(&mut root, outer).push(Entry { number: last, place: Place::Field(index) });
        }
    }
    sort(&mut root);
    root
}

/// The layout at the end of a path of embedded messages.
fn inline<'l>(layout: &'l mut Layout, path: &[u32]) -> &'l mut Layout {
    let Some((&number, rest)) = path.split_first() else { return layout };
    let known = layout.iter().position(|e| e.number == number && matches!(e.place, Place::Inline(_)));
    let at = known.unwrap_or_else(|| {
        layout.push(Entry { number, place: Place::Inline(Layout::new()) });
        layout.len() - 1
    });
    match &mut layout[at].place {
        Place::Inline(inner) => inline(inner, rest),
        Place::Field(_) => unreachable!("the entry was found or made as an embedded message"),
    }
}

fn sort(layout: &mut Layout) {
    layout.sort_by_key(|entry| entry.number);
    for entry in layout {
        if let Place::Inline(inner) = &mut entry.place {
            sort(inner);
        }
    }
}

/// The entry with this number.
pub(super) fn find(layout: &Layout, number: u32) -> Option<&Entry> {
    layout.binary_search_by_key(&number, |entry| entry.number).ok().map(|at| &layout[at])
}
