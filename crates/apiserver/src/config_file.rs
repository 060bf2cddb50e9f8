//! Configuration files of the API server: one versioned object in YAML or JSON, read strictly and, where asked, again when it
//! changes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use api::{Map, Text, Value};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::serve::stopped;

/// How often a watched file is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The object of a file, if it is of this kind and one of these versions (`group/version`), without fields that are not known.
pub(crate) fn decode<T: DeserializeOwned>(text: &str, kind: &str, versions: &[&str]) -> Result<T, String> {
    let (found_kind, found_version, object) = object(text)?;
    if found_kind.is_empty() {
        return Err("Object 'Kind' is missing in the file".to_owned());
    }
    if found_version.is_empty() {
        return Err("Object 'apiVersion' is missing in the file".to_owned());
    }
    if found_kind != kind || !versions.contains(&found_version.as_str()) {
        return Err(format!("no kind {found_kind:?} is registered for version {found_version:?}"));
    }
    api::value::from_value(Value::Object(object)).map_err(|error| strict(&error.to_string()))
}

/// Kind and version of an object in YAML or JSON, empty if it does not say them, and the rest of it.
pub(crate) fn object(text: &str) -> Result<(Text, Text, Map), String> {
    let document = api::codec::yaml::parse(text.as_bytes())?;
    if let Some(duplicate) = document.duplicates.first() {
        return Err(format!("strict decoding error: {duplicate}"));
    }
    let Value::Object(mut object) = document.value else {
        return Err("Object 'Kind' is missing in the file".to_owned());
    };
    let mut text_of = |field: &str| match object.remove(field) {
        Some(Value::String(text)) => text,
        _ => Text::default(),
    };
    let (kind, version) = (text_of("kind"), text_of("apiVersion"));
    Ok((kind, version, object))
}

/// What serde says of an unknown field, as Kubernetes says it.
fn strict(said: &str) -> String {
    match said.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) {
        Some((field, _)) => format!("strict decoding error: unknown field {field:?}"),
        None => said.to_owned(),
    }
}

/// Looks at a file until the server stops, and hands its text on whenever it has changed from `current`.
pub(crate) async fn follow(
    path: PathBuf,
    mut current: String,
    mut shutdown: watch::Receiver<bool>,
    mut changed: impl FnMut(&str),
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stopped(&mut shutdown) => return,
        }
        match read(&path).await {
            Ok(text) if text != current => {
                changed(&text);
                current = text;
            }
            Ok(_same) => {}
            Err(error) => tracing::warn!(%error, path = %path.display(), "cannot read a configuration file again"),
        }
    }
}

pub(crate) async fn read(path: &Path) -> std::io::Result<String> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await.map_err(std::io::Error::other)?
}
