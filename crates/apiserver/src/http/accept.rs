//! Content negotiation: which form of an answer the client wants.

use api::Status;
use api::codec::protobuf::MEDIA_TYPE;

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

/// Chooses the first acceptable alternative of an Accept header, in order of quality.
pub(crate) fn negotiate(header: Option<&str>, shape: Shape, pretty: bool) -> Result<Accept, Status> {
    negotiate_for(header, shape, pretty, Forms::OBJECT).map_err(|refused| refused.status(|_| String::new()))
}

/// The same where nothing but one type is produced, by a router that looks for its name.
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
    pub router: Router,
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
    pub(crate) const OBJECT: Forms = Forms { protobuf: true, table: true, router: Router::Object };
    /// A document without a router before it.
    pub(crate) const UNROUTED: Forms = Forms { router: Router::Absent, ..Forms::OBJECT };
}

/// Why nothing that the client accepts can be sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Refused {
    Status(Box<Status>),
    /// Metadata of a list was asked of an object, or the other way round: upstream takes it for acceptable and then cannot do it.
    Unfit(Shape),
}

impl Refused {
    /// The answer; `go_type` names the type of what was asked for (of its list, when true).
    pub(crate) fn status(self, go_type: impl FnOnce(bool) -> String) -> Status {
        match self {
            Self::Status(status) => *status,
            Self::Unfit(Shape::List) => Status::not_acceptable_form(&format!(
                "you requested PartialObjectMetadata, but the requested object is a list (*{})",
                go_type(true)
            )),
            Self::Unfit(Shape::Object | Shape::Watch) => Status::not_acceptable_form(&format!(
                "you requested PartialObjectMetadataList, but the requested object is not a list (*{})",
                go_type(false)
            )),
        }
    }
}

/// The same for a kind whose objects may lack some forms.
pub(crate) fn negotiate_for(header: Option<&str>, shape: Shape, pretty: bool, forms: Forms) -> Result<Accept, Refused> {
    let header = header.unwrap_or("");
    let json = if pretty && shape != Shape::Watch { Encoding::PrettyJson } else { Encoding::Json };
    if header.trim().is_empty() {
        return Ok(Accept { encoding: json, form: Form::Object });
    }
    let mut alternatives: Vec<Alternative<'_>> = header.split(',').map(Alternative::parse).collect();
    alternatives.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    for alternative in &alternatives {
        let encoding = match alternative.media_type {
            "application/json" | "*/*" => json,
            "application/yaml" if shape != Shape::Watch => Encoding::Yaml,
            MEDIA_TYPE => Encoding::Protobuf,
            _ => continue,
        };
        if alternative.is_unfit(shape) {
            return Err(Refused::Unfit(shape));
        }
        match (encoding, alternative.form(shape)) {
            // Tables are no protobuf messages.
            (_, None) | (Encoding::Protobuf, Some(Form::Table(_))) => {}
            (Encoding::Protobuf, Some(Form::Object)) if !forms.protobuf => {}
            (_, Some(Form::Table(_))) if !forms.table => {}
            (encoding, Some(form)) => return Ok(Accept { encoding, form }),
        }
    }
    // A media type that nobody produces is refused by the router, a form of a known one by the negotiation behind it.
    let produced = |a: &Alternative<'_>| MEDIA_TYPES.contains(&a.media_type) || a.media_type == "*/*";
    let is_produced = alternatives.iter().any(produced);
    Err(Refused::Status(Box::new(match forms.router {
        Router::Object if !is_produced => Status::no_representation(MEDIA_TYPES),
        Router::List if !is_produced => Status::no_representation(LIST_MEDIA_TYPES),
        _ => Status::not_acceptable(if shape == Shape::Watch { WATCH_MEDIA_TYPES } else { MEDIA_TYPES }),
    })))
}

struct Alternative<'h> {
    media_type: &'h str,
    r#as: &'h str,
    group: &'h str,
    version: &'h str,
    quality: f32,
}

