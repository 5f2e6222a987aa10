//! The question of `shed delete`, on a terminal.

use crate::{
    exec::wait,
    pty::Pty,
    stub::{Stub, done, ok},
    user::User,
};

/// A server with a shed.
fn server() -> Stub {
    Stub::serve(|line| match line {
        "GET /api/sheds/web" => {
            ok(r#"{"name":"web","status":"running","created_at":"2026-01-20T10:30:00Z"}"#)
        }
        "DELETE /api/sheds/web" => done(),
        other => panic!("{other}"),
    })
}

#[test]
fn the_question_says_what_goes_and_only_yes_deletes_it() {
    for (keys, said, code, requests) in [
        (&b"y\n"[..], "Deleted shed web on test", 0, 2),
        (b"\n", "Nothing was changed.", 1, 1),
        (b"\x04", "Nothing was changed.", 1, 1),
    ] {
        let stub = server();
        let (pty, user) = (Pty::open(), User::with_server(stub.port));
        let mut child = pty.spawn(&user, &["delete", "web"]);
        pty.shows("Delete web (running on test) with all files? [y/N] ");
        pty.types(keys);
        pty.shows(said);
        assert_eq!((wait(&mut child), stub.asked().len()), (Some(code), requests), "{keys:?}");
    }
}
