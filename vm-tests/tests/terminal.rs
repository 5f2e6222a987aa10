//! `shed console` and `shed attach` on a real terminal: typed into, resized, interrupted, left, and given back as it was,
//! however it ends. tmux on this machine is the person's terminal and keeps its screen.

use std::time::Duration;

use rustix::process::Signal;
use vm_tests::{BOOT, Cli, Promises, SHORT, Stage, Tmux, kill_process, wait_for};

/// The shed that all promises of this file are proved on.
const SHED: &str = "typed";

/// The window's size unless a test changes it.
const SIZE: (u16, u16) = (100, 30);

/// What a guest's shell does on a busy machine without hardware virtualisation.
const GUEST: Duration = Duration::from_secs(90);

/// Opens a console and waits for its prompt.
fn console(tmux: &Tmux) {
    tmux.restart();
    tmux.line(&format!("shed console {SHED}"));
    tmux.wait_until("the guest's prompt", BOOT, at_guest_prompt);
}

/// Goes on in the console that is open, or opens one: a promise that was broken must not break the next.
fn in_console(tmux: &Tmux) {
    if !at_guest_prompt(&tmux.screen()) {
        console(tmux);
    }
}

/// Waits until a program runs in the guest. What is typed before that, or pressed, is for the shell.
fn wait_until_runs(cli: &Cli, program: &str) {
    wait_for(&format!("{program} to run"), GUEST, || {
        (cli.exec(SHED, &["pgrep", "-x", program]).code == 0).then_some(())
    });
}

/// Whether the guest's shell waits for a line, with nothing on it. The line below may be that of a session.
fn at_guest_prompt(screen: &str) -> bool {
    let mut lines = screen.trim_end().lines().rev().filter(|line| !line.is_empty() && !line.starts_with('['));
    let last = lines.next().unwrap_or_default();
    last.starts_with(&format!("shed:{SHED}:")) && last.ends_with('$')
}

/// Types a line into the guest's shell and waits until that has printed a line that is `answer`, and takes another.
fn asked(tmux: &Tmux, line: &str, answer: &str) {
    tmux.line(line);
    tmux.wait_until(&format!("the answer {answer:?} to {line}"), GUEST, |screen| {
        screen.lines().any(|have| have.trim_end() == answer) && at_guest_prompt(screen)
    });
}

/// The inner tmux session's screen without its last line, which has a clock.
fn without_status(screen: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = screen.lines().collect();
    let _status = lines.pop();
    lines
}

/// The terminal is as it was before, and the plain shell shows what is typed.
#[track_caller]
fn assert_sane(tmux: &Tmux, before: &str) {
    assert_eq!(tmux.modes(), before, "the terminal's modes were not restored");
    // Seen when typed: the terminal echoes.
    tmux.type_in("echo vis''ible");
    tmux.wait_for("echo vis''ible", SHORT);
    tmux.press(&["Enter"]);
    tmux.wait_until("its answer", SHORT, |screen| screen.lines().any(|line| line.trim_end() == "visible"));
}

/// Waits for the code that the plain shell prints behind `code=`, and returns it.
fn code(tmux: &Tmux) -> String {
    let told = |screen: &str| screen.lines().find_map(|line| line.strip_prefix("code=").map(str::to_owned));
    told(&tmux.wait_until("the code", GUEST, |screen| told(screen).is_some())).unwrap_or_default()
}

fn client_of(tmux: &Tmux) -> u32 {
    wait_for("the client's process", SHORT, || tmux.children().first().copied())
}

fn sessions(cli: &Cli) -> String {
    let words = ["tmux", "list-sessions", "-F", "#{session_name}:#{session_attached}"];
    cli.exec(SHED, &words).out()
}

