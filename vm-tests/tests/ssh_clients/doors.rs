//! Which shed a user name leads to, and what becomes of one that leads to none.

use vm_tests::{BOOT, Promises, run};

use crate::{SHED, World};

pub(crate) fn prove(World { ssh, cli, server, .. }: &World, promises: &mut Promises) {
    let host = format!("shed-{SHED}");
    promises.keep("a shed that is not there is named in the refusal, and the code is 1", || {
        for words in [&["shed-none", "true"][..], &["-T", "shed-none"], &["shed-none", "-s", "sftp"]] {
            let done = ssh.ssh(words).exits(1);
            assert!(done.err().contains("Error: shed 'none' not found"), "{words:?}: {}", done.err());
            assert!(done.stdout.is_empty(), "{words:?}: {}", done.out());
        }
    });
    promises.keep("a name that is reserved leads to no shed", || {
        let done = ssh.ssh(&["shed-_api", "true"]);
        assert!(done.code != 0 && done.stdout.is_empty() && !done.err().is_empty(), "{done:?}");
    });
    promises.keep("a name that no shed can have is refused in words", || {
        for name in ["Root", "a b", "../x", "x'; reboot;'", &"n".repeat(300)] {
            let done = ssh.ssh(&["-o", &format!("User=\"{name}\""), &host, "true"]);
            assert!(done.code != 0 && done.stdout.is_empty() && !done.err().is_empty(), "{name}: {done:?}");
        }
    });
    promises.keep("any public key is accepted, as none is", || {
        let key = ssh.config().with_file_name("key");
        ssh.run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", key.as_str()]).ok();
        assert_eq!(ssh.ssh(&["-i", key.as_str(), &host, "echo in"]).ok().out(), "in");
    });
    promises.keep("a subsystem that there is not is refused", || {
        let done = ssh.ssh(&[&host, "-s", "netconf"]);
        assert!(done.code != 0 && done.err().contains("subsystem request failed"), "{done:?}");
    });
    promises.keep("a stopped shed is started for whoever comes, and they are told", || {
        cli.run(&["stop", SHED]).ok();
        let done = ssh.ssh(&[&host, "hostname"]).ok();
        assert_eq!(done.out(), SHED);
        assert!(done.err().contains("start"), "{}", done.err());
        assert_eq!(server.http().status(SHED), "running");
    });
    promises.keep("several who come to a stopped shed at once are all let in, over sftp too", || {
        cli.run(&["stop", SHED]).ok();
        let batch = ssh.config().with_file_name("pwd.batch");
        std::fs::write(&batch, "pwd\n").expect("a batch");
        let mut commands: Vec<_> = (0..4).map(|_| ssh.command("ssh", &[&host, "hostname"])).collect();
        commands.push(ssh.command("sftp", &["-b", batch.as_str(), &host]));
        let threads: Vec<_> = commands
            .into_iter()
            .map(|mut command| std::thread::spawn(move || run(&mut command, b"", BOOT).ok()))
            .collect();
        let outs: Vec<String> =
            threads.into_iter().map(|thread| thread.join().expect("it is let in").out()).collect();
        assert!(outs[..4].iter().all(|out| out == SHED), "{outs:?}");
        assert!(outs[4].contains("/home/shed") || outs[4].contains("/workspace"), "{outs:?}");
    });
}
