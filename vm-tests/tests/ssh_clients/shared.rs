//! Many sessions over one connection: OpenSSH's ControlMaster.

use std::{
    io::Read,
    process::Stdio,
    time::{Duration, Instant},
};

use vm_tests::{Promises, Running, SHORT, wait_for};

use crate::{SHED, World};

/// Sessions at once over one connection.
const CHANNELS: usize = 20;

pub(crate) fn prove(World { ssh, cli, .. }: &World, promises: &mut Promises) {
    let host = format!("shed-{SHED}");
    let socket = ssh.control_path("shared");
    let shared = |words: &[&str]| {
        let words: Vec<&str> =
            ["-S", socket.as_str(), "-o", "ControlMaster=no", &host].iter().chain(words).copied().collect();
        ssh.command("ssh", &words)
    };
    let master = ssh.spawn(&["-M", "-N", "-S", socket.as_str(), &host]);
    wait_for("the shared connection", SHORT * 2, || socket.exists().then_some(()));

    promises.keep("20 sessions at once over one connection each get their own streams and code", || {
        let running: Vec<(usize, Running)> = (0..CHANNELS)
            .map(|number| {
                let line = format!("cat; echo {number}; echo {number} >&2; exit {number}");
                (number, Running::spawn(&mut shared(&[&line])))
            })
            .collect();
        // All are open before the first may end.
        for (number, mut session) in running {
            session.write(format!("in {number}\n").as_bytes());
            session.wait_for_stdout(&format!("in {number}\n"), SHORT * 4);
            session.close_stdin();
            let done = session.wait(SHORT * 4).exits(i32::try_from(number).expect("it is small"));
            assert_eq!(done.out(), format!("in {number}\n{number}"));
            assert!(done.err().starts_with(&number.to_string()), "{}", done.err());
        }
    });
    promises.keep("20 sessions at once move a megabyte each in both directions", || {
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(1 << 20).collect();
        let threads: Vec<_> = (0..CHANNELS)
            .map(|_| {
                let (mut command, bytes) = (shared(&["cat"]), bytes.clone());
                std::thread::spawn(move || {
                    let done = vm_tests::run(&mut command, &bytes, SHORT * 4).ok();
                    assert!(done.stdout == bytes, "{} bytes came back, or others", done.stdout.len());
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("a session got what it sent");
        }
    });
    promises.keep("a session whose output nobody reads does not hold up the others", || {
        let mut flood = shared(&["exec yes 'nobody reads this'"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("ssh runs");
        let mut first = [0; 7];
        flood.stdout.as_mut().expect("it is piped").read_exact(&mut first).expect("it writes");
        let mut deaf = Running::spawn(&mut shared(&["exec sleep 4720"]));
        // Input that the command does not read either.
        deaf.write(&vec![b'x'; 64 << 10]);
        let begun = Instant::now();
        for _ in 0..5 {
            let done = vm_tests::run(&mut shared(&["echo through"]), b"", SHORT * 2).ok();
            assert_eq!(done.out(), "through");
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "it took {:?}", begun.elapsed());
        let _gone = flood.kill();
        let _status = flood.wait();
        drop(deaf);
        wait_for("what they ran to end", SHORT * 2, || {
            (cli.exec(SHED, &["pgrep", "-x", "yes|sleep"]).code == 1).then_some(())
        });
    });
    promises.keep("the shared connection ends when it is told to", || {
        vm_tests::run(&mut shared(&["-O", "exit"]), b"", SHORT).ok();
        let _code = master.wait(SHORT * 2);
        wait_for("its socket to go", SHORT, || (!socket.exists()).then_some(()));
    });
}
