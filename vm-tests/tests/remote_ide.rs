//! The way that VS Code, Cursor and their like take into a host: a script on a shell's stdin, an upload, a server that is
//! left behind, a forwarded port, and connections that come and go.

use std::{
    fs,
    io::Write,
    process::{Child, Stdio},
    time::Instant,
};

use rand::Rng;
use rustix::process::Signal;
use vm_tests::{BOOT, OpenSsh, Promises, Running, SHORT, Stage, free_port, run, wait_for, wait_for_listener};

/// The shed that all promises of this file are proved on.
const SHED: &str = "edited";

/// What the extension sends to the host's shell.
const INSTALL: &str = include_str!("../ssh/ide_install.sh");

/// The server that is installed.
const IDE_SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ssh/ide_server.py");

/// The last line of the script's answer.
const END: &str = "0badcafe: end";

/// How often the connection is lost and made again.
const CONNECTIONS: usize = 4;

/// The value between the marks of one line of the script's answer.
fn told<'a>(answer: &'a str, key: &str) -> &'a str {
    let line = answer.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix("=="));
    line.and_then(|line| line.strip_suffix("==")).unwrap_or_else(|| panic!("no {key} in {answer:?}"))
}

/// Asks the server through a SOCKS proxy or a forwarded port; returns its process id and how often it was asked.
fn ask(ssh: &OpenSsh, url: &str, proxy: Option<u16>) -> (u32, u32) {
    let proxy = proxy.map(|port| format!("127.0.0.1:{port}"));
    let mut words = vec!["-sS", "--max-time", "60"];
    if let Some(proxy) = &proxy {
        words.extend(["--socks5-hostname", proxy]);
    }
    words.push(url);
    let out = ssh.run("curl", &words).ok().out();
    let (pid, count) = out.split_once(' ').unwrap_or_else(|| panic!("the server says {out:?}"));
    (pid.parse().expect("a process id"), count.parse().expect("a number"))
}

/// Runs the script as `ssh -T HOST SHELL` and returns what it says.
fn install(ssh: &OpenSsh, words: &[&str]) -> String {
    let host = format!("shed-{SHED}");
    let words: Vec<&str> = ["-T", "-o", "ConnectTimeout=15", &host].iter().chain(words).copied().collect();
    let done = run(&mut ssh.command("ssh", &words), INSTALL.as_bytes(), SHORT * 4).ok();
    assert!(done.out().contains(END), "{} {}", done.out(), done.err());
    done.out()
}

/// An IDE's window: `ssh -T -D PORT HOST bash` whose stdin stays open after the script.
fn window(ssh: &OpenSsh) -> (Running, u16, u16) {
    let (proxy, host) = (free_port(), format!("shed-{SHED}"));
    let mut window = ssh.spawn(&["-T", "-D", &format!("127.0.0.1:{proxy}"), &host, "bash"]);
    window.write(format!("{INSTALL}cat\n").as_bytes());
    window.wait_for_stdout(END, SHORT * 4);
    let answer = window.stdout_so_far();
    assert_eq!(told(&answer, "exitCode"), "0", "{answer}");
    wait_for_listener(proxy);
    (window, proxy, told(&answer, "listeningOn").parse().expect("a port"))
}

