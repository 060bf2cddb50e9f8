//! Content negotiation: which form of an answer the client wants.

use api::Status;
use api::codec::protobuf::MEDIA_TYPE;
use http::HeaderMap;
use http::header::USER_AGENT;

use super::query::Query;

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    /// Indented JSON (`pretty=true` or a browser).
    PrettyJson,
    Yaml,
    /// Kubernetes' protobuf.
    Protobuf,
}

impl Encoding {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Json | Self::PrettyJson => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => MEDIA_TYPE,
        }
    }

    /// The type of a stream of watch events.
    pub(crate) fn watch_content_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            Self::Json | Self::PrettyJson | Self::Yaml => "application/json",
        }
    }
}

/// What is written: the object, or a transformation of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Object,
    /// `as=Table`, by version of meta.k8s.io.
    Table(&'static str),
    /// `as=PartialObjectMetadata` for objects and watches, `as=PartialObjectMetadataList` for lists.
    PartialMetadata(&'static str),
    /// Metadata of a list asked of an object, or the other way round. Upstream takes it for acceptable, does what was asked and then
    /// cannot show it.
    Misfit(Shape),
}

/// The outcome of negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accept {
    pub encoding: Encoding,
    pub form: Form,
}

impl Accept {
    pub(crate) const JSON: Accept = Accept { encoding: Encoding::Json, form: Form::Object };
}

/// What is asked for, since not every form suits every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Object,
    List,
    Watch,
}

/// What the route of one object produces.
const MEDIA_TYPES: &[&str] = &["application/json", "application/yaml", MEDIA_TYPE];
const WATCH_MEDIA_TYPES: &[&str] =
    &["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
/// What the route of a list produces, which is a watch as well.
const LIST_MEDIA_TYPES: &[&str] = &[
    "application/json",
    "application/yaml",
    MEDIA_TYPE,
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];

/// How an answer is written that is always the whole object, such as a refusal: JSON where nothing else is acceptable.
pub(crate) fn encoding(header: Option<&str>, pretty: bool) -> Encoding {
    let otherwise = if pretty { Encoding::PrettyJson } else { Encoding::Json };
    negotiate(header, Shape::Object, pretty, Forms::WHOLE).map_or(otherwise, |accept| accept.encoding)
}

/// Whether JSON is to be indented: as the query says, else for browsers and what is typed into a shell.
pub(crate) fn is_pretty(query: &Query, headers: &HeaderMap) -> bool {
    const READ_BY_PEOPLE: [&str; 3] = ["curl", "Wget", "Mozilla/5.0"];
    match query.text("pretty") {
        "" => {
            let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or("");
            READ_BY_PEOPLE.iter().any(|name| agent.starts_with(name))
        }
        asked => matches!(asked, "1" | "t" | "T" | "true" | "TRUE" | "True"),
    }
}

/// Whether what is only produced in one type is taken, by a router that looks for its name.
pub(crate) fn produces(header: Option<&str>, media_type: &str) -> Result<(), Status> {
    let header = header.unwrap_or("").trim();
    let takes =
        |part: &str| matches!(part.split(';').next(), Some(name) if name.trim() == media_type || name.trim() == "*/*");
    if header.is_empty() || header.split(',').any(takes) {
        Ok(())
    } else {
        Err(Status::no_representation(&[media_type]))
    }
}

/// Which forms the answers of a kind have besides JSON and YAML of the object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forms {
    /// Objects have a protobuf message; metadata always has.
    pub protobuf: bool,
    /// Objects can be rows: not so reviews and what else is only created and never listed.
    pub table: bool,
    /// Objects can be shown as their metadata.
    pub metadata: bool,
}

/// What stands before the negotiation and refuses media types that nobody produces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Router {
    /// Nothing: custom resources and lists of groups.
    Absent,
    Object,
    /// Lists and watches share a route.
    List,
}

impl Forms {
    pub(crate) const OBJECT: Forms = Forms { protobuf: true, table: true, metadata: true };
    /// A document that is never transformed.
    pub(crate) const WHOLE: Forms = Forms { table: false, metadata: false, ..Forms::OBJECT };
}

impl Router {
    /// Whether any of the types that the client takes is produced. Of a form of such a type the negotiation knows more.
    pub(crate) fn check(self, header: Option<&str>) -> Result<(), Status> {
        let produced = match self {
            Self::Absent => return Ok(()),
            Self::Object => MEDIA_TYPES,
            Self::List => LIST_MEDIA_TYPES,
        };
        let header = header.unwrap_or("").trim();
        let takes = |part: &str| {
            let media_type = Alternative::parse(part).media_type;
            MEDIA_TYPES.contains(&media_type) || media_type == "*/*"
        };
        if header.is_empty() || header.split(',').any(takes) {
            Ok(())
        } else {
            Err(Status::no_representation(produced))
        }
    }
}

