//! The grammar, rule by rule, in the shape of upstream's: where it decides and where it checks is visible in its errors.

use std::sync::Arc;

use super::ast::{Element, Entry, Expr, FieldInit, Kind, Literal, Offset};
use super::lex::{self, Lexeme, Token};
use super::macros;
use super::recovery::{Fault, Set, Stream};
use super::source::CompileErrors;

/// Longer expressions are not read (characters).
const EXPRESSION_MAX: usize = 100_000;
/// Depth of nested rules, and of the tree: evaluation recurses as deep.
const DEPTH_MAX: usize = 250;

/// Names that no variable can have.
const RESERVED: [&str; 21] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "package",
    "namespace",
    "null",
    "return",
    "true",
    "var",
    "void",
    "while",
];

const LITERAL: Set = Set::of(&[
    Token::Minus,
    Token::Int,
    Token::Uint,
    Token::Float,
    Token::String,
    Token::Bytes,
    Token::True,
    Token::False,
    Token::Null,
]);
const PRIMARY: Set =
    LITERAL.or(Set::of(&[Token::Dot, Token::Identifier, Token::OpenParen, Token::OpenBracket, Token::OpenBrace]));
const EXPR: Set = PRIMARY.or(Set::of(&[Token::Exclamation]));
const OPTIONAL_EXPR: Set = EXPR.or(Set::of(&[Token::Question]));
const FIELD: Set = Set::of(&[Token::Question, Token::Identifier, Token::EscapedIdentifier]);
const NAME: Set = Set::of(&[Token::Identifier, Token::EscapedIdentifier]);
const RELATION: Set = Set::of(&[
    Token::Less,
    Token::LessEquals,
    Token::GreaterEquals,
    Token::Greater,
    Token::Equals,
    Token::NotEquals,
    Token::In,
]);
const CALC: Set = Set::of(&[Token::Star, Token::Slash, Token::Percent, Token::Plus, Token::Minus]);
const SUFFIX: Set = Set::of(&[Token::Dot, Token::OpenBracket]);
const COMMA: Set = Set::of(&[Token::Comma]);

/// A parsed expression and how many node ids it uses.
#[derive(Clone, Debug)]
pub(super) struct Parsed {
    pub expr: Expr,
    pub ids: u32,
}

/// Reads one expression. What is wrong with it is in `errors`; the tree then has holes.
pub(super) fn parse(text: &str, errors: &mut CompileErrors) -> Parsed {
    let source: Vec<char> = text.chars().collect();
    if source.len() > EXPRESSION_MAX {
        let message =
            format!("expression code point size exceeds limit: size: {}, limit {EXPRESSION_MAX}", source.len());
        errors.report_nowhere(message);
        return Parsed { expr: Expr { id: 0, at: 0, kind: Kind::Missing }, ids: 1 };
    }
    let tokens = lex::tokens(&source, errors);
    let mut parser = Parser { stream: Stream::new(&source, tokens, errors), nodes: Nodes::default(), depth: 0 };
    let expr = parser.start();
    Parsed { expr, ids: parser.nodes.next }
}

/// Gives out node ids.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    next: u32,
}

impl Nodes {
    pub(super) fn count(&self) -> u32 {
        self.next
    }

    pub(super) fn make(&mut self, at: Offset, kind: Kind) -> Expr {
        let id = self.next;
        self.next += 1;
        Expr { id, at, kind }
    }
}

struct Parser<'e> {
    stream: Stream<'e>,
    nodes: Nodes,
    depth: usize,
}

type Parse<T> = Result<T, Fault>;

