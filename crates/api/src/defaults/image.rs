//! Image references, as far as the default pull policy needs them: is the tag `latest`, said or unsaid?

/// `Always` for the tag `latest` or for no tag and no digest, `IfNotPresent` otherwise and for what is no reference.
pub(super) fn pull_policy(image: &str) -> &'static str {
    if names_latest(image) { "Always" } else { "IfNotPresent" }
}

fn names_latest(image: &str) -> bool {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let (path, tag) = match name.rsplit_once(':') {
        // A colon before the last slash belongs to a port.
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    };
    if !is_path(path) || is_too_long(path) || !tag.is_none_or(is_tag) || !digest.is_none_or(is_digest) {
        return false;
    }
    match (tag, digest) {
        (Some(tag), _) => tag == "latest",
        (None, digest) => digest.is_none(),
    }
}

/// `[domain/]component/…`: components are lower case with single separators inside.
fn is_path(path: &str) -> bool {
    let remote = match path.split_once('/') {
        Some((domain, rest)) if is_domain(domain) => rest,
        _ => path,
    };
    // A bare image id is not a name.
    let is_id = path.len() == 64 && path.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    !is_id && !remote.is_empty() && remote.split('/').all(is_component)
}

/// With the domain, and the library there, that are understood where none is said.
fn is_too_long(path: &str) -> bool {
    const NAME_BYTES_MAX: usize = 255;
    let understood = match path.split_once('/') {
        Some((domain, _)) if is_domain(domain) => "",
        Some(_) => "docker.io/",
        None => "docker.io/library/",
    };
    understood.len() + path.len() > NAME_BYTES_MAX
}

fn is_domain(text: &str) -> bool {
    let looks_like_one =
        text.contains(['.', ':']) || text == "localhost" || text.bytes().any(|b| b.is_ascii_uppercase());
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
    looks_like_one && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'[' | b']' | b':'))
}

fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let edges = bytes.first().is_some_and(|&b| alphanumeric(b)) && bytes.last().is_some_and(|&b| alphanumeric(b));
    let inside = bytes.iter().all(|&b| alphanumeric(b) || matches!(b, b'.' | b'_' | b'-'));
    edges && inside && !text.contains("..") && !text.contains("___") && !text.contains("._") && !text.contains("_.")
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = text.as_bytes();
    (1..=128).contains(&bytes.len()) && word(bytes[0]) && bytes.iter().all(|&b| word(b) || matches!(b, b'.' | b'-'))
}

fn is_digest(text: &str) -> bool {
    match text.split_once(':') {
        Some((algorithm, hex)) => {
            !algorithm.is_empty() && hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::pull_policy;

    #[test]
    fn only_latest_is_always_pulled() {
        let digest = "x@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let (fits, too_long) = ("a".repeat(237), "a".repeat(238));
        let cases = [
            ("x", "Always"),
            ("x:latest", "Always"),
            ("x:1", "IfNotPresent"),
            ("r:5000/x", "Always"),
            ("gcr.io/a/b:v1", "IfNotPresent"),
            (digest, "IfNotPresent"),
            ("Bad Image", "IfNotPresent"),
            (fits.as_str(), "Always"),
            (too_long.as_str(), "IfNotPresent"),
            ("", "IfNotPresent"),
        ];
        for (image, policy) in cases {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