/// The whole walk, and what must survive each connection's end.
#[test]
fn an_ide_installs_its_server_and_finds_it_again() {
    let Some(stage) = Stage::new() else { return };
    let server = stage.serve();
    let cli = stage.cli();
    cli.create(SHED, &[]);
    let ssh = OpenSsh::new(&stage, &server, &[SHED]);
    let host = format!("shed-{SHED}");
    let mut promises = Promises::new();

    promises.keep(
        "a script on the stdin of sh, of bash and of the login shell learns what the host is",
        || {
            for shell in [&["sh"][..], &["bash"], &["bash", "-s"], &["bash --login -c bash"], &[]] {
                let answer = install(&ssh, shell);
                assert!(answer.contains("trigger_server_download_end"), "{answer}");
                let arch = std::env::consts::ARCH;
                let have = ["exitCode", "platform", "arch", "osRelease", "user", "tmpDir"]
                    .map(|key| told(&answer, key));
                assert_eq!(have, ["0", "Linux", arch, "debian", "shed", "/tmp"]);
            }
        },
    );
    let tarball = stage.dir().join("server.tar.gz");
    let content = stage.dir().join("ide-server");
    fs::create_dir(&content).expect("a directory");
    fs::copy(IDE_SERVER, content.join("ide_server.py")).expect("a file");
    // The real ones are some 70 MB; this one is large enough to span many windows of a channel.
    let mut noise = vec![0; 12_000_000];
    rand::rng().fill_bytes(&mut noise);
    fs::write(content.join("node"), noise).expect("a file");
    ssh.run("tar", &["-czf", tarball.as_str(), "-C", stage.dir().as_str(), "ide-server"]).ok();
    let bytes = fs::read(&tarball).expect("a file");

    promises.keep("the server's archive is uploaded through a shell's stdin, and by scp, unchanged", || {
        ssh.exec_with(SHED, "mkdir -p ~/.ide-server && cat > ~/.ide-server/server.tar.gz", &bytes).ok();
        // A path that says no directory counts from where commands run, too.
        ssh.copy("scp", &["-q", tarball.as_str(), &format!("{host}:server-by-scp.tar.gz")]).ok();
        ssh.exec(SHED, "cmp /workspace/server-by-scp.tar.gz ~/.ide-server/server.tar.gz").ok();
        let sum = ssh.exec(SHED, "sha256sum < ~/.ide-server/server.tar.gz").ok().out();
        let ours = run(&mut ssh.other("sha256sum", &["-"]), &bytes, SHORT).ok().out();
        assert_eq!(sum, ours);
    });
    let mut pid = 0;
    promises.keep("the server is started detached, and the shell that started it ends at once", || {
        let begun = Instant::now();
        let answer = install(&ssh, &["bash"]);
        let port = told(&answer, "listeningOn");
        assert!(port.parse::<u16>().is_ok_and(|port| port > 0), "{answer}");
        assert!(begun.elapsed() < SHORT * 2, "it took {:?}", begun.elapsed());
        // It found no server before, so nobody else has started one.
        assert!(!answer.contains("Found running server"), "{answer}");
        let look = ssh.exec(SHED, "cat ~/.ide-server/.*.pid").ok().out();
        pid = look.parse().expect("a process id");
        ssh.exec(SHED, &format!("kill -0 {pid}")).ok();
    });
    promises.keep("a forward (-N -L) reaches it", || {
        let remote = told(&install(&ssh, &["sh"]), "listeningOn").to_owned();
        let local = free_port();
        let running = ssh.spawn(&["-N", "-L", &format!("127.0.0.1:{local}:127.0.0.1:{remote}"), &host]);
        wait_for_listener(local);
        let (its_pid, first) = ask(&ssh, &format!("http://127.0.0.1:{local}/"), None);
        let (_, second) = ask(&ssh, &format!("http://127.0.0.1:{local}/"), None);
        assert_eq!((its_pid, second), (pid, first + 1));
        drop(running);
    });
    promises.keep("a window's connection dies and is made again, and the server still knows all", || {
        let mut last = 0;
        for round in 0..CONNECTIONS {
            let (window, proxy, port) = window(&ssh);
            assert!(window.stdout_so_far().contains("Found running server"), "{}", window.stdout_so_far());
            for url in [format!("http://localhost:{port}/"), format!("http://127.0.0.1:{port}/")] {
                let (its_pid, count) = ask(&ssh, &url, Some(proxy));
                assert!(its_pid == pid && count > last, "{its_pid} {count}, and before {pid} {last}");
                last = count;
            }
            // As a laptop that is closed, and as one that says goodbye.
            window.signal(if round % 2 == 0 { Signal::KILL } else { Signal::TERM });
            let _code = window.wait(SHORT * 2);
        }
    });
    promises.keep("two windows at once share one server", || {
        let ((one, proxy_one, port_one), (two, proxy_two, port_two)) = std::thread::scope(|scope| {
            let one = scope.spawn(|| window(&ssh));
            let two = window(&ssh);
            (one.join().expect("a window opens"), two)
        });
        assert_eq!(port_one, port_two);
        let url = format!("http://127.0.0.1:{port_one}/");
        assert_eq!(ask(&ssh, &url, Some(proxy_one)).0, pid);
        assert_eq!(ask(&ssh, &url, Some(proxy_two)).0, pid);
        drop(one);
        // The other window does not notice.
        assert_eq!(ask(&ssh, &url, Some(proxy_two)).0, pid);
        drop(two);
    });
    promises.keep("a long upload that is cut off does not hurt the next one", || {
        let mut cut: Child = ssh
            .command("ssh", &[&host, "cat > ~/cut.bin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ssh runs");
        cut.stdin.take().expect("it is piped").write_all(&bytes[..1 << 20]).expect("it takes input");
        let _gone = cut.kill();
        let _status = cut.wait();
        ssh.exec_with(SHED, "cat > ~/whole.bin", &bytes).ok();
        ssh.exec(SHED, "cmp ~/whole.bin ~/.ide-server/server.tar.gz").ok();
        wait_for("the cut-off cat to end", SHORT * 2, || {
            (ssh.exec(SHED, "pgrep -x cat").code == 1).then_some(())
        });
    });
    promises.keep("the server outlives the SSH server that it was started through", || {
        drop(server);
        let server = stage.serve();
        let ssh = OpenSsh::new(&stage, &server, &[SHED]);
        run(&mut ssh.command("ssh", &[&host, "true"]), b"", BOOT).ok();
        let (window, proxy, port) = window(&ssh);
        assert_eq!(ask(&ssh, &format!("http://127.0.0.1:{port}/"), Some(proxy)).0, pid);
        drop(window);
        cli.delete(SHED);
        stage.assert_only(&[]);
    });
    promises.finish();
}
