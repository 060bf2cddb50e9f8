//! Tokens of an expression. What is not a token is reported in the words of upstream's scanner and skipped as it skips it.

use super::ast::Offset;
use super::source::CompileErrors;

/// Kinds in the order in which errors list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Eof,
    Equals,
    NotEquals,
    In,
    Less,
    LessEquals,
    GreaterEquals,
    Greater,
    And,
    Or,
    OpenBracket,
    CloseBracket,
    OpenBrace,
    CloseBrace,
    OpenParen,
    CloseParen,
    Dot,
    Comma,
    Minus,
    Exclamation,
    Question,
    Colon,
    Plus,
    Star,
    Slash,
    Percent,
    True,
    False,
    Null,
    Float,
    Int,
    Uint,
    String,
    Bytes,
    Identifier,
    EscapedIdentifier,
}

/// Every kind with its spelling in errors.
pub(super) const TOKENS: [(Token, &str); 36] = [
    (Token::Eof, "<EOF>"),
    (Token::Equals, "'=='"),
    (Token::NotEquals, "'!='"),
    (Token::In, "'in'"),
    (Token::Less, "'<'"),
    (Token::LessEquals, "'<='"),
    (Token::GreaterEquals, "'>='"),
    (Token::Greater, "'>'"),
    (Token::And, "'&&'"),
    (Token::Or, "'||'"),
    (Token::OpenBracket, "'['"),
    (Token::CloseBracket, "']'"),
    (Token::OpenBrace, "'{'"),
    (Token::CloseBrace, "'}'"),
    (Token::OpenParen, "'('"),
    (Token::CloseParen, "')'"),
    (Token::Dot, "'.'"),
    (Token::Comma, "','"),
    (Token::Minus, "'-'"),
    (Token::Exclamation, "'!'"),
    (Token::Question, "'?'"),
    (Token::Colon, "':'"),
    (Token::Plus, "'+'"),
    (Token::Star, "'*'"),
    (Token::Slash, "'/'"),
    (Token::Percent, "'%'"),
    (Token::True, "'true'"),
    (Token::False, "'false'"),
    (Token::Null, "'null'"),
    (Token::Float, "NUM_FLOAT"),
    (Token::Int, "NUM_INT"),
    (Token::Uint, "NUM_UINT"),
    (Token::String, "STRING"),
    (Token::Bytes, "BYTES"),
    (Token::Identifier, "IDENTIFIER"),
    (Token::EscapedIdentifier, "ESC_IDENTIFIER"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lexeme {
    pub token: Token,
    pub start: Offset,
    /// Behind the last character.
    pub end: Offset,
}

/// All tokens, the last one [`Token::Eof`].
pub(super) fn tokens(source: &[char], errors: &mut CompileErrors) -> Vec<Lexeme> {
    let mut scanner = Scanner { source, found: Vec::new() };
    let mut at = 0;
    while at < source.len() {
        at = match scanner.next(at) {
            Step::Token(token, end) => {
                scanner.found.push(Lexeme { token, start: at as Offset, end: end as Offset });
                end
            }
            Step::Hidden(end) => end,
            Step::Fault(fault) => {
                let end = (fault + 1).min(source.len());
                let text: String = source[at..end].iter().collect();
                errors.report(at as Offset, format!("Syntax error: token recognition error at: {}", quoted(&text)));
                end
            }
        };
    }
    let end = source.len() as Offset;
    scanner.found.push(Lexeme { token: Token::Eof, start: end, end });
    scanner.found
}

/// In quotes, white space visible.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r"))
}

enum Step {
    Token(Token, usize),
    Hidden(usize),
    /// No token begins here; the scanner gave up at this position.
    Fault(usize),
}

struct Scanner<'s> {
    source: &'s [char],
    found: Vec<Lexeme>,
}