impl Parser<'_> {
    fn start(&mut self) -> Expr {
        let expr = self.expr(Set::of(&[Token::Eof]));
        if !self.stream.over
            && let Err(fault) = self.stream.take(Token::Eof, Set::END, line!())
        {
            self.stream.fail(fault);
        }
        expr
    }

    /// Runs a rule: a fault in it is reported and leaves a hole.
    fn rule(&mut self, follow: Set, body: impl FnOnce(&mut Self) -> Parse<Expr>) -> Expr {
        self.rule_or(follow, body).unwrap_or(Expr { id: 0, at: 0, kind: Kind::Missing })
    }

    fn rule_or<T>(&mut self, follow: Set, body: impl FnOnce(&mut Self) -> Parse<T>) -> Option<T> {
        if self.stream.over {
            return None;
        }
        self.stream.enter(follow);
        let made = match body(self) {
            Ok(made) => Some(made),
            Err(fault) => {
                self.stream.fail(fault);
                None
            }
        };
        self.stream.leave();
        made
    }

    fn make(&mut self, at: Offset, kind: Kind) -> Expr {
        self.nodes.make(at, kind)
    }

    /// One level deeper, until everything is too deep.
    fn descend(&mut self, message: &str) -> Parse<()> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            if !self.stream.over {
                self.stream.errors.report_nowhere(message);
            }
            self.stream.over = true;
            return Err(Fault::Over);
        }
        Ok(())
    }

    fn expr(&mut self, follow: Set) -> Expr {
        self.rule(follow, |p| {
            let before = p.depth;
            p.descend(&format!("expression recursion limit exceeded: {DEPTH_MAX}"))?;
            let made = p.conditional();
            p.depth = before;
            made
        })
    }

    fn conditional(&mut self) -> Parse<Expr> {
        const QUESTION: Set = Set::of(&[Token::Question]).or(Set::END);
        let condition = self.logical_or(QUESTION);
        self.stream.sync(QUESTION, line!())?;
        if self.stream.peek() != Token::Question {
            return Ok(condition);
        }
        let colon = Set::of(&[Token::Colon]);
        let at = self.stream.take(Token::Question, EXPR, line!())?.start;
        let truthy = self.logical_or(colon);
        self.stream.take(Token::Colon, EXPR, line!())?;
        let falsy = self.expr(Set::END);
        Ok(self.call(at, "_?_:_", vec![condition, truthy, falsy]))
    }

    fn logical_or(&mut self, follow: Set) -> Expr {
        self.logical(follow, Token::Or, "_||_", |p, follow| {
            p.logical(follow, Token::And, "_&&_", |p, follow| p.relation(follow))
        })
    }

    /// Terms joined by one operator, as a balanced tree.
    fn logical(&mut self, follow: Set, operator: Token, function: &str, term: impl Fn(&mut Self, Set) -> Expr) -> Expr {
        let more = Set::of(&[operator]).or(Set::END);
        self.rule(follow, |p| {
            let mut terms = vec![term(p, more)];
            let mut operators = Vec::new();
            while p.stream.peek() == operator {
                operators.push(p.stream.take(operator, EXPR, line!())?.start);
                terms.push(term(p, more));
            }
            Ok(p.balance(function, terms, &operators))
        })
    }

    fn balance(&mut self, function: &str, mut terms: Vec<Expr>, operators: &[Offset]) -> Expr {
        if operators.is_empty() {
            return terms.pop().unwrap_or(Expr { id: 0, at: 0, kind: Kind::Missing });
        }
        let mid = operators.len() / 2;
        let right = terms.split_off(mid + 1);
        let left = self.balance(function, terms, &operators[..mid]);
        let right = self.balance(function, right, &operators[mid + 1..]);
        self.call(operators[mid], function, vec![left, right])
    }

    fn relation(&mut self, follow: Set) -> Expr {
        let more = RELATION.or(Set::END);
        self.rule(follow, |p| {
            let before = p.depth;
            let mut left = p.calc(more, 0);
            while RELATION.has(p.stream.peek()) {
                p.descend("max recursion depth exceeded")?;
                let operator = p.stream.take_any(RELATION, EXPR, line!())?;
                let right = p.calc(more, 0);
                left = p.call(operator.start, operator_name(operator.token), vec![left, right]);
            }
            p.depth = before;
            Ok(left)
        })
    }

    /// Sums and products; `level` 1 is what stands beside a product sign.
    fn calc(&mut self, follow: Set, level: u8) -> Expr {
        let more = CALC.or(Set::END);
        self.rule(follow, |p| {
            let before = p.depth;
            let mut left = p.unary(more);
            loop {
                let token = p.stream.peek();
                let product = matches!(token, Token::Star | Token::Slash | Token::Percent);
                if !CALC.has(token) || level >= 2 || (!product && level >= 1) {
                    break;
                }
                p.descend("max recursion depth exceeded")?;
                let operator = p.stream.take_any(CALC, EXPR, line!())?;
                let right = p.calc(more, if product { 2 } else { 1 });
                left = p.call(operator.start, operator_name(operator.token), vec![left, right]);
            }
            p.depth = before;
            Ok(left)
        })
    }

    fn unary(&mut self, follow: Set) -> Expr {
        self.rule(follow, |p| {
            p.stream.sync(EXPR, line!())?;
            match p.stream.peek() {
                Token::Exclamation => {
                    let (mut count, at) = (0, p.stream.peek_at(0).start);
                    while p.stream.peek() == Token::Exclamation {
                        p.stream.take(Token::Exclamation, EXPR, line!())?;
                        p.stream.sync_loop(EXPR, line!());
                        count += 1;
                    }
                    Ok(p.signed(at, "!_", count))
                }
                Token::Minus if !matches!(p.stream.peek_at(1).token, Token::Int | Token::Float) => {
                    if !PRIMARY.has(p.stream.peek_at(1).token) {
                        return Err(p.stream.no_alternative(1));
                    }
                    let (mut count, at) = (0, p.stream.peek_at(0).start);
                    while p.stream.peek() == Token::Minus {
                        if !PRIMARY.has(p.stream.peek_at(1).token) {
                            return Err(p.stream.no_alternative(1));
                        }
                        p.stream.take(Token::Minus, PRIMARY, line!())?;
                        count += 1;
                    }
                    Ok(p.signed(at, "-_", count))
                }
                _ => Ok(p.member(Set::END)),
            }
        })
    }

    fn signed(&mut self, at: Offset, function: &str, count: u32) -> Expr {
        let operand = self.member(Set::END);
        if count.is_multiple_of(2) { operand } else { self.call(at, function, vec![operand]) }
    }

    fn member(&mut self, follow: Set) -> Expr {
        self.rule(follow, |p| {
            let before = p.depth;
            let mut operand = p.primary(SUFFIX.or(Set::END));
            while SUFFIX.has(p.stream.peek()) {
                p.descend("max recursion depth exceeded")?;
                operand = p.suffix(operand)?;
            }
            p.depth = before;
            Ok(operand)
        })
    }

    fn suffix(&mut self, operand: Expr) -> Parse<Expr> {
        let (second, third) = (self.stream.peek_at(1).token, self.stream.peek_at(2).token);
        if self.stream.peek() == Token::OpenBracket {
            return self.index(operand);
        }
        if !FIELD.has(second) {
            return Err(self.stream.no_alternative(1));
        }
        let dot = self.stream.take(Token::Dot, FIELD, line!())?.start;
        if second == Token::Identifier && third == Token::OpenParen {
            let name = self.stream.take(Token::Identifier, Set::of(&[Token::OpenParen]), line!())?;
            let name = self.stream.text(name);
            let (open, args) = self.arguments()?;
            return Ok(self.member_call(open, &name, operand, args));
        }
        let optional = self.optional(FIELD)?;
        let Some((name, at)) = self.name(SUFFIX.or(Set::END)) else {
            return Ok(self.make(dot, Kind::Missing));
        };
        if optional {
            let name = self.make(at, Kind::Literal(Literal::String(name)));
            return Ok(self.call(dot, "_?._", vec![operand, name]));
        }
        Ok(self.make(dot, Kind::Select { operand: Box::new(operand), field: name, test: false }))
    }

    fn index(&mut self, operand: Expr) -> Parse<Expr> {
        let open = self.stream.take(Token::OpenBracket, OPTIONAL_EXPR, line!())?.start;
        let optional = self.optional(OPTIONAL_EXPR)?;
        let index = self.expr(Set::of(&[Token::CloseBracket]));
        self.stream.take(Token::CloseBracket, SUFFIX.or(Set::END), line!())?;
        Ok(self.call(open, if optional { "_[?_]" } else { "_[_]" }, vec![operand, index]))
    }

    /// A question mark, if there is one.
    fn optional(&mut self, acceptable: Set) -> Parse<bool> {
        self.stream.sync(acceptable, line!())?;
        let optional = self.stream.peek() == Token::Question;
        if optional {
            self.stream.take(Token::Question, EXPR.or(NAME), line!())?;
        }
        Ok(optional)
    }

    /// A field's name. Upstream's grammar knows names in backquotes, but they are not switched on.
    fn name(&mut self, follow: Set) -> Option<(Arc<str>, Offset)> {
        self.rule_or(follow, |p| {
            p.stream.sync(NAME, line!())?;
            let name = p.stream.take_any(NAME, Set::END, line!())?;
            if name.token == Token::EscapedIdentifier {
                p.stream.errors.report(name.start, "unsupported syntax: '`'");
            }
            Ok((p.stream.text(name).into(), name.start))
        })
    }

    /// `(`, arguments, `)`: where the parenthesis is, and the arguments.
    fn arguments(&mut self) -> Parse<(Offset, Vec<Expr>)> {
        let close = Set::of(&[Token::CloseParen]);
        let open = self.stream.take(Token::OpenParen, EXPR.or(close), line!())?.start;
        self.stream.sync(EXPR.or(close), line!())?;
        let mut args = Vec::new();
        if EXPR.has(self.stream.peek()) {
            args = self.expressions(close);
        }
        self.stream.take(Token::CloseParen, SUFFIX.or(Set::END), line!())?;
        Ok((open, args))
    }

    fn expressions(&mut self, follow: Set) -> Vec<Expr> {
        let listed = self.rule_or(follow, |p| {
            let mut list = vec![p.expr(COMMA.or(Set::END))];
            while p.stream.peek() == Token::Comma {
                p.stream.take(Token::Comma, EXPR, line!())?;
                list.push(p.expr(COMMA.or(Set::END)));
            }
            Ok(list)
        });
        listed.unwrap_or_default()
    }

    fn primary(&mut self, follow: Set) -> Expr {
        self.rule(follow, |p| {
            p.stream.sync(PRIMARY, line!())?;
            match p.stream.peek() {
                Token::OpenParen => {
                    let close = Set::of(&[Token::CloseParen]);
                    p.stream.take(Token::OpenParen, EXPR, line!())?;
                    let inner = p.expr(close);
                    p.stream.take(Token::CloseParen, Set::END, line!())?;
                    Ok(inner)
                }
                Token::OpenBracket => p.list(),
                Token::OpenBrace => p.map(),
                Token::Dot | Token::Identifier => p.named(),
                token if LITERAL.has(token) => Ok(p.literal(Set::END)),
                _ => Err(p.stream.no_alternative(0)),
            }
        })
    }

    /// A variable, a call, or a struct.
    fn named(&mut self) -> Parse<Expr> {
        let leading = self.stream.peek() == Token::Dot;
        let first = usize::from(leading);
        if self.stream.peek_at(first).token != Token::Identifier {
            return Err(self.stream.no_alternative(first));
        }
        let start = self.stream.peek_at(0).start;
        if self.is_struct(first) {
            return self.structure(leading);
        }
        if leading {
            self.stream.take(Token::Dot, Set::of(&[Token::Identifier]), line!())?;
        }
        let name = self.stream.take(Token::Identifier, Set::END, line!())?;
        let text = self.stream.text(name);
        if self.stream.peek() == Token::OpenParen {
            let (open, args) = self.arguments()?;
            if RESERVED.contains(&text.as_str()) {
                return Ok(self.reserved(start, &text));
            }
            return Ok(self.global_call(open, &text, args));
        }
        if RESERVED.contains(&text.as_str()) {
            return Ok(self.reserved(start, &text));
        }
        let full = if leading { format!(".{text}") } else { text };
        Ok(self.make(name.start, Kind::Ident(full.into())))
    }

    fn reserved(&mut self, at: Offset, name: &str) -> Expr {
        self.stream.errors.report(at, format!("reserved identifier: {name}"));
        self.make(at, Kind::Missing)
    }

    /// Do names joined by dots, from the token `first` on, end at a brace?
    fn is_struct(&self, first: usize) -> bool {
        let mut at = first;
        loop {
            match (self.stream.peek_at(at + 1).token, self.stream.peek_at(at + 2).token) {
                (Token::OpenBrace, _) => return true,
                (Token::Dot, Token::Identifier) => at += 2,
                _ => return false,
            }
        }
    }

    fn structure(&mut self, leading: bool) -> Parse<Expr> {
        let mut name = String::new();
        if leading {
            self.stream.take(Token::Dot, Set::of(&[Token::Identifier]), line!())?;
            name.push('.');
        }
        loop {
            let part = self.stream.take(Token::Identifier, SUFFIX, line!())?;
            name.push_str(&self.stream.text(part));
            if self.stream.peek() != Token::Dot {
                break;
            }
            self.stream.take(Token::Dot, Set::of(&[Token::Identifier]), line!())?;
            name.push('.');
        }
        let end = Set::of(&[Token::Comma, Token::CloseBrace]);
        let open = self.stream.take(Token::OpenBrace, FIELD.or(end), line!())?.start;
        self.stream.sync(FIELD.or(end), line!())?;
        let mut fields = Vec::new();
        if FIELD.has(self.stream.peek()) {
            fields = self.rule_or(end, Self::fields).unwrap_or_default();
        }
        self.closing(Token::CloseBrace)?;
        Ok(self.make(open, Kind::Struct { name: name.into(), fields }))
    }

    fn fields(&mut self) -> Parse<Vec<FieldInit>> {
        let colon = Set::of(&[Token::Colon]);
        let mut fields = Vec::new();
        loop {
            let named = self.rule_or(colon, |p| {
                let optional = p.optional(FIELD)?;
                Ok((optional, p.name(Set::END)))
            });
            let at = self.stream.take(Token::Colon, EXPR, line!())?.start;
            let value = self.expr(COMMA.or(Set::END));
            if let Some((optional, Some((name, _)))) = named {
                fields.push(FieldInit { at, optional, name, value });
            }
            if self.stream.peek() != Token::Comma || self.stream.peek_at(1).token == Token::CloseBrace {
                return Ok(fields);
            }
            if !FIELD.has(self.stream.peek_at(1).token) {
                return Ok(fields);
            }
            self.stream.take(Token::Comma, FIELD, line!())?;
        }
    }

    /// A trailing comma, if any, and the closing token.
    fn closing(&mut self, token: Token) -> Parse<()> {
        self.stream.sync(COMMA.or(Set::of(&[token])), line!())?;
        if self.stream.peek() == Token::Comma {
            self.stream.take(Token::Comma, Set::of(&[token]), line!())?;
        }
        self.stream.take(token, Set::END, line!()).map(|_| ())
    }

    fn list(&mut self) -> Parse<Expr> {
        let end = Set::of(&[Token::Comma, Token::CloseBracket]);
        let open = self.stream.take(Token::OpenBracket, OPTIONAL_EXPR.or(end), line!())?.start;
        self.stream.sync(OPTIONAL_EXPR.or(end), line!())?;
        let mut items = Vec::new();
        if OPTIONAL_EXPR.has(self.stream.peek()) {
            let listed = self.rule_or(end, |p| {
                let mut items = vec![p.element()];
                while p.goes_on() {
                    p.stream.take(Token::Comma, OPTIONAL_EXPR, line!())?;
                    items.push(p.element());
                }
                Ok(items)
            });
            items = listed.unwrap_or_default();
        }
        self.closing(Token::CloseBracket)?;
        Ok(self.make(open, Kind::List(items)))
    }

    /// A comma that is not the trailing one.
    fn goes_on(&self) -> bool {
        self.stream.peek() == Token::Comma && OPTIONAL_EXPR.has(self.stream.peek_at(1).token)
    }

    fn element(&mut self) -> Element {
        self.optional_expr(COMMA.or(Set::END))
    }

    fn optional_expr(&mut self, follow: Set) -> Element {
        let read = self.rule_or(follow, |p| {
            let optional = p.optional(OPTIONAL_EXPR)?;
            Ok(Element { optional, value: p.expr(Set::END) })
        });
        read.unwrap_or(Element { optional: false, value: Expr { id: 0, at: 0, kind: Kind::Missing } })
    }

    fn map(&mut self) -> Parse<Expr> {
        let end = Set::of(&[Token::Comma, Token::CloseBrace]);
        let open = self.stream.take(Token::OpenBrace, OPTIONAL_EXPR.or(end), line!())?.start;
        self.stream.sync(OPTIONAL_EXPR.or(end), line!())?;
        let mut entries = Vec::new();
        if OPTIONAL_EXPR.has(self.stream.peek()) {
            let listed = self.rule_or(end, |p| {
                let mut entries = vec![p.entry()?];
                while p.goes_on() {
                    p.stream.take(Token::Comma, OPTIONAL_EXPR, line!())?;
                    entries.push(p.entry()?);
                }
                Ok(entries)
            });
            entries = listed.unwrap_or_default();
        }
        self.closing(Token::CloseBrace)?;
        Ok(self.make(open, Kind::Map(entries)))
    }

    fn entry(&mut self) -> Parse<Entry> {
        let key = self.optional_expr(Set::of(&[Token::Colon]));
        self.stream.take(Token::Colon, EXPR, line!())?;
        Ok(Entry { optional: key.optional, key: key.value, value: self.expr(COMMA.or(Set::END)) })
    }

    fn literal(&mut self, follow: Set) -> Expr {
        self.rule(follow, |p| {
            let at = p.stream.peek_at(0).start;
            let mut sign = "";
            if p.stream.peek() == Token::Minus {
                if !matches!(p.stream.peek_at(1).token, Token::Int | Token::Float) {
                    return Err(p.stream.no_alternative(1));
                }
                p.stream.take(Token::Minus, LITERAL, line!())?;
                sign = "-";
            }
            let lexeme = p.stream.take_any(LITERAL, Set::END, line!())?;
            match literal(lexeme, sign, &p.stream.text(lexeme)) {
                Ok(literal) => Ok(p.make(at, Kind::Literal(literal))),
                Err(message) => {
                    p.stream.errors.report(at, message);
                    Ok(p.make(at, Kind::Missing))
                }
            }
        })
    }

    fn call(&mut self, at: Offset, function: &str, args: Vec<Expr>) -> Expr {
        self.make(at, Kind::Call { target: None, function: function.into(), args })
    }

    fn global_call(&mut self, at: Offset, name: &str, args: Vec<Expr>) -> Expr {
        match macros::expand_global(&mut self.nodes, self.stream.errors, at, name, &args) {
            Some(expanded) => expanded,
            None => self.call(at, name, args),
        }
    }

    fn member_call(&mut self, at: Offset, name: &str, target: Expr, args: Vec<Expr>) -> Expr {
        match macros::expand_member(&mut self.nodes, self.stream.errors, at, name, &target, &args) {
            Some(expanded) => expanded,
            None => self.make(at, Kind::Call { target: Some(Box::new(target)), function: name.into(), args }),
        }
    }
}

