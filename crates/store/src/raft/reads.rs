//! Linearizable reads on their way: readers in, batches out, readers out again. Pure.
//!
//! One question to the leader serves all readers that came before it was asked. Questions get lost (a leader that is new does
//! not answer yet, a message is dropped), so they are asked again, each time under a number of its own.

/// Questions under way at a time; further readers share the next one.
const BATCHES_MAX: usize = 4;

#[derive(Debug)]
pub(crate) struct Reads<R> {
    waiting: Vec<R>,
    asked: Vec<Batch<R>>,
    /// Their index is known, but not yet applied.
    confirmed: Vec<(u64, Vec<R>)>,
}

#[derive(Debug)]
struct Batch<R> {
    context: u64,
    asked_at: u64,
    readers: Vec<R>,
}

impl<R> Default for Reads<R> {
    fn default() -> Self {
        Self { waiting: Vec::new(), asked: Vec::new(), confirmed: Vec::new() }
    }
}

impl<R> Reads<R> {
    pub(crate) fn add(&mut self, reader: R) {
        self.waiting.push(reader);
    }

    /// True when there is a question to ask: take a new number for it and call [`Reads::ask`].
    pub(crate) fn wants_to_ask(&self) -> bool {
        !self.waiting.is_empty() && self.asked.len() < BATCHES_MAX
    }

    /// All waiting readers become the question `context`.
    pub(crate) fn ask(&mut self, context: u64, now: u64) {
        let readers = std::mem::take(&mut self.waiting);
        self.asked.push(Batch { context, asked_at: now, readers });
    }

    /// Numbers of the questions asked at or before `before`, to be asked again with [`Reads::ask_again`].
    pub(crate) fn overdue(&self, before: u64) -> Vec<u64> {
        self.asked.iter().filter(|batch| batch.asked_at <= before).map(|batch| batch.context).collect()
    }

    pub(crate) fn ask_again(&mut self, old: u64, context: u64, now: u64) {
        if let Some(batch) = self.asked.iter_mut().find(|batch| batch.context == old) {
            (batch.context, batch.asked_at) = (context, now);
        }
    }

    /// The leader's answer: state from `index` on is fresh enough. An answer to an older question is ignored.
    pub(crate) fn confirm(&mut self, context: u64, index: u64) {
        if let Some(at) = self.asked.iter().position(|batch| batch.context == context) {
            self.confirmed.push((index, self.asked.swap_remove(at).readers));
        }
    }

    /// Readers who may read, now that `applied` is applied.
    pub(crate) fn ready(&mut self, applied: u64) -> Vec<R> {
        if self.confirmed.is_empty() {
            return Vec::new();
        }
        self.confirmed.extract_if(.., |(index, _)| *index <= applied).flat_map(|(_, readers)| readers).collect()
    }

    /// Readers whose question was not answered: the leader is another now.
    pub(crate) fn take_unanswered(&mut self) -> Vec<R> {
        self.asked.drain(..).flat_map(|batch| batch.readers).collect()
    }

    /// Everyone.
    pub(crate) fn take_all(&mut self) -> Vec<R> {
        let mut all = std::mem::take(&mut self.waiting);
        all.extend(self.take_unanswered());
        all.extend(self.confirmed.drain(..).flat_map(|(_, readers)| readers));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_a_question_and_wait_for_its_index() {
        let mut reads = Reads::default();
        reads.add('a');
        reads.add('b');
        assert!(reads.wants_to_ask());
        reads.ask(1, 0);
        reads.add('c');
        reads.confirm(1, 10);
        assert_eq!(reads.ready(9), []);
        assert_eq!(reads.ready(10), ['a', 'b'], "c came after the question");
        assert_eq!(reads.take_all(), ['c']);
    }

    #[test]
    fn a_question_is_asked_again_under_a_new_number() {
        let mut reads = Reads::default();
        reads.add('a');
        reads.ask(1, 0);
        assert_eq!(reads.overdue(0), [1]);
        reads.ask_again(1, 2, 5);
        assert_eq!(reads.overdue(4), [0_u64; 0]);
        reads.confirm(1, 3);
        assert_eq!(reads.ready(99), [], "an answer to the old number says nothing");
        reads.confirm(2, 3);
        assert_eq!(reads.ready(99), ['a']);
    }

    #[test]
    fn only_so_many_questions_are_under_way() {
        let mut reads = Reads::default();
        for context in 0..BATCHES_MAX as u64 {
            reads.add('x');
            reads.ask(context, 0);
        }
        reads.add('y');
        assert!(!reads.wants_to_ask());
        reads.confirm(0, 1);
        assert!(reads.wants_to_ask());
        assert_eq!(reads.take_unanswered().len(), BATCHES_MAX - 1);
    }
}