/// Chooses the first acceptable alternative of an Accept header, in order of quality.
pub(crate) fn negotiate(header: Option<&str>, shape: Shape, pretty: bool, forms: Forms) -> Result<Accept, Status> {
    let header = header.unwrap_or("");
    let json = if pretty && shape != Shape::Watch { Encoding::PrettyJson } else { Encoding::Json };
    if header.trim().is_empty() {
        return Ok(Accept { encoding: json, form: Form::Object });
    }
    let mut alternatives: Vec<Alternative<'_>> = header.split(',').map(Alternative::parse).collect();
    alternatives.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    for alternative in &alternatives {
        let encodings: &[Encoding] = match alternative.media_type {
            "application/json" => &[json],
            "application/yaml" => &[Encoding::Yaml],
            MEDIA_TYPE => &[Encoding::Protobuf],
            "*/*" => &[json, Encoding::Yaml, Encoding::Protobuf],
            _ => continue,
        };
        for encoding in encodings.iter().copied() {
            if let Some(form) = alternative.form(encoding, shape, forms) {
                return Ok(Accept { encoding, form });
            }
        }
    }
    Err(Status::not_acceptable(MEDIA_TYPES))
}

impl Accept {
    /// Events come as a stream of JSON or protobuf. Looked at when all else is well with a watch.
    pub(crate) fn check_stream(self) -> Result<(), Status> {
        match self.encoding {
            Encoding::Yaml => Err(Status::not_acceptable(WATCH_MEDIA_TYPES)),
            Encoding::Json | Encoding::PrettyJson | Encoding::Protobuf => Ok(()),
        }
    }
}

struct Alternative<'h> {
    media_type: &'h str,
    r#as: &'h str,
    group: &'h str,
    version: &'h str,
    /// `watch` or nothing.
    stream: &'h str,
    /// The version of meta.k8s.io for documents that belong to no group.
    server_version: &'h str,
    quality: f32,
}

