//! The board's promises: matching, bounds, ends; and a model of guests that lie.

use std::collections::HashMap;

use proptest::prelude::*;
use shed_protocol::FrameKind;

use super::*;

fn shed(number: usize) -> ShedName {
    format!("shed-{number}").parse().unwrap()
}

fn namespace(text: &str) -> Namespace {
    text.parse().unwrap()
}

fn request(id: u128) -> Message {
    Message { id: Uuid::from_u128(id), is_request: true, text: id.to_string() }
}

fn event(id: u128) -> Message {
    Message { is_request: false, ..request(id) }
}

fn response(to: u128, is_final: bool, bytes: usize) -> Response {
    let frame = Frame::new(FrameKind::Message, vec![b'x'; bytes].into());
    Response { to: Some(Uuid::from_u128(to)), is_final, frame }
}

fn text(taken: Taken) -> Option<String> {
    match taken {
        Taken::Message { text, .. } => Some(text),
        Taken::Nothing { .. } => None,
    }
}

const QUEUED: Offered = Offered::Queued { gone: 0 };

/// A board with a listener and a shed, and what names the two.
fn board() -> (Board, u64, u64) {
    let mut board = Board::default();
    let listener = board.listen(&namespace("a"), Timestamp::UNIX_EPOCH).unwrap();
    let connection = board.connect(&shed(0));
    (board, listener, connection)
}

#[test]
fn a_response_goes_to_whoever_asked_and_once() {
    let (mut board, _, connection) = board();
    let (ours, other, now) = (namespace("a"), namespace("b"), Instant::now());
    let _other = board.connect(&shed(1));
    assert_eq!(board.offer(&shed(0), connection, &ours, request(1), now), QUEUED);
    let mut respond = |shed_number, namespace: &Namespace, to, is_final| {
        board.respond(&shed(shed_number), namespace, response(to, is_final, 9), now)
    };
    assert_eq!(respond(9, &ours, 1, true), Err(Refused::NotConnected));
    assert_eq!(respond(1, &ours, 1, true), Err(Refused::NotPending), "another shed asked");
    assert_eq!(respond(0, &other, 1, true), Err(Refused::NotPending), "of another namespace");
    assert_eq!(respond(0, &ours, 2, true), Err(Refused::NotPending), "nobody asked");
    assert_eq!(respond(0, &ours, 1, false), Ok(()));
    assert_eq!(respond(0, &ours, 1, true), Ok(()));
    assert_eq!(respond(0, &ours, 1, true), Err(Refused::NotPending), "it is answered");
    assert!(board.next_response(&shed(0), connection).is_some());
    assert!(board.next_response(&shed(0), connection).is_some());
    assert!(board.next_response(&shed(0), connection).is_none());
}

#[test]
fn what_nobody_waits_for_any_more_is_neither_told_nor_answered() {
    let (mut board, listener, connection) = board();
    let (ours, begun) = (namespace("a"), Instant::now());
    for id in 0..3 {
        assert_eq!(board.offer(&shed(0), connection, &ours, request(id), begun), QUEUED);
    }
    let later = begun + PENDING / 2;
    assert_eq!(board.offer(&shed(0), connection, &ours, request(3), later), QUEUED);
    assert_eq!(board.offer(&shed(0), connection, &ours, event(4), begun), QUEUED);
    assert_eq!(text(board.take(&ours, listener, begun)), Some("0".to_owned()));
    let late = begun + PENDING;
    assert_eq!(board.respond(&shed(0), &ours, response(0, true, 9), late), Err(Refused::NotPending));
    assert!(board.take(&ours, listener, late) == Taken::Message { text: "3".to_owned(), expired: 2 });
    // Its channel closes: what it asked is forgotten, what it told is not.
    assert_eq!(board.offer(&shed(0), connection, &ours, request(5), late), QUEUED);
    assert_eq!(board.disconnect(&shed(0), connection), 1);
    assert_eq!(board.offer(&shed(0), connection, &ours, event(6), late), Offered::Disconnected);
    let again = board.connect(&shed(0));
    assert_eq!(board.respond(&shed(0), &ours, response(5, true, 9), late), Err(Refused::NotPending));
    assert_eq!(
        board.disconnect(&shed(0), connection),
        0,
        "the end of an old channel does not hurt a new one"
    );
    assert_eq!(text(board.take(&ours, listener, late)), Some("4".to_owned()));
    assert_eq!(board.offer(&shed(0), again, &ours, event(7), late), QUEUED);
}

