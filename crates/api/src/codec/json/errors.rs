//! What is said of a body that does not fit: Go's words, with the path that was read.

use std::ops::Range;

use super::{GoType, ParseError, Reader, Result, STRICT_ERRORS_MAX, Step, is_number_start};
use crate::Value;
use crate::schema::Shape;

impl<'s> Reader<'s, '_> {
    /// A value of the wrong type: remembered, skipped.
    pub(super) fn mismatch(&mut self, first: u8, shape: Shape, go: GoType<'s>) -> Result<Option<Value>> {
        let what = kind_of(first)?;
        self.type_error(what, shape, go);
        self.skip()?;
        Ok(None)
    }

    pub(super) fn type_error(&mut self, what: &str, shape: Shape, go: GoType<'s>) {
        if self.type_error.is_none() {
            let ty = match go {
                GoType::Named(name) => name.to_owned(),
                GoType::Derived => self.schema.go_shape(shape),
            };
            self.type_error = Some(self.cannot_unmarshal(what, &ty));
        }
    }

    /// The error of a type with its own reader, which ends the reading.
    pub(super) fn own_reader_mismatch(&mut self, first: u8, go_type: &str) -> Result<ParseError> {
        let what = kind_of(first)?;
        Ok(ParseError::Content(self.cannot_unmarshal(what, go_type)))
    }

    /// `json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container`.
    pub(super) fn cannot_unmarshal(&self, what: &str, go_type: &str) -> String {
        let fields = self.path.iter().filter_map(|step| match step {
            Step::Field { owner, field } => Some((*owner, *field)),
            Step::Index(_) | Step::Key(_) => None,
        });
        let (mut names, mut innermost) = (Vec::new(), None);
        for (owner, field) in fields {
            names.push(format!("{}{}", field.embedded_in.as_deref().unwrap_or(""), field.name));
            innermost = Some(owner);
        }
        match innermost {
            Some(owner) => {
                let owner = self.schema.get(owner).short_name();
                format!(
                    "json: cannot unmarshal {what} into Go struct field {owner}.{} of type {go_type}",
                    names.join(".")
                )
            }
            None => format!("json: cannot unmarshal {what} into Go value of type {go_type}"),
        }
    }

    pub(super) fn strict_error(&mut self, what: &str, key: &Range<usize>) -> Result<()> {
        if !self.strict || self.strict_errors.len() >= STRICT_ERRORS_MAX {
            return Ok(());
        }
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Index(index) => path.push_str(&format!("[{index}]")),
                Step::Field { field, .. } => push_name(&mut path, &field.name),
                Step::Key(key) => push_name(&mut path, &self.unescape(key)?),
            }
        }
        push_name(&mut path, &self.unescape(key)?);
        let error = format!("{what} {}", crate::field::go_quote(&path));
        if !self.strict_errors.contains(&error) {
            self.strict_errors.push(error);
        }
        Ok(())
    }
}

/// Go's word for the JSON value that starts with this byte.
fn kind_of(first: u8) -> Result<&'static str> {
    Ok(match first {
        b'{' => "object",
        b'[' => "array",
        b'"' => "string",
        b't' | b'f' => "bool",
        b if is_number_start(b) => "number",
        _ => return Err(ParseError::Syntax),
    })
}

fn push_name(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}