impl<'h> Alternative<'h> {
    fn parse(text: &'h str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or("");
        let mut out =
            Self { media_type, r#as: "", group: "", version: "", stream: "", server_version: "", quality: 1.0 };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name {
                "as" => out.r#as = value,
                "g" => out.group = value,
                "v" => out.version = value,
                "stream" => out.stream = value,
                "sv" => out.server_version = value,
                "q" => out.quality = value.parse().unwrap_or(0.0),
                _ => {}
            }
        }
        out
    }

    /// The version of meta.k8s.io in which a transformation is asked for.
    fn meta_version(&self) -> Option<&'static str> {
        match (self.group, self.version) {
            ("meta.k8s.io", "v1") => Some("v1"),
            ("meta.k8s.io", "v1beta1") => Some("v1beta1"),
            _ => None,
        }
    }

    /// The form in this encoding; `None` when it is not acceptable, which what stands behind it in the header may be.
    fn form(&self, encoding: Encoding, shape: Shape, forms: Forms) -> Option<Form> {
        let is_streamed = self.stream == "watch" && encoding != Encoding::Yaml;
        if !(self.stream.is_empty() || is_streamed) || !["", "v1"].contains(&self.server_version) {
            return None;
        }
        // A group or a version alone asks for a transformation too, into nothing that there is.
        if self.r#as.is_empty() && self.group.is_empty() && self.version.is_empty() {
            return (encoding != Encoding::Protobuf || forms.protobuf).then_some(Form::Object);
        }
        let version = self.meta_version()?;
        match (self.r#as, shape) {
            // Tables are no protobuf messages.
            ("Table", _) if forms.table && encoding != Encoding::Protobuf => Some(Form::Table(version)),
            ("PartialObjectMetadata", Shape::Object | Shape::Watch) | ("PartialObjectMetadataList", Shape::List)
                if forms.metadata =>
            {
                Some(Form::PartialMetadata(version))
            }
            ("PartialObjectMetadata" | "PartialObjectMetadataList", _) if forms.metadata => Some(Form::Misfit(shape)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBECTL: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,\
                           application/json";

    fn of(header: &str, shape: Shape, forms: Forms) -> Result<Accept, Status> {
        negotiate(Some(header), shape, false, forms)
    }

    fn refused(header: &str, shape: Shape, forms: Forms) -> String {
        of(header, shape, forms).expect_err("refused").message
    }

    #[test]
    fn json_is_indented_for_people() {
        let pretty = |query: &str, agent: &'static str| {
            let agent = http::HeaderValue::from_static(agent);
            is_pretty(&Query::parse(Some(query)), &HeaderMap::from_iter([(USER_AGENT, agent)]))
        };
        assert!(
            pretty("", "curl/8.5.0") && pretty("pretty=", "Mozilla/5.0 (X11)") && pretty("pretty=1", "kubectl/v1.36.2")
        );
        assert!(
            !pretty("", "kubectl/v1.36.2")
                && !pretty("pretty=false", "curl/8.5.0")
                && !pretty("pretty=yes", "curl/8.5.0")
        );
    }

    #[test]
    fn metadata_of_the_wrong_shape_is_taken_and_cannot_be_shown() {
        let of_list = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        assert_eq!(of(of_list, Shape::Object, Forms::OBJECT).unwrap().form, Form::Misfit(Shape::Object));
        let of_object = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        assert_eq!(of(of_object, Shape::List, Forms::OBJECT).unwrap().form, Form::Misfit(Shape::List));
    }

    #[test]
    fn kubectl_gets_tables() {
        let accept = of(KUBECTL, Shape::List, Forms::OBJECT).unwrap();
        assert_eq!(accept, Accept { encoding: Encoding::Json, form: Form::Table("v1") });
    }

    #[test]
    fn unknown_transformations_fall_through_to_the_next_alternative() {
        for unknown in ["as=Nonsense;v=v1;g=meta.k8s.io", "g=meta.k8s.io", "v=v1", "stream=x", "sv=v2"] {
            let header = format!("application/json;{unknown},application/yaml");
            assert_eq!(of(&header, Shape::Object, Forms::OBJECT).unwrap().encoding, Encoding::Yaml, "{unknown}");
        }
        assert_eq!(of("application/json;sv=v1", Shape::Object, Forms::OBJECT), Ok(Accept::JSON));
    }

    #[test]
    fn refusals_are_never_transformed() {
        assert_eq!(encoding(Some("application/yaml;as=Table;v=v1;g=meta.k8s.io"), true), Encoding::PrettyJson);
        assert_eq!(
            encoding(Some("application/json;as=Table;v=v1;g=meta.k8s.io,application/yaml"), true),
            Encoding::Yaml
        );
        assert_eq!(encoding(Some("text/html"), false), Encoding::Json);
    }

    #[test]
    fn protobuf_is_for_built_in_objects_and_any_metadata() {
        let all = Forms::OBJECT;
        let no_protobuf = Forms { protobuf: false, ..all };
        let protobuf_first = "application/vnd.kubernetes.protobuf,application/json";
        let protobuf = Accept { encoding: Encoding::Protobuf, form: Form::Object };
        assert_eq!(of(protobuf_first, Shape::List, all).unwrap(), protobuf);
        assert_eq!(of(protobuf_first, Shape::List, no_protobuf).unwrap(), Accept::JSON);
        assert_eq!(of(MEDIA_TYPE, Shape::Object, no_protobuf).unwrap_err().code, 406);
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        assert_eq!(
            of(metadata, Shape::Object, no_protobuf).unwrap(),
            Accept { encoding: Encoding::Protobuf, form: Form::PartialMetadata("v1") }
        );
        let table = "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1";
        assert_eq!(of(table, Shape::List, all).unwrap_err().code, 406);
        let no_table = Forms { table: false, ..all };
        assert_eq!(of(KUBECTL, Shape::Object, no_table).unwrap(), Accept::JSON);
        assert_eq!(of("application/json;as=Table;v=v1;g=meta.k8s.io", Shape::Object, no_table).unwrap_err().code, 406);
        let stream = of("application/vnd.kubernetes.protobuf;stream=watch", Shape::Watch, all).unwrap();
        assert_eq!(stream.encoding.watch_content_type(), "application/vnd.kubernetes.protobuf;stream=watch");
    }

    #[test]
    fn what_cannot_be_served_is_406() {
        assert!(Router::List.check(Some("text/html, application/json;as=Nonsense")).is_ok());
        assert!(Router::Absent.check(Some("text/html")).is_ok() && Router::Object.check(Some("")).is_ok());
        assert_eq!(
            Router::List.check(Some("text/html")).unwrap_err().message,
            "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, \
             application/vnd.kubernetes.protobuf, application/json;stream=watch, \
             application/vnd.kubernetes.protobuf;stream=watch"
        );
        assert_eq!(
            refused("text/html", Shape::Object, Forms::WHOLE),
            "only the following media types are accepted: application/json, application/yaml, \
             application/vnd.kubernetes.protobuf"
        );
        assert_eq!(
            produces(Some("text/plain"), "application/json").unwrap_err().message,
            "406: Not Acceptable\n\nAvailable representations: application/json"
        );
        assert!(produces(Some("text/plain, application/json;q=1"), "application/json").is_ok());
        let yaml = of("application/yaml", Shape::Watch, Forms::OBJECT).unwrap();
        let status = yaml.check_stream().unwrap_err();
        assert_eq!(
            status.message,
            "only the following media types are accepted: application/json;stream=watch, \
             application/vnd.kubernetes.protobuf;stream=watch"
        );
    }
}
