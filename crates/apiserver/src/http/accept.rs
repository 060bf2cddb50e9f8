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

const MEDIA_TYPES: [&str; 3] = ["application/json", "application/yaml", MEDIA_TYPE];
const WATCH_MEDIA_TYPES: [&str; 2] =
    ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

/// Chooses the first acceptable alternative of an Accept header, in order of quality.
pub(crate) fn negotiate(header: Option<&str>, shape: Shape, pretty: bool) -> Result<Accept, Status> {
    negotiate_for(header, shape, pretty, Forms { protobuf: true, table: true })
}

/// Which forms the answers of a kind have besides JSON and YAML of the object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forms {
    /// Objects have a protobuf message; metadata always has.
    pub protobuf: bool,
    /// Objects can be rows: not so reviews and what else is only created and never listed.
    pub table: bool,
}

/// The same for a kind whose objects may lack some forms.
pub(crate) fn negotiate_for(header: Option<&str>, shape: Shape, pretty: bool, forms: Forms) -> Result<Accept, Status> {
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
    // No router stands before custom resources.
    if forms.protobuf && !alternatives.iter().any(produced) {
        let mut representations = MEDIA_TYPES.to_vec();
        if shape == Shape::Watch {
            representations.extend(WATCH_MEDIA_TYPES);
        }
        return Err(Status::no_representation(&representations));
    }
    Err(Status::not_acceptable(if shape == Shape::Watch { &WATCH_MEDIA_TYPES } else { &MEDIA_TYPES }))
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

    /// `None` when the transformation asked for does not exist for this shape.
    fn form(&self, shape: Shape) -> Option<Form> {
        if self.r#as.is_empty() {
            return Some(Form::Object);
        }
        if self.group != "meta.k8s.io" {
            return None;
        }
        let version = match self.version {
            "v1" => "v1",
            "v1beta1" => "v1beta1",
            _ => return None,
        };
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
        let all = Forms { protobuf: true, table: true };
        let no_protobuf = Forms { protobuf: false, ..all };
        let protobuf_first = Some("application/vnd.kubernetes.protobuf,application/json");
        let protobuf = Accept { encoding: Encoding::Protobuf, form: Form::Object };
        assert_eq!(negotiate_for(protobuf_first, Shape::List, false, all).unwrap(), protobuf);
        assert_eq!(negotiate_for(protobuf_first, Shape::List, false, no_protobuf).unwrap(), Accept::JSON);
        assert_eq!(negotiate_for(Some(MEDIA_TYPE), Shape::Object, false, no_protobuf).unwrap_err().code, 406);
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        assert_eq!(
            negotiate_for(Some(metadata), Shape::Object, false, no_protobuf).unwrap(),
            Accept { encoding: Encoding::Protobuf, form: Form::PartialMetadata("v1") }
        );
        let table = "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1";
        assert_eq!(negotiate_for(Some(table), Shape::List, false, all).unwrap_err().code, 406);
        let no_table = Forms { table: false, ..all };
        assert_eq!(negotiate_for(Some(KUBECTL), Shape::Object, false, no_table).unwrap(), Accept::JSON);
        let only_table = Some("application/json;as=Table;v=v1;g=meta.k8s.io");
        assert_eq!(negotiate_for(only_table, Shape::Object, false, no_table).unwrap_err().code, 406);
        let stream = negotiate(Some("application/vnd.kubernetes.protobuf;stream=watch"), Shape::Watch, false).unwrap();
        assert_eq!(stream.encoding.watch_content_type(), "application/vnd.kubernetes.protobuf;stream=watch");
    }

    #[test]
    fn what_cannot_be_served_is_406() {
        assert_eq!(negotiate(Some("text/html"), Shape::List, false).unwrap_err().code, 406);
        let status = negotiate(Some("application/yaml"), Shape::Watch, false).unwrap_err();
        assert_eq!(
            status.message,
            "only the following media types are accepted: application/json;stream=watch, \
             application/vnd.kubernetes.protobuf;stream=watch"
        );
    }
}
