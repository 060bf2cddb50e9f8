//! How the parser goes on after an error, and what it says about it: the default strategy of ANTLR, whose messages clients see.

use super::lex::{Lexeme, TOKENS, Token, quoted};
use super::source::CompileErrors;

/// Errors after which parsing ends.
const RECOVERIES_MAX: usize = 30;
/// Tokens skipped in one recovery before parsing ends.
const SKIPPED_MAX: usize = 256;

/// A set of token kinds; may also contain "the rule can end here".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Set(u64);

impl Set {
    pub(super) const NONE: Set = Set(0);
    /// Only that the rule can end.
    pub(super) const END: Set = Set(1 << 63);

    pub(super) const fn of(tokens: &[Token]) -> Set {
        let (mut bits, mut i) = (0, 0);
        while i < tokens.len() {
            bits |= 1 << tokens[i] as u64;
            i += 1;
        }
        Set(bits)
    }

    pub(super) const fn or(self, other: Set) -> Set {
        Set(self.0 | other.0)
    }

    pub(super) fn has(self, token: Token) -> bool {
        self.0 & (1 << token as u64) != 0
    }

    fn can_end(self) -> bool {
        self.0 & Set::END.0 != 0
    }

    fn spelled(self) -> String {
        let names: Vec<&str> = TOKENS.iter().filter(|(token, _)| self.has(*token)).map(|(_, name)| *name).collect();
        match names.as_slice() {
            [one] => (*one).to_owned(),
            many => format!("{{{}}}", many.join(", ")),
        }
    }
}

/// Why a rule could not go on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Mismatch,
    /// Index of the token at which the decision began, and of the one that no alternative has.
    NoAlternative(usize, usize),
    /// Parsing ends; everything is said.
    Over,
}

/// The tokens, the position in them, and what follows each rule that is under way.
pub(super) struct Stream<'e> {
    source: &'e [char],
    tokens: Vec<Lexeme>,
    index: usize,
    /// What can follow each active rule, outermost first.
    follows: Vec<Set>,
    /// What was acceptable at the last place, for the message.
    expected: Set,
    /// Which place that was.
    place: u32,
    recovering: bool,
    recoveries: usize,
    last_error: Option<usize>,
    last_places: Vec<u32>,
    pub(super) over: bool,
    pub(super) errors: &'e mut CompileErrors,
}

impl<'e> Stream<'e> {
    pub(super) fn new(source: &'e [char], tokens: Vec<Lexeme>, errors: &'e mut CompileErrors) -> Self {
        Self {
            source,
            tokens,
            index: 0,
            follows: Vec::new(),
            expected: Set::NONE,
            place: 0,
            recovering: false,
            recoveries: 0,
            last_error: None,
            last_places: Vec::new(),
            over: false,
            errors,
        }
    }

    /// The token `ahead` places from here; behind the last there is only the end.
    pub(super) fn peek_at(&self, ahead: usize) -> Lexeme {
        self.tokens[(self.index + ahead).min(self.tokens.len() - 1)]
    }

    pub(super) fn peek(&self) -> Token {
        self.peek_at(0).token
    }

    pub(super) fn text(&self, lexeme: Lexeme) -> String {
        self.source[lexeme.start as usize..lexeme.end as usize].iter().collect()
    }

    /// No alternative fits, which showed at the token `ahead` places from here.
    pub(super) fn no_alternative(&self, ahead: usize) -> Fault {
        Fault::NoAlternative(self.index, (self.index + ahead).min(self.tokens.len() - 1))
    }

    pub(super) fn enter(&mut self, follow: Set) {
        self.follows.push(follow);
    }

    pub(super) fn leave(&mut self) {
        self.follows.pop();
    }

    /// A rule failed: says so, and skips to a token that something under way can go on with.
    pub(super) fn fail(&mut self, fault: Fault) {
        match fault {
            Fault::Over => return,
            Fault::Mismatch => {
                let message = format!("mismatched input {} expecting {}", self.shown(), self.expecting().spelled());
                self.report(self.index, &message);
            }
            Fault::NoAlternative(from, to) => {
                let range = self.tokens[from].start as usize..self.tokens[to].end as usize;
                let mut text: String = self.source[range].iter().collect();
                if self.tokens[from].token == Token::Eof {
                    text = "<EOF>".to_owned();
                }
                let message = match text.strip_prefix('.') {
                    Some(word @ ("true" | "false" | "null")) => {
                        format!("mismatched input '{word}' expecting IDENTIFIER")
                    }
                    _ => format!("no viable alternative at input {}", quoted(&text)),
                };
                self.report(to, &message);
            }
        }
        if self.attempt().is_err() {
            return;
        }
        if self.last_error == Some(self.index) && self.last_places.contains(&self.place) {
            self.advance();
        }
        self.last_error = Some(self.index);
        self.last_places.push(self.place);
        self.skip_until(self.recovery_set());
    }

