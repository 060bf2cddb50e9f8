//! `/statusz` and `/flagz`: what runs here, since when and with which flags; as text, or as an object of `config.k8s.io` for who
//! asks for its kind.

use api::json;
use api::{Status, Value};
use http::Response;
use jiff::Timestamp;

use crate::gateway::{respond, text};
use crate::http::ResponseBody;
use crate::http::accept::Encoding;
use crate::http::body;
use crate::verbs;

const COMPONENT: &str = "kube-apiserver";
/// Media types in the order in which a refusal names them.
const MEDIA_TYPES: [&str; 3] = ["application/json", "application/yaml", "text/plain"];
const VERSIONS: [&str; 2] = ["v1alpha1", "v1beta1"];
/// Paths for people who look after the server.
const PATHS: [&str; 7] = ["/flagz", "/healthz", "/livez", "/metrics", "/readyz", "/statusz", "/version"];
const VERSION: &str = "1.36.2";
const EMULATED: &str = "1.36";

/// Since when this server runs, and what it is.
pub(crate) fn statusz(accept: Option<&str>, started: Timestamp) -> Result<Response<ResponseBody>, Status> {
    let up = Timestamp::now().as_second().saturating_sub(started.as_second()).max(0);
    match negotiate(accept, "Statusz")? {
        Form::Text => Ok(text(
            200,
            format!(
                "{}\nStarted: {}\nUp: {} hr {:02} min {:02} sec\nGo version: \nBinary version: {VERSION}\nEmulation version: \
                 {EMULATED}\nPaths: {}\n",
                heading("statusz"),
                started.strftime("%a %b %e %H:%M:%S UTC %Y"),
                up / 3600,
                up / 60 % 60,
                up % 60,
                PATHS.join(" ")
            ),
        )),
        Form::Structured(encoding, version) => structured(
            encoding,
            &json!({
                "kind": "Statusz",
                "apiVersion": format!("config.k8s.io/{version}"),
                "metadata": { "name": COMPONENT },
                "startTime": crate::write::rfc3339(started),
                "uptimeSeconds": up,
                "goVersion": "",
                "binaryVersion": VERSION,
                "emulationVersion": EMULATED,
                "paths": PATHS,
            }),
        ),
    }
}

/// The flags with the values that hold, given or not.
pub(crate) fn flagz(accept: Option<&str>, flags: &[(String, String)]) -> Result<Response<ResponseBody>, Status> {
    match negotiate(accept, "Flagz")? {
        Form::Text => {
            let lines: String = flags.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
            Ok(text(200, heading("flagz") + &lines))
        }
        Form::Structured(encoding, version) => {
            let flags: api::Map = flags.iter().map(|(name, value)| (name, value)).collect();
            structured(
                encoding,
                &json!({
                    "kind": "Flagz",
                    "apiVersion": format!("config.k8s.io/{version}"),
                    "metadata": { "name": COMPONENT },
                    "flags": flags,
                }),
            )
        }
    }
}

fn heading(page: &str) -> String {
    format!(
        "\n{COMPONENT} {page}\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
         guarantees and is for debugging purposes only.\n"
    )
}

fn structured(encoding: Encoding, document: &Value) -> Result<Response<ResponseBody>, Status> {
    Ok(respond(200, encoding.content_type(), body::full(verbs::encode(document, encoding)?)))
}

#[derive(Debug, PartialEq)]
enum Form {
    Text,
    Structured(Encoding, &'static str),
}

/// Text is for everybody; JSON and YAML only with the kind in the `Accept` header.
fn negotiate(accept: Option<&str>, kind: &str) -> Result<Form, Status> {
    let accept = accept.unwrap_or("").trim();
    if accept.is_empty() {
        return Ok(Form::Text);
    }
    for alternative in accept.split(',') {
        let mut parts = alternative.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or("");
        let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
        let parameter = |name: &str| parameters.iter().find(|(n, _)| *n == name).map_or("", |(_, value)| *value);
        let encoding = match media_type {
            "text/plain" | "text/*" | "*/*" if parameter("as").is_empty() => return Ok(Form::Text),
            "application/json" | "application/*" | "*/*" => Encoding::Json,
            "application/yaml" => Encoding::Yaml,
            _ => continue,
        };
        let version = VERSIONS.iter().find(|version| **version == parameter("v"));
        if let Some(version) = version
            && (parameter("g"), parameter("as")) == ("config.k8s.io", kind)
        {
            return Ok(Form::Structured(encoding, version));
        }
    }
    Err(Status::not_acceptable(&MEDIA_TYPES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structured_forms_must_be_asked_for_by_kind() {
        assert_eq!(negotiate(None, "Statusz").unwrap(), Form::Text);
        assert_eq!(negotiate(Some("text/plain"), "Statusz").unwrap(), Form::Text);
        assert_eq!(negotiate(Some("*/*"), "Statusz").unwrap(), Form::Text);
        let asked = Some("application/json;v=v1alpha1;g=config.k8s.io;as=Statusz");
        assert_eq!(negotiate(asked, "Statusz").unwrap(), Form::Structured(Encoding::Json, "v1alpha1"));
        assert_eq!(negotiate(asked, "Flagz").unwrap_err().code, 406);
        assert_eq!(
            negotiate(Some("application/json"), "Flagz").unwrap_err().message,
            "only the following media types are accepted: application/json, application/yaml, text/plain"
        );
    }
}
