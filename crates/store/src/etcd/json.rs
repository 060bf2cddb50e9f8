//! Finds the JSON objects in a stream of bytes, without reading what is in them.

use bytes::{Bytes, BytesMut};

/// Objects of a stream, one after the other. What lies between them may only be white space.
#[derive(Debug)]
pub(super) struct Splitter {
    buffer: BytesMut,
    bytes_max: usize,
    /// Bytes looked at.
    seen: usize,
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl Splitter {
    /// An object may take up to `bytes_max` bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), bytes_max, seen: 0, depth: 0, in_string: false, is_escaped: false }
    }

    pub(super) fn push(&mut self, part: &[u8]) {
        self.buffer.extend_from_slice(part);
    }

    /// The next whole object; `None` until there is more.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, &'static str> {
        while let Some(&byte) = self.buffer.get(self.seen) {
            self.seen += 1;
            if self.in_string {
                (self.in_string, self.is_escaped) = match byte {
                    _ if self.is_escaped => (true, false),
                    b'\\' => (true, true),
                    b'"' => (false, false),
                    _ => (true, false),
                };
                continue;
            }
            match byte {
                b'{' | b'[' if self.depth > 0 || byte == b'{' => self.depth += 1,
                _ if self.depth == 0 && !byte.is_ascii_whitespace() => {
                    return Err("proto: syntax error: expected an object");
                }
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        let object = self.buffer.split_to(self.seen).freeze();
                        self.seen = 0;
                        return Ok(Some(object));
                    }
                }
                b'"' => self.in_string = true,
                _ => {}
            }
        }
        if self.buffer.len() > self.bytes_max {
            return Err("proto: the message is too large");
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_found_wherever_the_stream_is_cut() {
        let stream = br#" {"a":"}\"{"} {"b":[{},{}]}
            {}"#;
        for cut in 0..stream.len() {
            let mut splitter = Splitter::new(100);
            let mut found = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                splitter.push(part);
                while let Some(object) = splitter.next().unwrap() {
                    found.push(String::from_utf8(object.trim_ascii().to_vec()).unwrap());
                }
            }
            assert_eq!(found, [r#"{"a":"}\"{"}"#, r#"{"b":[{},{}]}"#, "{}"], "cut at {cut}");
        }
    }

    #[test]
    fn anything_but_objects_is_refused() {
        for wrong in ["[]", "7", "}", "\"{}\"", "{} x"] {
            let mut splitter = Splitter::new(100);
            splitter.push(wrong.as_bytes());
            let outcome = std::iter::repeat_with(|| splitter.next()).find(|next| !matches!(next, Ok(Some(_))));
            assert!(matches!(outcome, Some(Err(_))), "{wrong}");
        }
        let mut splitter = Splitter::new(10);
        splitter.push(b"{\"aaaaaaaaaaaaaaaaaaaaaaa");
        assert!(splitter.next().is_err());
    }
}