    /// Takes one token of a kind; a single token too much or too few is reported and forgiven.
    pub(super) fn take(&mut self, token: Token, then: Set, place: u32) -> Result<Lexeme, Fault> {
        self.take_any(Set::of(&[token]), then, place)
    }

    pub(super) fn take_any(&mut self, tokens: Set, then: Set, place: u32) -> Result<Lexeme, Fault> {
        (self.expected, self.place) = (tokens, place);
        if tokens.has(self.peek()) {
            self.recovering = false;
            let taken = self.peek_at(0);
            self.advance();
            return Ok(taken);
        }
        self.attempt()?;
        if self.delete_one() {
            let taken = self.peek_at(0);
            self.advance();
            return Ok(taken);
        }
        if self.with_context(then).has(self.peek()) {
            if !self.recovering {
                self.recovering = true;
                let message = format!("missing {} at {}", self.expecting().spelled(), self.shown());
                self.say(self.index, &message);
            }
            let here = self.peek_at(0).start;
            return Ok(Lexeme { token: Token::Eof, start: here, end: here });
        }
        Err(Fault::Mismatch)
    }

    /// Before a decision between alternatives: the next token must begin one of them.
    pub(super) fn sync(&mut self, acceptable: Set, place: u32) -> Result<(), Fault> {
        (self.expected, self.place) = (acceptable, place);
        if self.recovering || acceptable.can_end() || acceptable.has(self.peek()) || self.delete_one() {
            return Ok(());
        }
        Err(Fault::Mismatch)
    }

    /// After one round of a loop that must be followed by something.
    pub(super) fn sync_loop(&mut self, acceptable: Set, place: u32) {
        (self.expected, self.place) = (acceptable, place);
        if self.recovering || acceptable.has(self.peek()) {
            return;
        }
        self.report_unwanted();
        self.skip_until(self.expecting().or(self.recovery_set()));
    }

    fn advance(&mut self) {
        if self.index + 1 < self.tokens.len() {
            self.index += 1;
        }
    }

    fn skip_until(&mut self, wanted: Set) {
        let mut skipped = 0;
        while self.peek() != Token::Eof && !wanted.has(self.peek()) {
            if skipped == SKIPPED_MAX {
                let message = format!("error recovery token lookahead limit exceeded: {SKIPPED_MAX}");
                self.errors.report_nowhere(message);
                self.over = true;
                return;
            }
            skipped += 1;
            self.advance();
        }
    }

    fn attempt(&mut self) -> Result<(), Fault> {
        if self.over {
            return Err(Fault::Over);
        }
        if self.recoveries == RECOVERIES_MAX {
            self.say(self.index, &format!("error recovery attempt limit exceeded: {RECOVERIES_MAX}"));
            self.over = true;
            return Err(Fault::Over);
        }
        self.recoveries += 1;
        Ok(())
    }

    fn delete_one(&mut self) -> bool {
        if !self.expecting().has(self.peek_at(1).token) || self.peek() == Token::Eof {
            return false;
        }
        self.report_unwanted();
        self.advance();
        self.recovering = false;
        true
    }

    fn report_unwanted(&mut self) {
        let message = format!("extraneous input {} expecting {}", self.shown(), self.expecting().spelled());
        self.report(self.index, &message);
    }

    fn report(&mut self, at: usize, message: &str) {
        if !self.recovering {
            self.recovering = true;
            self.say(at, message);
        }
    }

    fn say(&mut self, at: usize, message: &str) {
        self.errors.report(self.tokens[at].start, format!("Syntax error: {message}"));
    }

    fn shown(&self) -> String {
        match self.peek() {
            Token::Eof => "'<EOF>'".to_owned(),
            _ => quoted(&self.text(self.peek_at(0))),
        }
    }

    fn expecting(&self) -> Set {
        self.with_context(self.expected)
    }

    /// A set whose rule may end, with what can come after the rules around it.
    fn with_context(&self, local: Set) -> Set {
        let mut all = local;
        let mut outer = self.follows.iter().rev();
        let mut last = local;
        while last.can_end() {
            match outer.next() {
                Some(&follow) => last = follow,
                None => last = Set::of(&[Token::Eof]),
            }
            all = all.or(last);
        }
        Set(all.0 & !Set::END.0)
    }

    fn recovery_set(&self) -> Set {
        let all = self.follows.iter().fold(Set::NONE, |all, follow| all.or(*follow));
        Set(all.0 & !Set::END.0)
    }
}
