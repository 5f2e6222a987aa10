//! `ssh NAME` and `ssh NAME COMMAND`.

use std::time::{Duration, Instant};

use rand::Rng;
use rustix::process::Signal;
use vm_tests::{BOOT, Promises, SHORT, wait_for};

use crate::{SHED, World};

/// Binary input that is sent and comes back.
const INPUT_BYTES: usize = 20 << 20;

/// How long a remote process may live on after its client is gone (SIGHUP, and SIGKILL 5 s later), on a slow host.
const HANG_UP: Duration = Duration::from_secs(60);

pub(crate) fn prove(world: &World, promises: &mut Promises) {
    terminals(world, promises);
    streams(world, promises);
    ends(world, promises);
}

fn terminals(World { ssh, cli, .. }: &World, promises: &mut Promises) {
    let host = format!("shed-{SHED}");
    promises.keep(
        "a shell on a terminal: its own prompt, /workspace, sizes, Ctrl-C, and the code of `exit`",
        || {
            let mut pty = ssh.on_terminal(&["-tt", &host], 24, 80);
            pty.wait_for(&format!("shed:{SHED}"), BOOT);
            pty.type_in("stty size; echo in:$PWD:$SHED_NAME:$TERM:$(id -un)\r");
            pty.wait_for("24 80", SHORT * 2);
            pty.wait_for(&format!("in:/workspace:{SHED}:xterm-256color:shed"), SHORT * 2);
            pty.resize(41, 132);
            pty.type_in("until [ \"$(stty size)\" = '41 132' ]; do sleep 0.1; done; echo re'sized'\r");
            pty.wait_for("resized", SHORT * 2);
            pty.type_in("sleep 4719\r");
            // A Ctrl-C that comes while bash still starts the program is bash's own, and the program then runs on.
            wait_for("the program to run", SHORT * 2, || {
                (cli.exec(SHED, &["pgrep", "-f", "^sleep 4719$"]).code == 0).then_some(())
            });
            pty.type_in("\u{3}");
            pty.type_in("echo af'ter'\r");
            pty.wait_for("after", SHORT * 2);
            pty.type_in("exit 7\r");
            assert_eq!(pty.wait(SHORT * 2), 7, "{}", pty.screen());
        },
    );
    promises.keep("a command has a terminal when one is asked for, and none otherwise", || {
        let mut pty = ssh.on_terminal(&["-tt", &host, "tty; stty size"], 31, 77);
        assert_eq!(pty.wait(SHORT * 2), 0, "{}", pty.screen());
        assert!(pty.screen().contains("/dev/pts/") && pty.screen().contains("31 77"), "{}", pty.screen());
        assert_eq!(ssh.exec(SHED, "tty").exits(1).out(), "not a tty");
    });
    promises.keep("a terminal the guest has no description of is given a name that it has", || {
        let mut command = ssh.command("ssh", &["-tt", &host, "echo $TERM"]);
        command.env("TERM", "xterm-ghostty");
        let done = vm_tests::run(&mut command, b"", SHORT * 2).ok();
        assert_eq!(done.out(), "xterm-256color");
    });
}

