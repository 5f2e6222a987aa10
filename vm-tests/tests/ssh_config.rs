//! `shed ssh-config` and the real ssh: an installed entry is all that it needs, whatever else the user has set.

use std::{fs, process::Command};

use vm_tests::{BOOT, Expect, Promises, Stage, run};

const SHED: &str = "known";

/// Settings of a user that would each break the way into a shed, or give it what it must not have.
const OWN: &str = "ServerAliveInterval 0\n\nHost *\n  User somebody\n  Port 1\n  UserKnownHostsFile /dev/null\n  \
                   CanonicalizeHostname yes\n  CheckHostIP yes\n  ForwardAgent yes\n  ForwardX11 yes\n";

/// ssh and scp reach a shed by the entry that was installed, a stopped one too, and an uninstall leaves no trace.
#[test]
fn an_installed_entry_is_all_that_ssh_needs() {
    let Some(stage) = Stage::new() else { return };
    let _server = stage.serve();
    let cli = stage.cli();
    let mut promises = Promises::new();
    cli.create(SHED, &[]);
    let config = stage.home().join(".ssh/config");
    fs::create_dir_all(config.parent().expect("it is in a directory")).expect("~/.ssh");
    fs::write(&config, OWN).expect("~/.ssh/config");
    let ssh = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.args(["-F", config.as_str(), "-o", "BatchMode=yes"]).args(arguments);
        run(&mut command, b"", BOOT)
    };
    let host = format!("shed-{SHED}");
    promises.keep("without an entry there is no such host", || {
        assert_ne!(ssh("ssh", &[&host, "true"]).code, 0);
    });
    cli.run(&["ssh-config", "--install", SHED]).ok();
    promises.keep("with it a command runs, and ssh has nothing to say about it", || {
        let ran = ssh("ssh", &[&host, "hostname; echo \"${SSH_AUTH_SOCK-none} ${DISPLAY-none}\""]).ok();
        assert_eq!((ran.out().as_str(), ran.err().as_str()), ("known\nnone none", ""));
    });
    promises.keep("files come and go as they are", || {
        let (there, back) = (stage.home().join("there"), stage.home().join("back"));
        let bytes: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
        fs::write(&there, &bytes).expect("a file");
        ssh("scp", &[there.as_str(), &format!("{host}:/workspace/copied")]).ok();
        ssh("scp", &[&format!("{host}:/workspace/copied"), back.as_str()]).ok();
        assert!(fs::read(&back).expect("the copy") == bytes, "the copy is another file");
    });
    promises.keep("a shed that is stopped is started by the connection", || {
        cli.run(&["stop", SHED]).ok();
        assert_eq!(ssh("ssh", &[&host, "echo again"]).ok().out(), "again");
    });
    promises.keep(
        "an entry that says the same is not written again, and an uninstall leaves no trace",
        || {
            let before = fs::read(&config).expect("~/.ssh/config");
            cli.run(&["ssh-config", "--install", "--all"]).ok();
            assert_eq!(fs::read(&config).expect("~/.ssh/config"), before);
            cli.run(&["ssh-config", "--uninstall"]).ok();
            assert_eq!(fs::read_to_string(&config).expect("~/.ssh/config"), OWN);
        },
    );
    promises.keep("nothing is left", || {
        stage.assert_only(&[Expect::Running(SHED)]);
        cli.delete(SHED);
        stage.assert_only(&[]);
    });
    promises.finish();
}
