//! Hostile input for the SSH server of a real shed: each is answered or dropped, whoever comes properly meanwhile is
//! served, and afterwards the server is as small as before.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use login::{block_on, command, ended, login};
use vm_tests::{OpenSsh, Promises, SHORT, Server, Stage, wait_for};

mod garbage;
mod login;

/// The shed that all promises of this file are proved on.
const SHED: &str = "besieged";

/// Connections that are no SSH.
const GARBAGE: usize = 10_000;

/// Connections that begin a handshake and say no more.
const HALF_OPEN: usize = 500;

/// Requests for a variable in one session.
const VARIABLES: usize = 10_000;

/// Most that the server may have grown when all is over: what an allocator moves from time to time.
const GROWTH: u64 = 8 << 20;

/// Length of the longest word in one request.
const GIANT: usize = 20_000_000;

/// How long the server may keep a handshake that does not go on.
const GIVEN_UP: Duration = Duration::from_secs(240);

/// Logs in over and over while `siege` goes on: each login must succeed.
fn while_logins_work(ssh: &OpenSsh, siege: impl FnOnce() + Send) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let siege = scope.spawn(|| {
            // Set also when the siege fails, or nobody would ever hear of it.
            let _set = SetAtEnd(&over);
            siege();
        });
        let mut logins = 0;
        while !over.load(Ordering::Relaxed) || logins == 0 {
            let begun = Instant::now();
            assert_eq!(ssh.exec(SHED, "echo served").ok().out(), "served");
            assert!(begun.elapsed() < SHORT * 2, "login {logins} took {:?}", begun.elapsed());
            logins += 1;
        }
        if let Err(panic) = siege.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until the server's descriptors are as few as `wanted`.
fn wait_for_descriptors(server: &Server, wanted: usize) {
    let begun = Instant::now();
    let left = wait_for("the server's descriptors to return", GIVEN_UP * 2, || {
        let now = server.descriptors();
        (now <= wanted || begun.elapsed() > GIVEN_UP).then_some(now)
    });
    assert!(left <= wanted, "{left} descriptors are open, and {wanted} were before");
}

