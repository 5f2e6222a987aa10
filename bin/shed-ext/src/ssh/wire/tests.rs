use proptest::prelude::*;
use shed_extensions::Binary;
use shed_testkit::fuzz;

use super::*;

fn text(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_string(&mut out, bytes);
    out
}

fn key(blob: &[u8], comment: &str) -> Key {
    Key { format: "ssh-ed25519".into(), blob: Binary(blob.to_vec()), comment: comment.into() }
}

#[test]
fn requests_are_understood() {
    assert_eq!(parse(&[11]), Request::List);
    let message = [&[13][..], &text(b"key"), &text(b"data"), &[0, 0, 0, 4]].concat();
    assert_eq!(parse(&message), Request::Sign { key: b"key", data: b"data", flags: 4 });
    let bind = |body: &[u8]| [&[27][..], &text(SESSION_BIND), body].concat();
    let body = [text(b"host"), text(b"session"), text(b"signature"), vec![0]].concat();
    assert_eq!(parse(&bind(&body)), Request::SessionBind);
    assert_eq!(parse(&bind(&body[..body.len() - 1])), Request::BadExtension);
    assert_eq!(parse(&[&[27][..], &text(b"query")].concat()), Request::Other);
    // Every way to put a key in, take one out or lock, of the old protocol, too.
    for kind in (0..=255).filter(|kind| ![11, 13, 27].contains(kind)) {
        assert_eq!(parse(&[kind, 0, 0, 0, 0]), Request::Other, "{kind}");
    }
}

#[test]
fn broken_requests_are_none() {
    let sign = [&[13][..], &text(b"key"), &text(b"data"), &[0, 0, 0, 4]].concat();
    for length in 0..sign.len() {
        assert_eq!(parse(&sign[..length]), Request::Other, "{length}");
    }
    assert_eq!(parse(&[&sign[..], &[0]].concat()), Request::Other);
    assert_eq!(parse(&[13, 255, 255, 255, 255, 1, 2, 3]), Request::Other);
    assert_eq!(parse(&[27, 255, 255, 255, 255]), Request::Other);
}

#[test]
fn a_list_holds_what_fits() {
    let (message, left_out) = keys(&[key(b"blob", "me\u{1b}[2J"), key(b"", "empty")]);
    assert_eq!(left_out, 1);
    let body = [&[12, 0, 0, 0, 1][..], &text(b"blob"), &text(b"me?[2J")].concat();
    assert_eq!(message, text(&body));
    let many: Vec<_> = (0..3000).map(|_| key(&[7; 32], "é")).collect();
    assert_eq!(keys(&many).1, 3000 - 2048);
    let long: Vec<_> = (0..10).map(|_| key(&[7; 100_000], &"é".repeat(4000))).collect();
    let (message, left_out) = keys(&long);
    assert!(message.len() <= MAX_MESSAGE + 4 && left_out == 8, "{} {left_out}", message.len());
}

#[test]
fn a_signature_of_a_security_key_has_its_rest() {
    let mut given = Signature {
        format: "sk-ssh-ed25519@openssh.com".into(),
        blob: Binary(vec![1, 2]),
        rest: Some(Binary(vec![5, 0, 0, 0, 9])),
    };
    let inner = [&text(given.format.as_bytes())[..], &text(&[1, 2]), &[5, 0, 0, 0, 9]].concat();
    assert_eq!(signature(&given).unwrap(), text(&[&[14][..], &text(&inner)].concat()));
    given.blob = Binary(vec![0; MAX_MESSAGE]);
    assert_eq!(signature(&given), None);
}

/// What is read as a request is, written again, what came.
fn check(message: &[u8]) {
    match parse(message) {
        Request::Sign { key, data, flags } => {
            let again = [&[13][..], &text(key), &text(data), &flags.to_be_bytes()].concat();
            assert_eq!(again, message);
        }
        Request::List => assert_eq!(message[0], 11),
        Request::SessionBind | Request::BadExtension => assert_eq!(message[0], 27),
        Request::Other => {}
    }
}

#[test]
fn fuzz_ssh_agent_requests() {
    let bytes = || prop::collection::vec(any::<u8>(), 0..60);
    fuzz("SSH agent requests, any bytes", &bytes(), |bytes| check(&bytes));
    let parts = (bytes(), bytes(), bytes(), any::<u32>(), prop::sample::select(vec![11u8, 13, 27, 17]));
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    fuzz("SSH agent requests, changed ones", &(parts, changes), |((a, b, c, flags, kind), changes)| {
        let mut message = match kind {
            27 => [&[27][..], &text(SESSION_BIND), &text(&a), &text(&b), &text(&c), &[1]].concat(),
            _ => [&[kind][..], &text(&a), &text(&b), &flags.to_be_bytes()].concat(),
        };
        check(&message);
        for (at, byte) in changes {
            let at = at.index(message.len());
            message[at] = byte;
        }
        check(&message);
    });
}
