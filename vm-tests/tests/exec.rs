//! `shed exec` as the tool that everything else stands on: bytes, codes, signals and terminals arrive as they are.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use rand::Rng;
use rustix::process::Signal;
use vm_tests::{Cli, Promises, Running, SHORT, Server, Stage, exec_request, kind, wait_for};

/// The shed that all promises of this file are proved on.
const SHED: &str = "runner";

/// How long a remote process may live on after its client is gone (spec B.3: SIGHUP, and SIGKILL after 5 s).
const HANG_UP: Duration = Duration::from_secs(15);

fn with_a_shed(prove: impl FnOnce(&Stage, &Server, &Cli, &mut Promises)) {
    let Some(stage) = Stage::new() else { return };
    let server = stage.serve();
    let cli = stage.cli();
    cli.create(SHED, &[]);
    let mut promises = Promises::new();
    prove(&stage, &server, &cli, &mut promises);
    promises.keep("the server and the agent have survived it all", || {
        assert!(server.answers());
        cli.exec(SHED, &["true"]).ok();
        assert_eq!(server.http().status(SHED), "running");
    });
    cli.delete(SHED);
    promises.keep("nothing is left", || stage.assert_only(&[]));
    promises.finish();
}

/// Codes, streams, environment, directory and user of a command are those that were asked for.
#[test]
fn commands_run_as_they_would_at_home() {
    with_a_shed(|_, server, cli, promises| {
        promises.keep("the exit code is passed on", || {
            for code in [0, 1, 7, 42, 126, 127, 255] {
                cli.exec(SHED, &["sh", "-c", &format!("exit {code}")]).exits(code);
            }
        });
        promises.keep("stdout and stderr stay apart", || {
            let both = cli.exec(SHED, &["sh", "-c", "echo a; echo b >&2"]).ok();
            assert_eq!((both.out().as_str(), both.err().as_str()), ("a", "b"));
        });
        promises.keep("the last output before the exit is never lost", || {
            for _ in 0..10 {
                let done =
                    cli.exec(SHED, &["sh", "-c", "head -c 300000 /dev/zero; echo end >&2; exit 3"]).exits(3);
                assert_eq!((done.stdout.len(), done.err().as_str()), (300_000, "end"));
            }
        });
        promises.keep("a command killed by signal n exits with 128 + n", || {
            cli.exec(SHED, &["sh", "-c", "kill -9 $$"]).exits(137);
            cli.exec(SHED, &["sh", "-c", "kill -TERM $$"]).exits(143);
        });
        promises.keep("a program that is not there exits with 127, one that cannot be run with 126", || {
            let missing = cli.exec(SHED, &["no-such-program"]).exits(127);
            assert!(missing.err().contains("no-such-program"), "{}", missing.err());
            // Without a shell in between the agent itself has to know.
            let missing = cli.exec(SHED, &["no-such-program", "x"]).exits(127);
            assert!(missing.err().contains("no-such-program"), "{}", missing.err());
            cli.exec(SHED, &["/no/such/program", "x"]).exits(127);
            cli.exec(SHED, &["/etc/passwd", "x"]).exits(126);
            cli.exec(SHED, &["/tmp", "x"]).exits(126);
            cli.exec(SHED, &["/etc/passwd/x", "x"]).exits(127);
        });
        promises.keep("a single argument is a line for the shell, several are words as they are", || {
            assert_eq!(cli.exec(SHED, &["cd /tmp && echo \"$PWD\""]).ok().out(), "/tmp");
            let words = ["printf", "%s|", "$HOME;", "a b", "'", "\"", "*", "", "ü✓", "\\n"];
            assert_eq!(cli.exec(SHED, &words).ok().out(), "$HOME;|a b|'|\"|*||ü✓|\\n|");
        });
        promises.keep("commands run as user shed, in /workspace, with its groups, home and host name", || {
            let script = "id -un; id -u; pwd; echo $HOME; echo $USER; hostname; test -w /workspace && sudo -n id -u";
            let lines = cli.sh(SHED, script);
            assert_eq!(lines.lines().collect::<Vec<_>>(), ["shed", "1000", "/workspace", "/home/shed", "shed", SHED, "0"]);
        });
        promises.keep("defaults of the environment are set, and nothing of the server's leaks in", || {
            let env = cli.exec(SHED, &["env"]).ok().out();
            for line in ["SHELL=/bin/bash", "LANG=C.UTF-8", "PATH=/"] {
                assert!(env.lines().any(|have| have.starts_with(line)), "no {line} in {env}");
            }
            assert!(
                !env.contains("TMPDIR") && !env.contains("NOTIFY_SOCKET") && !env.contains("INVOCATION_ID"),
                "{env}"
            );
        });
        promises.keep("environment, directory and user can be chosen", || {
            let script = "echo \"$A|$B|$PWD|$(id -un)\"";
            let line = [
                "exec", SHED, "-e", "A=1 2", "-e", "B=x=y", "-w", "/etc", "-u", "root", "--", "sh", "-c",
                script,
            ];
            assert_eq!(cli.run(&line).ok().out(), "1 2|x=y|/etc|root");
        });
        promises.keep("a directory that is not there falls back to one that is", || {
            let line = ["exec", SHED, "-w", "/no/such/place", "--", "pwd"];
            assert_eq!(cli.run(&line).ok().out(), "/home/shed");
        });
        promises.keep("large arguments pass: 2000 words, and one of 100 KB", || {
            let many: Vec<String> = (0..2000).map(|number| format!("word-{number}")).collect();
            let mut words = vec!["sh", "-c", "echo $# ${#2000}", "sh"];
            words.extend(many.iter().map(String::as_str));
            assert_eq!(cli.exec(SHED, &words).ok().out(), "2000 9");
            let long = "x".repeat(100_000);
            assert_eq!(cli.exec(SHED, &["sh", "-c", "echo ${#1}", "sh", &long]).ok().out(), "100000");
        });
        promises.keep("an argument list that no kernel takes is an error, not a hang", || {
            let words = vec!["x".repeat(100_000); 9];
            let mut line = vec!["echo"];
            line.extend(words.iter().map(String::as_str));
            // It fits (900 KB < 1 MiB a frame), or is refused by the client; a hang or a dead agent is a failure.
            let done = cli.exec(SHED, &line);
            assert!(done.code == 0 || !done.err().is_empty(), "{done:?}");
            cli.exec(SHED, &["true"]).ok();
        });
        promises.keep("binary stdin arrives unchanged, the empty one too", || {
            let bytes: Vec<u8> = (0..=255).cycle().take(70_000).collect();
            assert_eq!(cli.exec_with(SHED, &["cat"], &bytes).ok().stdout, bytes);
            assert_eq!(cli.exec_with(SHED, &["wc", "-c"], b"").ok().out(), "0");
        });
        promises.keep("the end of stdin reaches the command", || {
            let mut cat = cli.spawn(&["exec", SHED, "--", "cat"]);
            cat.write(b"one\n");
            cat.wait_for_stdout("one\n", SHORT);
            cat.write(b"two\n");
            cat.wait_for_stdout("two\n", SHORT);
            cat.close_stdin();
            assert_eq!(cat.wait(SHORT).ok().out(), "one\ntwo");
        });
        promises.keep("a command that closes its stdin early does not fail the client", || {
            let megabytes = vec![b'x'; 8 << 20];
            assert_eq!(cli.exec_with(SHED, &["head", "-c", "5"], &megabytes).ok().out(), "xxxxx");
            cli.exec_with(SHED, &["true"], &megabytes).ok();
        });
        promises.keep("a daemon that keeps stdout open does not hang the client", || {
            let begun = Instant::now();
            let done = cli.exec(SHED, &["sh", "-c", "sleep 600 & echo started"]).ok();
            assert_eq!(done.out(), "started");
            assert!(begun.elapsed() < Duration::from_secs(20), "it took {:?}", begun.elapsed());
            cli.exec(SHED, &["pkill", "-x", "sleep"]);
        });
        promises.keep("20 commands at once each get their own output", || {
            let running: Vec<(usize, Running)> = (0..20)
                .map(|number| {
                    let script = format!("cat; echo {number}; echo {number} >&2; exit {number}");
                    let mut running = cli.spawn(&["exec", SHED, "--", "sh", "-c", &script]);
                    running.write(format!("in-{number}\n").as_bytes());
                    running.close_stdin();
                    (number, running)
                })
                .collect();
            for (number, running) in running {
                let done = running.wait(SHORT * 4).exits(i32::try_from(number).unwrap());
                assert_eq!((done.out(), done.err()), (format!("in-{number}\n{number}"), number.to_string()));
            }
        });
        promises.keep("a slow reader delays only itself", || {
            let mut slow = cli.exec_command(SHED, &["sh", "-c", "head -c 64000000 /dev/zero"]);
            let mut slow =
                slow.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
            // Nobody reads its stdout, so that every buffer on the way fills up.
            for _ in 0..5 {
                cli.exec(SHED, &["true"]).ok();
            }
            slow.kill().unwrap();
            let _status = slow.wait().unwrap();
        });
        promises.keep("100 MB of random bytes come back identical", || {
            let mut bytes = vec![0; 100_000_000];
            rand::rng().fill_bytes(&mut bytes);
            let done = cli.exec_with(SHED, &["cat"], &bytes).ok();
            assert_eq!(done.stdout.len(), bytes.len());
            assert!(done.stdout == bytes, "the bytes differ");
        });
        promises.keep("a request on the raw stream is answered with output and one exit frame", || {
            let mut stream = server.http().exec(SHED);
            stream.request(&exec_request(&["sh", "-c", "cat; echo err >&2; exit 5"]));
            stream.send(kind::DATA, b"raw").unwrap();
            stream.send(kind::STDIN_EOF, b"").unwrap();
            let outcome = stream.outcome();
            assert_eq!(
                (&outcome.stdout[..], &outcome.stderr[..], outcome.code()),
                (&b"raw"[..], &b"err\n"[..], Some(5))
            );
        });
    });
}

