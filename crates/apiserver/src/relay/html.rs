//! Links of proxied pages: what points at the other server's root must point at the proxy.

/// Attributes that hold a URL, by element.
const ATTRIBUTES: [(&str, &[&str]); 25] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];
/// Elements whose content is no markup.
const RAW: [&str; 2] = ["script", "style"];

/// Where links lead and where they should.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links<'a> {
    /// Path of the proxy that stands for the other server's root.
    pub prefix: &'a str,
    /// Host the client asked, and host that was asked for it.
    pub own_host: &'a str,
    pub other_host: &'a str,
}

impl Links<'_> {
    /// A URL with an absolute path on either host, led through the proxy; any other stays.
    pub(super) fn rewrite_url(&self, url: &str) -> String {
        let (origin, path) = split_origin(url);
        let host = origin.rsplit('/').next().unwrap_or("");
        let foreign = !host.is_empty() && host != self.own_host && host != self.other_host;
        if foreign || !path.starts_with('/') || path.starts_with(self.prefix) {
            return url.to_owned();
        }
        format!("{}{path}", self.prefix.trim_end_matches('/'))
    }

    /// The page with the URLs of its attributes rewritten; nothing else changes.
    pub(super) fn rewrite(&self, page: &str) -> String {
        let mut out = String::with_capacity(page.len() + 256);
        let mut rest = page;
        while let Some(at) = rest.find('<') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            if rest.starts_with("<!--") {
                let end = rest.find("-->").map_or(rest.len(), |end| end + 3);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
                continue;
            }
            let end = tag_end(rest);
            let tag = &rest[..end];
            let name: String = tag[1..].chars().take_while(char::is_ascii_alphanumeric).collect();
            let name = name.to_ascii_lowercase();
            out.push_str(&self.rewrite_tag(tag, &name));
            rest = &rest[end..];
            if RAW.contains(&name.as_str()) {
                let close = format!("</{name}");
                let end = rest.to_ascii_lowercase().find(&close).unwrap_or(rest.len());
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
        }
        out.push_str(rest);
        out
    }

    fn rewrite_tag(&self, tag: &str, name: &str) -> String {
        let wanted = ATTRIBUTES.iter().find(|(element, _)| *element == name).map_or(&[][..], |(_, wanted)| *wanted);
        if wanted.is_empty() {
            return tag.to_owned();
        }
        let mut out = String::with_capacity(tag.len() + 64);
        let mut rest = tag;
        while let Some(equals) = rest.find('=') {
            let attribute = rest[..equals].trim_end().rsplit(|c: char| c.is_ascii_whitespace()).next().unwrap_or("");
            let after = &rest[equals + 1..];
            let blank = after.len() - after.trim_start().len();
            out.push_str(&rest[..=equals]);
            out.push_str(&after[..blank]);
            let (value, length) = attribute_value(&after[blank..]);
            let raw = &after[blank..blank + length];
            if wanted.iter().any(|wanted| attribute.eq_ignore_ascii_case(wanted)) {
                out.push_str(&raw.replacen(value, &self.rewrite_url(value), usize::from(!value.is_empty())));
            } else {
                out.push_str(raw);
            }
            rest = &after[blank + length..];
        }
        out.push_str(rest);
        out
    }
}

/// `https://host` and what follows; nothing and the whole when there is no host.
fn split_origin(url: &str) -> (&str, &str) {
    let start = match url.find("//") {
        Some(at) if at == 0 || url[..at].ends_with(':') => at + 2,
        _ => return ("", url),
    };
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |end| start + end);
    url.split_at(end)
}

/// Where a tag ends: after the first `>` outside quotes.
fn tag_end(text: &str) -> usize {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '>') => return at + 1,
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
    }
    text.len()
}

/// A value without its quotes, and how long it is with them.
fn attribute_value(text: &str) -> (&str, usize) {
    match text.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let end = text[1..].find(quote).map_or(text.len(), |end| end + 1);
            (&text[1..end], (end + 1).min(text.len()))
        }
        _ => {
            let end = text.find(|c: char| c.is_ascii_whitespace() || c == '>').unwrap_or(text.len());
            (&text[..end], end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINKS: Links<'_> =
        Links { prefix: "/api/v1/namespaces/ns/pods/p/proxy", own_host: "api:6443", other_host: "10.0.0.1:80" };

    #[test]
    fn links_to_the_root_are_led_through_the_proxy() {
        let page = r#"<p>1 < 2</p><a class=x href="/rewriteme?a=b">t</a><IMG SRC=/i.png><a href='rel'>r</a>"#;
        let prefix = LINKS.prefix;
        let want = format!(
            "<p>1 < 2</p><a class=x href=\"{prefix}/rewriteme?a=b\">t</a><IMG SRC={prefix}/i.png><a href='rel'>r</a>"
        );
        assert_eq!(LINKS.rewrite(page), want);
        let untouched = r#"<!-- <a href="/x"> --><script>if (a<b) x = '<a href="/y">'</script><p title="/z">"#;
        assert_eq!(LINKS.rewrite(untouched), untouched);
        assert_eq!(LINKS.rewrite("<a href=\"/x"), format!("<a href=\"{prefix}/x"));
    }

    #[test]
    fn urls_of_other_hosts_stay() {
        let rewritten = |url: &str| LINKS.rewrite_url(url);
        assert_eq!(rewritten("https://example.com/x"), "https://example.com/x");
        assert_eq!(rewritten("http://10.0.0.1:80/x"), format!("{}/x", LINKS.prefix));
        assert_eq!(rewritten("/api/v1/namespaces/ns/pods/p/proxy/x"), "/api/v1/namespaces/ns/pods/p/proxy/x");
        assert_eq!(rewritten("x/y"), "x/y");
    }
}
