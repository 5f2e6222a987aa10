//! `shed exec` against peers that do on purpose what a real agent does seldom. That it runs commands in a real shed
//! is tested in vm-tests.

use std::{
    fs::File,
    io::{Read, Write},
    process::{Child, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use shed_protocol::{ExitStatus, FrameKind, Signal as SignalFrame};

use crate::{
    ssh_peer::{SshPeer, Stage},
    user::{Ran, User},
};

/// How long a client may take to notice something, on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

fn run(arguments: &[&str], scene: impl FnOnce(&mut Stage) + Send + 'static) -> Ran {
    let peer = SshPeer::play(scene);
    let ran = User::of_peer(&peer).shed(arguments);
    peer.end();
    ran
}

fn spawn(user: &User, arguments: &[&str]) -> Child {
    user.command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn output_goes_where_it_belongs_and_the_exit_code_is_passed_on() {
    let ran = run(&["exec", "web", "--", "prog", "-x", "$A"], |stage| {
        assert_eq!(stage.request.cmd, ["prog", "-x", "$A"]);
        assert!(!stage.request.tty);
        stage.send(FrameKind::Data, b"a\n");
        stage.send(FrameKind::Stderr, b"b\n");
        // A probe and a frame of a later protocol change nothing.
        stage.send(FrameKind::Data, b"");
        stage.stream.write_all(&[0xee, 0, 0, 0, 1, 9]).unwrap();
        stage.exit(&ExitStatus::exited(7));
    });
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (7, "a\n", "b\n"));
}

#[test]
fn what_is_asked_for_reaches_the_agent() {
    run(&["exec", "-e", "A=1", "-e", "B=x y", "-w", "/tmp", "-u", "root", "web", "cd x; ls"], |stage| {
        let request = &stage.request;
        assert_eq!(request.cmd, ["bash", "-lc", "cd x; ls"]);
        assert_eq!(request.env, ["A=1", "B=x y"]);
        assert_eq!((request.working_dir.as_str(), request.user.as_str()), ("/tmp", "root"));
        stage.exit(&ExitStatus::exited(0));
    })
    .exits(0);
}

#[test]
fn input_arrives_whole_and_its_end_is_told() {
    let data: Vec<u8> = (0..=255u8).cycle().take(5_000_001).collect();
    let expected = data.clone();
    let peer = SshPeer::play(move |stage| {
        let mut seen = Vec::new();
        loop {
            let frame = stage.next().expect("the end of the input is told by a frame");
            match frame.kind {
                FrameKind::Data => seen.extend_from_slice(&frame.payload),
                FrameKind::StdinEof => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(seen == expected, "{} of {} bytes, or others", seen.len(), expected.len());
        for piece in seen.chunks(100_000) {
            stage.send(FrameKind::Data, piece);
        }
        stage.exit(&ExitStatus::exited(0));
    });
    let user = User::of_peer(&peer);
    let mut child = spawn(&user, &["exec", "web", "--", "cat", "-"]);
    let mut stdin = child.stdin.take().unwrap();
    let copy = data.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&copy));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    peer.end();
    assert!(
        output.stdout == data && output.status.success(),
        "{:?}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_end_of_the_command_is_the_end_although_stdin_stays_open() {
    let peer = SshPeer::play(|stage| stage.exit(&ExitStatus::exited(3)));
    let user = User::of_peer(&peer);
    let mut child = spawn(&user, &["exec", "web", "--", "prog", "x"]);
    let _open = child.stdin.take().unwrap();
    assert_eq!(wait(&mut child), Some(3));
    peer.end();
}

#[test]
fn a_peer_that_reads_nothing_does_not_keep_the_end_from_being_seen() {
    let (done, over) = mpsc::channel::<()>();
    let peer = SshPeer::play(move |stage| {
        stage.exit(&ExitStatus::exited(5));
        // The connection stays open until the client is gone.
        over.recv_timeout(PATIENCE).unwrap();
    });
    let user = User::of_peer(&peer);
    let child = user
        .command(&["exec", "web", "--", "prog", "x"])
        .stdin(File::open("/dev/zero").unwrap())
        .stdout(Stdio::null())
        .spawn();
    assert_eq!(wait(&mut child.unwrap()), Some(5));
    done.send(()).unwrap();
    peer.end();
}

#[test]
fn a_connection_that_ends_before_the_command_is_an_error_of_its_own() {
    let ran = run(&["exec", "web", "--", "prog", "x"], |stage| stage.send(FrameKind::Data, b"half"));
    assert_eq!(ran.stdout, "half", "what came is still written");
    ran.exits(255).says("lost the command in shed web").says("hint: ");
}

#[test]
fn rubbish_instead_of_frames_is_an_error_and_no_output() {
    let ran = run(&["exec", "web", "--", "prog", "x"], |stage| {
        stage.stream.write_all(&[0x05, 0xff, 0xff, 0xff, 0xff]).unwrap();
        let _until_the_client_hangs_up = stage.stream.read_to_end(&mut Vec::new());
    });
    assert_eq!(ran.stdout, "");
    ran.exits(255).says("at most 1048576");
}

#[test]
fn what_the_agent_could_not_run_is_said_with_its_reason() {
    let missing = ExitStatus::failed(127, "nosuch: there is no such command");
    let ran = run(&["exec", "web", "--", "nosuch", "x"], {
        let missing = missing.clone();
        move |stage| stage.exit(&missing)
    });
    assert!(ran.stderr.starts_with("error: nosuch: there is no such command\nhint: "), "{}", ran.stderr);
    assert!(ran.stderr.ends_with("shed exec web 'nosuch …'\n"), "{}", ran.stderr);
    ran.exits(127);
    run(&["exec", "web", "ls | wc"], move |stage| stage.exit(&missing)).exits(127).says("sh -c 'LINE'");
}

#[test]
fn the_first_interrupt_goes_to_the_command_and_the_second_ends_the_client() {
    let (ready, seen) = mpsc::channel();
    let peer = SshPeer::play(move |stage| {
        stage.send(FrameKind::Data, b"x");
        let frame = stage.next_control().expect("the signal is passed on");
        assert_eq!(frame.parse::<SignalFrame>().unwrap().signal, 2);
        ready.send(()).unwrap();
        assert!(stage.next_control().is_none(), "the second one hangs up");
    });
    let user = User::of_peer(&peer);
    let mut child = spawn(&user, &["exec", "web", "--", "prog", "x"]);
    let _open = child.stdin.take();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    signal(&child, Signal::INT);
    seen.recv_timeout(PATIENCE).unwrap();
    signal(&child, Signal::INT);
    assert_eq!(wait(&mut child), Some(130));
    peer.end();
}

#[test]
fn a_command_that_a_forwarded_signal_ends_has_the_exit_code_of_that() {
    let peer = SshPeer::play(move |stage| {
        stage.send(FrameKind::Data, b"x");
        let frame = stage.next_control().expect("the signal is passed on");
        assert_eq!(frame.parse::<SignalFrame>().unwrap().signal, 15);
        stage.exit(&ExitStatus::signalled(15));
    });
    let user = User::of_peer(&peer);
    let mut child = spawn(&user, &["exec", "web", "--", "prog", "x"]);
    let _open = child.stdin.take();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    signal(&child, Signal::TERM);
    assert_eq!(wait(&mut child), Some(143));
    peer.end();
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let peer = SshPeer::play(|stage| {
        stage.send(FrameKind::Data, b"line\n");
        // Writes until the client hangs up, as `yes` does.
        let frame = [&[0x05, 0, 0, 0, 5][..], b"line\n"].concat();
        while stage.stream.write_all(&frame).is_ok() {}
    });
    let user = User::of_peer(&peer);
    let mut child = spawn(&user, &["exec", "web", "--", "yes", "line"]);
    let mut first = [0; 5];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(141), ""));
    peer.end();
}

#[test]
fn a_command_with_a_terminal_but_piped_input_is_told_the_end_by_a_key() {
    run(&["exec", "-t", "web", "--", "prog", "x"], |stage| {
        assert!(stage.request.tty);
        let frame = stage.next().unwrap();
        assert_eq!((frame.kind, frame.payload.as_ref()), (FrameKind::Data, &[4][..]));
        assert_eq!(stage.next().unwrap().kind, FrameKind::StdinEof);
        stage.exit(&ExitStatus::exited(0));
    })
    .exits(0);
}

#[test]
fn ten_megabytes_pass_both_ways_at_once_and_unchanged() {
    let peer = SshPeer::play(|stage| {
        loop {
            let frame = stage.next().unwrap();
            match frame.kind {
                FrameKind::Data => stage.send(FrameKind::Data, &frame.payload),
                FrameKind::StdinEof => break,
                other => panic!("{other:?}"),
            }
        }
        stage.exit(&ExitStatus::exited(0));
    });
    let user = User::of_peer(&peer);
    let mut child = spawn(&user, &["exec", "web", "--", "cat", "-"]);
    // No two pieces are alike.
    let data: Vec<u8> =
        (0..2_500_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let (mut stdin, copy) = (child.stdin.take().unwrap(), data.clone());
    let writer = std::thread::spawn(move || stdin.write_all(&copy));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    peer.end();
    assert!(output.status.success(), "{:?}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == data, "{} of {} bytes, or others", output.stdout.len(), data.len());
}

/// Sends output until nobody takes any more, and goes on with that beside what follows.
pub(crate) fn flood(stage: &Stage) {
    let mut stream = stage.stream.try_clone().unwrap();
    let piece = [&[FrameKind::Data.byte(), 0, 0, 0x40, 0][..], &[b'x'; 0x4000]].concat();
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut rest = 0;
    while let Ok(count) = stream.write(&piece[rest..]) {
        rest = (rest + count) % piece.len();
    }
    stream.set_write_timeout(None).unwrap();
    let _flood = std::thread::spawn(move || {
        while let Ok(count) = stream.write(&piece[rest..]) {
            rest = (rest + count) % piece.len();
        }
    });
}

#[test]
fn a_command_whose_output_nobody_takes_can_still_be_interrupted() {
    let (ready, stuck) = mpsc::channel();
    let peer = SshPeer::play(move |stage| {
        flood(stage);
        ready.send(()).unwrap();
        let frame = stage.next_control().expect("the signal is passed on");
        assert_eq!(frame.parse::<SignalFrame>().unwrap().signal, 2);
        ready.send(()).unwrap();
        assert!(stage.next_control().is_none(), "the second one hangs up");
    });
    let user = User::of_peer(&peer);
    let mut child = spawn(&user, &["exec", "web", "--", "yes", "x"]);
    let (_input, _unread) = (child.stdin.take(), child.stdout.take());
    stuck.recv_timeout(PATIENCE).unwrap();
    signal(&child, Signal::INT);
    stuck.recv_timeout(PATIENCE).unwrap();
    signal(&child, Signal::INT);
    assert_eq!(wait(&mut child), Some(130));
    peer.end();
}

/// Waits for the child's end, for as long as patience lasts.
pub(crate) fn wait(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("shed did not end");
        }
        std::thread::yield_now();
    }
}
