//! Query parameters.

use api::{Status, gojson};

/// Decoded parameters in the order they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(raw: Option<&str>) -> Self {
        let pairs = raw.unwrap_or("").split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .filter_map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    Some((decode(name)?, decode(value)?))
                })
                .collect(),
        )
    }

    /// The first value of a parameter; `None` when it is not there.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// All parameters in the order they came.
    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// The first value, or the empty string.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or("")
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Upstream's reading of booleans: present and neither `false` nor `0`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !matches!(value.to_ascii_lowercase().as_str(), "false" | "0"))
    }

    /// An integer parameter; a malformed one is refused with the words of upstream's conversion.
    pub(crate) fn int(&self, name: &str) -> Result<Option<i64>, Status> {
        let Some(text) = self.get(name) else { return Ok(None) };
        gojson::parse_int(text).map(Some).map_err(Status::bad_request)
    }
}

fn decode(text: &str) -> Option<String> {
    super::path::percent_decode(&text.replace('+', " "))
}

#[cfg(test)]
mod tests {
    use super::Query;

    #[test]
    fn malformed_integers_are_refused() {
        let query = Query::parse(Some("limit=5&timeoutSeconds=abc&gracePeriodSeconds=99999999999999999999"));
        assert_eq!(query.int("limit").unwrap(), Some(5));
        assert_eq!(query.int("missing").unwrap(), None);
        let message = |name: &str| query.int(name).unwrap_err().message;
        assert_eq!(message("timeoutSeconds"), "strconv.ParseInt: parsing \"abc\": invalid syntax");
        let big = "strconv.ParseInt: parsing \"99999999999999999999\": value out of range";
        assert_eq!(message("gracePeriodSeconds"), big);
    }

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse(Some("labelSelector=a%3Db%2Cc+in+%28d%29&watch=1&dryRun=All&dryRun=x&empty"));
        assert_eq!(query.text("labelSelector"), "a=b,c in (d)");
        assert!(query.flag("watch"));
        assert!(query.flag("empty"));
        assert!(!query.flag("missing"));
        assert_eq!(query.all("dryRun").collect::<Vec<_>>(), ["All", "x"]);
    }
}
