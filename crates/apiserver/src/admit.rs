//! Admission on the write path: the plugins mutate, later they judge.

use api::{Status, Value};

use crate::gateway::Gateway;
use crate::verbs::Request;
use crate::write::Moment;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
}

/// What admission gathers over one write.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    pub warnings: Vec<String>,
}

pub(crate) async fn mutate(
    _gateway: &Gateway,
    _request: &Request,
    _operation: Operation,
    _object: &mut Value,
    _old: Option<&Value>,
    _moment: &Moment,
) -> Result<Admission, Status> {
    Ok(Admission::default())
}

pub(crate) async fn validate(
    _gateway: &Gateway,
    _request: &Request,
    _operation: Operation,
    _object: &Value,
    _old: Option<&Value>,
    _moment: &Moment,
    _admission: &mut Admission,
) -> Result<(), Status> {
    Ok(())
}

pub(crate) async fn delete(
    _gateway: &Gateway,
    _request: &Request,
    _object: &Value,
    _moment: &Moment,
) -> Result<(), Status> {
    Ok(())
}
