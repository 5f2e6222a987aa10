//! tmux sessions as the API shows them, with the real tmux of the base image in a real machine.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use vm_tests::{Cli, Http, Promises, SHORT, Stage, wait_for};

/// The shed that all promises of this file are proved on.
const SHED: &str = "tmuxed";

/// The sessions of that shed.
const PATH: &str = "/api/sheds/tmuxed/sessions";

fn sessions(http: &Http, path: &str) -> Vec<Value> {
    let list = http.get(path).is(200).json();
    list["sessions"].as_array().expect("`sessions` is a list").clone()
}

fn names(http: &Http) -> Vec<String> {
    let name = |session: &Value| session["name"].as_str().expect("a session has a name").to_owned();
    sessions(http, PATH).iter().map(name).collect()
}

fn session(http: &Http, name: &str) -> Value {
    let found = sessions(http, PATH).into_iter().find(|session| session["name"] == name);
    found.unwrap_or_else(|| panic!("no session {name}"))
}

fn tmux(cli: &Cli, words: &[&str]) -> String {
    let words: Vec<&str> = ["tmux"].into_iter().chain(words.iter().copied()).collect();
    cli.exec(SHED, &words).ok().out()
}

fn code(reply: &vm_tests::Reply) -> (u16, String) {
    (reply.status, reply.error().0)
}

