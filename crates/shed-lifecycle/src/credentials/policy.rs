//! Which content wins; no I/O.
//!
//! The host's file is where all writers meet. Contents are compared, and the last content that a guest is known to have
//! tells who has written since: so nothing is sent that is there already, and an echo ends where it began. Times decide only
//! where nothing is known of a guest, after a restart of the server.

use std::{collections::HashMap, fmt};

use sha2::{Digest as _, Sha256};

/// A file's content, by its SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Content([u8; 32]);

impl Content {
    /// Of these bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Of what this has been given.
    pub(super) fn end(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}{:02x}…", self.0[0], self.0[1])
    }
}

/// What a guest is known to have, by names relative to the target.
pub(super) type Known = HashMap<String, Content>;

/// What becomes of a file that a guest has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// The host has the same.
    Same,
    /// The guest has written it since: the host takes it.
    Take,
    /// The guest has had it for long, and the host something newer, which the guest gets.
    Outdated,
    /// The host does not have the file, and the guest did not say that it was written: it stays where it is.
    Leave,
}

/// Judges content from a guest. `told` is whether the guest has said that it wrote the file, `later` whether it did so after
/// the host's was written.
pub(super) fn judge(
    guest: Content,
    host: Option<Content>,
    known: Option<Content>,
    told: bool,
    later: bool,
) -> Judgement {
    match (host, known) {
        (Some(host), _) if host == guest => Judgement::Same,
        (_, Some(known)) if known != guest => Judgement::Take,
        (Some(_), Some(_)) => Judgement::Outdated,
        (None, Some(_)) => Judgement::Leave,
        (Some(_), None) if told && later => Judgement::Take,
        (None, None) if told => Judgement::Take,
        (Some(_), None) => Judgement::Outdated,
        (None, None) => Judgement::Leave,
    }
}