/// What is typed is answered, the guest knows the size, keys have their meaning, and the terminal is given back.
#[test]
fn a_console_is_a_terminal_and_gives_it_back() {
    let Some(stage) = Stage::new() else { return };
    let server = stage.serve();
    let cli = stage.cli();
    cli.create(SHED, &[]);
    let tmux = Tmux::start(&stage, SIZE.0, SIZE.1);
    let before = tmux.modes();
    let mut promises = Promises::new();

    promises.keep("a typed line is answered, in /workspace, and each key is shown once", || {
        console(&tmux);
        asked(&tmux, "echo an'swer' $((6*7)) $PWD", "answer 42 /workspace");
        let typed = tmux.screen().matches("echo an'swer'").count();
        assert_eq!(typed, 1, "{}", tmux.screen());
    });
    promises.keep("the guest knows the terminal's size, and hears when it changes", || {
        in_console(&tmux);
        asked(&tmux, "stty size", "30 100");
        for (columns, rows) in [(132, 43), (40, 10), SIZE] {
            tmux.resize(columns, rows);
            // The size may arrive a moment after the line.
            wait_for("the guest to see the new size", GUEST, || {
                tmux.line("clear; stty size; tput cols");
                let size = format!("{rows} {columns}");
                let screen = tmux.wait_until("an answer", GUEST, |screen| {
                    screen
                        .lines()
                        .filter(|line| line.trim().starts_with(|c: char| c.is_ascii_digit()))
                        .count()
                        >= 2
                        && at_guest_prompt(screen)
                });
                let lines: Vec<&str> = screen.lines().map(str::trim).collect();
                (lines.contains(&size.as_str()) && lines.contains(&columns.to_string().as_str()))
                    .then_some(())
            });
        }
    });
    promises.keep("Ctrl-C interrupts what runs in the guest, and not the client", || {
        in_console(&tmux);
        tmux.line("clear; sleep 1000; echo \"co\"de $?");
        wait_until_runs(&cli, "sleep");
        tmux.press(&["C-c"]);
        tmux.wait_until("the prompt", GUEST, |screen| screen.contains("^C") && at_guest_prompt(screen));
        asked(&tmux, "echo in'ter'rupted", "interrupted");
        assert!(!tmux.screen().contains("code"), "{}", tmux.screen());
        assert_eq!(cli.exec(SHED, &["pgrep", "-x", "sleep"]).code, 1);
    });
    promises.keep("Ctrl-Z, Ctrl-D, Ctrl-\\ and a tab are the guest's as well", || {
        in_console(&tmux);
        tmux.line("clear; sleep 1000");
        wait_until_runs(&cli, "sleep");
        tmux.press(&["C-z"]);
        tmux.wait_until("the prompt", GUEST, |screen| screen.contains("Stopped") && at_guest_prompt(screen));
        asked(&tmux, "kill %1; wait; echo go'ne'", "gone");
        tmux.line("clear; cat");
        wait_until_runs(&cli, "cat");
        tmux.line("some text");
        // Once as it is typed, and once by cat.
        tmux.wait_until("cat's answer", GUEST, |screen| screen.matches("some text").count() == 2);
        tmux.press(&["C-d"]);
        tmux.wait_until("the prompt", GUEST, at_guest_prompt);
        tmux.line("sleep 1000");
        wait_until_runs(&cli, "sleep");
        tmux.press(&["C-\\"]);
        tmux.wait_until("the prompt", GUEST, |screen| screen.contains("Quit") && at_guest_prompt(screen));
        tmux.type_in("cat /etc/debian_ver");
        tmux.press(&["Tab"]);
        tmux.wait_for("cat /etc/debian_version", GUEST);
        tmux.press(&["C-u"]);
        tmux.wait_until("the prompt", GUEST, at_guest_prompt);
    });
    promises.keep("vim draws the whole window, and leaves the screen as it found it", || {
        in_console(&tmux);
        asked(&tmux, "clear; printf 'one\\ntwo ü✓\\n' >/tmp/drawn; echo be'fore'", "before");
        let found = tmux.screen();
        tmux.line("vim /tmp/drawn");
        let drawn = tmux.wait_until("vim's window", GUEST, |screen| {
            screen.contains("\"/tmp/drawn\"")
                && screen.lines().filter(|line| line.trim() == "~").count() >= 20
        });
        assert!(drawn.starts_with("one\ntwo ü✓\n"), "{drawn}");
        assert!(!drawn.contains("before"), "{drawn}");
        tmux.press(&["G", "o"]);
        tmux.type_in("three");
        tmux.press(&["Escape"]);
        tmux.wait_until("the third line", GUEST, |screen| screen.lines().nth(2) == Some("three"));
        tmux.line(":wq");
        let left = tmux
            .wait_until("the prompt", GUEST, |screen| at_guest_prompt(screen) && screen.contains("before"));
        assert!(!left.lines().any(|line| line.trim() == "~"), "{left}");
        assert!(left.starts_with(found.trim_end()), "before:\n{found}\nafter:\n{left}");
        assert_eq!(cli.exec(SHED, &["cat", "/tmp/drawn"]).ok().out(), "one\ntwo ü✓\nthree");
    });
    promises.keep("the shell's exit code is the client's, and the terminal is as before", || {
        tmux.restart();
        assert_eq!(tmux.answer(&format!("shed exec {SHED} 'exit 3'; echo $?")), "3");
        tmux.line(&format!("clear; shed console {SHED}; echo code=$?"));
        tmux.wait_until("the guest's prompt", BOOT, at_guest_prompt);
        tmux.line("exit 7");
        tmux.wait_for("code=7", GUEST);
        assert_sane(&tmux, &before);
    });
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        promises.keep(&format!("the client ended by {signal:?} gives the terminal back"), || {
            console(&tmux);
            kill_process(client_of(&tmux), signal);
            tmux.wait_for_prompt(GUEST);
            assert_sane(&tmux, &before);
        });
    }
    promises.keep("the client ended in the middle of vim gives the terminal back", || {
        console(&tmux);
        tmux.line("vim /tmp/drawn");
        tmux.wait_for("\"/tmp/drawn\"", GUEST);
        kill_process(client_of(&tmux), Signal::TERM);
        tmux.wait_until("the shell's prompt", GUEST, |screen| screen.contains("host$"));
        assert_sane(&tmux, &before);
    });
    promises.keep("a console to a stopped shed starts it", || {
        cli.run(&["stop", SHED]).ok();
        console(&tmux);
        asked(&tmux, "echo st'art'ed", "started");
        tmux.line("exit");
        tmux.wait_for_prompt(GUEST);
    });
    promises.keep(
        "a server that dies under a console leaves a sane terminal, and says what happened",
        || {
            console(&tmux);
            tmux.line("clear; yes 'much output'");
            tmux.wait_for("much output", GUEST);
            server.crash();
            tmux.wait_until("the shell's prompt", GUEST, |screen| {
                screen.trim_end().lines().last().is_some_and(|line| line.ends_with("host$"))
            });
            let told: Vec<String> =
                tmux.screen().lines().filter(|line| line.contains("onnection")).map(str::to_owned).collect();
            assert!(!told.is_empty(), "{}", tmux.screen());
            assert_sane(&tmux, &before);
        },
    );
    promises.keep("the next server's console goes on where the shed is", || {
        let server = stage.serve();
        console(&tmux);
        asked(&tmux, "echo a'gain'", "again");
        tmux.line("exit");
        tmux.wait_for_prompt(GUEST);
        cli.delete(SHED);
        drop(server);
        drop(tmux);
        stage.assert_only(&[]);
    });
    promises.finish();
}

