//! `Warning` headers: what a client is told beside the answer. Source: `endpoints/filters/warning.go` of k8s.io/apiserver.

use std::collections::HashSet;

use http::{HeaderMap, HeaderValue};

/// Characters of all texts together; beyond them each text is cut.
const ALL_CHARS_MAX: usize = 4096;
/// Characters of one text, once there is too much.
const TEXT_CHARS_MAX: usize = 256;

/// Adds `Warning: 299 - "text"`, one header each, repeated texts once.
pub(crate) fn add(headers: &mut HeaderMap, warnings: &[String]) {
    for text in sent(warnings) {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            headers.append("Warning", value);
        }
    }
}

/// The texts that are sent, as far as they are.
fn sent(warnings: &[String]) -> Vec<&str> {
    let mut seen = HashSet::new();
    let can_be_sent = |text: &&str| !text.is_empty() && !text.contains(char::is_control);
    let (mut out, mut chars, mut cuts) = (Vec::new(), 0, false);
    for text in warnings.iter().map(String::as_str).filter(can_be_sent).filter(|text| seen.insert(*text)) {
        if !cuts && chars + text.chars().count() > ALL_CHARS_MAX {
            // Those before are cut too, which makes room for a few more.
            cuts = true;
            out = out.into_iter().map(cut).collect();
            chars = out.iter().map(|text| text.chars().count()).sum();
        } else if cuts && chars >= ALL_CHARS_MAX {
            break;
        }
        let text = if cuts { cut(text) } else { text };
        chars += text.chars().count();
        out.push(text);
    }
    out
}

fn cut(text: &str) -> &str {
    text.char_indices().nth(TEXT_CHARS_MAX).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(warnings: &[String]) -> Vec<usize> {
        sent(warnings).iter().map(|text| text.chars().count()).collect()
    }

    #[test]
    fn what_is_too_long_in_all_is_cut() {
        let text = |c: char, length: usize| c.to_string().repeat(length);
        assert_eq!(lengths(&[text('a', 4000), text('b', 96)]), [4000, 96]);
        assert_eq!(lengths(&[text('a', 4000), text('é', 97), text('c', 300)]), [256, 97, 256]);
        assert_eq!(lengths(&[text('a', 5000)]), [256]);
        let many: Vec<String> = (0..100_000).map(|n| format!("{n:0>100}")).collect();
        assert_eq!(lengths(&many).len(), 41);
        let mut headers = HeaderMap::new();
        add(&mut headers, &many);
        assert_eq!(headers.len(), 41);
    }

    #[test]
    fn texts_are_quoted_and_told_once() {
        let mut headers = HeaderMap::new();
        let texts = ["say \"é\" \\", "a\nb", "", "twice", "twice"].map(str::to_owned);
        add(&mut headers, &texts);
        let values: Vec<_> = headers.get_all("Warning").iter().map(|value| value.as_bytes().to_vec()).collect();
        assert_eq!(values, ["299 - \"say \\\"é\\\" \\\\\"".as_bytes(), b"299 - \"twice\""]);
    }
}