#[test]
fn a_shed_has_so_many_requests_pending_and_no_more() {
    let (mut board, listener, connection) = board();
    let (ours, now) = (namespace("a"), Instant::now());
    for id in 0..MAX_IN_FLIGHT as u128 {
        assert_eq!(board.offer(&shed(0), connection, &ours, request(id), now), QUEUED);
        assert_eq!(text(board.take(&ours, listener, now)), Some(id.to_string()));
    }
    assert_eq!(board.offer(&shed(0), connection, &ours, request(0), now), Offered::Repeated);
    assert_eq!(board.offer(&shed(0), connection, &ours, request(900), now), Offered::TooMany);
    assert_eq!(board.offer(&shed(0), connection, &ours, event(901), now), QUEUED, "an event is not pending");
    assert_eq!(board.respond(&shed(0), &ours, response(0, true, 9), now), Ok(()));
    assert_eq!(board.offer(&shed(0), connection, &ours, request(902), now), QUEUED);
    assert_eq!(board.offer(&shed(0), connection, &ours, request(903), now), Offered::TooMany);
    assert_eq!(board.offer(&shed(0), connection, &ours, request(904), now + PENDING), QUEUED);
}

#[test]
fn a_namespace_has_one_listener_and_is_free_when_it_goes() {
    let (mut board, listener, connection) = board();
    let (ours, now) = (namespace("a"), Instant::now());
    assert_eq!(board.listen(&ours, Timestamp::UNIX_EPOCH), None);
    for id in 0..MAX_IN_FLIGHT as u128 {
        let _full = board.offer(&shed(0), connection, &ours, request(id), now);
    }
    assert_eq!(board.leave(&ours, listener + 100), 0, "not its own");
    assert_eq!(board.leave(&ours, listener), 32);
    assert!(board.sheds[&shed(0)].pending.is_empty(), "what no listener has heard is not pending");
    let next = board.listen(&ours, Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!(board.leave(&ours, listener), 0, "a late end does not hurt the next one");
    assert!(text(board.take(&ours, listener, now)).is_none());
    assert_eq!(board.offer(&shed(0), connection, &ours, request(1), now), QUEUED);
    assert_eq!(text(board.take(&ours, next, now)), Some("1".to_owned()));
    assert_eq!(board.listeners(), [(ours, Timestamp::UNIX_EPOCH)]);
}

#[test]
fn responses_for_a_guest_that_does_not_read_are_bounded() {
    for (bytes, room) in [(9, RESPONSES.messages), (1 << 20, RESPONSES.bytes >> 20)] {
        let (mut board, _, connection) = board();
        let (ours, now) = (namespace("a"), Instant::now());
        assert_eq!(board.offer(&shed(0), connection, &ours, request(1), now), QUEUED);
        for _ in 0..room {
            assert_eq!(board.respond(&shed(0), &ours, response(1, false, bytes), now), Ok(()));
        }
        assert_eq!(board.respond(&shed(0), &ours, response(1, true, bytes), now), Err(Refused::Full));
        assert!(board.next_response(&shed(0), connection).is_some());
        assert_eq!(board.respond(&shed(0), &ours, response(1, true, bytes), now), Ok(()), "it was not lost");
    }
}

#[test]
fn that_nobody_listens_is_told_once_a_minute_whatever_names_a_guest_makes_up() {
    let (mut board, _, connection) = board();
    let begun = Instant::now();
    let told = |board: &mut Board, name: &str, now| {
        let offered = board.offer(&shed(0), connection, &namespace(name), request(1), now);
        offered == Offered::NoListener { tell: true }
    };
    assert!(told(&mut board, "b", begun) && !told(&mut board, "b", begun));
    let all = (0..1000).filter(|number| told(&mut board, &format!("n{number}"), begun)).count();
    assert_eq!(all, NO_LISTENER_NAMES - 1);
    assert!(told(&mut board, "b", begun + NO_LISTENER_LOG));
}

#[derive(Debug, Clone)]
enum Step {
    Connect(usize),
    Disconnect(usize),
    Listen(usize),
    Leave(usize),
    Offer { shed: usize, namespace: usize, id: u128, request: bool },
    Take(usize),
    Respond { shed: usize, namespace: usize, to: u128, is_final: bool },
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (sheds, names, ids) = (0_usize..3, 0_usize..2, 0_u128..6);
    let step = prop_oneof![
        1 => sheds.clone().prop_map(Step::Connect),
        1 => sheds.clone().prop_map(Step::Disconnect),
        1 => names.clone().prop_map(Step::Listen),
        1 => names.clone().prop_map(Step::Leave),
        8 => (sheds.clone(), names.clone(), ids.clone(), any::<bool>())
            .prop_map(|(shed, namespace, id, request)| Step::Offer { shed, namespace, id, request }),
        4 => names.clone().prop_map(Step::Take),
        6 => (sheds, names, ids, any::<bool>())
            .prop_map(|(shed, namespace, to, is_final)| Step::Respond { shed, namespace, to, is_final }),
        1 => (0_u64..20).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..200)
}

/// Whatever comes in whatever order, a guest gets a response only to what it has asked in the namespace, since its channel
/// was opened, in time, and to each request one final one.
#[test]
fn fuzz_board_answers_only_who_asked() {
    let name = |number: usize| namespace(["a", "b"][number]);
    shed_testkit::fuzz("board", &steps(), |steps| {
        let mut board = Board::default();
        let (mut now, mut connections, mut listeners) = (Instant::now(), HashMap::new(), HashMap::new());
        // What may be answered: what was asked, and until when.
        let mut asked: HashMap<(usize, u128), (usize, Instant)> = HashMap::new();
        for step in steps {
            match step {
                Step::Connect(number) => {
                    let _before = connections.insert(number, board.connect(&shed(number)));
                    asked.retain(|(of, _), _| *of != number);
                }
                Step::Disconnect(number) => {
                    if let Some(serial) = connections.remove(&number) {
                        let _lost = board.disconnect(&shed(number), serial);
                        asked.retain(|(of, _), _| *of != number);
                    }
                }
                Step::Listen(number) => {
                    if let Some(serial) = board.listen(&name(number), Timestamp::UNIX_EPOCH) {
                        assert_eq!(listeners.insert(number, serial), None, "one listener a namespace");
                    }
                }
                Step::Leave(number) => {
                    if let Some(serial) = listeners.remove(&number) {
                        let _lost = board.leave(&name(number), serial);
                    }
                }
                Step::Offer { shed: number, namespace, id, request: is_request } => {
                    let Some(serial) = connections.get(&number) else { continue };
                    let message = Message { is_request, ..request(id) };
                    let offered = board.offer(&shed(number), *serial, &name(namespace), message, now);
                    assert_eq!(
                        matches!(offered, Offered::NoListener { .. }),
                        !listeners.contains_key(&namespace)
                    );
                    if is_request && matches!(offered, Offered::Queued { .. }) {
                        let _before = asked.insert((number, id), (namespace, now + PENDING));
                    }
                }
                Step::Take(number) => {
                    if let Some(serial) = listeners.get(&number) {
                        let _any = board.take(&name(number), *serial, now);
                    }
                }
                Step::Respond { shed: number, namespace, to, is_final } => {
                    let response = response(to, is_final, 3);
                    if board.respond(&shed(number), &name(namespace), response, now).is_ok() {
                        let (of, until) = asked.get(&(number, to)).copied().expect("it was asked");
                        assert!(of == namespace && now < until);
                        if is_final {
                            let _done = asked.remove(&(number, to));
                        }
                    }
                }
                Step::Wait(seconds) => now += Duration::from_secs(seconds),
            }
        }
    });
}