fn operator_name(token: Token) -> &'static str {
    match token {
        Token::Less => "_<_",
        Token::LessEquals => "_<=_",
        Token::GreaterEquals => "_>=_",
        Token::Greater => "_>_",
        Token::Equals => "_==_",
        Token::NotEquals => "_!=_",
        Token::In => "@in",
        Token::Star => "_*_",
        Token::Slash => "_/_",
        Token::Percent => "_%_",
        Token::Plus => "_+_",
        _ => "_-_",
    }
}

fn literal(lexeme: Lexeme, sign: &str, text: &str) -> Result<Literal, String> {
    let integer = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => i128::from_str_radix(&format!("{sign}{digits}"), 16),
        None => format!("{sign}{text}").parse(),
    };
    Ok(match lexeme.token {
        Token::True => Literal::Bool(true),
        Token::False => Literal::Bool(false),
        Token::Int => {
            let value = integer(text).ok().and_then(|n| i64::try_from(n).ok());
            Literal::Int(value.ok_or("invalid int literal")?)
        }
        Token::Uint => {
            let digits = text.trim_end_matches(['u', 'U']);
            let value = integer(digits).ok().and_then(|n| u64::try_from(n).ok());
            Literal::Uint(value.ok_or("invalid uint literal")?)
        }
        Token::Float => {
            let value: f64 = format!("{sign}{text}").parse().map_err(|_| "invalid double literal")?;
            if value.is_infinite() {
                return Err("invalid double literal".to_owned());
            }
            Literal::Double(value)
        }
        Token::String => Literal::String(String::from_utf8_lossy(&unescape(text, false)?).into()),
        Token::Bytes => Literal::Bytes(unescape(&text[1..], true)?.into()),
        _ => Literal::Null,
    })
}