impl Scanner<'_> {
    fn at(&self, index: usize) -> Option<char> {
        self.source.get(index).copied()
    }

    /// End of the run of characters that satisfy `test`.
    fn run(&self, from: usize, test: impl Fn(char) -> bool) -> usize {
        (from..).find(|&i| !self.at(i).is_some_and(&test)).unwrap_or(from)
    }

    fn next(&self, at: usize) -> Step {
        let Some(c) = self.at(at) else { return Step::Hidden(at + 1) };
        let second = self.at(at + 1);
        let two =
            |token, second_char| if second == Some(second_char) { Some(Step::Token(token, at + 2)) } else { None };
        let one = |token| Step::Token(token, at + 1);
        match c {
            '\t' | ' ' | '\r' | '\n' | '\u{c}' => Step::Hidden(self.run(at, |c| "\t \r\n\u{c}".contains(c))),
            '/' if second == Some('/') => Step::Hidden(self.run(at, |c| c != '\n')),
            '=' => two(Token::Equals, '=').unwrap_or(Step::Fault(at + 1)),
            '&' => two(Token::And, '&').unwrap_or(Step::Fault(at + 1)),
            '|' => two(Token::Or, '|').unwrap_or(Step::Fault(at + 1)),
            '!' => two(Token::NotEquals, '=').unwrap_or(one(Token::Exclamation)),
            '<' => two(Token::LessEquals, '=').unwrap_or(one(Token::Less)),
            '>' => two(Token::GreaterEquals, '=').unwrap_or(one(Token::Greater)),
            '[' => one(Token::OpenBracket),
            ']' => one(Token::CloseBracket),
            '{' => one(Token::OpenBrace),
            '}' => one(Token::CloseBrace),
            '(' => one(Token::OpenParen),
            ')' => one(Token::CloseParen),
            '.' if second.is_some_and(|c| c.is_ascii_digit()) => Step::Token(Token::Float, self.fraction(at)),
            '.' => one(Token::Dot),
            ',' => one(Token::Comma),
            '-' => one(Token::Minus),
            '?' => one(Token::Question),
            ':' => one(Token::Colon),
            '+' => one(Token::Plus),
            '*' => one(Token::Star),
            '/' => one(Token::Slash),
            '%' => one(Token::Percent),
            '0'..='9' => self.number(at),
            '"' | '\'' => match self.string(at, false) {
                Ok(end) => Step::Token(Token::String, end),
                Err(fault) => Step::Fault(fault),
            },
            '`' => self.escaped_identifier(at),
            'a'..='z' | 'A'..='Z' | '_' => self.word(at, c),
            _ => Step::Fault(at),
        }
    }

    /// From the dot of `.5` or `1.5e3`.
    fn fraction(&self, dot: usize) -> usize {
        self.exponent(self.run(dot + 1, |c| c.is_ascii_digit()))
    }

    fn exponent(&self, at: usize) -> usize {
        if !matches!(self.at(at), Some('e' | 'E')) {
            return at;
        }
        let digits = if matches!(self.at(at + 1), Some('+' | '-')) { at + 2 } else { at + 1 };
        let end = self.run(digits, |c| c.is_ascii_digit());
        if end > digits { end } else { at }
    }

    fn number(&self, at: usize) -> Step {
        if self.at(at) == Some('0') && self.at(at + 1) == Some('x') {
            let end = self.run(at + 2, |c| c.is_ascii_hexdigit());
            if end > at + 2 {
                return self.with_suffix(end);
            }
        }
        let end = self.run(at, |c| c.is_ascii_digit());
        if self.at(end) == Some('.') && self.at(end + 1).is_some_and(|c| c.is_ascii_digit()) {
            return Step::Token(Token::Float, self.fraction(end));
        }
        let exponent = self.exponent(end);
        if exponent > end { Step::Token(Token::Float, exponent) } else { self.with_suffix(end) }
    }

    fn with_suffix(&self, end: usize) -> Step {
        match self.at(end) {
            Some('u' | 'U') => Step::Token(Token::Uint, end + 1),
            _ => Step::Token(Token::Int, end),
        }
    }

    fn word(&self, at: usize, c: char) -> Step {
        let (mut quote, mut raw, mut token) = (at, false, Token::String);
        if matches!(c, 'b' | 'B') {
            (quote, token) = (quote + 1, Token::Bytes);
        }
        if matches!(self.at(quote), Some('r' | 'R')) {
            (quote, raw) = (quote + 1, true);
        }
        if quote > at
            && matches!(self.at(quote), Some('"' | '\''))
            && let Ok(end) = self.string(quote, raw)
        {
            return Step::Token(token, end);
        }
        let end = self.run(at, |c| c.is_ascii_alphanumeric() || c == '_');
        let word: String = self.source[at..end].iter().collect();
        let token = match word.as_str() {
            "in" => Token::In,
            "true" => Token::True,
            "false" => Token::False,
            "null" => Token::Null,
            _ => Token::Identifier,
        };
        Step::Token(token, end)
    }

    fn escaped_identifier(&self, at: usize) -> Step {
        let end = self.run(at + 1, |c| c.is_ascii_alphanumeric() || "_.-/ ".contains(c));
        match self.at(end) {
            Some('`') if end > at + 1 => Step::Token(Token::EscapedIdentifier, end + 1),
            _ => Step::Fault(end),
        }
    }

    /// The end of the string whose quote is at `quote`, or where it stops being one.
    fn string(&self, quote: usize, raw: bool) -> Result<usize, usize> {
        let Some(mark) = self.at(quote) else { return Err(quote) };
        if self.at(quote + 1) == Some(mark) {
            if self.at(quote + 2) != Some(mark) {
                return Ok(quote + 2);
            }
            // Three quotes that no other three close are an empty string and the start of another.
            return Ok(self.block(quote, mark, raw).unwrap_or(quote + 2));
        }
        let mut at = quote + 1;
        loop {
            match self.at(at) {
                None | Some('\n' | '\r') => return Err(at),
                Some(c) if c == mark => return Ok(at + 1),
                Some('\\') if !raw => at = self.escape(at)?,
                Some(_) => at += 1,
            }
        }
    }

    fn block(&self, quote: usize, mark: char, raw: bool) -> Option<usize> {
        let mut at = quote + 3;
        loop {
            match self.at(at)? {
                c if c == mark && self.at(at + 1) == Some(mark) && self.at(at + 2) == Some(mark) => {
                    return Some(at + 3);
                }
                '\\' if !raw => at = self.escape(at).ok()?,
                _ => at += 1,
            }
        }
    }

    /// The end of an escape sequence, or where it stops being one.
    fn escape(&self, backslash: usize) -> Result<usize, usize> {
        let digits = |from: usize, count: usize, test: fn(char) -> bool| match (from..from + count)
            .find(|&i| !self.at(i).is_some_and(test))
        {
            Some(fault) => Err(fault),
            None => Ok(from + count),
        };
        match self.at(backslash + 1) {
            Some('a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '"' | '\'' | '\\' | '?' | '`') => Ok(backslash + 2),
            Some('x' | 'X') => digits(backslash + 2, 2, |c| c.is_ascii_hexdigit()),
            Some('u') => digits(backslash + 2, 4, |c| c.is_ascii_hexdigit()),
            Some('U') => digits(backslash + 2, 8, |c| c.is_ascii_hexdigit()),
            Some('0'..='3') => digits(backslash + 2, 2, |c| matches!(c, '0'..='7')),
            _ => Err(backslash + 1),
        }
    }
}
