//! URLs as Go reads them (`net/url`), with Go's reasons why not.

use std::net::Ipv6Addr;

use crate::field::go_quote;

/// A parsed URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Url {
    text: String,
    /// In lower case.
    pub(crate) scheme: String,
    /// Name and password as Go writes them; `Some` of nothing when there is only the `@`.
    pub(crate) user: Option<String>,
    /// With port, without user.
    pub(crate) host: String,
    path: String,
    /// As it is written.
    pub(crate) query: String,
    /// Decoded.
    pub(crate) fragment: String,
}

/// What a URL is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Reference,
    /// Only absolute URLs and absolute paths.
    Request,
}

impl Url {
    /// Any URL or relative reference. The error is Go's: `parse ":": missing protocol scheme`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let refuse = |text: &str, reason: String| format!("parse {}: {reason}", go_quote(text));
        let mut url = Self::read(rest, Use::Reference).map_err(|reason| refuse(rest, reason))?;
        let decoded = unescape(fragment, Part::Path).map_err(|reason| refuse(text, reason))?;
        url.fragment = String::from_utf8_lossy(&decoded).into_owned();
        Ok(url)
    }

    /// What requests may carry. The error is Go's: `parse "x": invalid URI for request`.
    pub(crate) fn parse_request(text: &str) -> Result<Self, String> {
        Self::read(text, Use::Request).map_err(|reason| format!("parse {}: {reason}", go_quote(text)))
    }

    fn read(text: &str, purpose: Use) -> Result<Self, String> {
        if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        if text.is_empty() && purpose == Use::Request {
            return Err("empty url".to_owned());
        }
        let mut url = Self { text: text.to_owned(), ..Self::default() };
        // The fragment is not part of a request, but of what its parts are read from.
        let (scheme, rest) = split_scheme(text)?;
        url.scheme = scheme.to_ascii_lowercase();
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        url.query = query.split('#').next().unwrap_or("").to_owned();
        if !rest.starts_with('/') {
            match (scheme.is_empty(), purpose) {
                (false, _) => return Ok(url),
                (true, Use::Request) => return Err("invalid URI for request".to_owned()),
                // It might be meant as a scheme.
                (true, Use::Reference) if rest.split('/').next().is_some_and(|first| first.contains(':')) => {
                    return Err("first path segment in URL cannot contain colon".to_owned());
                }
                (true, Use::Reference) => {}
            }
        }
        let mut path = rest;
        let may_have_host = !scheme.is_empty() || (purpose == Use::Reference && !rest.starts_with("///"));
        if let Some(after) = rest.strip_prefix("//").filter(|_| may_have_host) {
            let end = after.find('/').unwrap_or(after.len());
            path = &after[end..];
            url.set_authority(after[..end].split('#').next().unwrap_or(""))?;
        }
        path = path.split('#').next().unwrap_or("");
        unescape(path, Part::Path)?;
        url.path = path.to_owned();
        Ok(url)
    }

    fn set_authority(&mut self, text: &str) -> Result<(), String> {
        let (user, host) = text.rsplit_once('@').map_or((None, text), |(user, host)| (Some(user), host));
        self.host = read_host(&self.scheme, host)?;
        let Some(user) = user else { return Ok(()) };
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c);
        if !user.chars().all(allowed) {
            return Err("net/url: invalid userinfo".to_owned());
        }
        let written = user.splitn(2, ':').map(|part| Ok(escape(&unescape(part, Part::User)?, USER)));
        self.user = Some(written.collect::<Result<Vec<_>, String>>()?.join(":"));
        Ok(())
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Without port and brackets.
    pub(crate) fn hostname(&self) -> &str {
        match self.host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or(""),
            None => self.host.split(':').next().unwrap_or(""),
        }
    }

    pub(crate) fn port(&self) -> &str {
        let after = self.host.rfind(']').map_or(self.host.as_str(), |end| &self.host[end..]);
        after.rsplit_once(':').map_or("", |(_, port)| port)
    }

    pub(crate) fn escaped_path(&self) -> String {
        const PLAIN: &str = "!$&'()*+,;=:@[]%/-_.~";
        if self.path.chars().all(|c| c.is_ascii_alphanumeric() || PLAIN.contains(c)) {
            return self.path.clone();
        }
        escape(&unescape(&self.path, Part::Path).unwrap_or_default(), "$&+,/:;=@-_.~")
    }

    /// Parameters in order; malformed ones are left out.
    pub(crate) fn query(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for pair in self.query.split('&') {
            if pair.is_empty() || pair.contains(';') {
                continue;
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if let (Ok(key), Ok(value)) = (unescape(key, Part::Query), unescape(value, Part::Query)) {
                let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
                found.push((text(key), text(value)));
            }
        }
        found
    }
}

