//! URLs as Go reads them: what requests may carry, with Go's reasons why not.

use crate::field::go_quote;

/// A parsed URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    text: String,
    pub(super) scheme: String,
    /// With port, without user.
    pub(super) host: String,
    path: String,
    query: String,
}

impl Url {
    /// Only absolute URLs and absolute paths. The error is Go's: `parse "x": invalid URI for request`.
    pub(super) fn parse_request(text: &str) -> Result<Self, String> {
        Self::read(text).map_err(|reason| format!("parse {}: {reason}", go_quote(text)))
    }

    fn read(text: &str) -> Result<Self, String> {
        if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        if text.is_empty() {
            return Err("empty url".to_owned());
        }
        let mut url = Self {
            text: text.to_owned(),
            scheme: String::new(),
            host: String::new(),
            path: String::new(),
            query: String::new(),
        };
        // The fragment is not part of a request, but of what its parts are read from.
        let (scheme, rest) = split_scheme(text)?;
        url.scheme = scheme.to_ascii_lowercase();
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        url.query = query.split('#').next().unwrap_or("").to_owned();
        if !rest.starts_with('/') {
            if scheme.is_empty() {
                return Err("invalid URI for request".to_owned());
            }
            return Ok(url);
        }
        let mut path = rest;
        if !scheme.is_empty()
            && let Some(after) = rest.strip_prefix("//")
        {
            let end = after.find('/').unwrap_or(after.len());
            path = &after[end..];
            url.host = authority(after[..end].split('#').next().unwrap_or(""))?;
        }
        path = path.split('#').next().unwrap_or("");
        unescape(path, false)?;
        url.path = path.to_owned();
        Ok(url)
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Without port and brackets.
    pub(super) fn hostname(&self) -> &str {
        match self.host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or(""),
            None => self.host.split(':').next().unwrap_or(""),
        }
    }

    pub(super) fn port(&self) -> &str {
        let after = self.host.rfind(']').map_or(self.host.as_str(), |end| &self.host[end..]);
        after.rsplit_once(':').map_or("", |(_, port)| port)
    }

    pub(super) fn escaped_path(&self) -> String {
        const PLAIN: &str = "!$&'()*+,;=:@[]%/-_.~";
        if self.path.chars().all(|c| c.is_ascii_alphanumeric() || PLAIN.contains(c)) {
            return self.path.clone();
        }
        let decoded = unescape(&self.path, false).unwrap_or_default();
        let mut out = String::new();
        for byte in decoded {
            if byte.is_ascii_alphanumeric() || "$&+,/:;=@-_.~".as_bytes().contains(&byte) {
                out.push(byte as char);
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
        out
    }

    /// Parameters in order; malformed ones are left out.
    pub(super) fn query(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for pair in self.query.split('&') {
            if pair.is_empty() || pair.contains(';') {
                continue;
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if let (Ok(key), Ok(value)) = (unescape(key, true), unescape(value, true)) {
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

fn authority(text: &str) -> Result<String, String> {
    let host = match text.rsplit_once('@') {
        Some((user, host)) => {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c);
            if !user.chars().all(allowed) {
                return Err("net/url: invalid userinfo".to_owned());
            }
            host
        }
        None => text,
    };
    let (name, port) = match host.starts_with('[') {
        true => match host.rfind(']') {
            Some(end) => host.split_at(end + 1),
            None => return Err("missing ']' in host".to_owned()),
        },
        false => match host.rfind(':') {
            Some(colon) => host.split_at(colon),
            None => (host, ""),
        },
    };
    let digits = port.strip_prefix(':').unwrap_or(port);
    if (!port.is_empty() && !port.starts_with(':')) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("invalid port {} after host", go_quote(port)));
    }
    if let Some(bad) = name.chars().find(|c| c.is_ascii() && !c.is_ascii_alphanumeric() && !HOST.contains(*c)) {
        return Err(format!("invalid character {} in host name", go_quote(&bad.to_string())));
    }
    let decoded = unescape(name, false)?;
    Ok(format!("{}{port}", String::from_utf8_lossy(&decoded)))
}

/// Punctuation that a host may contain.
const HOST: &str = "!$&'()*+,;=:[]<>\"-._~%";

fn unescape(text: &str, plus_is_space: bool) -> Result<Vec<u8>, String> {
    let bytes = text.as_bytes();
    let (mut out, mut i) = (Vec::with_capacity(bytes.len()), 0);
    while i < bytes.len() {
        match bytes[i] {
            b'%' => {
                let digits = text.get(i + 1..i + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
                let Some(byte) = digits else {
                    let end = (i..=bytes.len().min(i + 3)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(i);
                    return Err(format!("invalid URL escape {}", go_quote(&text[i..end])));
                };
                out.push(byte);
                i += 3;
                continue;
            }
            b'+' if plus_is_space => out.push(b' '),
            byte => out.push(byte),
        }
        i += 1;
    }
    Ok(out)
}
