//! The tokens of JSON's grammar (RFC 8259), as Go reads them.

use std::ops::Range;

use super::{DEPTH_MAX, ParseError, Reader, Result};
use crate::Text;
use crate::value::{number_end, space_end, string_end};

impl<'t> Reader<'_, 't> {
    pub(super) fn peek(&self) -> Result<u8> {
        self.bytes.get(self.at).copied().ok_or(ParseError::Syntax)
    }

    pub(super) fn skip_space(&mut self) {
        self.at = space_end(self.bytes, self.at);
    }

    /// Steps over an opening bracket.
    pub(super) fn enter(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(ParseError::TooDeep);
        }
        self.at += 1;
        Ok(())
    }

    /// Steps over a closing bracket.
    pub(super) fn leave(&mut self) {
        self.depth -= 1;
        self.at += 1;
    }

    /// The raw text of the next key of an object, positioned at its value; `None` at the closing brace.
    pub(super) fn next_key(&mut self, first: &mut bool) -> Result<Option<Range<usize>>> {
        self.skip_space();
        match (self.peek()?, std::mem::replace(first, false)) {
            (b'}', _) => return Ok(None),
            (b',', false) => {
                self.at += 1;
                self.skip_space();
            }
            (_, true) => {}
            _ => return Err(ParseError::Syntax),
        }
        if self.peek()? != b'"' {
            return Err(ParseError::Syntax);
        }
        let key = self.raw_string()?;
        self.skip_space();
        if self.peek()? != b':' {
            return Err(ParseError::Syntax);
        }
        self.at += 1;
        self.skip_space();
        Ok(Some(key))
    }

    /// Steps to the next item of an array: false at its end.
    pub(super) fn next_item(&mut self, first: bool) -> Result<bool> {
        self.skip_space();
        match (self.peek()?, first) {
            (b']', _) => return Ok(false),
            (_, true) => {}
            (b',', false) => {
                self.at += 1;
                self.skip_space();
            }
            (_, false) => return Err(ParseError::Syntax),
        }
        Ok(true)
    }

    /// The key itself when it has no escapes.
    pub(super) fn plain_key(&self, key: &Range<usize>) -> Option<&'t str> {
        let text = self.text.get(key.clone())?;
        (!text.as_bytes().contains(&b'\\')).then_some(text)
    }

    /// Steps over a string; the range is what is between its quotes.
    pub(super) fn raw_string(&mut self) -> Result<Range<usize>> {
        self.at += 1;
        let start = self.at;
        self.at = string_end(self.bytes, start).ok_or(ParseError::Syntax)?;
        Ok(start..self.at - 1)
    }

    pub(super) fn string(&mut self) -> Result<Text> {
        let range = self.raw_string()?;
        self.text_of(&range)
    }

    /// The text that stands between two quotes.
    pub(super) fn text_of(&self, range: &Range<usize>) -> Result<Text> {
        match self.plain_key(range) {
            Some(text) => Ok(Text::new(text)),
            None => self.unescape(range),
        }
    }

    /// Resolves escapes; a surrogate without its partner becomes U+FFFD, as in Go.
    pub(super) fn unescape(&self, range: &Range<usize>) -> Result<Text> {
        let mut rest = self.text.get(range.clone()).ok_or(ParseError::Syntax)?;
        let mut out = Text::with_capacity(rest.len());
        while let Some((plain, escape)) = rest.split_once('\\') {
            out.push_str(plain);
            let mut chars = escape.chars();
            match chars.next() {
                Some('b') => out.push('\u{8}'),
                Some('f') => out.push('\u{c}'),
                Some('n') => out.push('\n'),
                Some('r') => out.push('\r'),
                Some('t') => out.push('\t'),
                Some('u') => {
                    let unit = hex4(chars.as_str());
                    chars = skip_chars(chars, 4);
                    out.push(match unit {
                        0xd800..0xdc00 => {
                            let low = chars.as_str().strip_prefix("\\u").map_or(0, hex4);
                            if (0xdc00..0xe000).contains(&low) {
                                chars = skip_chars(chars, 6);
                                char::from_u32(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)).unwrap_or('\u{fffd}')
                            } else {
                                '\u{fffd}'
                            }
                        }
                        unit => char::from_u32(unit).unwrap_or('\u{fffd}'),
                    });
                }
                Some(other) => out.push(other),
                None => return Err(ParseError::Syntax),
            }
            rest = chars.as_str();
        }
        out.push_str(rest);
        Ok(out)
    }

    pub(super) fn literal(&mut self, word: &str) -> Result<()> {
        if self.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(());
        }
        Err(ParseError::Syntax)
    }

    /// A number by JSON's grammar, as text.
    pub(super) fn number(&mut self) -> Result<&'t str> {
        let start = self.at;
        self.at = number_end(self.bytes, start).ok_or(ParseError::Syntax)?;
        Ok(&self.text[start..self.at])
    }

    /// Steps over any value, checking only its grammar.
    pub(super) fn skip(&mut self) -> Result<()> {
        match self.peek()? {
            b'"' => self.raw_string().map(|_| ()),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            b'{' => {
                self.enter()?;
                let mut first = true;
                while self.next_key(&mut first)?.is_some() {
                    self.skip()?;
                }
                self.leave();
                Ok(())
            }
            b'[' => {
                self.enter()?;
                let mut first = true;
                while self.next_item(first)? {
                    self.skip()?;
                    first = false;
                }
                self.leave();
                Ok(())
            }
            _ => self.number().map(|_| ()),
        }
    }
}

fn hex4(text: &str) -> u32 {
    text.get(..4).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or(0)
}

fn skip_chars(mut chars: std::str::Chars<'_>, n: usize) -> std::str::Chars<'_> {
    for _ in 0..n {
        chars.next();
    }
    chars
}
