//! What waits for one listener: a queue a shed, taken from in turn. Pure: it knows no time and waits for nothing.
//!
//! The board puts messages in and takes them out. However much one shed sends, another's message waits behind as many
//! messages of it as there are sheds; and when the whole is full, room is made at the cost of whoever has most in it.

use std::collections::{BTreeMap, VecDeque};

use shed_types::ShedName;
use uuid::Uuid;

/// How many messages wait at most, and how many bytes they have together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

/// What waits at most of one shed.
pub(super) const OF_A_SHED: Bounds = Bounds { messages: 32, bytes: 2 << 20 };

/// What waits at most of all sheds.
pub(super) const OF_ALL: Bounds = Bounds { messages: 256, bytes: 16 << 20 };

/// Bytes that weigh as much as a message: by either measure the whole is full at the same weight.
const MESSAGE_WEIGHT: usize = OF_ALL.bytes / OF_ALL.messages;

/// A message of a guest, ready to be sent to its listener.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) id: Uuid,
    /// Whether it wants a response; an event wants none.
    pub(super) is_request: bool,
    /// The whole of it as JSON, on one line.
    pub(super) text: String,
}

/// The queues of one listener.
#[derive(Default)]
pub(super) struct FairQueue {
    sheds: BTreeMap<ShedName, Waiting>,
    /// Sheds that have something here, in the order of their turns.
    turns: VecDeque<ShedName>,
    total: Load,
}

/// What waits of one shed.
#[derive(Default)]
struct Waiting {
    messages: VecDeque<Message>,
    load: Load,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Load {
    messages: usize,
    bytes: usize,
}

impl Load {
    fn with(self, message: &Message) -> Self {
        Self { messages: self.messages + 1, bytes: self.bytes + message.text.len() }
    }

    fn without(self, message: &Message) -> Self {
        Self { messages: self.messages - 1, bytes: self.bytes - message.text.len() }
    }

    fn exceeds(self, bounds: Bounds) -> bool {
        self.messages > bounds.messages || self.bytes > bounds.bytes
    }

    fn weight(self) -> usize {
        (self.messages * MESSAGE_WEIGHT).max(self.bytes)
    }
}

/// Says that a message does not fit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl FairQueue {
    /// Puts a message at the end of its shed's queue. Returns those that had to go for it, of sheds that have more here.
    ///
    /// # Errors
    /// When its shed has too much here already.
    pub(super) fn push(
        &mut self,
        shed: &ShedName,
        message: Message,
    ) -> Result<Vec<(ShedName, Message)>, Full> {
        let own = self.sheds.get(shed).map_or_else(Load::default, |waiting| waiting.load).with(&message);
        if own.exceeds(OF_A_SHED) {
            return Err(Full);
        }
        let mut gone = Vec::new();
        while self.total.with(&message).exceeds(OF_ALL) {
            let heaviest = self.sheds.iter().max_by_key(|(_, waiting)| waiting.load.weight());
            let heaviest = heaviest.filter(|(_, waiting)| waiting.load.weight() > own.weight());
            let Some(heaviest) = heaviest.map(|(shed, _)| shed.clone()) else { break };
            gone.extend(self.drop_newest(&heaviest).map(|message| (heaviest, message)));
        }
        if self.total.with(&message).exceeds(OF_ALL) {
            // Those that went before have more than their share; it is this shed's turn to wait, with what it has.
            return if gone.is_empty() { Err(Full) } else { self.put_back(gone) };
        }
        self.append(shed, message);
        Ok(gone)
    }

    /// Takes the message whose turn it is.
    pub(super) fn pop(&mut self) -> Option<(ShedName, Message)> {
        let shed = self.turns.pop_front()?;
        let waiting = self.sheds.get_mut(&shed)?;
        let message = waiting.messages.pop_front()?;
        waiting.load = waiting.load.without(&message);
        self.total = self.total.without(&message);
        if waiting.messages.is_empty() {
            let _empty = self.sheds.remove(&shed);
        } else {
            self.turns.push_back(shed.clone());
        }
        Some((shed, message))
    }

    /// Forgets the requests of a shed, which nobody there waits for any more. Returns how many there were.
    pub(super) fn forget_requests(&mut self, shed: &ShedName) -> usize {
        let Some(waiting) = self.sheds.get_mut(shed) else { return 0 };
        let before = waiting.load;
        waiting.messages.retain(|message| !message.is_request);
        let bytes = waiting.messages.iter().map(|message| message.text.len()).sum();
        waiting.load = Load { messages: waiting.messages.len(), bytes };
        self.total.messages -= before.messages - waiting.load.messages;
        self.total.bytes -= before.bytes - bytes;
        let forgotten = before.messages - waiting.load.messages;
        self.tidy(shed);
        forgotten
    }

    fn append(&mut self, shed: &ShedName, message: Message) {
        self.total = self.total.with(&message);
        let waiting = self.sheds.entry(shed.clone()).or_default();
        if waiting.messages.is_empty() {
            self.turns.push_back(shed.clone());
        }
        waiting.load = waiting.load.with(&message);
        waiting.messages.push_back(message);
    }