fn split_scheme(text: &str) -> Result<(&str, &str), String> {
    for (i, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if i > 0 => {}
            ':' if i == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((&text[..i], &text[i + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn read_host(scheme: &str, host: &str) -> Result<String, String> {
    let bad_port = |port: &str| Err(format!("invalid port {} after host", go_quote(port)));
    let is_port = |port: &str| {
        port.is_empty() || port.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
    };
    match host.rfind('[') {
        Some(0) => {
            let Some(close) = host.rfind(']') else { return Err("missing ']' in host".to_owned()) };
            let (name, port) = (&host[1..close], &host[close + 1..]);
            if !is_port(port) {
                return bad_port(port);
            }
            let (address, zone) = name.split_at(name.find("%25").unwrap_or(name.len()));
            let mut decoded = unescape(address, Part::Host)?;
            decoded.extend(unescape(zone, Part::Zone)?);
            let decoded = String::from_utf8_lossy(&decoded);
            let address = decoded.split('%').next().unwrap_or("");
            match address.parse::<Ipv6Addr>() {
                Ok(_) => Ok(format!("[{decoded}]{port}")),
                Err(_) if address.parse::<std::net::Ipv4Addr>().is_ok() => Err("invalid IP-literal".to_owned()),
                Err(_) => Err(format!("invalid host: ParseAddr({}): unable to parse IP", go_quote(&decoded))),
            }
        }
        Some(_) => Err("invalid IP-literal".to_owned()),
        None => {
            // Elsewhere, lists of hosts with ports have always been let through.
            let is_strict = matches!(scheme, "http" | "https");
            let colon = if is_strict { host.find(':') } else { host.rfind(':') };
            match colon.map(|colon| &host[colon..]).filter(|port| !is_port(port)) {
                Some(port) => bad_port(port),
                None => Ok(String::from_utf8_lossy(&unescape(host, Part::Host)?).into_owned()),
            }
        }
    }
}

/// Which part of a URL a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Path,
    Query,
    Host,
    Zone,
    User,
}

/// Punctuation that a host may contain.
const HOST: &[u8] = b"!$&'()*+,;=:[]<>\"-._~";
/// Punctuation that user information is written with.
const USER: &str = "$&+,;=-_.~";

fn escape(bytes: &[u8], plain: &str) -> String {
    let mut out = String::new();
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || plain.as_bytes().contains(byte) {
            out.push(char::from(*byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn unescape(text: &str, part: Part) -> Result<Vec<u8>, String> {
    let is_of_host = |byte: u8| byte.is_ascii_alphanumeric() || HOST.contains(&byte);
    let bytes = text.as_bytes();
    let (mut out, mut i) = (Vec::with_capacity(bytes.len()), 0);
    while i < bytes.len() {
        match bytes[i] {
            b'%' => {
                let is_hex = |digits: &&[u8]| digits.iter().all(u8::is_ascii_hexdigit);
                let digits = bytes.get(i + 1..i + 3).filter(is_hex).and_then(|_| text.get(i + 1..i + 3));
                let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                // In hosts only what is not ASCII is escaped, in zones what a host may contain, and the percent sign itself.
                let byte = byte.filter(|byte| match part {
                    Part::Host => *byte >= 0x80 || *byte == b'%',
                    Part::Zone => matches!(*byte, b'%' | b' ') || is_of_host(*byte),
                    Part::Path | Part::Query | Part::User => true,
                });
                let Some(byte) = byte else {
                    let end = (i..=bytes.len().min(i + 3)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(i);
                    return Err(format!("invalid URL escape {}", go_quote(&text[i..end])));
                };
                out.push(byte);
                i += 3;
                continue;
            }
            b'+' if part == Part::Query => out.push(b' '),
            byte if matches!(part, Part::Host | Part::Zone) && byte.is_ascii() && !is_of_host(byte) => {
                return Err(format!("invalid character {} in host name", go_quote(&char::from(byte).to_string())));
            }
            byte => out.push(byte),
        }
        i += 1;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_as_go_says_it() {
        let fault = |text: &str| Url::parse(text).map(|_| ()).expect_err(text);
        for (text, reason) in [
            (":", "missing protocol scheme"),
            ("1a://b", "first path segment in URL cannot contain colon"),
            ("\thttps://a", "net/url: invalid control character in URL"),
            ("https://a b/c", "invalid character \" \" in host name"),
            ("https://a.b:x/", "invalid port \":x\" after host"),
            ("https://a:b:1/", "invalid port \":b:1\" after host"),
            ("https://[::1", "missing ']' in host"),
            ("https://[a]/", "invalid host: ParseAddr(\"a\"): unable to parse IP"),
            ("https://[127.0.0.1]/", "invalid IP-literal"),
            ("https://a.b/%zz", "invalid URL escape \"%zz\""),
            ("https://a.b%20c/", "invalid URL escape \"%20\""),
            ("https://u%zz@a.b", "invalid URL escape \"%zz\""),
        ] {
            assert_eq!(fault(text), format!("parse {}: {reason}", go_quote(text)), "{text}");
        }
    }

    #[test]
    fn parts_are_read_as_go_reads_them() {
        let url = Url::parse("HTTPS://u%20v:p@[fe80::1%25en0]:80/a?b=c#d%20e").expect("a URL");
        assert_eq!((url.scheme.as_str(), url.user.as_deref()), ("https", Some("u%20v:p")));
        assert_eq!((url.host.as_str(), url.query.as_str(), url.fragment.as_str()), ("[fe80::1%en0]:80", "b=c", "d e"));
        assert_eq!(Url::parse("//a.b/c").map(|url| url.host).as_deref(), Ok("a.b"));
        assert_eq!(Url::parse("https://@a.b/").map(|url| url.user), Ok(Some(String::new())));
        assert_eq!(Url::parse_request("//a.b/c").map(|url| url.host).as_deref(), Ok(""));
    }
}