/// Whether a guest gets the host's content.
pub(super) fn wants(host: Content, known: Option<Content>) -> bool {
    known != Some(host)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What may happen, in any order; the number is the guest.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        HostWrites(u8),
        GuestWrites(usize, u8),
        /// The guest tells the host what was written, unless something told is not taken yet.
        GuestTells(usize),
        Pull(usize),
        /// A push reads the host's file, and later lands in the guest.
        PushReads(usize),
        PushLands(usize),
        /// The watcher of the source sees what was written there.
        HostNotices,
        /// The channel broke and is open again.
        Reopened(usize),
        /// The server was killed, and a new one has found the guests.
        ServerRestarts,
    }

    #[derive(Debug, Default)]
    struct Guest {
        content: Option<u8>,
        /// When it was written.
        at: u32,
        /// What the agent has in its ledger.
        changed: bool,
        told: bool,
        // What the server has, until it restarts.
        known: Option<Content>,
        to_pull: bool,
        /// To look at what the guest has, whether it was told or not.
        to_survey: bool,
        to_push: bool,
        in_flight: Option<(u8, u32)>,
    }

    #[derive(Debug, Default)]
    struct World {
        host: Option<u8>,
        host_at: u32,
        clock: u32,
        unnoticed: bool,
        guests: Vec<Guest>,
        moves: u32,
    }

    fn content(byte: u8) -> Content {
        Content::of(&[byte])
    }

    impl World {
        fn new(guests: usize) -> Self {
            let mut world = Self { host: Some(0), ..Self::default() };
            world.guests.resize_with(guests, Guest::default);
            for guest in &mut world.guests {
                (guest.content, guest.known) = (Some(0), Some(content(0)));
            }
            world
        }

        fn host_writes(&mut self, byte: u8) {
            self.clock += 1;
            (self.host, self.host_at, self.unnoticed) = (Some(byte), self.clock, true);
        }

        fn step(&mut self, step: Step) {
            match step {
                Step::HostWrites(byte) => self.host_writes(byte),
                Step::GuestWrites(at, byte) => {
                    self.clock += 1;
                    let guest = &mut self.guests[at];
                    (guest.content, guest.at, guest.changed) = (Some(byte), self.clock, true);
                }
                Step::GuestTells(at) => {
                    let guest = &mut self.guests[at];
                    if guest.changed && !guest.told {
                        (guest.changed, guest.told, guest.to_pull) = (false, true, true);
                    }
                }
                Step::Pull(at) => self.pull(at),
                Step::PushReads(at) => {
                    let guest = &mut self.guests[at];
                    if guest.to_push && guest.in_flight.is_none() && !guest.to_survey {
                        guest.to_push = false;
                        let wanted = self.host.filter(|host| wants(content(*host), guest.known));
                        guest.in_flight = wanted.map(|byte| (byte, self.host_at));
                    }
                }
                Step::PushLands(at) => {
                    let guest = &mut self.guests[at];
                    if let Some((byte, written)) = guest.in_flight.take() {
                        self.moves += 1;
                        guest.known = Some(content(byte));
                        (guest.content, guest.at, guest.changed) = (Some(byte), written, true);
                    }
                }
                Step::HostNotices => {
                    if std::mem::take(&mut self.unnoticed) {
                        self.guests.iter_mut().for_each(|guest| guest.to_push = true);
                    }
                }
                Step::Reopened(at) => {
                    let guest = &mut self.guests[at];
                    // A push that was on its way may have landed or not.
                    if let Some((byte, written)) = guest.in_flight.take() {
                        (guest.content, guest.at, guest.changed) = (Some(byte), written, true);
                        guest.to_push = true;
                    }
                    guest.told |= std::mem::take(&mut guest.changed);
                    guest.to_pull |= guest.told;
                    guest.to_survey = true;
                }
                Step::ServerRestarts => {
                    // What was not noticed is found by the comparison of everything.
                    self.unnoticed = false;
                    for at in 0..self.guests.len() {
                        let guest = &mut self.guests[at];
                        guest.in_flight = None;
                        (guest.known, guest.to_pull, guest.to_push) = (None, false, false);
                        self.step(Step::Reopened(at));
                    }
                }
            }
        }

        fn pull(&mut self, at: usize) {
            let host = self.host;
            let guest = &mut self.guests[at];
            // One operation at a time.
            if guest.in_flight.is_some() || !(guest.to_pull || guest.to_survey) {
                return;
            }
            let told = guest.to_pull;
            let surveyed = std::mem::take(&mut guest.to_survey);
            guest.to_pull = false;
            let byte = guest.content.unwrap();
            let later = guest.at > self.host_at;
            let judgement = judge(content(byte), host.map(content), guest.known, told, later);
            guest.known = Some(content(byte));
            guest.told = false;
            guest.to_push |= surveyed || judgement == Judgement::Outdated;
            if judgement == Judgement::Take {
                self.moves += 1;
                self.host_writes(byte);
            }
        }

        /// Lets everything happen that will, and says how many rounds that took.
        fn settle(&mut self) -> u32 {
            for round in 0..100 {
                let before = format!("{self:?}");
                self.step(Step::HostNotices);
                for at in 0..self.guests.len() {
                    for step in
                        [Step::GuestTells(at), Step::Pull(at), Step::PushReads(at), Step::PushLands(at)]
                    {
                        self.step(step);
                    }
                }
                if format!("{self:?}") == before {
                    return round;
                }
            }
            panic!("it goes on and on: {self:?}");
        }
    }

    fn steps(guests: usize) -> impl Strategy<Value = Vec<Step>> {
        let step = (0..9u8, 0..guests, 1..6u8).prop_map(|(kind, at, byte)| match kind {
            0 => Step::HostWrites(byte),
            1 => Step::GuestWrites(at, byte),
            2 => Step::GuestTells(at),
            3 => Step::Pull(at),
            4 => Step::PushReads(at),
            5 => Step::PushLands(at),
            6 => Step::HostNotices,
            7 => Step::Reopened(at),
            _ => Step::ServerRestarts,
        });
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn whatever_happens_all_have_the_same_in_the_end(steps in steps(3)) {
            let mut world = World::new(3);
            for step in steps {
                world.step(step);
            }
            let moves = world.moves;
            world.settle();
            prop_assert!(world.guests.iter().all(|guest| guest.content == world.host), "{world:?}");
            // Each of the four files is brought up to date a few times at most: no ping-pong.
            prop_assert!(world.moves - moves <= 12, "{} moves: {world:?}", world.moves - moves);
            let moves = world.moves;
            world.settle();
            prop_assert_eq!(world.moves, moves, "nothing moves when nobody writes");
        }

        #[test]
        fn the_last_write_wins_wherever_it_is_made(steps in steps(3), at in 0..4usize) {
            let mut world = World::new(3);
            for step in steps {
                world.step(step);
            }
            world.settle();
            world.step(if at == 3 { Step::HostWrites(9) } else { Step::GuestWrites(at, 9) });
            world.settle();
            prop_assert_eq!(world.host, Some(9), "{:?}", world);
            prop_assert!(world.guests.iter().all(|guest| guest.content == Some(9)), "{world:?}");
        }

        #[test]
        fn a_guests_write_survives_the_servers_restart(at in 0..3usize, tells in any::<bool>(), pulls in any::<bool>()) {
            let mut world = World::new(3);
            world.step(Step::GuestWrites(at, 9));
            if tells {
                world.step(Step::GuestTells(at));
            }
            if pulls {
                world.step(Step::Pull(at));
            }
            world.step(Step::ServerRestarts);
            world.settle();
            prop_assert_eq!(world.host, Some(9));
        }
    }

    #[test]
    fn each_case_is_judged() {
        let [a, b, c] = [1, 2, 3].map(content);
        let later = true;
        for (guest, host, known, told, judgement) in [
            (a, Some(a), None, false, Judgement::Same),
            (a, Some(a), Some(b), true, Judgement::Same),
            (a, Some(b), Some(c), false, Judgement::Take),
            (a, None, Some(b), false, Judgement::Take),
            (a, Some(b), Some(a), true, Judgement::Outdated),
            (a, None, Some(a), true, Judgement::Leave),
            (a, Some(b), None, true, Judgement::Take),
            (a, None, None, true, Judgement::Take),
            (a, Some(b), None, false, Judgement::Outdated),
            (a, None, None, false, Judgement::Leave),
        ] {
            assert_eq!(
                judge(guest, host, known, told, later),
                judgement,
                "{guest:?} {host:?} {known:?} {told}"
            );
        }
        // The host's was written later, while no server ran.
        assert_eq!(judge(a, Some(b), None, true, false), Judgement::Outdated);
        assert_eq!(judge(a, None, None, true, false), Judgement::Take);
        assert_eq!(judge(a, Some(b), Some(c), true, false), Judgement::Take, "it has written since");
        assert!(wants(a, None) && wants(a, Some(b)) && !wants(a, Some(a)));
    }
}
