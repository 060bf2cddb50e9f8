//! Commands on their way into the log, and who waits for them. Pure.
//!
//! A command is given to the leader of one term, which takes it for its own log or not at all (see `Core::step`). Terms in a log never
//! fall. So once an entry of a later term is applied here, a command that is still waited for is in nobody's log and never will be: it
//! can be proposed again without ever being done twice. A leader's death then costs its clients an election, and no timeout.

use std::collections::HashMap;

use bytes::Bytes;

#[derive(Debug)]
pub(crate) struct Proposals<R> {
    waiting: HashMap<u64, Waiting<R>>,
    /// Commands of this round, whose term is known when they are given away.
    fresh: Vec<u64>,
    /// Term of the last applied entry, as far as this life of the member has seen one.
    applied_term: u64,
}

#[derive(Debug)]
struct Waiting<R> {
    who: R,
    /// The command, and the term whose leader it was given to, 0 before that. `None` if it must not be proposed again.
    again: Option<(Bytes, u64)>,
}

/// A command to be proposed again: its id, itself, and who waits for it.
pub(crate) type Lost<R> = (u64, Bytes, R);

impl<R> Default for Proposals<R> {
    fn default() -> Self {
        Self { waiting: HashMap::new(), fresh: Vec::new(), applied_term: 0 }
    }
}

impl<R> Proposals<R> {
    /// A command that is about to be given to the leader.
    pub(crate) fn add(&mut self, id: u64, payload: Bytes, who: R) {
        self.waiting.insert(id, Waiting { who, again: Some((payload, 0)) });
        self.fresh.push(id);
    }

    /// An entry that is not worth a second attempt, or that only the leader of its time should make.
    pub(crate) fn add_once(&mut self, id: u64, who: R) {
        self.waiting.insert(id, Waiting { who, again: None });
    }

    /// What was added since the last time goes to the leader of this term.
    pub(crate) fn give(&mut self, term: u64) {
        for id in self.fresh.drain(..) {
            if let Some(Waiting { again: Some((_, given_in)), .. }) = self.waiting.get_mut(&id) {
                *given_in = term;
            }
        }
    }

    /// It is known what became of an entry, or that it was not taken: who waits for it.
    pub(crate) fn take(&mut self, id: u64) -> Option<R> {
        self.waiting.remove(&id).map(|waiting| waiting.who)
    }

    /// Everything up to an entry of this term is applied, and answered. If no other entry of the term was before: what was lost with the
    /// leaders of earlier terms, in the order of its ids.
    pub(crate) fn applied_in(&mut self, term: u64) -> Option<Vec<Lost<R>>> {
        if term <= self.applied_term {
            return None;
        }
        self.applied_term = term;
        let is_lost =
            |waiting: &mut Waiting<R>| waiting.again.as_ref().is_some_and(|(_, given_in)| (1..term).contains(given_in));
        let lost = self.waiting.extract_if(|_, waiting| is_lost(waiting));
        let mut lost: Vec<_> =
            lost.filter_map(|(id, Waiting { who, again })| again.map(|(payload, _)| (id, payload, who))).collect();
        lost.sort_unstable_by_key(|(id, ..)| *id);
        Some(lost)
    }

    /// A state came whole. What was given away may be in it, and nobody can tell.
    pub(crate) fn install(&mut self) {
        self.waiting.values_mut().for_each(|waiting| waiting.again = None);
    }

    pub(crate) fn retain(&mut self, wanted: impl Fn(&R) -> bool) {
        self.waiting.retain(|_, waiting| wanted(&waiting.who));
    }

    /// Everyone.
    pub(crate) fn take_all(&mut self) -> Vec<R> {
        self.fresh.clear();
        self.waiting.drain().map(|(_, waiting)| waiting.who).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(proposals: &mut Proposals<&'static str>, term: u64) -> Option<Vec<&'static str>> {
        proposals.applied_in(term).map(|lost| lost.into_iter().map(|(_, _, who)| who).collect())
    }

    #[test]
    fn what_a_dead_leader_did_not_get_into_the_log_is_proposed_again() {
        let mut proposals = Proposals::default();
        proposals.add(1, Bytes::from("x"), "committed before the end");
        proposals.add(2, Bytes::from("y"), "lost");
        proposals.add_once(3, "a change of the members");
        proposals.give(4);
        assert_eq!(lost(&mut proposals, 4), Some(vec![]), "the leader of this term may still have them");
        assert_eq!(proposals.take(1), Some("committed before the end"));
        assert_eq!(lost(&mut proposals, 6), Some(vec!["lost"]));
        assert_eq!(lost(&mut proposals, 6), None);
        assert_eq!(proposals.take_all(), ["a change of the members"]);
    }

    #[test]
    fn what_was_given_to_the_new_leader_is_left_with_it() {
        let mut proposals = Proposals::default();
        proposals.add(1, Bytes::from("x"), "given to the new leader before its first entry came");
        proposals.give(6);
        assert_eq!(lost(&mut proposals, 6), Some(vec![]));
        assert!(proposals.take(1).is_some());
    }

    #[test]
    fn what_may_be_in_a_state_that_came_whole_is_not_proposed_again() {
        let mut proposals = Proposals::default();
        proposals.add(1, Bytes::from("x"), "who knows");
        proposals.give(4);
        proposals.install();
        assert_eq!(lost(&mut proposals, 6), Some(vec![]));
    }
}
