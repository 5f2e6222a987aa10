//! SSH keys: what people do with one works in a shed, while the key stays in the host's ssh-agent or in a file there.

use std::fs;

use serde_json::json;
use vm_tests::{
    BOOT, Cli, FROM_GUEST, Finished, GitHost, GitSsh, HostAgent, HostSettings, Promises, SshAgent, SshKey,
    found_in_guest, run,
};

use super::{World, assert_signed, local_keys};

const SHED: &str = "signs";

/// What begins files of private keys, and is written here so that no file of ours has it.
const BEGINS: &str = "-----BEGIN [A-Z]* *PRIVATE KEY-----";

/// A guest with this host's sshd and a repository on it in its reach.
struct Reach<'a> {
    cli: &'a Cli,
    git: &'a GitHost,
    port: u16,
    login: String,
}

impl Reach<'_> {
    /// Runs a line in the shed as its user, who has what `shed exec` gives and nothing more.
    #[track_caller]
    fn sh(&self, line: &str) -> Finished {
        run(&mut self.cli.exec_command(SHED, &["sh", "-c", line]), b"", BOOT)
    }

    /// Logs in to the host, clones from it, lists the keys, and signs a commit.
    #[track_caller]
    fn use_key(&self, key: &SshKey, host: &HostAgent, round: &str) {
        let Self { port, login, .. } = self;
        let said = self
            .sh(&format!("ssh -T -o BatchMode=yes -p {port} {login}@{FROM_GUEST} 'echo reached; id -un'"));
        assert_eq!(said.ok().out(), format!("reached\n{login}"));
        let path = self.git.path("app.git");
        let clone = format!(
            "git clone -q ssh://{login}@{FROM_GUEST}:{port}{path} /tmp/{round} && cat /tmp/{round}/file"
        );
        assert_eq!(self.sh(&clone).ok().out(), "content");
        let listed = self.sh("ssh-add -L").ok().out();
        assert_eq!(listed.split(' ').nth(1), Some(key.blob().as_str()), "{listed}");
        assert!(self.sh("ssh-add -l").ok().out().contains("(ED25519)"));
        let commit = format!(
            "cd /tmp/{round} && git config user.name t && git config user.email t@example.com && \
             git config gpg.format ssh && git config user.signingkey 'key::{}' && \
             echo 't@example.com {}' >signers && git config gpg.ssh.allowedSignersFile signers && \
             echo more >>file && git add file && git commit -q -S -m signed && git verify-commit HEAD && \
             git push -q origin HEAD:{round}",
            key.public(),
            key.public(),
        );
        let done = self.sh(&commit).ok();
        assert!(done.err().contains("Good \"git\" signature for t@example.com"), "{}", done.err());
        assert!(host.audit().iter().any(|line| line["op"] == "sign" && line["result"] == "ok"));
    }
}