    fn put_back(&mut self, gone: Vec<(ShedName, Message)>) -> Result<Vec<(ShedName, Message)>, Full> {
        for (shed, message) in gone.into_iter().rev() {
            self.append(&shed, message);
        }
        Err(Full)
    }

    fn drop_newest(&mut self, shed: &ShedName) -> Option<Message> {
        let waiting = self.sheds.get_mut(shed)?;
        let message = waiting.messages.pop_back()?;
        waiting.load = waiting.load.without(&message);
        self.total = self.total.without(&message);
        self.tidy(shed);
        Some(message)
    }

    /// Takes a shed out that has nothing here.
    fn tidy(&mut self, shed: &ShedName) {
        if self.sheds.get(shed).is_some_and(|waiting| waiting.messages.is_empty()) {
            let _empty = self.sheds.remove(shed);
            self.turns.retain(|turn| turn != shed);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(number: usize) -> ShedName {
        format!("shed-{number}").parse().unwrap()
    }

    fn message(is_request: bool, bytes: usize) -> Message {
        Message { id: Uuid::new_v4(), is_request, text: "x".repeat(bytes) }
    }

    /// Counts what is there once more, from the messages themselves.
    fn check(queue: &FairQueue) {
        let mut total = Load::default();
        for (shed, waiting) in &queue.sheds {
            let load = waiting.messages.iter().fold(Load::default(), Load::with);
            assert_eq!(load, waiting.load, "{shed}");
            assert!(!load.exceeds(OF_A_SHED) && load.messages > 0, "{shed}: {load:?}");
            assert_eq!(queue.turns.iter().filter(|turn| *turn == shed).count(), 1, "{shed}");
            total.messages += load.messages;
            total.bytes += load.bytes;
        }
        assert_eq!((queue.turns.len(), queue.total), (queue.sheds.len(), total));
        assert!(!total.exceeds(OF_ALL), "{total:?}");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push { shed: usize, request: bool, bytes: usize },
        Pop,
        Forget(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let bytes = prop_oneof![3 => 1_usize..200, 1 => (1_usize << 18)..(1 << 20)];
        let push = (0_usize..24, any::<bool>(), bytes).prop_map(|(shed, request, bytes)| Step::Push {
            shed,
            request,
            bytes,
        });
        let step = prop_oneof![12 => push, 2 => Just(Step::Pop), 1 => (0_usize..24).prop_map(Step::Forget)];
        prop::collection::vec(step, 1..400)
    }

    #[test]
    fn fuzz_a_queue_is_bounded_and_loses_nothing_but_what_it_says() {
        shed_testkit::fuzz("queue of a listener", &steps(), |steps| {
            let (mut queue, mut inside) = (FairQueue::default(), 0_usize);
            for step in steps {
                match step {
                    Step::Push { shed, request, bytes } => {
                        if let Ok(gone) = queue.push(&name(shed), message(request, bytes)) {
                            inside = inside + 1 - gone.len();
                        }
                    }
                    Step::Pop => inside -= usize::from(queue.pop().is_some()),
                    Step::Forget(shed) => inside -= queue.forget_requests(&name(shed)),
                }
                check(&queue);
                assert_eq!(queue.total.messages, inside);
            }
            while queue.pop().is_some() {
                inside -= 1;
            }
            assert_eq!(inside, 0);
        });
    }

    #[test]
    fn a_flood_of_many_leaves_room_for_one_that_is_quiet_and_its_turn_comes_soon() {
        let mut queue = FairQueue::default();
        for number in 0..20 {
            for _ in 0..100 {
                let _full = queue.push(&name(number), message(true, 10));
            }
        }
        assert_eq!(queue.total.messages, OF_ALL.messages);
        let quiet = name(99);
        let gone = queue.push(&quiet, message(true, 10)).unwrap();
        assert_eq!(gone.len(), 1, "one goes for it, of a shed that has more");
        check(&queue);
        let turn = std::iter::from_fn(|| queue.pop()).position(|(shed, _)| shed == quiet).unwrap();
        assert!(turn <= 20, "{turn}");
    }

    #[test]
    fn messages_of_one_shed_stay_in_their_order() {
        let mut queue = FairQueue::default();
        let ids: Vec<_> = (0..OF_A_SHED.messages)
            .map(|_| {
                let message = message(true, 3);
                let id = message.id;
                queue.push(&name(0), message).unwrap();
                id
            })
            .collect();
        assert!(queue.push(&name(0), message(true, 3)) == Err(Full));
        let taken: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(_, message)| message.id).collect();
        assert_eq!(taken, ids);
    }

    #[test]
    fn a_long_message_that_cannot_come_in_costs_nobody_anything() {
        let mut queue = FairQueue::default();
        // Sixteen sheds with a mebibyte each fill it; a newcomer's mebibyte weighs as much as any of theirs.
        for number in 0..16 {
            queue.push(&name(number), message(true, 1 << 20)).unwrap();
        }
        assert!(queue.push(&name(99), message(true, 1 << 20)) == Err(Full));
        assert_eq!(queue.total.messages, 16);
        check(&queue);
    }
}