/// The content of a quoted string. In bytes, numeric escapes are bytes; elsewhere they are code points.
fn unescape(quoted: &str, bytes: bool) -> Result<Vec<u8>, String> {
    let normalized = quoted.replace("\r\n", "\n").replace('\r', "\n");
    let raw = normalized.starts_with(['r', 'R']);
    let text = if raw { &normalized[1..] } else { normalized.as_str() };
    let marks = if text.len() >= 6 && (text.starts_with("'''") || text.starts_with("\"\"\"")) { 3 } else { 1 };
    let content = text.get(marks..text.len().saturating_sub(marks)).unwrap_or("");
    if raw || !content.contains('\\') {
        return Ok(content.as_bytes().to_vec());
    }
    let mut out = Vec::with_capacity(content.len());
    let mut chars = content.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let Some(escape) = chars.next() else {
            return Err("unable to unescape string, found '\\' as last character".to_owned());
        };
        let simple = match escape {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            '\\' | '\'' | '"' | '`' | '?' => escape as u8,
            _ => {
                let code = numeric_escape(escape, &mut chars, bytes)?;
                match (bytes, u8::try_from(code)) {
                    (true, Ok(byte)) => out.push(byte),
                    _ => {
                        let c = char::from_u32(code).ok_or("invalid unicode code point")?;
                        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    }
                }
                continue;
            }
        };
        out.push(simple);
    }
    Ok(out)
}

fn numeric_escape(escape: char, chars: &mut std::str::Chars<'_>, bytes: bool) -> Result<u32, String> {
    const UNABLE: &str = "unable to unescape string";
    let (count, radix, first) = match escape {
        'x' | 'X' => (2, 16, String::new()),
        'u' if !bytes => (4, 16, String::new()),
        'U' if !bytes => (8, 16, String::new()),
        '0'..='3' => (2, 8, escape.to_string()),
        _ => return Err(UNABLE.to_owned()),
    };
    let digits: String = first.chars().chain(chars.by_ref().take(count)).collect();
    u32::from_str_radix(&digits, radix).map_err(|_| UNABLE.to_owned())
}