/// The host's sshd lets the user in who has the key, and a guest has it for as long as the host agent says so.
#[test]
fn ssh_and_git_use_a_key_that_stays_on_the_host() {
    let Some(mut world) = World::new(&["ssh-agent"], &[SHED]) else { return };
    let mut git = GitHost::new(world.stage.dir().join("git"));
    git.repository("app.git", &[("file", "content\n")]);
    let GitSsh { port, known_host, key } = git.serve_ssh();
    let key = SshKey::at(key);
    let cli = world.cli.clone();
    let login = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
    let reach = Reach { cli: &cli, git: &git, port, login };
    reach.sh(&format!("echo '{known_host}' >>~/.ssh/known_hosts")).ok();
    let files_before = key_files(&cli);
    let mut promises = Promises::new();

    promises.keep("without a host agent ssh says soon that it has no key", || {
        let begun = std::time::Instant::now();
        let said = reach.sh("ssh-add -l");
        assert!(said.code != 0 && begun.elapsed() < super::TIMEOUT, "{} {}", said.out(), said.err());
        let login = &reach.login;
        let said = reach.sh(&format!("ssh -T -o BatchMode=yes -p {port} {login}@{FROM_GUEST} true"));
        assert!(said.code == 255 && said.err().contains("Permission denied"), "{}", said.err());
    });
    let agent = SshAgent::start(&world.stage);
    agent.add(&key);
    let settings = HostSettings {
        ssh: Some(json!({ "mode": "agent-forward" })),
        auth_sock: Some(agent.socket().to_owned()),
        namespaces: vec!["ssh-agent"],
        ..HostSettings::default()
    };
    promises.keep("with a key in the user's ssh-agent: ssh, git clone, ssh-add -l, a signed commit", || {
        world.host.start(&world.server, settings);
        world.wait_until_it_works(SHED, &["ssh-agent"]);
        reach.use_key(&key, &world.host, "by-agent");
    });
    promises.keep("what is signed in the guest is verified on the host", || {
        let signed = world.sign(SHED, &key, "a text of the guest").ok().out();
        assert_signed(&world.stage, &key, "a text of the guest", &signed);
        let other = std::panic::catch_unwind(|| assert_signed(&world.stage, &key, "another text", &signed));
        assert!(other.is_err(), "a signature is good for any text");
    });
    promises.keep(
        "nothing can be put into it or taken out, and it is there for the shed's user alone",
        || {
            let made = "rm -f /tmp/own /tmp/own.pub; ssh-keygen -q -t ed25519 -N '' -f /tmp/own";
            reach.sh(made).ok();
            for line in ["ssh-add -q /tmp/own", "ssh-add -q -D", "printf 'x\\nx\\n' | ssh-add -x"] {
                assert_ne!(reach.sh(line).code, 0, "{line}");
            }
            assert_eq!(reach.sh("ssh-add -L | wc -l; rm /tmp/own /tmp/own.pub").ok().out(), "1");
            assert_eq!(cli.sh(SHED, "stat -c '%a %U' $SSH_AUTH_SOCK"), "600 shed");
        },
    );
    promises.keep("a key of a local file does the same", || {
        let file = world.host.home().join(".ssh/id_ed25519");
        for ending in ["", ".pub"] {
            fs::copy(format!("{}{ending}", key.private()), format!("{file}{ending}"))
                .expect("a copy of the key");
        }
        drop(agent);
        world.host.start(&world.server, local_keys(json!({})));
        world.wait_until_it_works(SHED, &["ssh-agent"]);
        reach.use_key(&key, &world.host, "by-file");
    });
    promises.keep("an RSA key signs by SHA-2", || {
        let rsa = SshKey::generate(world.host.home().join(".ssh/id_rsa"), "rsa");
        world.host.start(&world.server, local_keys(json!({})));
        let signed = world.sign(SHED, &rsa, "a text").ok().out();
        assert_signed(&world.stage, &rsa, "a text", &signed);
    });
    promises.keep("the search for the key finds what is there", || {
        let decoy = "decoy/of/a+private+key+that+is+in+no+other+file";
        let kept = ["/dev/shm/decoy", "/workspace/decoy"];
        let (wanted, texts) = (kept.len(), [decoy.to_owned()]);
        for file in kept {
            // The line is split, so that it is whole in the files alone.
            let (head, tail) = decoy.split_at(9);
            cli.sh(SHED, &format!("printf '%s%s\\n' '{head}' '{tail}' >{file}"));
        }
        assert!(found_in_guest(&world.stage, &cli, SHED, &texts).len() >= wanted);
        cli.sh(SHED, "rm /dev/shm/decoy /workspace/decoy");
        let found = found_in_guest(&world.stage, &cli, SHED, &texts);
        assert!(
            found.iter().any(|place| place.ends_with(".ext4")),
            "a deleted file is still on the disk: {found:?}"
        );
        assert!(!found.iter().any(|place| place.starts_with("/dev/shm")), "{found:?}");
    });
    promises.keep("nothing of the key is on the guest's disks or in its file systems in memory", || {
        let found = found_in_guest(&world.stage, &cli, SHED, &key.secret_lines());
        assert!(found.is_empty(), "{found:?}");
        assert_eq!(key_files(&cli), files_before);
    });
    world.finish(&[SHED]);
    promises.finish();
}

/// Files of the guest that begin as private keys do.
#[track_caller]
fn key_files(cli: &Cli) -> String {
    let script = format!(
        "grep -rlsIE -D skip -e '{BEGINS}' /root /home /etc /run /tmp /var /workspace /dev/shm | sort"
    );
    run(&mut cli.command(&["exec", "-u", "root", SHED, "--", "sh", "-c", &script]), b"", BOOT).ok().out()
}
