//! What is asked of a pod's kubelet, read from query parameters as upstream's options objects are.

use api::json;
use api::{ErrorList, Path, Status, Value};

use crate::http::query::Query;

/// PodLogOptions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogOptions {
    pub container: String,
    follow: bool,
    previous: bool,
    timestamps: bool,
    since_seconds: Option<i64>,
    /// RFC 3339.
    since_time: Option<String>,
    tail_lines: Option<i64>,
    limit_bytes: Option<i64>,
    /// One stream alone is asked for, which the feature gate PodLogsQuerySplitStreams (alpha, off) would allow.
    asks_stream: bool,
    pub insecure_skip_tls_verify_backend: bool,
}

impl LogOptions {
    pub(super) fn from_query(query: &Query) -> Result<Self, Status> {
        let since_time = query.get("sinceTime").filter(|text| !text.is_empty());
        if let Some(text) = since_time
            && text.parse::<jiff::Timestamp>().is_err()
        {
            return Err(Status::bad_request(format!(
                "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""
            )));
        }
        Ok(Self {
            container: query.text("container").to_owned(),
            follow: query.flag("follow"),
            previous: query.flag("previous"),
            timestamps: query.flag("timestamps"),
            since_seconds: query.int("sinceSeconds")?,
            since_time: since_time.map(str::to_owned),
            tail_lines: query.int("tailLines")?,
            limit_bytes: query.int("limitBytes")?,
            asks_stream: query.get("stream").is_some(),
            insecure_skip_tls_verify_backend: query.flag("insecureSkipTLSVerifyBackend"),
        })
    }

    pub(super) fn validate(&self, errors: &mut ErrorList) {
        const POSITIVE: &str = "must be greater than 0";
        if let Some(lines) = self.tail_lines.filter(|lines| *lines < 0) {
            errors.invalid(Path::new("tailLines"), lines, "must be greater than or equal to 0");
        }
        if let Some(bytes) = self.limit_bytes.filter(|bytes| *bytes < 1) {
            errors.invalid(Path::new("limitBytes"), bytes, POSITIVE);
        }
        match (self.since_seconds, &self.since_time) {
            (Some(_), Some(_)) => {
                let text = "at most one of `sinceTime` or `sinceSeconds` may be specified";
                errors.forbidden(Path::new("[]"), text);
            }
            (Some(seconds), None) if seconds < 1 => errors.invalid(Path::new("sinceSeconds"), seconds, POSITIVE),
            _ => {}
        }
        if self.asks_stream {
            errors.forbidden(Path::new("stream"), "may not be specified");
        }
    }

    /// The kubelet's query, sorted by name as Go encodes it.
    pub(super) fn query(&self) -> String {
        let number = |value: Option<i64>| value.map(|value| value.to_string());
        let flag = |value: bool| value.then(|| "true".to_owned());
        let fields = [
            ("follow", flag(self.follow)),
            ("limitBytes", number(self.limit_bytes)),
            ("previous", flag(self.previous)),
            ("sinceSeconds", number(self.since_seconds)),
            ("sinceTime", self.since_time.as_deref().map(escape)),
            ("tailLines", number(self.tail_lines)),
            ("timestamps", flag(self.timestamps)),
        ];
        join(fields.into_iter().filter_map(|(name, value)| Some((name, value?))))
    }
}

/// The options object of exec, attach or portforward: what admission sees.
pub(super) fn stream_options(subresource: &str, query: &Query) -> Result<Value, Status> {
    let kind = match subresource {
        "exec" => "PodExecOptions",
        "attach" => "PodAttachOptions",
        _ => "PodPortForwardOptions",
    };
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    if subresource == "portforward" {
        let ports = query.all("ports").chain(query.all("port")).filter(|text| !text.is_empty()).map(|text| {
            text.parse::<i32>().map_err(|_| {
                let text = format!("cannot convert to []int32: strconv.ParseUint: parsing {text:?}: invalid syntax");
                Status::bad_request(text)
            })
        });
        let ports = ports.collect::<Result<Vec<i32>, Status>>()?;
        if !ports.is_empty() {
            options["ports"] = json!(ports);
        }
        return Ok(options);
    }
    for flag in ["stdin", "stdout", "stderr", "tty"] {
        if query.flag(flag) {
            options[flag] = true.into();
        }
    }
    if !query.text("container").is_empty() {
        options["container"] = query.text("container").into();
    }
    let command: Vec<&str> = query.all("command").collect();
    if subresource == "exec" && !command.is_empty() {
        options["command"] = json!(command);
    }
    Ok(options)
}