impl<'h> Alternative<'h> {
    fn parse(text: &'h str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or("");
        let mut out = Self { media_type, r#as: "", group: "", version: "", quality: 1.0 };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name {
                "as" => out.r#as = value,
                "g" => out.group = value,
                "v" => out.version = value,
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

    fn is_unfit(&self, shape: Shape) -> bool {
        let other = match shape {
            Shape::List => "PartialObjectMetadata",
            Shape::Object => "PartialObjectMetadataList",
            Shape::Watch => return false,
        };
        self.r#as == other && self.meta_version().is_some()
    }

    /// `None` when the transformation asked for does not exist for this shape.
    fn form(&self, shape: Shape) -> Option<Form> {
        if self.r#as.is_empty() {
            return Some(Form::Object);
        }
        let version = self.meta_version()?;
        match (self.r#as, shape) {
            ("Table", _) => Some(Form::Table(version)),
            ("PartialObjectMetadata", Shape::Object | Shape::Watch) => Some(Form::PartialMetadata(version)),
            ("PartialObjectMetadataList", Shape::List) => Some(Form::PartialMetadata(version)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBECTL: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,\
                           application/json";

    fn refused(outcome: Result<Accept, Refused>) -> Status {
        let go_type = |is_list| if is_list { "core.PodList" } else { "core.Pod" }.to_owned();
        outcome.expect_err("refused").status(go_type)
    }

    #[test]
    fn metadata_of_the_wrong_shape_is_refused() {
        let all = Forms::OBJECT;
        let of_list = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        assert_eq!(
            refused(negotiate_for(Some(of_list), Shape::Object, false, all)).message,
            "you requested PartialObjectMetadataList, but the requested object is not a list (*core.Pod)"
        );
        let of_object = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        assert_eq!(
            refused(negotiate_for(Some(of_object), Shape::List, false, all)).message,
            "you requested PartialObjectMetadata, but the requested object is a list (*core.PodList)"
        );
    }

    #[test]
    fn kubectl_gets_tables() {
        let accept = negotiate(Some(KUBECTL), Shape::List, false).unwrap();
        assert_eq!(accept, Accept { encoding: Encoding::Json, form: Form::Table("v1") });
    }

    #[test]
    fn unknown_transformations_fall_through_to_the_next_alternative() {
        let header = "application/json;as=Nonsense;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(negotiate(Some(header), Shape::Object, false).unwrap(), Accept::JSON);
    }

    #[test]
    fn protobuf_is_for_built_in_objects_and_any_metadata() {
        let all = Forms::OBJECT;
        let no_protobuf = Forms { protobuf: false, ..all };
        let protobuf_first = Some("application/vnd.kubernetes.protobuf,application/json");
        let protobuf = Accept { encoding: Encoding::Protobuf, form: Form::Object };
        assert_eq!(negotiate_for(protobuf_first, Shape::List, false, all).unwrap(), protobuf);
        assert_eq!(negotiate_for(protobuf_first, Shape::List, false, no_protobuf).unwrap(), Accept::JSON);
        assert_eq!(refused(negotiate_for(Some(MEDIA_TYPE), Shape::Object, false, no_protobuf)).code, 406);
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        assert_eq!(
            negotiate_for(Some(metadata), Shape::Object, false, no_protobuf).unwrap(),
            Accept { encoding: Encoding::Protobuf, form: Form::PartialMetadata("v1") }
        );
        let table = "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1";
        assert_eq!(refused(negotiate_for(Some(table), Shape::List, false, all)).code, 406);
        let no_table = Forms { table: false, ..all };
        assert_eq!(negotiate_for(Some(KUBECTL), Shape::Object, false, no_table).unwrap(), Accept::JSON);
        let only_table = Some("application/json;as=Table;v=v1;g=meta.k8s.io");
        assert_eq!(refused(negotiate_for(only_table, Shape::Object, false, no_table)).code, 406);
        let stream = negotiate(Some("application/vnd.kubernetes.protobuf;stream=watch"), Shape::Watch, false).unwrap();
        assert_eq!(stream.encoding.watch_content_type(), "application/vnd.kubernetes.protobuf;stream=watch");
    }

    #[test]
    fn what_cannot_be_served_is_406() {
        let routed = Forms { router: Router::List, ..Forms::OBJECT };
        assert_eq!(
            refused(negotiate_for(Some("text/html"), Shape::List, false, routed)).message,
            "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, \
             application/vnd.kubernetes.protobuf, application/json;stream=watch, \
             application/vnd.kubernetes.protobuf;stream=watch"
        );
        assert_eq!(
            refused(negotiate_for(Some("text/html"), Shape::Object, false, Forms::UNROUTED)).message,
            "only the following media types are accepted: application/json, application/yaml, \
             application/vnd.kubernetes.protobuf"
        );
        assert_eq!(
            produces(Some("text/plain"), "application/json").unwrap_err().message,
            "406: Not Acceptable\n\nAvailable representations: application/json"
        );
        assert!(produces(Some("text/plain, application/json;q=1"), "application/json").is_ok());
        let status = negotiate(Some("application/yaml"), Shape::Watch, false).unwrap_err();
        assert_eq!(
            status.message,
            "only the following media types are accepted: application/json;stream=watch, \
             application/vnd.kubernetes.protobuf;stream=watch"
        );
    }
}