/// Returns whether a process of the guest has `marker` as an argument.
fn lives(cli: &Cli, marker: &str) -> bool {
    // The brackets keep pgrep's own command line, and the shell's, from matching.
    let pattern = format!("[{}]{}", &marker[..1], &marker[1..]);
    cli.exec(SHED, &["pgrep", "-f", &pattern]).code == 0
}

fn wait_for_death(cli: &Cli, marker: &str) {
    wait_for(&format!("the remote process {marker} to die"), HANG_UP, || (!lives(cli, marker)).then_some(()));
}

/// Starts a command in the shed that never ends by itself and can be told by its marker.
fn endless(cli: &Cli, marker: &str) -> Running {
    let running =
        cli.spawn(&["exec", SHED, "--", "sh", "-c", "echo ready; while :; do sleep 1; done", marker]);
    running.wait_for_stdout("ready", SHORT);
    assert!(lives(cli, marker));
    running
}

/// A command never outlives the client that runs it by accident, and signals reach it.
#[test]
fn signals_and_hang_ups_reach_the_command() {
    with_a_shed(|_, server, cli, promises| {
        promises.keep("Ctrl-C ends the command and the client exits with 130", || {
            let running = endless(cli, "marker-int");
            running.signal(Signal::INT);
            running.wait(SHORT).exits(130);
            wait_for_death(cli, "marker-int");
        });
        promises.keep("SIGTERM is passed on", || {
            let running = endless(cli, "marker-term");
            running.signal(Signal::TERM);
            running.wait(SHORT).exits(143);
            wait_for_death(cli, "marker-term");
        });
        promises.keep("a command that handles a signal may end as it likes", || {
            let script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done";
            let running = cli.spawn(&["exec", SHED, "--", "sh", "-c", script]);
            running.wait_for_stdout("ready", SHORT);
            running.signal(Signal::INT);
            let done = running.wait(SHORT).exits(9);
            assert!(done.out().contains("caught"), "{}", done.out());
        });
        promises.keep("a killed client takes its command with it, by SIGHUP", || {
            let script = "trap 'echo hup > /tmp/hup; exit' HUP; echo ready; while :; do sleep 0.1; done";
            let running = cli.spawn(&["exec", SHED, "--", "sh", "-c", script, "marker-hup"]);
            running.wait_for_stdout("ready", SHORT);
            running.signal(Signal::KILL);
            running.wait(SHORT).exits(137);
            wait_for_death(cli, "marker-hup");
            assert_eq!(cli.sh(SHED, "cat /tmp/hup"), "hup");
        });
        promises.keep("one that ignores SIGHUP is killed after a grace", || {
            let script = "trap '' HUP; echo ready; while :; do sleep 0.1; done";
            let running = cli.spawn(&["exec", SHED, "--", "sh", "-c", script, "marker-stubborn"]);
            running.wait_for_stdout("ready", SHORT);
            running.signal(Signal::KILL);
            running.wait(SHORT).exits(137);
            wait_for_death(cli, "marker-stubborn");
        });
        promises.keep("one that is silent and reads nothing dies with its client, too", || {
            let running = cli.spawn(&["exec", SHED, "--", "sh", "-c", "echo ready; exec sleep 86399"]);
            running.wait_for_stdout("ready", SHORT);
            running.signal(Signal::KILL);
            running.wait(SHORT).exits(137);
            wait_for_death(cli, "sleep 86399");
        });
        promises.keep("what was put into the background with setsid lives on", || {
            cli.sh(SHED, "setsid sleep 86398 >/dev/null 2>&1 </dev/null &");
            assert!(lives(cli, "sleep 86398"));
            cli.exec(SHED, &["pkill", "-f", "sleep 8639[8]"]).ok();
        });
        promises.keep("a signal frame of the raw stream reaches the whole group", || {
            let mut stream = server.http().exec(SHED);
            stream.request(&exec_request(&["sh", "-c", "echo ready; sleep 86397 | sleep 86397"]));
            let first = stream.next_frame().unwrap().expect("output");
            assert_eq!((first.kind, &first.payload[..]), (kind::DATA, &b"ready\n"[..]));
            stream.send(kind::SIGNAL, br#"{"signal":15}"#).unwrap();
            assert_eq!(stream.outcome().code(), Some(143));
            wait_for_death(cli, "sleep 86397");
        });
    });
}

/// A person on a terminal has a terminal in the shed, and the own one back afterwards.
#[test]
fn a_terminal_in_a_shed_is_a_terminal() {
    with_a_shed(|_, _, cli, promises| {
        promises.keep("a command gets a terminal only when the client has one", || {
            let without = cli.exec(SHED, &["sh", "-c", "test -t 0 || test -t 1 || echo none"]).ok();
            assert_eq!(without.out(), "none");
            let mut pty =
                cli.on_terminal(&["exec", SHED, "--", "sh", "-c", "tty; stty size; echo $TERM"], 33, 111);
            pty.wait_for("xterm-256color", SHORT);
            assert_eq!(pty.wait(SHORT), 0, "{}", pty.screen());
            let screen = pty.screen();
            assert!(
                screen.contains("/dev/pts/")
                    && screen.contains("33 111")
                    && screen.contains("xterm-256color"),
                "{screen}"
            );
        });
        promises.keep("-T keeps the terminal away, -t asks for one where there is none", || {
            let mut pty =
                cli.on_terminal(&["exec", "-T", SHED, "--", "sh", "-c", "test -t 1 || echo no-tty"], 24, 80);
            pty.wait_for("no-tty", SHORT);
            assert_eq!(pty.wait(SHORT), 0, "{}", pty.screen());
            let forced = cli.run(&["exec", "-t", SHED, "--", "sh", "-c", "test -t 1 && echo a-tty"]).ok();
            assert!(forced.out().contains("a-tty"), "{}", forced.out());
        });
        promises.keep("a login shell on a terminal is one", || {
            let mut pty = cli.on_terminal(&["exec", SHED, "--", "bash", "-l"], 24, 80);
            let before = pty.modes();
            pty.type_in("echo $((6*7)); shopt -q login_shell && echo log''in; exit 4\n");
            pty.wait_for("42", SHORT);
            pty.wait_for("login", SHORT);
            assert_eq!(pty.wait(SHORT), 4, "{}", pty.screen());
            let after = pty.modes();
            assert_eq!(format!("{before:?}"), format!("{after:?}"), "the terminal's modes are restored");
        });
        promises.keep("raw mode during, the former modes afterwards", || {
            let mut pty = cli.on_terminal(
                &["exec", SHED, "--", "sh", "-c", "echo on; read -r line; echo \"got $line\""],
                24,
                80,
            );
            let before = format!("{:?}", pty.modes());
            pty.wait_for("on", SHORT);
            assert_ne!(format!("{:?}", pty.modes()), before, "raw mode while the command runs");
            pty.type_in("hello\r");
            pty.wait_for("got hello", SHORT);
            assert_eq!(pty.wait(SHORT), 0);
            assert_eq!(format!("{:?}", pty.modes()), before, "restored");
        });
        promises.keep("a client that is asked to end restores the modes, too", || {
            let mut pty =
                cli.on_terminal(&["exec", SHED, "--", "sh", "-c", "echo on; exec sleep 86394"], 24, 80);
            let before = format!("{:?}", pty.modes());
            pty.wait_for("on", SHORT);
            pty.signal(Signal::TERM);
            assert_ne!(pty.wait(SHORT), 0);
            assert_eq!(format!("{:?}", pty.modes()), before);
            wait_for_death(cli, "sleep 86394");
        });
        promises.keep("Ctrl-C is a key: it interrupts the command, not the client", || {
            let script = "trap 'echo caught; exit 12' INT; echo on; while :; do sleep 0.1; done";
            let mut pty = cli.on_terminal(&["exec", SHED, "--", "sh", "-c", script], 24, 80);
            pty.wait_for("on", SHORT);
            pty.type_in("\u{3}");
            pty.wait_for("caught", SHORT);
            assert_eq!(pty.wait(SHORT), 12, "{}", pty.screen());
        });
        promises.keep("a resize reaches the command", || {
            // The sizes are not printed by the trap itself, for bash forgets a signal that comes while its trap runs;
            // and without a trap it forgets a SIGINT that comes as its child ends by itself.
            let script =
                "trap 'echo winch' WINCH; trap 'exit 3' INT; echo on; while :; do stty size; sleep 0.1; done";
            let mut pty = cli.on_terminal(&["exec", SHED, "--", "bash", "-c", script], 24, 80);
            pty.wait_for("on", SHORT);
            pty.resize(40, 120);
            pty.wait_for("40 120", SHORT);
            pty.resize(10, 20);
            pty.wait_for("10 20", SHORT);
            pty.wait_for("winch", SHORT);
            pty.type_in("\u{3}");
            assert_eq!(pty.wait(SHORT), 3);
        });
        promises.keep("a terminal that goes away takes the command with it", || {
            let mut pty =
                cli.on_terminal(&["exec", SHED, "--", "sh", "-c", "echo on; exec sleep 86396"], 24, 80);
            pty.wait_for("on", SHORT);
            assert!(lives(cli, "sleep 86396"));
            drop(std::mem::replace(&mut pty, cli.on_terminal(&["version"], 24, 80)));
            wait_for_death(cli, "sleep 86396");
        });
        promises.keep("a job left behind on the terminal does not hang the client", || {
            let begun = Instant::now();
            let mut pty =
                cli.on_terminal(&["exec", SHED, "--", "bash", "-c", "sleep 86395 & echo on"], 24, 80);
            assert_eq!(pty.wait(SHORT), 0, "{}", pty.screen());
            assert!(begun.elapsed() < SHORT, "it took {:?}", begun.elapsed());
        });
        promises.keep("tmux works", || {
            let mut pty = cli.on_terminal(&["exec", SHED, "--", "tmux", "new-session", "-s", "t"], 24, 80);
            pty.type_in("echo in-$((40+2))-tmux\r");
            pty.wait_for("in-42-tmux", SHORT);
            pty.type_in("exit\r");
            assert_eq!(pty.wait(SHORT), 0, "{}", pty.screen());
        });
    });
}
