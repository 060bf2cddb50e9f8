//! `/statusz` and `/flagz`: what runs here, since when and with which flags; as text, or as an object of `config.k8s.io` for who
//! asks for its kind.

use ::bytes::Bytes;
use api::json;
use api::{Status, Value};
use jiff::Timestamp;

use crate::http::accept::Encoding;
use crate::verbs;

/// Media types in the order in which a refusal names them.
const MEDIA_TYPES: [&str; 3] = ["application/json", "application/yaml", "text/plain"];
const VERSIONS: [&str; 2] = ["v1alpha1", "v1beta1"];
const DEPRECATED: &str = "v1alpha1";
const VERSION: &str = "1.36.2";
const EMULATED: &str = "1.36";

/// What a component tells of itself.
#[derive(Debug)]
pub struct Zpages {
    /// Its name, as upstream calls it.
    pub component: &'static str,
    /// Paths for people who look after it.
    pub paths: &'static [&'static str],
    pub started: Timestamp,
    /// Names and values of its flags, by name.
    pub flags: Vec<(String, String)>,
}

/// One of the pages, as it was asked for.
#[derive(Debug)]
pub struct Page {
    pub content_type: &'static str,
    pub body: Bytes,
    /// What to say in the `Warning` header: that the version is on its way out.
    pub warning: Option<String>,
}

impl Zpages {
    /// Since when it runs, and what it is.
    ///
    /// # Errors
    /// When nothing in `accept` can be served; the other page as well.
    pub fn statusz(&self, accept: Option<&str>) -> Result<Page, Status> {
        let up = Timestamp::now().as_second().saturating_sub(self.started.as_second()).max(0);
        match negotiate(accept, "Statusz")? {
            Form::Text => Ok(Page::text(format!(
                "{}\nStarted: {}\nUp: {} hr {:02} min {:02} sec\nGo version: \nBinary version: {VERSION}\nEmulation version: \
                 {EMULATED}\nPaths: {}\n",
                self.heading("statusz"),
                self.started.strftime("%a %b %e %H:%M:%S UTC %Y"),
                up / 3600,
                up / 60 % 60,
                up % 60,
                self.paths.join(" ")
            ))),
            Form::Structured(encoding, version) => Page::structured(
                "statusz",
                encoding,
                version,
                &json!({
                    "kind": "Statusz",
                    "apiVersion": format!("config.k8s.io/{version}"),
                    "metadata": { "name": self.component },
                    "startTime": crate::write::rfc3339(self.started),
                    "uptimeSeconds": up,
                    "goVersion": "",
                    "binaryVersion": VERSION,
                    "emulationVersion": EMULATED,
                    "paths": self.paths,
                }),
            ),
        }
    }

    /// The flags with the values that hold, given or not.
    ///
    /// # Errors
    /// As [`Zpages::statusz`].
    pub fn flagz(&self, accept: Option<&str>) -> Result<Page, Status> {
        match negotiate(accept, "Flagz")? {
            Form::Text => {
                let lines: String = self.flags.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
                Ok(Page::text(self.heading("flagz") + &lines))
            }
            Form::Structured(encoding, version) => {
                let flags: api::Map = self.flags.iter().map(|(name, value)| (name, value)).collect();
                let document = json!({
                    "kind": "Flagz",
                    "apiVersion": format!("config.k8s.io/{version}"),
                    "metadata": { "name": self.component },
                    "flags": flags,
                });
                Page::structured("flagz", encoding, version, &document)
            }
        }
    }

    fn heading(&self, page: &str) -> String {
        format!(
            "\n{} {page}\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
             guarantees and is for debugging purposes only.\n",
            self.component
        )
    }
}

impl Page {
    fn text(text: String) -> Self {
        Self { content_type: "text/plain; charset=utf-8", body: text.into(), warning: None }
    }

    fn structured(page: &str, encoding: Encoding, version: &str, document: &Value) -> Result<Self, Status> {
        let text = format!("299 - \"This version of the {page} endpoint is deprecated. Please use a newer version.\"");
        let warning = (version == DEPRECATED).then_some(text);
        Ok(Self { content_type: encoding.content_type(), body: verbs::encode(document, encoding)?, warning })
    }
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

    #[test]
    fn pages_name_their_component_and_warn_of_old_versions() {
        let flags = vec![("v".to_owned(), "0".to_owned())];
        let paths = &["/healthz", "/metrics"];
        let pages = Zpages { component: "kube-scheduler", paths, started: Timestamp::UNIX_EPOCH, flags };
        let text = |page: Page| (String::from_utf8(page.body.to_vec()).unwrap(), page.warning);
        let (flagz, warning) = text(pages.flagz(None).unwrap());
        assert!(flagz.starts_with("\nkube-scheduler flagz\nWarning: This endpoint is not meant"), "{flagz}");
        assert!(flagz.ends_with(" only.\nv=0\n") && warning.is_none(), "{flagz}");
        let (statusz, _) = text(pages.statusz(Some("text/plain")).unwrap());
        assert!(statusz.contains(" only.\n\nStarted: Thu Jan  1 00:00:00 UTC 1970\nUp: "), "{statusz}");
        assert!(statusz.ends_with("\nPaths: /healthz /metrics\n"), "{statusz}");
        for (version, is_old) in [("v1alpha1", true), ("v1beta1", false)] {
            let accept = format!("application/json;v={version};g=config.k8s.io;as=Flagz");
            let (flagz, warning) = text(pages.flagz(Some(&accept)).unwrap());
            let expected = "{\"kind\":\"Flagz\",\"apiVersion\":\"config.k8s.io/VERSION\",\"metadata\":{\"name\":\"kube-scheduler\"},\
                            \"flags\":{\"v\":\"0\"}}";
            assert_eq!(flagz.trim_end(), expected.replace("VERSION", version));
            let deprecated = "299 - \"This version of the flagz endpoint is deprecated. Please use a newer version.\"";
            assert_eq!(warning.as_deref(), is_old.then_some(deprecated));
        }
    }
}
