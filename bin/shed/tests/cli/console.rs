//! `shed console` and `shed attach` on a terminal of which the test is the user.

use std::{process::Child, sync::mpsc};

use rustix::process::Signal;
use shed_api::ErrorCode;
use shed_protocol::{ExitStatus, FrameKind};

use crate::{
    exec::{PATIENCE, signal, wait},
    pty::Pty,
    ssh_peer::{SshPeer, Stage},
    user::User,
};

struct Play {
    pty: Pty,
    _user: User,
    child: Child,
    peer: SshPeer,
}

fn play(arguments: &[&str], scene: impl FnOnce(&mut Stage) + Send + 'static) -> Play {
    let peer = SshPeer::play(move |stage| {
        assert!(stage.request.tty);
        assert_eq!((stage.request.rows, stage.request.cols), (40, 120));
        scene(stage);
    });
    let (pty, user) = (Pty::open(), User::of_peer(&peer));
    let child = pty.spawn(&user, arguments);
    Play { pty, _user: user, child, peer }
}

#[test]
fn a_console_is_a_login_shell_with_this_terminal() {
    let mut play = play(&["console", "web"], |stage| {
        assert_eq!(stage.request.cmd, Vec::<String>::new());
        assert_eq!(stage.request.env, ["TERM=vt220"]);
        stage.send(FrameKind::Data, b"$ ");
        let mut keys = Vec::new();
        while keys.len() < 5 {
            keys.extend_from_slice(&stage.next().unwrap().payload);
        }
        assert_eq!(keys, b"a\x03\x1a\x04\r", "Ctrl-C, Ctrl-Z and Ctrl-D are keys");
        stage.exit(&ExitStatus::exited(7));
    });
    play.pty.shows("$ ");
    assert!(play.pty.is_raw());
    play.pty.types(b"a\x03\x1a\x04\r");
    assert_eq!(wait(&mut play.child), Some(7));
    assert!(!play.pty.is_raw());
    play.peer.end();
}

#[test]
fn attach_shows_a_session_or_makes_it() {
    for (arguments, cmd) in [
        (&["attach", "web"][..], &["tmux", "new-session", "-A", "-s", "default"][..]),
        (&["attach", "web", "-S", "agent"], &["tmux", "new-session", "-A", "-s", "agent"]),
        (&["attach", "--new", "-S", "agent", "web"], &["tmux", "new-session", "-s", "agent"]),
    ] {
        let mut play = play(arguments, move |stage| {
            assert_eq!(stage.request.cmd, cmd);
            stage.exit(&ExitStatus::exited(0));
        });
        assert_eq!(wait(&mut play.child), Some(0));
        play.peer.end();
    }
}

#[test]
fn a_session_that_should_be_new_and_a_missing_tmux_are_errors() {
    let mut exists = play(&["attach", "web", "-S", "agent", "--new"], |stage| {
        stage.send(FrameKind::Data, b"duplicate session: agent\r\n");
        stage.exit(&ExitStatus::exited(1));
    });
    exists.pty.shows("error: shed web has a session agent already");
    exists.pty.shows("shed attach web -S agent");
    assert_eq!(wait(&mut exists.child), Some(1));
    exists.peer.end();
    let mut missing = play(&["attach", "web"], |stage| {
        stage.exit(&ExitStatus::failed(127, "tmux: there is no such command"));
    });
    missing.pty.shows("error: shed web has no tmux");
    assert_eq!(wait(&mut missing.child), Some(1));
    missing.peer.end();
}

#[test]
fn without_a_terminal_there_is_neither() {
    for command in ["console", "attach"] {
        User::new()
            .shed(&[command, "web"])
            .exits(2)
            .says("needs a terminal")
            .says("shed exec web -- COMMAND");
    }
    User::new().shed(&["attach", "web", "-S", "a b"]).exits(2);
}

#[test]
fn a_shed_that_is_not_there_has_the_exit_code_of_that() {
    let peer = SshPeer::refuse(ErrorCode::ShedNotFound, "there is no shed web");
    let (pty, user) = (Pty::open(), User::of_peer(&peer));
    let mut child = pty.spawn(&user, &["console", "web"]);
    pty.shows("error: there is no shed web");
    assert_eq!(wait(&mut child), Some(4));
    assert!(!pty.is_raw());
    peer.end();
}

