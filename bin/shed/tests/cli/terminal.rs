//! `shed exec` on a terminal of which the test is the user.

use std::{process::Child, sync::mpsc};

use rustix::process::Signal;
use shed_protocol::{ExitStatus, FrameKind, Resize};

use crate::{
    exec::{PATIENCE, flood, signal, wait},
    pty::Pty,
    ssh_peer::{SshPeer, Stage},
    user::User,
};

/// Runs a command on a terminal that is raw while `scene` plays.
fn play(scene: impl FnOnce(&mut Stage) + Send + 'static) -> (Pty, User, Child, SshPeer) {
    let peer = SshPeer::play(move |stage| {
        assert!(stage.request.tty);
        assert_eq!((stage.request.rows, stage.request.cols), (40, 120));
        assert_eq!(stage.request.env, ["TERM=vt220"]);
        stage.send(FrameKind::Data, b"begun");
        scene(stage);
    });
    let (pty, user) = (Pty::open(), User::of_peer(&peer));
    assert!(!pty.is_raw());
    let child = pty.spawn(&user, &["exec", "web", "--", "prog", "x"]);
    pty.shows("begun");
    (pty, user, child, peer)
}

#[test]
fn keys_go_to_the_command_one_by_one_and_the_terminal_is_itself_again() {
    let (pty, _user, mut child, peer) = play(|stage| {
        let mut keys = Vec::new();
        while keys.len() < 3 {
            let frame = stage.next().unwrap();
            assert_eq!(frame.kind, FrameKind::Data);
            keys.extend_from_slice(&frame.payload);
        }
        assert_eq!(keys, b"a\x03\r", "Ctrl-C is a key, and so is the return key");
        stage.send(FrameKind::Data, b"bye\r\n");
        stage.exit(&ExitStatus::exited(4));
    });
    assert!(pty.is_raw());
    pty.types(b"a\x03\r");
    assert_eq!(pty.shows("bye\r\n"), "bye\r\n", "no echo");
    assert_eq!(wait(&mut child), Some(4));
    assert!(!pty.is_raw());
    peer.end();
}

#[test]
fn a_new_size_of_the_window_is_passed_on() {
    let (pty, _user, mut child, peer) = play(|stage| {
        let frame = stage.next_control().unwrap();
        assert_eq!(frame.parse::<Resize>().unwrap(), Resize { rows: 50, cols: 200 });
        stage.exit(&ExitStatus::exited(0));
    });
    pty.resize(50, 200);
    // The kernel tells only the session whose controlling terminal this is; the child has none.
    signal(&child, Signal::WINCH);
    assert_eq!(wait(&mut child), Some(0));
    peer.end();
}

#[test]
fn the_terminal_is_restored_when_the_connection_breaks() {
    let (pty, _user, mut child, peer) = play(|_| {});
    assert_eq!(wait(&mut child), Some(255));
    assert!(!pty.is_raw());
    assert!(pty.shows("shed list").contains("lost the command in shed web"));
    peer.end();
}

#[test]
fn the_terminal_is_restored_when_a_signal_ends_the_client() {
    for (number, signal_name) in [(15, Signal::TERM), (1, Signal::HUP), (2, Signal::INT)] {
        let (pty, _user, mut child, peer) = play(|stage| assert!(stage.next_control().is_none()));
        assert!(pty.is_raw());
        signal(&child, signal_name);
        assert_eq!(wait(&mut child), Some(128 + number));
        assert!(!pty.is_raw());
        peer.end();
    }
}

#[test]
fn keys_reach_a_command_while_the_terminal_takes_no_output() {
    let (ready, stuck) = mpsc::channel();
    let (pty, _user, mut child, peer) = play(move |stage| {
        flood(stage);
        ready.send(()).unwrap();
        let frame = stage.next().unwrap();
        assert_eq!((frame.kind, frame.payload.as_ref()), (FrameKind::Data, &b"\x03"[..]));
        stage.cut();
    });
    // The test reads nothing, as a terminal that is stopped.
    stuck.recv_timeout(PATIENCE).unwrap();
    pty.types(b"\x03");
    peer.end();
    pty.drains_to("shed list --server test\r\n");
    assert_eq!(wait(&mut child), Some(255));
    assert!(!pty.is_raw());
}

#[test]
fn without_a_terminal_wanted_none_is_touched() {
    let peer = SshPeer::play(|stage| {
        assert!(!stage.request.tty && stage.request.env.is_empty());
        stage.exit(&ExitStatus::exited(0));
    });
    let (pty, user) = (Pty::open(), User::of_peer(&peer));
    let mut child = pty.spawn(&user, &["exec", "-T", "web", "--", "prog", "x"]);
    assert_eq!(wait(&mut child), Some(0), "although the terminal on stdin stays open");
    peer.end();
}
