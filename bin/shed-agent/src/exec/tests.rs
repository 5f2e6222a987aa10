//! The whole service over an in-memory stream, with real processes.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use shed_protocol::{ExecRequest, ExitStatus, Frame, FrameCodec, FrameKind, ImageConfig, Resize, Signal};
use tokio::{
    io::{DuplexStream, duplex},
    time::{Instant, timeout},
};
use tokio_util::codec::Framed;

use super::*;

const DEADLINE: Duration = Duration::from_secs(30);

type Host = Framed<DuplexStream, FrameCodec>;

fn shell(script: &str) -> ExecRequest {
    ExecRequest {
        cmd: vec!["sh".into(), "-c".into(), script.into()],
        working_dir: "/".into(),
        ..Default::default()
    }
}

async fn start(request: &ExecRequest) -> Host {
    start_with(ImageConfig::default(), request).await
}

/// Starts a command in a machine whose image has this config.
async fn start_with(image: ImageConfig, request: &ExecRequest) -> Host {
    let (ours, theirs) = duplex(256 * 1024);
    let state = State::new();
    state.set_image(image);
    tokio::spawn(async move { serve(theirs, &state).await });
    let mut host = Framed::new(ours, FrameCodec);
    host.send(Frame::json(FrameKind::ExecRequest, request)).await.unwrap();
    host
}

#[derive(Debug, Default)]
struct Outcome {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    status: Option<ExitStatus>,
}

impl Outcome {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    fn code(&self) -> i32 {
        self.status.as_ref().expect("a status").code
    }
}

/// Reads to the end of the stream.
async fn collect(host: &mut Host) -> Outcome {
    let mut outcome = Outcome::default();
    let all = async {
        while let Some(frame) = host.next().await {
            let frame = frame.unwrap();
            assert!(outcome.status.is_none(), "{:?} after the status", frame.kind);
            match frame.kind {
                FrameKind::Data => outcome.stdout.extend_from_slice(&frame.payload),
                FrameKind::Stderr => outcome.stderr.extend_from_slice(&frame.payload),
                FrameKind::ExitStatus => outcome.status = Some(frame.parse().unwrap()),
                other => panic!("unexpected {other:?}"),
            }
        }
    };
    timeout(DEADLINE, all).await.expect("the command ends in time");
    outcome
}

async fn run(request: &ExecRequest) -> Outcome {
    let mut host = start(request).await;
    host.send(Frame::empty(FrameKind::StdinEof)).await.unwrap();
    collect(&mut host).await
}

/// Reads output until it holds `text`.
async fn wait_for(host: &mut Host, text: &str) {
    let mut seen = String::new();
    let reading = async {
        while !seen.contains(text) {
            let frame = host.next().await.expect("output before the end").unwrap();
            seen.push_str(&String::from_utf8_lossy(&frame.payload));
        }
    };
    timeout(DEADLINE, reading).await.unwrap_or_else(|_| panic!("{text:?} came in time, not only {seen:?}"));
}