/// Garbage, silence, floods and giants; then the levels of before.
#[test]
fn hostile_clients_are_answered_or_dropped() {
    let Some(stage) = Stage::new() else { return };
    let server = stage.serve();
    let cli = stage.cli();
    cli.create(SHED, &[]);
    let ssh = OpenSsh::new(&stage, &server, &[SHED]);
    let port = server.ssh_port();
    let mut promises = Promises::new();

    // What happens once (buffers, pools, tables) is not growth.
    let quiet = server.descriptors();
    garbage::connections(port, 1000);
    drop((0..HALF_OPEN).map(|number| garbage::half_open(port, number)).collect::<Vec<_>>());
    let _answered = block_on(command(port, SHED, &"x".repeat(GIANT)));
    for _ in 0..20 {
        ssh.exec(SHED, "true").ok();
    }
    wait_for_descriptors(&server, quiet);
    let resident = server.resident_bytes();

    promises.keep(
        "a shed that is not there is refused in words, 200 times, and so is a name that none can have",
        || {
            let giant = "n".repeat(30_000);
            for number in 0..200 {
                let ended = block_on(command(port, "none", "true")).expect("an answer");
                assert_eq!((ended.code, ended.stdout.as_slice()), (Some(1), &b""[..]));
                assert!(
                    String::from_utf8_lossy(&ended.stderr).contains("Error: shed 'none' not found"),
                    "{ended:?}"
                );
                for name in [giant.as_str(), "", "\u{1b}[2J", "../../etc"] {
                    if number % 20 == 0 {
                        // Refused at login or in the session; what is shown has no control characters.
                        if let Ok(ended) = block_on(command(port, name, "true")) {
                            assert_ne!(ended.code, Some(0), "{ended:?}");
                            assert!(!ended.stderr.contains(&0x1b) && ended.stderr.len() < 4096, "{ended:?}");
                        }
                    }
                }
            }
        },
    );
    promises.keep("10,000 connections of garbage are each ended, and logins work meanwhile", || {
        while_logins_work(&ssh, || garbage::connections(port, GARBAGE));
    });
    promises.keep("500 handshakes that do not go on neither keep others out nor stay for ever", || {
        let mut held: Vec<_> = (0..HALF_OPEN).map(|number| garbage::half_open(port, number)).collect();
        while_logins_work(&ssh, || {});
        block_on(async {
            let ended = command(port, SHED, "echo served").await.expect("an answer");
            assert_eq!(ended.stdout, b"served\n");
        });
        let begun = Instant::now();
        let open = wait_for("the server to give them up", GIVEN_UP * 2, || {
            held.retain_mut(|stream| !garbage::is_over(stream));
            (held.is_empty() || begun.elapsed() > GIVEN_UP).then_some(held.len())
        });
        assert_eq!(open, 0, "so many are still open after {GIVEN_UP:?}");
    });
    promises.keep("10,000 requests for variables, sizes and signals in one session do not hurt it", || {
        block_on(async {
            let client = login(port, SHED).await.expect("a login");
            let mut channel = client.channel_open_session().await.expect("a session");
            for number in 0..VARIABLES {
                let value = "v".repeat(number % 1000);
                // Few answers: nobody reads them before all is asked.
                channel.set_env(number % 1000 == 0, format!("V{number}"), value).await.expect("a request");
            }
            channel.exec(true, "echo served; env | grep -c ^V").await.expect("a request");
            for number in 0..VARIABLES {
                let size = u32::try_from(number).expect("it is small");
                // The session may have ended meanwhile.
                let _sent = channel.window_change(size, size, 0, 0).await;
            }
            let ended = ended(&mut channel).await;
            assert_eq!(ended.stdout, b"served\n0\n", "{ended:?}");
        });
    });
    promises.keep(
        "a variable and a command of giant length are refused or taken, and nothing breaks",
        || {
            for length in [40_000, 250_000, 1_000_000, GIANT] {
                let giant = "x".repeat(length);
                let _answered = block_on(async {
                    let client = login(port, SHED).await?;
                    let mut channel = client.channel_open_session().await?;
                    channel.set_env(true, "GIANT", giant.as_str()).await?;
                    channel.exec(true, "true").await?;
                    Ok::<_, russh::Error>(ended(&mut channel).await)
                });
                let _answered = block_on(command(port, SHED, &format!("true {giant}")));
                assert_eq!(ssh.exec(SHED, "echo served").ok().out(), "served");
            }
        },
    );
    promises.keep(
        "hundreds of sessions on one connection are opened or refused, and others are served",
        || {
            while_logins_work(&ssh, || {
                block_on(async {
                    let client = login(port, SHED).await.expect("a login");
                    let mut held = Vec::new();
                    for _ in 0..500 {
                        if let Ok(channel) = client.channel_open_session().await {
                            held.push(channel);
                        }
                    }
                    assert!(held.len() >= 20, "only {} sessions", held.len());
                    for channel in &held {
                        let _sent = channel.close().await;
                    }
                    let mut channel = client.channel_open_session().await.expect("a session after those");
                    channel.exec(true, "echo served").await.expect("a request");
                    assert_eq!(ended(&mut channel).await.stdout, b"served\n");
                });
            });
        },
    );
    promises.keep("a thousand remote forwards are each refused, and the connection goes on", || {
        block_on(async {
            let client = login(port, SHED).await.expect("a login");
            for _ in 0..1000 {
                assert!(client.tcpip_forward("127.0.0.1", 0).await.is_err());
            }
            let mut channel = client.channel_open_session().await.expect("a session");
            channel.exec(true, "echo served").await.expect("a request");
            assert_eq!(ended(&mut channel).await.stdout, b"served\n");
        });
    });
    promises.keep("passwords are refused, however many", || {
        block_on(async {
            let mut client =
                russh::client::connect(std::sync::Arc::default(), ("127.0.0.1", port), login::Trusting)
                    .await
                    .expect("a connection");
            for number in 0..1000 {
                // The server may end the connection after some.
                match client.authenticate_password(SHED, format!("guess {number}")).await {
                    Ok(result) => assert!(!result.success(), "a password was accepted"),
                    Err(_) => break,
                }
            }
        });
    });
    promises.keep("clients that vanish in every state leave nothing in the guest", || {
        block_on(async {
            for number in 0..40 {
                let client = login(port, SHED).await.expect("a login");
                let channel = client.channel_open_session().await.expect("a session");
                channel.exec(false, "cat; exec sleep 4740").await.expect("a request");
                if number % 2 == 0 {
                    channel.data_bytes(vec![b'x'; 20_000]).await.expect("some input");
                }
                drop(channel);
                drop(client);
            }
        });
        wait_for("what they ran to end", SHORT * 4, || {
            (ssh.exec(SHED, "pgrep -x 'cat|sleep'").code == 1).then_some(())
        });
    });
    promises.keep("descriptors and memory return to their levels", || {
        wait_for_descriptors(&server, quiet);
        let begun = Instant::now();
        let now = wait_for("the server's memory to return", SHORT * 4, || {
            let now = server.resident_bytes();
            (now < resident + GROWTH || begun.elapsed() > SHORT).then_some(now)
        });
        let grown = now.saturating_sub(resident) >> 10;
        assert!(now < resident + GROWTH, "the server has grown by {grown} KiB, from {resident} bytes");
        say(&format!("the server has grown by {grown} KiB, from {} KiB", resident >> 10));
    });
    promises.keep("nobody had to panic, and nothing is left", || {
        ssh.ssh(&[&format!("shed-{SHED}"), "true"]).ok();
        let log = std::fs::read_to_string(stage.server_log()).expect("the server's log");
        assert!(!log.contains("panicked"), "the server panicked; see its log");
        cli.delete(SHED);
        stage.assert_only(&[]);
    });
    promises.finish();
}

#[expect(clippy::print_stderr, reason = "the figure shows how much margin there is")]
fn say(line: &str) {
    eprintln!("{line}");
}