/// The kubelet's query for such options, which has names of its own for the streams.
pub(super) fn stream_query(options: &Value) -> String {
    if let Some(ports) = options["ports"].as_array() {
        let ports: Vec<String> = ports.iter().map(Value::to_string).collect();
        return join([("port", escape(&ports.join(",")))].into_iter());
    }
    let command = options["command"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let command = command.map(|word| ("command", escape(word)));
    let streams = [("stderr", "error"), ("stdin", "input"), ("stdout", "output"), ("tty", "tty")];
    let streams =
        streams.into_iter().filter(|(field, _)| options[*field] == true).map(|(_, name)| (name, "1".to_owned()));
    join(command.chain(streams))
}

fn join<'n>(fields: impl Iterator<Item = (&'n str, String)>) -> String {
    fields.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// Query escaping: letters, digits and `-_.~` stay, a space becomes a plus.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The node that runs the pod, if it is known already.
pub(super) fn node(pod: &Value) -> Option<&str> {
    pod.pointer("/spec/nodeName").and_then(Value::as_str).filter(|node| !node.is_empty())
}

/// The container meant by `wanted`: it must be one of the pod's, and may be left out when there is one only.
pub(super) fn container(pod: &Value, wanted: &str) -> Result<String, Status> {
    let name = api::meta::name(pod);
    let of = |list: &str| pod["spec"][list].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str());
    let all = || of("initContainers").chain(of("containers")).chain(of("ephemeralContainers"));
    if !wanted.is_empty() {
        if all().any(|container| container == wanted) {
            return Ok(wanted.to_owned());
        }
        return Err(Status::bad_request(format!("container {wanted} is not valid for pod {name}")));
    }
    let containers: Vec<&str> = of("containers").collect();
    match containers.as_slice() {
        [only] => Ok((*only).to_owned()),
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {name}"))),
        _ => {
            let choice = all().collect::<Vec<_>>().join(" ");
            let text = format!("a container name must be specified for pod {name}, choose one of: [{choice}]");
            Err(Status::bad_request(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_options_become_the_kubelets_query() {
        let query =
            Query::parse(Some("follow=true&tailLines=5&sinceTime=2024-01-01T00:00:00Z&previous=false&container=c"));
        let options = LogOptions::from_query(&query).unwrap();
        assert_eq!(options.query(), "follow=true&sinceTime=2024-01-01T00%3A00%3A00Z&tailLines=5");
        let mut errors = ErrorList::new();
        LogOptions::from_query(&Query::parse(Some("sinceSeconds=0&limitBytes=0"))).unwrap().validate(&mut errors);
        let status = Status::invalid("", "PodLogOptions", "a", &errors);
        assert!(status.message.contains("limitBytes: Invalid value: 0: must be greater than 0"), "{}", status.message);
        assert!(
            status.message.contains("sinceSeconds: Invalid value: 0: must be greater than 0"),
            "{}",
            status.message
        );
    }

    #[test]
    fn streams_have_other_names_at_the_kubelet() {
        let query =
            Query::parse(Some("command=sh&command=-c&command=echo+a%26b&stdin=true&stdout=1&tty=0&container=c"));
        let options = stream_options("exec", &query).unwrap();
        assert_eq!(options["command"], json!(["sh", "-c", "echo a&b"]));
        assert_eq!(stream_query(&options), "command=sh&command=-c&command=echo+a%26b&input=1&output=1");
        let options = stream_options("portforward", &Query::parse(Some("ports=80&ports=443"))).unwrap();
        assert_eq!((&options["ports"], stream_query(&options).as_str()), (&json!([80, 443]), "port=80%2C443"));
        let bad = stream_options("portforward", &Query::parse(Some("ports=x"))).unwrap_err();
        assert_eq!(bad.message, "cannot convert to []int32: strconv.ParseUint: parsing \"x\": invalid syntax");
    }

    #[test]
    fn a_container_is_chosen_when_there_is_no_choice() {
        let pod = |names: &[&str]| {
            let containers: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
            json!({"metadata": {"name": "a"}, "spec": {"containers": containers, "initContainers": [{"name": "i"}]}})
        };
        assert_eq!(container(&pod(&["c"]), "").unwrap(), "c");
        assert_eq!(container(&pod(&["c"]), "i").unwrap(), "i");
        let text = "a container name must be specified for pod a, choose one of: [i c d]";
        assert_eq!(container(&pod(&["c", "d"]), "").unwrap_err().message, text);
        assert_eq!(container(&pod(&["c"]), "x").unwrap_err().message, "container x is not valid for pod a");
    }
}