#[test]
fn what_the_server_says_while_a_shed_starts_are_lines_on_the_terminal() {
    let mut play = play(&["console", "web"], |stage| {
        stage.send(FrameKind::Stderr, b"shed web is starting\nalmost\n");
        stage.exit(&ExitStatus::exited(0));
    });
    play.pty.shows("shed web is starting\r\nalmost\r\n");
    assert_eq!(wait(&mut play.child), Some(0));
    play.peer.end();
}

#[test]
fn a_shed_that_starts_is_not_waited_for_after_an_interrupt() {
    let mut play = play(&["console", "web"], |stage| {
        stage.send(FrameKind::Stderr, b"shed web is starting\n");
        assert!(stage.next_control().is_none(), "the client hangs up");
    });
    play.pty.shows("shed web is starting\r\n");
    assert!(!play.pty.is_raw(), "Ctrl-C is a signal still");
    // The child is in no session of this terminal, so the key itself reaches nobody.
    signal(&play.child, Signal::INT);
    assert_eq!(wait(&mut play.child), Some(130));
    play.peer.end();
    let mut runs = self::play(&["console", "web"], |stage| {
        stage.send(FrameKind::Stderr, b"shed web is starting\n");
        stage.send(FrameKind::Data, b"$ ");
        let frame = stage.next().unwrap();
        assert_eq!(frame.payload.as_ref(), b"\x03");
        stage.exit(&ExitStatus::exited(0));
    });
    runs.pty.shows("$ ");
    assert!(runs.pty.is_raw());
    runs.pty.types(b"\x03");
    assert_eq!(wait(&mut runs.child), Some(0));
    runs.peer.end();
}

#[test]
fn the_escape_leaves_although_nothing_answers() {
    let (over, end) = mpsc::channel::<()>();
    let mut play = play(&["console", "web"], move |stage| {
        stage.send(FrameKind::Data, b"$ ");
        end.recv_timeout(PATIENCE).unwrap();
    });
    play.pty.shows("$ ");
    play.pty.types(b"ls\r~.");
    play.pty.shows("error: the shell in shed web was left");
    assert_eq!(wait(&mut play.child), Some(1));
    assert!(!play.pty.is_raw());
    over.send(()).unwrap();
    play.peer.end();
}

#[test]
fn a_killed_connection_leaves_a_terminal_to_work_with_and_a_line_for_the_message() {
    let mut play = play(&["attach", "web"], |stage| {
        stage.send(FrameKind::Data, b"\x1b[?1049h\x1b[?25l\x1b[?1002h\x1b[?2004hhalf a screen");
        // The client has read it when it answers a size.
        stage.next().unwrap();
        stage.cut();
    });
    play.pty.shows("half a screen");
    play.pty.types(b"x");
    let after = play.pty.shows("error: lost the session in shed web");
    assert!(
        after.starts_with("\x1b[?25h\x1b[m\x1b7\x1b[r\x1b8\x1b[?1002l\x1b[?2004l\x1b[?1049l"),
        "{after:?}"
    );
    assert_eq!(wait(&mut play.child), Some(3));
    assert!(!play.pty.is_raw());
    play.peer.end();
}

#[test]
fn a_connection_that_is_lost_in_a_line_ends_the_line() {
    let mut play = play(&["console", "web"], |stage| stage.send(FrameKind::Data, b"$ sleep"));
    assert!(play.pty.shows("error: lost the shell").contains("$ sleep\r\nerror: "));
    assert_eq!(wait(&mut play.child), Some(3));
    play.peer.end();
}

#[test]
fn signals_that_end_the_client_leave_the_terminal_as_it_was() {
    for (number, name) in [(15, Signal::TERM), (1, Signal::HUP), (2, Signal::INT)] {
        let mut play = play(&["attach", "web"], |stage| {
            stage.send(FrameKind::Data, b"\x1b[?1049hscreen");
            assert!(stage.next_control().is_none());
        });
        play.pty.shows("screen");
        assert!(play.pty.is_raw());
        signal(&play.child, name);
        play.pty.shows("\x1b[?1049l");
        assert_eq!(wait(&mut play.child), Some(128 + number));
        assert!(!play.pty.is_raw());
        play.peer.end();
    }
}