/// A session goes on while nobody looks, and shows the same screen to whoever comes back.
#[test]
fn a_session_is_left_and_found_again() {
    let Some(stage) = Stage::new() else { return };
    let server = stage.serve();
    let cli = stage.cli();
    cli.create(SHED, &[]);
    let tmux = Tmux::start(&stage, SIZE.0, SIZE.1);
    let before = tmux.modes();
    let mut promises = Promises::new();
    let attach = |words: &str| {
        tmux.restart();
        tmux.line(&format!("shed attach {SHED}{words}"));
    };
    let detach = || {
        tmux.press(&["C-b", "d"]);
        tmux.wait_until("the shell's prompt", GUEST, |screen| {
            screen.contains("[detached") && screen.trim_end().ends_with("host$")
        });
    };

    promises.keep("attach makes the session `default`, which fills the window", || {
        attach("");
        tmux.wait_for("[default]", BOOT);
        asked(&tmux, "stty size", "29 100");
        assert_eq!(sessions(&cli), "default:1");
    });
    let mut left = String::new();
    promises.keep("Ctrl-B d leaves it running, gives the terminal back, and the code is 0", || {
        asked(&tmux, "for n in 1 2 3; do echo li'ne' $n; done", "line 3");
        tmux.line("echo wait'ing'; read -r it; echo \"got $it\"");
        left = tmux.wait_until("the command", GUEST, |screen| screen.lines().any(|line| line == "waiting"));
        detach();
        assert_sane(&tmux, &before);
        assert_eq!(sessions(&cli), "default:0");
    });
    promises.keep("attach again shows the same screen, and what ran goes on", || {
        attach("");
        let found = tmux.wait_until("the session", GUEST, |screen| screen.contains("waiting"));
        assert_eq!(without_status(&found), without_status(&left));
        asked(&tmux, "an answer", "got an answer");
    });
    promises.keep("a resize reaches the session, and what runs in it", || {
        tmux.resize(120, 40);
        wait_for("the guest to see the new size", GUEST, || {
            tmux.line("clear; stty size");
            let screen = tmux.wait_until("an answer", GUEST, |screen| {
                screen.lines().any(|line| line.trim_end().split(' ').all(|word| word.parse::<u16>().is_ok()))
            });
            screen.contains("39 120").then_some(())
        });
        tmux.resize(SIZE.0, SIZE.1);
    });
    promises.keep("a client that is killed leaves the session, and the next one finds it", || {
        asked(&tmux, "clear; echo ke'pt'", "kept");
        kill_process(client_of(&tmux), Signal::TERM);
        tmux.wait_until("the shell's prompt", GUEST, |screen| screen.trim_end().ends_with("host$"));
        assert_sane(&tmux, &before);
        wait_for("the session to be detached", GUEST, || (sessions(&cli) == "default:0").then_some(()));
        attach("");
        tmux.wait_for("kept", GUEST);
        detach();
    });
    promises.keep("a session of another name is another one, and --new refuses one that is there", || {
        attach(" -S work");
        tmux.wait_for("[work]", GUEST);
        detach();
        assert_eq!(sessions(&cli), "default:0\nwork:0");
        attach(" -S work --new; echo code=$?");
        assert_ne!(code(&tmux), "0", "{}", tmux.screen());
        attach(" -S fresh --new");
        tmux.wait_for("[fresh]", GUEST);
        detach();
    });
    promises.keep("a line can be typed into a session from outside, and is seen there", || {
        cli.run(&["exec", SHED, "-S", "work", "--", "echo", "fr'om $HOME"]).ok();
        attach(" -S work");
        tmux.wait_until("the line's answer", GUEST, |screen| {
            screen.lines().any(|line| line == "fr'om $HOME")
        });
        detach();
    });
    promises.keep("`shed sessions` lists them and kills one, which ends what shows it", || {
        let listed = cli.run(&["sessions", SHED]).ok().out();
        for name in ["default", "work", "fresh", "detached"] {
            assert!(listed.contains(name), "{listed}");
        }
        attach(" -S work; echo code=$?");
        tmux.wait_for("[work]", GUEST);
        cli.run(&["sessions", "kill", SHED, "work"]).ok();
        let _either = code(&tmux);
        assert_sane(&tmux, &before);
        assert_eq!(sessions(&cli), "default:0\nfresh:0");
    });
    promises.keep("a machine that dies under a session leaves a sane terminal", || {
        attach("");
        tmux.wait_for("[default]", GUEST);
        cli.run(&["stop", SHED]).ok();
        tmux.wait_until("the shell's prompt", GUEST, |screen| screen.trim_end().ends_with("host$"));
        assert_sane(&tmux, &before);
    });
    promises.keep("nothing is left", || {
        cli.delete(SHED);
        drop(server);
        drop(tmux);
        stage.assert_only(&[]);
    });
    promises.finish();
}