/// What people do in tmux is what the API says, and what the API ends is gone.
#[test]
fn sessions_of_real_tmux_are_listed_and_ended() {
    let Some(stage) = Stage::new() else { return };
    let server = stage.serve();
    let (cli, http) = (stage.cli(), server.http());
    cli.create(SHED, &[]);
    let mut promises = Promises::new();

    promises.keep("a shed in which nobody has used tmux has an empty list", || {
        assert_eq!(http.get(PATH).is(200).text(), r#"{"sessions":[]}"#);
        assert_eq!(http.get("/api/sessions").is(200).text(), r#"{"sessions":[]}"#);
        assert_eq!(code(&http.delete(&format!("{PATH}/none"))), (404, "SESSION_NOT_FOUND".into()));
        // Asking has not started a server.
        assert_eq!(cli.exec(SHED, &["pgrep", "-x", "tmux.*"]).out(), "");
    });
    promises.keep("every field of a session is right", || {
        let clock = |text: String| text.parse::<u64>().expect("seconds");
        let before = clock(cli.sh(SHED, "date +%s"));
        tmux(&cli, &["new-session", "-d", "-s", "work"]);
        let after = clock(cli.sh(SHED, "date +%s"));
        tmux(&cli, &["new-window", "-t", "=work:"]);
        tmux(&cli, &["new-window", "-t", "=work:"]);
        tmux(&cli, &["new-session", "-d", "-s", "agent"]);
        assert_eq!(names(&http), ["agent", "work"]);
        let work = session(&http, "work");
        assert_eq!(work["shed_name"], SHED);
        assert_eq!((&work["attached"], &work["window_count"]), (&Value::from(false), &Value::from(3)));
        assert_eq!(session(&http, "agent")["window_count"], 1);
        // Read by the guest's own date(1), so that its clock is compared with itself.
        let text = work["created_at"].as_str().expect("a time").to_owned();
        let created = clock(cli.sh(SHED, &format!("date -d {text} +%s")));
        assert!((before..=after).contains(&created), "{before} <= {created} ({text}) <= {after}");
        let host = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs();
        assert!(created.abs_diff(host) < 300, "{text} is far from the host's {host}");
        assert!(text.ends_with('Z') && !text.contains('.'), "{text} is UTC, in whole seconds");
        assert_eq!(sessions(&http, "/api/sessions"), sessions(&http, PATH));
    });
    promises.keep("a session is attached while a terminal shows it", || {
        let attached = |wanted: bool| {
            wait_for(&format!("attached to be {wanted}"), SHORT, || {
                (session(&http, "work")["attached"] == wanted).then_some(())
            });
        };
        let mut pty = cli.on_terminal(&["exec", SHED, "--", "tmux", "attach-session", "-t", "=work"], 24, 80);
        attached(true);
        assert_eq!(session(&http, "agent")["attached"], false);
        // The prefix key, then d: detach.
        pty.type_in("\u{2}d");
        assert_eq!(pty.wait(SHORT), 0, "{}", pty.screen());
        attached(false);
        // One whose terminal goes away is detached as well.
        let pty = cli.on_terminal(&["exec", SHED, "--", "tmux", "attach-session", "-t", "=work"], 24, 80);
        attached(true);
        drop(pty);
        attached(false);
    });
    promises.keep("names that Shed would not give are listed as they are", || {
        tmux(&cli, &["new-session", "-d", "-s", "über café"]);
        assert!(names(&http).contains(&"über café".to_owned()), "{:?}", names(&http));
        // tmux itself replaces what separates fields and targets.
        tmux(&cli, &["new-session", "-d", "-s", "12:34.5"]);
        assert!(names(&http).contains(&"12_34_5".to_owned()), "{:?}", names(&http));
        tmux(&cli, &["kill-session", "-t", "=über café"]);
        tmux(&cli, &["kill-session", "-t", "=12_34_5"]);
    });
    promises.keep("a session is ended by its whole name, and what ran in it with it", || {
        tmux(&cli, &["new-session", "-d", "-s", "work-2", "exec sleep 86391"]);
        let runs = || cli.exec(SHED, &["pgrep", "-f", "^sleep 86391"]).code == 0;
        wait_for("the session's command", SHORT, || runs().then_some(()));
        assert_eq!(code(&http.delete(&format!("{PATH}/wor"))), (404, "SESSION_NOT_FOUND".into()));
        let reply = http.delete(&format!("{PATH}/work-2")).is(204);
        assert!(reply.body.is_empty(), "{}", reply.text());
        assert_eq!(names(&http), ["agent", "work"]);
        wait_for("its command to end", SHORT, || (!runs()).then_some(()));
        let (code, message) = http.delete(&format!("{PATH}/work-2")).is(404).error();
        assert_eq!(code, "SESSION_NOT_FOUND");
        assert!(message.contains("work-2") && message.contains(SHED), "{message}");
        assert_eq!(http.delete(&format!("{PATH}/-x")).is(400).error().0, "INVALID_SESSION_NAME");
    });
    promises.keep("a terminal that shows a session leaves when it ends", || {
        let mut pty = cli.on_terminal(&["exec", SHED, "--", "tmux", "attach-session", "-t", "=work"], 24, 80);
        wait_for("it to be attached", SHORT, || (session(&http, "work")["attached"] == true).then_some(()));
        http.delete(&format!("{PATH}/work")).is(204);
        let _code = pty.wait(SHORT);
        assert_eq!(names(&http), ["agent"]);
    });
    promises.keep("with the last session the tmux server ends, and the list is empty", || {
        http.delete(&format!("{PATH}/agent")).is(204);
        assert_eq!(names(&http), Vec::<String>::new());
        // tmux's socket is still there, and nobody listens on it.
        wait_for("the tmux server to end", SHORT, || {
            cli.exec(SHED, &["pgrep", "-x", "tmux.*"]).out().is_empty().then_some(())
        });
        assert_eq!(names(&http), Vec::<String>::new());
        assert_eq!(code(&http.delete(&format!("{PATH}/agent"))), (404, "SESSION_NOT_FOUND".into()));
    });
    promises.keep("sessions of another user are none of the shed's", || {
        cli.run(&["exec", "-u", "root", SHED, "--", "tmux", "new-session", "-d", "-s", "of-root"]).ok();
        assert_eq!(names(&http), Vec::<String>::new());
        cli.run(&["exec", "-u", "root", SHED, "--", "tmux", "kill-server"]).ok();
    });
    promises.keep("a socket directory of the shed's own environment is honoured", || {
        let conf = "/etc/environment.d/50-tmux.conf";
        cli.sh(
            SHED,
            &format!("sudo mkdir -p /etc/environment.d && mkdir -p /home/shed/sockets && echo TMUX_TMPDIR=/home/shed/sockets | sudo tee {conf}"),
        );
        tmux(&cli, &["new-session", "-d", "-s", "elsewhere"]);
        assert_eq!(cli.sh(SHED, "ls /home/shed/sockets"), "tmux-1000");
        assert_eq!(names(&http), ["elsewhere"]);
        http.delete(&format!("{PATH}/elsewhere")).is(204);
        cli.sh(SHED, &format!("sudo rm {conf}"));
    });
    promises.keep("a tmux that hangs is given up in time and ended in the guest", || {
        tmux(&cli, &["new-session", "-d", "-s", "stuck"]);
        // The server is stopped in its tracks: it takes connections and answers none.
        cli.sh(SHED, "pkill -STOP -x 'tmux: server'");
        let begun = std::time::Instant::now();
        let (code, message) = http.get(PATH).is(502).error();
        assert!(code == "CONNECT_FAILED" && message.contains("15 s"), "{code} {message}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        let all = http.get("/api/sessions").is(200).json();
        assert!(all["warnings"][0].as_str().is_some_and(|text| text.contains(SHED)), "{all}");
        wait_for("its clients to end", SHORT, || {
            cli.exec(SHED, &["pgrep", "-f", "list-sessions"]).out().is_empty().then_some(())
        });
        cli.sh(SHED, "pkill -CONT -x 'tmux: server'");
        assert_eq!(names(&http), ["stuck"]);
        http.delete(&format!("{PATH}/stuck")).is(204);
    });
    promises.keep("a shed whose tmux is gone says so, and is named in the list of all", || {
        cli.sh(SHED, "sudo mv /usr/bin/tmux /usr/bin/tmux.away");
        let (code, message) = http.get(PATH).is(503).error();
        assert_eq!(code, "TMUX_NOT_AVAILABLE");
        assert!(message.contains("install tmux"), "{message}");
        assert_eq!(http.delete(&format!("{PATH}/x")).is(503).error().0, "TMUX_NOT_AVAILABLE");
        let all = http.get("/api/sessions").is(200).json();
        assert_eq!(all["sessions"], serde_json::json!([]));
        assert!(all["warnings"][0].as_str().is_some_and(|text| text.contains("install tmux")), "{all}");
        cli.sh(SHED, "sudo mv /usr/bin/tmux.away /usr/bin/tmux");
        assert_eq!(names(&http), Vec::<String>::new());
    });
    promises.keep("a stopped shed has no sessions, and says how to get some", || {
        tmux(&cli, &["new-session", "-d", "-s", "last"]);
        assert_eq!(names(&http), ["last"]);
        cli.run(&["stop", SHED]).ok();
        let (code, message) = http.get(PATH).is(409).error();
        assert!(code == "SHED_ALREADY_STOPPED" && message.contains("shed start tmuxed"), "{code} {message}");
        assert_eq!(http.delete(&format!("{PATH}/last")).is(409).error().0, "SHED_ALREADY_STOPPED");
        assert_eq!(http.get("/api/sessions").is(200).text(), r#"{"sessions":[]}"#);
        assert_eq!(http.get("/api/sheds/none/sessions").is(404).error().0, "SHED_NOT_FOUND");
    });
    promises.keep("nothing is left", || {
        cli.delete(SHED);
        stage.assert_only(&[]);
    });
    promises.finish();
}