fn is_alive(pid: &str) -> bool {
    // A zombie of a test's own is not alive.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

async fn wait_until_gone(pid: &str) {
    let deadline = Instant::now() + DEADLINE;
    while is_alive(pid) {
        assert!(Instant::now() < deadline, "process {pid} is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_exit_code_is_passed_on() {
    assert_eq!(run(&shell("exit 7")).await.status, Some(ExitStatus::exited(7)));
    assert_eq!(run(&shell("exit 0")).await.status, Some(ExitStatus::exited(0)));
    assert_eq!(run(&shell("kill -9 $$")).await.status, Some(ExitStatus::signalled(9)));
}

#[tokio::test]
async fn stdout_and_stderr_stay_apart() {
    let outcome = run(&shell("echo a; echo b >&2")).await;
    assert_eq!((&outcome.stdout[..], &outcome.stderr[..]), (&b"a\n"[..], &b"b\n"[..]));
}

#[tokio::test]
async fn what_cannot_be_run_says_so() {
    let request =
        |cmd: &str| ExecRequest { cmd: vec![cmd.into()], working_dir: "/".into(), ..Default::default() };
    for (cmd, code) in [("no-such-command", 127), ("/no/such/file", 127), ("/etc/passwd", 126), ("/", 126)] {
        let status = run(&request(cmd)).await.status.unwrap();
        assert_eq!(status.code, code, "{cmd}");
        assert!(status.error.is_some_and(|text| !text.is_empty()), "{cmd}");
    }
    let unknown = ExecRequest { user: "no-such-user".into(), ..request("true") };
    assert_eq!(run(&unknown).await.code(), 126);
}

#[tokio::test]
async fn a_bad_request_is_answered() {
    for frame in [Frame::new(FrameKind::ExecRequest, "no json".into()), Frame::empty(FrameKind::Data)] {
        let (ours, theirs) = duplex(4096);
        tokio::spawn(async move { serve(theirs, &State::new()).await });
        let mut host = Framed::new(ours, FrameCodec);
        host.send(frame).await.unwrap();
        assert_eq!(collect(&mut host).await.code(), 1);
    }
}

#[tokio::test]
async fn much_data_comes_back_as_it_went() {
    let host = start(&ExecRequest { cmd: vec!["cat".into()], ..Default::default() }).await;
    let sent: Vec<u8> = (0..20_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut sink, mut stream) = host.split();
    let copy = sent.clone();
    tokio::spawn(async move {
        for piece in copy.chunks(60_001) {
            sink.send(Frame::new(FrameKind::Data, Bytes::copy_from_slice(piece))).await.unwrap();
        }
        sink.send(Frame::empty(FrameKind::StdinEof)).await.unwrap();
        // Keeps the stream open until the test has read everything.
        std::future::pending::<()>().await;
    });
    let mut received = Vec::new();
    let reading = async {
        while let Some(frame) = stream.next().await {
            let frame = frame.unwrap();
            match frame.kind {
                FrameKind::Data => received.extend_from_slice(&frame.payload),
                FrameKind::ExitStatus => return frame.parse::<ExitStatus>().unwrap(),
                other => panic!("unexpected {other:?}"),
            }
        }
        panic!("no status");
    };
    let status = timeout(DEADLINE, reading).await.expect("cat ends in time");
    assert_eq!(status.code, 0);
    assert!(received == sent);
}

#[tokio::test]
async fn output_before_the_exit_is_whole_even_for_a_slow_host() {
    let mut host = start(&shell("head -c 200000 /dev/zero; head -c 100000 /dev/zero >&2")).await;
    host.send(Frame::empty(FrameKind::StdinEof)).await.unwrap();
    // Longer than the drain after the exit may take.
    tokio::time::sleep(timeouts::EXEC_DRAIN + Duration::from_millis(500)).await;
    let outcome = collect(&mut host).await;
    assert_eq!((outcome.stdout.len(), outcome.stderr.len(), outcome.code()), (200_000, 100_000, 0));
}

#[tokio::test]
async fn a_daemon_that_holds_the_pipe_does_not_hold_the_end() {
    let begun = Instant::now();
    let outcome = run(&shell("echo $$; sleep 60 & echo $!")).await;
    assert_eq!(outcome.code(), 0);
    assert!(begun.elapsed() < Duration::from_secs(10));
    let daemon = outcome.text().lines().nth(1).unwrap().to_owned();
    assert!(is_alive(&daemon), "what runs in the background is left alone");
    std::process::Command::new("kill").arg(daemon).status().unwrap();
}

#[tokio::test]
async fn a_signal_reaches_the_whole_group() {
    let mut host = start(&shell("sleep 60 & echo $!; wait")).await;
    let frame = timeout(DEADLINE, host.next()).await.unwrap().unwrap().unwrap();
    let child = String::from_utf8_lossy(&frame.payload).trim().to_owned();
    host.send(Frame::json(FrameKind::Signal, &Signal { signal: 99 })).await.unwrap();
    host.send(Frame::json(FrameKind::Signal, &Signal { signal: 15 })).await.unwrap();
    assert_eq!(collect(&mut host).await.status, Some(ExitStatus::signalled(15)));
    wait_until_gone(&child).await;
}

#[tokio::test]
async fn a_signal_gets_past_stdin_that_nobody_reads() {
    let mut host = start(&shell("echo up; exec sleep 60")).await;
    wait_for(&mut host, "up").await;
    for _ in 0..30 {
        host.send(Frame::new(FrameKind::Data, vec![0; 100_000].into())).await.unwrap();
    }
    host.send(Frame::json(FrameKind::Signal, &Signal { signal: 2 })).await.unwrap();
    assert_eq!(collect(&mut host).await.status, Some(ExitStatus::signalled(2)));
}

#[tokio::test]
async fn the_end_of_stdin_is_passed_on_after_all_of_it() {
    let mut host = start(&shell("wc -c")).await;
    for _ in 0..10 {
        host.send(Frame::new(FrameKind::Data, vec![0; 100_000].into())).await.unwrap();
    }
    host.send(Frame::empty(FrameKind::StdinEof)).await.unwrap();
    assert_eq!(collect(&mut host).await.text().trim(), "1000000");
}

#[tokio::test]
async fn a_command_that_closes_its_stdin_is_no_trouble() {
    let mut host = start(&shell("exec <&-; sleep 0.2; echo done")).await;
    for _ in 0..100 {
        host.send(Frame::new(FrameKind::Data, vec![0; 100_000].into())).await.unwrap();
    }
    assert_eq!(collect(&mut host).await.text(), "done\n");
}

#[tokio::test]
async fn a_host_that_goes_away_ends_the_command() {
    let mut host = start(&shell("echo $$; exec sleep 60")).await;
    let frame = timeout(DEADLINE, host.next()).await.unwrap().unwrap().unwrap();
    let pid = String::from_utf8_lossy(&frame.payload).trim().to_owned();
    assert!(is_alive(&pid));
    drop(host);
    wait_until_gone(&pid).await;
}

#[tokio::test]
async fn a_command_that_ignores_the_hang_up_is_killed() {
    let mut host = start(&shell("trap '' HUP; echo $$; while :; do sleep 0.1; done")).await;
    let frame = timeout(DEADLINE, host.next()).await.unwrap().unwrap().unwrap();
    let pid = String::from_utf8_lossy(&frame.payload).trim().to_owned();
    let begun = Instant::now();
    drop(host);
    wait_until_gone(&pid).await;
    assert!(begun.elapsed() >= timeouts::EXEC_HANGUP_GRACE);
}

#[tokio::test]
async fn a_terminal_is_one_with_its_size_and_follows_a_new_one() {
    let script =
        "tty >/dev/null && stty size; stty -echo; echo ready; read line; stty size; echo \"[$line]\"";
    let request = ExecRequest { tty: true, rows: 33, cols: 111, ..shell(script) };
    let mut host = start(&request).await;
    wait_for(&mut host, "33 111\r\nready").await;
    host.send(Frame::json(FrameKind::Resize, &Resize { rows: 50, cols: 200 })).await.unwrap();
    host.send(Frame::empty(FrameKind::StdinEof)).await.unwrap();
    host.send(Frame::new(FrameKind::Data, "typed\n".into())).await.unwrap();
    let outcome = collect(&mut host).await;
    assert!(outcome.text().ends_with("50 200\r\n[typed]\r\n"), "{:?}", outcome.text());
    assert!(outcome.stderr.is_empty());
    assert_eq!(outcome.code(), 0);
}

#[tokio::test]
async fn a_terminal_without_a_size_has_the_usual_one_and_is_the_controlling_one() {
    let request = ExecRequest { tty: true, ..shell("stty size </dev/tty; echo $TERM >&2") };
    assert_eq!(run(&request).await.text(), "24 80\r\nxterm-256color\r\n");
}

#[tokio::test]
async fn a_terminals_last_words_are_not_lost() {
    for _ in 0..20 {
        let request = ExecRequest { tty: true, ..shell("seq 1 3000") };
        let outcome = run(&request).await;
        assert!(outcome.text().ends_with("\r\n3000\r\n"), "{} bytes", outcome.stdout.len());
    }
}

#[tokio::test]
async fn a_grandchild_on_the_terminal_does_not_hold_the_end() {
    let begun = Instant::now();
    let request = ExecRequest { tty: true, ..shell("trap '' HUP; sleep 20 & echo $!") };
    let outcome = run(&request).await;
    assert_eq!(outcome.code(), 0);
    assert!(begun.elapsed() < Duration::from_secs(5));
    std::process::Command::new("kill").arg(outcome.text().trim()).status().unwrap();
}

#[tokio::test]
async fn ctrl_c_on_a_terminal_interrupts() {
    let request = ExecRequest {
        tty: true,
        ..shell("trap 'echo int; exit 5' INT; echo up; while :; do sleep 0.1; done")
    };
    let mut host = start(&request).await;
    wait_for(&mut host, "up").await;
    host.send(Frame::new(FrameKind::Data, "\x03".into())).await.unwrap();
    assert_eq!(collect(&mut host).await.code(), 5);
}

#[tokio::test]
async fn a_command_starts_clean() {
    let script = "umask; grep -E '^Sig(Blk|Ign)' /proc/self/status; cat /proc/self/oom_score_adj; pwd; ls /proc/self/fd";
    let outcome = run(&shell(script)).await;
    let text = outcome.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "0022");
    let signals = |line: &str| u64::from_str_radix(line.rsplit('\t').next().unwrap(), 16).unwrap();
    // 32 and 33 belong to the C library, which lets nobody change them.
    assert_eq!((signals(lines[1]), signals(lines[2]) & !0x1_8000_0000), (0, 0), "{text}");
    assert_eq!(lines[3..5], ["0", "/"]);
    // 0 to 2 and ls's own.
    assert_eq!(lines.len() - 5, 4, "{text}");
}

fn image() -> ImageConfig {
    ImageConfig {
        env: ["A=image", "B=image", "PATH=/usr/local/image:/usr/bin:/bin"].map(str::to_owned).into(),
        entrypoint: ["sh", "-c", "echo $A $B $PATH; pwd; echo \"$@\"", "entry"].map(str::to_owned).into(),
        cmd: ["its", "own"].map(str::to_owned).into(),
        working_dir: "/usr".into(),
        ..ImageConfig::default()
    }
}

async fn run_with(image: ImageConfig, request: &ExecRequest) -> Outcome {
    let mut host = start_with(image, request).await;
    host.send(Frame::empty(FrameKind::StdinEof)).await.unwrap();
    collect(&mut host).await
}

#[tokio::test]
async fn the_images_program_runs_with_its_variables_and_where_it_says() {
    let entrypoint = ExecRequest { entrypoint: true, env: vec!["B=request".into()], ..Default::default() };
    let own = run_with(image(), &entrypoint).await;
    assert_eq!(own.text(), "image request /usr/local/image:/usr/bin:/bin\n/usr\nits own\n", "{own:?}");
    let with = ExecRequest { cmd: vec!["a".into(), "$(id)".into()], ..entrypoint };
    assert!(run_with(image(), &with).await.text().ends_with("\n/usr\na $(id)\n"));
}

#[tokio::test]
async fn a_command_has_the_images_variables_and_directory_unless_it_asks_for_others() {
    let request = ExecRequest { working_dir: String::new(), ..shell("echo $A $B; pwd") };
    assert_eq!(run_with(image(), &request).await.text(), "image image\n/usr\n");
    let request = ExecRequest { env: vec!["A=asked".into()], ..shell("echo $A $B; pwd") };
    assert_eq!(run_with(image(), &request).await.text(), "asked image\n/\n");
    // What is looked up is looked up in the image's PATH.
    let elsewhere = ImageConfig { env: vec!["PATH=/nowhere".into()], ..ImageConfig::default() };
    assert_eq!(run_with(elsewhere, &shell("true")).await.code(), 127);
}

#[tokio::test]
async fn an_image_without_a_program_or_with_an_init_has_nothing_to_run() {
    let entrypoint = ExecRequest { entrypoint: true, ..Default::default() };
    for (words, reason) in [(vec![], "names no program"), (vec!["/sbin/init".to_owned()], "is its init")] {
        let image = ImageConfig { entrypoint: words, ..ImageConfig::default() };
        let status = run_with(image, &entrypoint).await.status.unwrap();
        assert_eq!(status.code, 126);
        assert!(status.error.as_ref().unwrap().contains(reason), "{status:?}");
    }
    let gone = ImageConfig { entrypoint: vec!["/no/such/program".to_owned()], ..ImageConfig::default() };
    assert_eq!(run_with(gone, &entrypoint).await.code(), 127);
    let nul = ImageConfig { entrypoint: vec!["a\0b".to_owned()], ..ImageConfig::default() };
    assert!(run_with(nul, &entrypoint).await.status.unwrap().error.is_some());
}
