//! Tokens of a label selector's string form.

/// What a token is. `In` and `NotIn` may stand for identifiers where a key or value is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Error,
    End,
    ClosePar,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    OpenPar,
}

impl Token {
    /// The token where a key or a value may stand.
    pub(super) fn as_value(self) -> Token {
        match self {
            Token::In | Token::NotIn => Token::Identifier,
            other => other,
        }
    }
}

fn keyword(text: &str) -> Option<Token> {
    Some(match text {
        ")" => Token::ClosePar,
        "," => Token::Comma,
        "!" => Token::Not,
        "==" => Token::DoubleEquals,
        "=" => Token::Equals,
        ">" => Token::Greater,
        "in" => Token::In,
        "<" => Token::Less,
        "!=" => Token::NotEquals,
        "notin" => Token::NotIn,
        "(" => Token::OpenPar,
        _ => return None,
    })
}

fn is_symbol(b: u8) -> bool {
    matches!(b, b'=' | b'!' | b'(' | b')' | b',' | b'>' | b'<')
}

fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\r' | b'\n')
}

/// All tokens with their text; the last is always [`Token::End`]. A NUL byte ends the text, as upstream's lexer has it.
pub(super) fn tokens(text: &str) -> Vec<(Token, String)> {
    let text = text.split('\0').next().unwrap_or("");
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut pos = 0;
    while pos < bytes.len() {
        let start = pos;
        if is_space(bytes[pos]) {
            pos += 1;
        } else if is_symbol(bytes[pos]) {
            let (token, len, literal) = symbol(text, start);
            pos += len;
            out.push((token, literal));
        } else {
            while pos < bytes.len() && !is_symbol(bytes[pos]) && !is_space(bytes[pos]) {
                pos += 1;
            }
            let word = &text[start..pos];
            out.push((keyword(word).unwrap_or(Token::Identifier), word.to_owned()));
        }
    }
    out.push((Token::End, String::new()));
    out
}

/// The longest operator at `start`; every symbol alone but a run such as `=!` starts with an operator, so this always finds one.
fn symbol(text: &str, start: usize) -> (Token, usize, String) {
    let mut found = None;
    for len in 1..=2 {
        let Some(candidate) = text.get(start..start + len) else { break };
        if let Some(token) = keyword(candidate) {
            found = Some((token, len, candidate.to_owned()));
        }
    }
    found.unwrap_or((Token::Error, 1, format!("error expected: keyword found '{}'", &text[start..=start])))
}
