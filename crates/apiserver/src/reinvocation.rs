//! Which mutating webhooks or policies are asked a second time: those that want to see what was changed after them.

use std::collections::BTreeSet;

use api::Value;

/// What one family of mutators has to remember between its rounds.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// This is the second round: only mutators that are due take part.
    second: bool,
    /// Mutators that want to see changes made after them, and have not been overtaken yet.
    waiting: BTreeSet<String>,
    due: BTreeSet<String>,
    last_output: Value,
}

impl Rounds {
    pub(crate) fn is_second(&self) -> bool {
        self.second
    }

    /// Whether a mutator takes part in this round.
    pub(crate) fn includes(&self, mutator: &str) -> bool {
        !self.second || self.due.contains(mutator)
    }

    /// The object was changed: whoever waits is due.
    pub(crate) fn overtake(&mut self) {
        self.due.append(&mut self.waiting);
    }

    /// A mutator that took part wants to see what is changed from here on.
    pub(crate) fn wait(&mut self, mutator: String) {
        self.waiting.insert(mutator);
    }

    /// The round is over, and this is what it made of the object.
    pub(crate) fn finish(&mut self, object: &Value) {
        self.last_output = object.clone();
    }

    /// Starts the second round, after the plugins of this process have run again.
    pub(crate) fn again(&mut self, object: &Value) {
        self.second = true;
        if *object != self.last_output {
            self.overtake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn a_second_round_asks_those_that_were_overtaken() {
        let mut rounds = Rounds::default();
        assert!(rounds.includes("first") && rounds.includes("last"));
        rounds.wait("first".into());
        rounds.overtake();
        rounds.wait("last".into());
        rounds.finish(&json!(1));
        rounds.again(&json!(1));
        assert!(rounds.is_second() && rounds.includes("first") && !rounds.includes("last"));
    }

    #[test]
    fn a_change_between_the_rounds_makes_everybody_due() {
        let mut rounds = Rounds::default();
        rounds.wait("last".into());
        rounds.finish(&json!(1));
        rounds.again(&json!(2));
        assert!(rounds.includes("last") && !rounds.includes("never waited"));
    }
}
