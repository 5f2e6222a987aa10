//! Whatever a client sends, the answer is a clear refusal, nothing changes, and everyone lives on.

use std::io::Write;

use rand::Rng;
use serde_json::{Value, json};
use vm_tests::{Cli, Expect, Http, Promises, SHORT, Server, Stage, exec_request, kind, listing};

/// A shed that runs while the bad requests come.
const SHED: &str = "victim";

/// Codes of a body that cannot be read: the name could not be either (spec A.2).
const UNREADABLE: &str = "INVALID_SHED_NAME|INVALID_REQUEST";

/// Requests that must be refused: what is wrong, the body, the status, the code.
fn bad_creates() -> Vec<(&'static str, String, u16, &'static str)> {
    let name = |name: &str| json!({ "name": name }).to_string();
    let with = |key: &str, value: Value| {
        let mut body = json!({ "name": "fresh" });
        body[key] = value;
        body.to_string()
    };
    let long = "a".repeat(64);
    vec![
        ("empty name", name(""), 400, "INVALID_SHED_NAME"),
        ("name of 64 characters", name(&long), 400, "INVALID_SHED_NAME"),
        ("name of 100 KB", name(&"a".repeat(100_000)), 400, "INVALID_SHED_NAME"),
        ("capitals", name("Fresh"), 400, "INVALID_SHED_NAME"),
        ("two dots", name(".."), 400, "INVALID_SHED_NAME"),
        ("a path", name("../../etc"), 400, "INVALID_SHED_NAME"),
        ("a slash", name("a/b"), 400, "INVALID_SHED_NAME"),
        ("unicode", name("schüppen"), 400, "INVALID_SHED_NAME"),
        ("a letter that looks like a", name("\u{430}bc"), 400, "INVALID_SHED_NAME"),
        ("a digit first", name("1abc"), 400, "INVALID_SHED_NAME"),
        ("a hyphen last", name("abc-"), 400, "INVALID_SHED_NAME"),
        ("a hyphen first", name("-abc"), 400, "INVALID_SHED_NAME"),
        ("an underscore", name("a_b"), 400, "INVALID_SHED_NAME"),
        ("a space", name("a b"), 400, "INVALID_SHED_NAME"),
        ("a NUL", name("a\0b"), 400, "INVALID_SHED_NAME"),
        ("a line feed", name("abc\n"), 400, "INVALID_SHED_NAME"),
        ("the reserved name", name("_api"), 400, "INVALID_SHED_NAME"),
        ("a name that is a number", r#"{"name":7}"#.to_owned(), 400, UNREADABLE),
        ("a name that is null", r#"{"name":null}"#.to_owned(), 400, UNREADABLE),
        ("no name", "{}".to_owned(), 400, UNREADABLE),
        ("no JSON", "name=fresh".to_owned(), 400, UNREADABLE),
        ("empty body", String::new(), 400, UNREADABLE),
        ("half a body", r#"{"name":"fresh""#.to_owned(), 400, UNREADABLE),
        ("two bodies", r#"{"name":"fresh"}{"name":"fresh"}"#.to_owned(), 400, UNREADABLE),
        ("a list", r#"["fresh"]"#.to_owned(), 400, UNREADABLE),
        ("deep JSON", format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)), 400, UNREADABLE),
        ("the name twice", r#"{"name":"fresh","name":"other"}"#.to_owned(), 400, UNREADABLE),
        ("cpus that are no whole number", with("cpus", json!(1.5)), 400, UNREADABLE),
        ("cpus -1", with("cpus", json!(-1)), 400, "INVALID_REQUEST"),
        ("cpus 33", with("cpus", json!(33)), 400, "INVALID_REQUEST"),
        ("cpus 1000", with("cpus", json!(1000)), 400, "INVALID_REQUEST"),
        ("cpus 2^63", with("cpus", json!(9_223_372_036_854_775_808_u64)), 400, UNREADABLE),
        ("cpus that are text", with("cpus", json!("2")), 400, UNREADABLE),
        ("memory 1", with("memory_mb", json!(1)), 400, "INVALID_REQUEST"),
        ("memory -1", with("memory_mb", json!(-1)), 400, "INVALID_REQUEST"),
        ("memory 10^9", with("memory_mb", json!(1_000_000_000)), 400, "INVALID_REQUEST"),
        ("memory that is text", with("memory_mb", json!("512")), 400, UNREADABLE),
        ("an unknown image", with("image", json!("no-such-image")), 400, "UNKNOWN_IMAGE"),
        ("an image that is a path", with("image", json!("../base")), 400, "UNKNOWN_IMAGE|INVALID_REQUEST"),
        ("an unknown backend", with("backend", json!("docker")), 400, "BACKEND_NOT_ENABLED|INVALID_REQUEST"),
        ("a backend that does not run here", with("backend", json!("vz")), 400, "BACKEND_NOT_ENABLED"),
        ("a relative local_dir", with("local_dir", json!("src")), 400, "INVALID_LOCAL_DIR"),
        ("a local_dir that is not there", with("local_dir", json!("/no/such/dir")), 400, "INVALID_LOCAL_DIR"),
        ("a local_dir that is a file", with("local_dir", json!("/etc/passwd")), 400, "INVALID_LOCAL_DIR"),
        ("a local_dir with a comma", with("local_dir", json!("/tmp/a,b")), 400, "INVALID_LOCAL_DIR"),
        ("a name that is taken", name(SHED), 409, "SHED_ALREADY_EXISTS"),
    ]
}

/// Paths and methods that lead nowhere: what it is, method, path, status.
fn bad_paths() -> Vec<(&'static str, &'static str, String, u16)> {
    let sheds = |rest: &str| format!("/api/sheds/{rest}");
    vec![
        ("a path that is not there", "GET", "/api/nothing".to_owned(), 404),
        ("the root", "GET", "/".to_owned(), 404),
        ("another case", "GET", "/API/sheds".to_owned(), 404),
        ("two slashes", "GET", "/api//sheds".to_owned(), 404),
        ("a method that is not there", "PUT", "/api/sheds".to_owned(), 405),
        ("a method that nobody knows", "BREW", "/api/sheds".to_owned(), 405),
        ("GET of a start", "GET", sheds("victim/start"), 405),
        ("POST of an info", "POST", "/api/info".to_owned(), 405),
        ("a shed that is not there", "GET", sheds("nobody"), 404),
        ("start of one that is not there", "POST", sheds("nobody/start"), 404),
        ("stop of one that is not there", "POST", sheds("nobody/stop"), 404),
        ("delete of one that is not there", "DELETE", sheds("nobody"), 404),
        ("a name with capitals", "GET", sheds("Victim"), 400),
        ("a name of 64 characters", "DELETE", sheds(&"a".repeat(64)), 400),
        ("an encoded slash", "DELETE", sheds("victim%2F..%2F.."), 400),
        ("encoded dots", "DELETE", sheds("%2e%2e"), 400),
        ("an encoded NUL", "DELETE", sheds("victim%00"), 400),
        ("encoded bytes that are no UTF-8", "GET", sheds("%ff%fe"), 400),
        ("a broken encoding", "GET", sheds("%zz"), 400),
        ("exec without an upgrade", "GET", sheds("victim/exec"), 400),
    ]
}

/// Bytes that are no proper HTTP.
fn hostile_bytes() -> Vec<(&'static str, Vec<u8>)> {
    let mut random = vec![0; 4096];
    rand::rng().fill_bytes(&mut random);
    let head = |lines: &str| format!("POST /api/sheds HTTP/1.1\r\nHost: x\r\n{lines}\r\n\r\n").into_bytes();
    vec![
        ("nothing", Vec::new()),
        ("random bytes", random),
        ("a TLS greeting", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("an endless request line", vec![b'A'; 1 << 20]),
        ("a header of 1 MB", head(&format!("X: {}", "y".repeat(1 << 20)))),
        ("10000 headers", head(&"X: y\r\n".repeat(10_000))),
        (
            "a body shorter than announced",
            head("Content-Length: 1000").into_iter().chain(*b"{\"name\"").collect(),
        ),
        ("a negative length", head("Content-Length: -1")),
        ("two lengths", head("Content-Length: 2\r\nContent-Length: 3")),
        ("a length and chunks", head("Content-Length: 2\r\nTransfer-Encoding: chunked")),
        (
            "a broken chunk",
            head("Transfer-Encoding: chunked").into_iter().chain(*b"zz\r\n{}\r\n0\r\n\r\n").collect(),
        ),
        ("an HTTP version of the future", b"GET /api/info HTTP/9.9\r\nHost: x\r\n\r\n".to_vec()),
    ]
}

#[track_caller]
fn assert_unharmed(stage: &Stage, server: &Server, cli: &Cli, agent: &str) {
    assert!(server.answers());
    assert_eq!(agent_of(cli), agent, "the agent was replaced");
    stage.assert_only(&[Expect::Running(SHED)]);
}

/// Names the agent's process; another one after a restart has another pid or start time.
fn agent_of(cli: &Cli) -> String {
    cli.sh(SHED, "pid=$(pgrep -o -x shed-agent); echo $pid $(cut -d' ' -f22 /proc/$pid/stat)")
}

/// Every bad request gets a clear 4xx and changes nothing; hostile bytes and frames kill neither server nor agent.
#[test]
fn bad_input_is_refused_and_changes_nothing() {
    let Some(stage) = Stage::new() else { return };
    let server = stage.serve();
    let (cli, http) = (stage.cli(), server.http());
    let mut promises = Promises::new();
    cli.create(SHED, &[]);
    let agent = agent_of(&cli);
    let before = listing(stage.dir());

    for (what, body, status, code) in bad_creates() {
        promises.keep(&format!("a create with {what} is refused"), || {
            let reply = http.post("/api/sheds", Some(&body));
            if reply.status == 201 {
                cli.delete("fresh");
            }
            let reply = reply.is(status);
            let (found, message) = reply.error();
            assert!(code.split('|').any(|code| code == found), "{found}, not {code}: {message}");
            assert!(message.len() < 2000, "a message of {} bytes", message.len());
        });
    }
    promises.keep("a body of 100 MB is refused before it is read", || {
        let head = b"POST /api/sheds HTTP/1.1\r\nHost: x\r\nContent-Length: 104857600\r\n\r\n{";
        let reply = String::from_utf8_lossy(&http.raw(head).unwrap()).into_owned();
        assert!(reply.starts_with("HTTP/1.1 413") && reply.contains("BODY_TOO_LARGE"), "{reply:?}");
    });
    promises.keep("a body in chunks that never ends is cut off", || {
        let mut bytes = b"POST /api/sheds HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for _ in 0..64 {
            bytes.extend_from_slice(b"10000\r\n");
            bytes.extend_from_slice(&[b' '; 0x10000]);
            bytes.extend_from_slice(b"\r\n");
        }
        // The refusal may be lost when the connection is reset under a client that is still sending.
        let reply = String::from_utf8_lossy(&http.raw(&bytes).unwrap()).into_owned();
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 413"), "{reply:?}");
    });
    promises.keep("the message about an unknown image lists those there are", || {
        let reply = http.create(&json!({ "name": "fresh", "image": "no-such-image" })).is(400);
        assert!(reply.error().1.contains("base"), "{}", reply.text());
    });
    promises.keep(
        "the same refusals reach a caller that wants events: early ones as JSON, late ones as an event",
        || {
            let events = "Accept: text/event-stream\r\n";
            let early = http.request("POST", "/api/sheds", events, Some(br#"{"name":"NO"}"#)).is(400);
            assert_eq!(early.error().0, "INVALID_SHED_NAME");
            let late = http.create_events(&json!({ "name": SHED })).all();
            let last = late.last().expect("an event");
            let code = last.data.get("code").or_else(|| last.data["error"].get("code"));
            assert_eq!(
                (last.name.as_str(), code.and_then(Value::as_str)),
                ("error", Some("SHED_ALREADY_EXISTS")),
                "{late:?}"
            );
        },
    );
    for (what, method, path, status) in bad_paths() {
        promises.keep(&format!("{what} is refused: {method} {path:.60}"), || {
            let reply = http.request(method, &path, "", None).is(status);
            let _shape = reply.error();
        });
    }
    promises.keep("an upgrade to something else is refused", || {
        let headers = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
        let path = format!("/api/sheds/{SHED}/exec");
        assert_eq!(http.request("GET", &path, headers, None).is(400).error().0, "INVALID_REQUEST");
    });
    for (what, bytes) in hostile_bytes() {
        promises.keep(&format!("{what} on the HTTP port does no harm"), || {
            let answer = http.raw(&bytes).expect("the connection ends");
            let text = String::from_utf8_lossy(&answer).into_owned();
            assert!(text.is_empty() || text.starts_with("HTTP/1."), "{text:?}");
            assert!(!text.starts_with("HTTP/1.1 2") && !text.starts_with("HTTP/1.1 5"), "{text:?}");
            assert!(server.answers());
        });
    }
    promises.keep("200 connections that say nothing do not keep others out", || {
        let silent: Vec<_> = (0..200).map(|_| http.connect().unwrap()).collect();
        assert!(server.answers());
        drop(silent);
    });
    promises.keep("nothing on the disk has changed, and everyone lives", || {
        let after = listing(stage.dir());
        let changed: Vec<_> = after.iter().filter(|(path, _)| !path.starts_with(stage.home())).collect();
        let expected: Vec<_> = before.iter().filter(|(path, _)| !path.starts_with(stage.home())).collect();
        assert_eq!(changed, expected);
        assert_unharmed(&stage, &server, &cli, &agent);
    });

    hostile_frames(&mut promises, http);
    promises.keep("after all these frames server and agent are the same, and work", || {
        assert_unharmed(&stage, &server, &cli, &agent);
    });

    promises.keep("exec on a stopped shed is a 503 that says how to start it", || {
        cli.run(&["stop", SHED]).ok();
        let upgrade = "Connection: Upgrade\r\nUpgrade: shed-exec\r\n";
        let reply = http.request("GET", &format!("/api/sheds/{SHED}/exec"), upgrade, None).is(503);
        let (code, message) = reply.error();
        assert_eq!(code, "SHED_NOT_RUNNING");
        assert!(message.contains("shed start"), "{message}");
    });
    cli.delete(SHED);
    promises.keep("nothing is left", || stage.assert_only(&[]));
    promises.finish();
}

/// Frames that no client of ours sends.
fn hostile_frames(promises: &mut Promises, http: Http) {
    // An exit code other than 0, or a stream that just ends: nothing else is an answer to a broken request.
    let refused = |outcome: &vm_tests::Outcome| {
        assert_ne!(outcome.code(), Some(0), "{outcome:?}");
        assert!(outcome.stdout.is_empty(), "{outcome:?}");
    };
    let first = |bytes: &[u8]| {
        let mut stream = http.exec(SHED);
        // The other end may close before it has everything.
        let _closed = stream.send_bytes(bytes);
        stream.shut();
        stream.outcome()
    };
    let frame = |kind: u8, payload: &[u8]| {
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    };
    let mut random = vec![0; 100_000];
    rand::rng().fill_bytes(&mut random);
    random[0] = kind::EXEC;
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("no frame at all", Vec::new()),
        ("half a header", vec![kind::EXEC, 0, 0]),
        ("half a frame", frame(kind::EXEC, br#"{"cmd":["true"]}"#)[..12].to_vec()),
        ("a frame of 4 GB", vec![kind::EXEC, 0xff, 0xff, 0xff, 0xff]),
        (
            "a frame one byte over the limit",
            [&[kind::EXEC, 0x00, 0x10, 0x00, 0x01][..], &vec![b' '; 1 << 20]].concat(),
        ),
        ("random bytes", random),
        ("data first", frame(kind::DATA, b"echo hello")),
        ("an exit code first", frame(kind::EXIT, br#"{"code":0}"#)),
        ("a request that is no JSON", frame(kind::EXEC, b"\xff\xfe{{{")),
        ("an empty request", frame(kind::EXEC, b"")),
        ("a deep request", frame(kind::EXEC, "[".repeat(500_000).as_bytes())),
        ("a command that is text", frame(kind::EXEC, br#"{"cmd":"true"}"#)),
        ("an empty program", frame(kind::EXEC, br#"{"cmd":[""]}"#)),
        ("a NUL in a word", frame(kind::EXEC, br#"{"cmd":["echo","a\u0000b"]}"#)),
        ("a NUL in the environment", frame(kind::EXEC, br#"{"cmd":["env"],"env":["A=\u0000"]}"#)),
        ("an environment without a name", frame(kind::EXEC, br#"{"cmd":["env"],"env":["=x"]}"#)),
        ("a user that is not there", frame(kind::EXEC, br#"{"cmd":["id"],"user":"nobody-at-all"}"#)),
        ("a user that is a path", frame(kind::EXEC, br#"{"cmd":["id"],"user":"../root"}"#)),
    ];
    for (what, bytes) in table {
        promises.keep(&format!("exec with {what} is refused"), || refused(&first(&bytes)));
    }
    promises.keep("odd frames after a good request are ignored or end that stream only", || {
        let table: [(u8, &[u8]); 8] = [
            (kind::RESIZE, br#"{"rows":0,"cols":0}"#),
            (kind::RESIZE, br#"{"rows":99999,"cols":-1}"#),
            (kind::RESIZE, b"no JSON"),
            (kind::SIGNAL, br#"{"signal":0}"#),
            (kind::SIGNAL, br#"{"signal":99999}"#),
            (kind::SIGNAL, br#"{"signal":-9}"#),
            (0xee, b"a frame of the future"),
            (kind::EXEC, br#"{"cmd":["reboot"]}"#),
        ];
        for (kind, payload) in table {
            let mut stream = http.exec(SHED);
            stream.request(&exec_request(&["cat"]));
            stream.send(kind, payload).unwrap();
            let _closed =
                stream.send(kind::DATA, b"still here").and_then(|()| stream.send(kind::STDIN_EOF, b""));
            let outcome = stream.outcome();
            let went_on = outcome.code() == Some(0) && outcome.stdout == b"still here";
            assert!(went_on || outcome.code() != Some(0), "frame {kind:#x} {payload:?}: {outcome:?}");
        }
        // A frame of unknown type is skipped (spec B.2), so that newer clients can talk to older agents.
        let mut stream = http.exec(SHED);
        stream.send(0xee, b"hello").unwrap();
        stream.request(&exec_request(&["echo", "fine"]));
        assert_eq!(stream.outcome().stdout, b"fine\n");
    });
    promises.keep("stdin after its end, and data for a command that is gone, do no harm", || {
        let mut stream = http.exec(SHED);
        stream.request(&exec_request(&["sh", "-c", "exit 3"]));
        for _ in 0..100 {
            let _closed =
                stream.send(kind::STDIN_EOF, b"").and_then(|()| stream.send(kind::DATA, &[0; 1000]));
        }
        assert_eq!(stream.outcome().code(), Some(3));
    });
    promises.keep("100 streams that are opened and never say a word do not keep others out", || {
        let silent: Vec<_> = (0..100).map(|_| http.exec(SHED)).collect();
        let mut stream = http.exec(SHED);
        stream.request(&exec_request(&["echo", "in"]));
        assert_eq!(stream.outcome().stdout, b"in\n");
        drop(silent);
    });
    promises.keep("a stream that breaks off in the middle of stdin frees its command", || {
        let mut stream = http.exec(SHED);
        stream.request(&exec_request(&["sleep", "86301"]));
        stream.send_bytes(&[kind::DATA, 0, 0, 1, 0, b'x']).unwrap();
        stream.reset();
        vm_tests::wait_for("the command to end", SHORT, || {
            let mut look = http.exec(SHED);
            look.request(&exec_request(&["pgrep", "-f", "sleep 8630[1]"]));
            (look.outcome().code() == Some(1)).then_some(())
        });
    });
}

/// A slow client cannot hold a connection open for ever without saying what it wants.
#[test]
fn a_head_that_never_ends_is_cut_off() {
    let Some(stage) = Stage::new() else { return };
    let server = stage.serve();
    let mut connection = server.http().connect().unwrap();
    connection.write_all(b"GET /api/info HTTP/1.1\r\nHost: x\r\n").unwrap();
    connection.set_read_timeout(Some(SHORT * 2)).unwrap();
    let mut rest = Vec::new();
    let end = std::io::Read::read_to_end(&mut connection, &mut rest);
    assert!(
        end.is_ok(),
        "the server waits for the rest of the head longer than {:?} (spec A.1: 10 s)",
        SHORT * 2
    );
    assert!(server.answers());
    drop(server);
    stage.finish();
}