fn streams(World { ssh, .. }: &World, promises: &mut Promises) {
    promises.keep("exit codes pass, stdout and stderr stay apart", || {
        for code in [0, 1, 7, 42, 127, 254] {
            let done = ssh.exec(SHED, &format!("echo out; echo err >&2; exit {code}")).exits(code);
            assert_eq!((done.out().as_str(), done.err().as_str()), ("out", "err"));
        }
    });
    promises.keep("a command line is run by a login shell, once, as it stands", || {
        let line = r#"printf '%s|' "a  b" '$HOME' \; 'ü✓'; shopt -q login_shell && echo login; pwd"#;
        assert_eq!(ssh.exec(SHED, line).ok().out(), "a  b|$HOME|;|ü✓|login\n/workspace");
    });
    promises.keep("20 MB of binary input arrive unchanged and come back unchanged", || {
        let mut bytes = vec![0; INPUT_BYTES];
        rand::rng().fill_bytes(&mut bytes);
        let done = ssh.exec_with(SHED, "cat", &bytes).ok();
        assert!(done.stdout == bytes, "{} bytes came back, or others", done.stdout.len());
        assert!(done.stderr.is_empty(), "{}", done.err());
    });
    promises.keep("megabytes on stdout and stderr at once come whole, each on its own", || {
        let script = "head -c 3000000 /dev/zero | tr '\\0' o & head -c 3000000 /dev/zero | tr '\\0' e >&2; wait; exit 3";
        let done = ssh.exec(SHED, script).exits(3);
        let all = |bytes: &[u8], letter: u8| bytes.len() == 3_000_000 && bytes.iter().all(|byte| *byte == letter);
        assert!(all(&done.stdout, b'o'), "{} bytes on stdout", done.stdout.len());
        assert!(all(&done.stderr, b'e'), "{} bytes on stderr", done.stderr.len());
    });
    promises.keep("a script on stdin is run by a shell without a terminal", || {
        let script = b"echo one\nuname -s\nread -r line\nthe next line\necho \"got $line\"\nexit 9\n";
        let host = format!("shed-{SHED}");
        let done = vm_tests::run(&mut ssh.command("ssh", &["-T", &host]), script, SHORT * 2).exits(9);
        assert_eq!(done.out(), "one\nLinux\ngot the next line");
    });
    promises.keep("what stdin says after the command has ended does no harm", || {
        assert_eq!(ssh.exec_with(SHED, "head -c 5", &vec![b'x'; 8 << 20]).ok().out(), "xxxxx");
    });
    promises.keep("variables that a client sends are harmless, and are not taken", || {
        let host = format!("shed-{SHED}");
        let words = ["-o", "SendEnv=LC_* EVIL", &host, "echo \"$LC_ALL|$LC_MESSAGES|$EVIL\""];
        let mut command = ssh.command("ssh", &words);
        command.env("LC_ALL", "tlh_KX.UTF-8").env("LC_MESSAGES", "x").env("EVIL", "1");
        let done = vm_tests::run(&mut command, b"", SHORT * 2).ok();
        assert_eq!((done.out().as_str(), done.err().as_str()), ("||", ""));
    });
}

fn ends(World { ssh, cli, .. }: &World, promises: &mut Promises) {
    let host = format!("shed-{SHED}");
    promises.keep("a command that a signal ends is said to have been ended by it", || {
        let done = ssh.command("ssh", &["-v", &host, "kill -TERM $$"]);
        let done = vm_tests::run(&mut { done }, b"", SHORT * 2);
        // OpenSSH returns 255 for any signal, and says which request came only in its log.
        assert_eq!(done.code, 255, "{}", done.err());
        assert!(done.err().contains("exit-signal"), "{}", done.err());
    });
    promises.keep(
        "a daemon started in the background does not hold the client, whatever it holds open",
        || {
            let begun = Instant::now();
            let line = "nohup sleep 4711 >/dev/null 2>&1 </dev/null & echo started";
            assert_eq!(ssh.exec(SHED, line).ok().out(), "started");
            assert_eq!(ssh.exec(SHED, "sleep 4712 & echo started").ok().out(), "started");
            assert!(begun.elapsed() < SHORT * 2, "it took {:?}", begun.elapsed());
            assert_eq!(cli.exec(SHED, &["pkill", "-c", "-f", "^sleep 471[12]"]).ok().out(), "2");
        },
    );
    promises.keep("what a client ran ends when the client is killed", || {
        let running = ssh.spawn(&[&host, "echo up; exec sleep 4713"]);
        running.wait_for_stdout("up", SHORT * 2);
        running.signal(Signal::KILL);
        wait_for("the remote process to end", HANG_UP, || {
            (cli.exec(SHED, &["pgrep", "-f", "^sleep 4713"]).code == 1).then_some(())
        });
    });
    promises.keep(
        "what ran on a terminal ends when the client is killed, and a tmux session does not",
        || {
            let mut pty = ssh.on_terminal(&["-tt", &host, "tmux new-session -A -s kept"], 24, 80);
            pty.wait_for("[kept]", SHORT * 2);
            pty.type_in("echo he're'; sleep 4714\r");
            pty.wait_for("here", SHORT * 2);
            pty.signal(Signal::KILL);
            wait_for("tmux to be detached", HANG_UP, || {
                let list =
                    cli.exec(SHED, &["tmux", "list-sessions", "-F", "#{session_name}:#{session_attached}"]);
                (list.out() == "kept:0").then_some(())
            });
            cli.exec(SHED, &["pgrep", "-f", "^sleep 4714"]).ok();
            cli.exec(SHED, &["tmux", "kill-server"]).ok();
        },
    );
}
