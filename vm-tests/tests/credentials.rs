//! Files of the host that sheds get and give back: what arrives where, both ways, whatever a shed tries and however the
//! server ends.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    process::Command,
    time::{Duration, Instant},
};

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::json;
use vm_tests::{BOOT, Cli, Config, Promises, SHORT, Server, Stage, wait_for};

const ANN: &str = "ann";
const BEN: &str = "ben";

/// Longest wait for a change to arrive; two seconds are the goal where machines are not emulated.
const ARRIVES: Duration = Duration::from_secs(90);

/// Most files that a shed may add to a source while it runs.
const SHARE: usize = 5000;

fn credentials() -> Config {
    let credentials = json!({
        "keys": { "source": "~/creds/keys", "target": "~/.keys", "readonly": true },
        "tool": { "source": "~/creds/tool", "target": "/home/shed/.tool", "exclude": ["cache/*", "*.log"] },
        "token": { "source": "~/creds/token.json", "target": "~/.config/agent/auth.json" },
        "system": { "source": "~/creds/system", "target": "/etc/tool" },
        "none": { "source": "~/creds/none", "target": "~/.none" },
    });
    Config { credentials: Some(credentials), ..Config::default() }
}

fn make_sources(creds: &Utf8Path) {
    for directory in ["keys", "tool/sub", "tool/cache", "system"] {
        fs::create_dir_all(creds.join(directory)).expect("a directory");
    }
    for (path, mode) in [
        ("keys/id", 0o600),
        ("keys/id.pub", 0o644),
        ("tool/settings", 0o640),
        ("tool/sub/run", 0o755),
        ("tool/cache/big", 0o644),
        ("tool/some.log", 0o644),
        ("token.json", 0o600),
        ("system/conf", 0o644),
    ] {
        fs::write(creds.join(path), format!("first {path}")).expect("a file");
        fs::set_permissions(creds.join(path), fs::Permissions::from_mode(mode)).expect("a mode");
    }
    symlink("id", creds.join("keys/link")).expect("a link");
    assert!(Command::new("mkfifo").arg(creds.join("keys/fifo")).status().expect("mkfifo runs").success());
}

/// Waits until a command in a shed prints this, and says how long that took.
#[track_caller]
fn arrives(cli: &Cli, shed: &str, command: &str, text: &str) {
    let begun = Instant::now();
    wait_for(&format!("`{command}` in {shed} to print {text:?}"), ARRIVES, || {
        (cli.exec(shed, &["sh", "-c", command]).out().trim() == text).then_some(())
    });
    said(&format!("in {shed} after {} ms: {text}", begun.elapsed().as_millis()));
}

/// Waits until a file of the host holds this, and says how long that took.
#[track_caller]
fn returns(path: &Utf8Path, text: &str) {
    let begun = Instant::now();
    wait_for(&format!("{path} to hold {text:?}"), ARRIVES, || {
        fs::read_to_string(path).is_ok_and(|found| found.trim() == text).then_some(())
    });
    said(&format!("on the host after {} ms: {text}", begun.elapsed().as_millis()));
}

#[expect(clippy::print_stderr, reason = "how long it took is part of the result")]
fn said(text: &str) {
    eprintln!("       {text}");
}

/// Everything below a directory that is no file or directory, and how many files there are.
fn odd_ones(directory: &Utf8Path) -> (Vec<Utf8PathBuf>, usize) {
    let (mut odd, mut files, mut pending) = (Vec::new(), 0, vec![directory.to_owned()]);
    while let Some(directory) = pending.pop() {
        for entry in directory.read_dir_utf8().expect("a directory").flatten() {
            let kind = entry.file_type().expect("a kind");
            if kind.is_dir() {
                pending.push(entry.into_path());
            } else if kind.is_file() {
                files += 1;
            } else {
                odd.push(entry.into_path());
            }
        }
    }
    (odd, files)
}

/// Credentials arrive as they are, changes go both ways to all running sheds and survive the server's death, and a shed
/// that tries everything a user can changes nothing but files of the credential, in bounds, and is reported.
#[test]
fn credentials_go_both_ways() {
    let Some(stage) = Stage::configured(credentials()) else { return };
    let creds = stage.home().join("creds");
    make_sources(&creds);
    let mut server = Some(stage.serve());
    let cli = stage.cli();
    let log = || fs::read_to_string(stage.server_log()).expect("the server's log");
    let mut promises = Promises::new();

    promises.keep("what cannot be copied is a warning of the create, and the rest is there", || {
        let made = cli.run(&["create", ANN, "--memory", "512"]).ok();
        let said = format!("{}{}", made.out(), made.err());
        assert!(
            said.contains("creds/none is not there") || log().contains("creds/none is not there"),
            "{said}"
        );
        assert!(log().contains("fifo: left out: it is a FIFO"), "{said}");
    });
    cli.create(BEN, &["--memory", "512"]);
    promises.keep("directories and single files arrive with their modes and links, as user shed's, without what is excluded", || {
        let script = "cd; stat -c '%n %a %U' .keys/id .keys/id.pub .tool/settings .tool/sub/run \
                      .config/agent/auth.json /etc/tool/conf; stat -c '%U' /etc; readlink .keys/link; \
                      ls -A .keys .tool; cat .config/agent/auth.json";
        let expected = ".keys/id 600 shed\n.keys/id.pub 644 shed\n.tool/settings 640 shed\n.tool/sub/run 755 shed\n\
                        .config/agent/auth.json 600 shed\n/etc/tool/conf 644 shed\nroot\nid\n\
                        .keys:\nid\nid.pub\nlink\n\n.tool:\nsettings\nsub\nfirst token.json";
        for shed in [ANN, BEN] {
            assert_eq!(cli.sh(shed, script), expected, "{shed}");
        }
    });
    promises.keep("a token that is refreshed in a shed reaches the host and then the other shed", || {
        cli.sh(ANN, "cd ~/.config/agent; echo second > auth.tmp; chmod 644 auth.tmp; mv auth.tmp auth.json");
        returns(&creds.join("token.json"), "second");
        let mode = fs::metadata(creds.join("token.json")).expect("the file").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "no more may read it than before");
        arrives(&cli, BEN, "cat ~/.config/agent/auth.json", "second");
        assert_eq!(cli.sh(ANN, "cat ~/.config/agent/auth.json; ls ~/.config/agent"), "second\nauth.json");
    });
    promises.keep("what is written on the host reaches both, also where root alone may write", || {
        fs::write(creds.join("token.new"), "third").expect("a file");
        fs::rename(creds.join("token.new"), creds.join("token.json")).expect("a rename");
        fs::create_dir(creds.join("tool/fresh")).expect("a directory");
        fs::write(creds.join("tool/fresh/file"), "from the host").expect("a file");
        fs::write(creds.join("system/conf"), "new conf").expect("a file");
        for shed in [ANN, BEN] {
            arrives(&cli, shed, "cat ~/.config/agent/auth.json", "third");
            arrives(&cli, shed, "cat ~/.tool/fresh/file", "from the host");
            arrives(&cli, shed, "cat /etc/tool/conf", "new conf");
        }
    });
    promises.keep("new files of a shed go all the way; those that are excluded, or of a read-only credential, stay", || {
        cli.sh(ANN, "cd ~/.tool; mkdir -p cache deep/er; echo x > cache/y; echo x > z.log; echo x > ~/.keys/id; echo up > deep/er/file");
        returns(&creds.join("tool/deep/er/file"), "up");
        arrives(&cli, BEN, "cat ~/.tool/deep/er/file", "up");
        assert_eq!(fs::read_to_string(creds.join("keys/id")).expect("a file"), "first keys/id");
        assert!(!creds.join("tool/cache/y").exists() && !creds.join("tool/z.log").exists());
        assert_eq!(cli.sh(BEN, "cat ~/.keys/id"), "first keys/id");
    });
    promises.keep("a file that is deleted at one end stays at the other", || {
        cli.sh(BEN, "rm ~/.tool/deep/er/file");
        fs::remove_file(creds.join("tool/fresh/file")).expect("the file goes");
        // Whatever would be told of these comes before this.
        cli.sh(BEN, "echo mark > ~/.tool/mark");
        returns(&creds.join("tool/mark"), "mark");
        fs::write(creds.join("tool/mark"), "back").expect("a file");
        arrives(&cli, BEN, "cat ~/.tool/mark", "back");
        assert!(creds.join("tool/deep/er/file").exists());
        assert_eq!(cli.sh(ANN, "cat ~/.tool/fresh/file"), "from the host");
    });
    promises.keep(
        "the server is killed: what was written meanwhile on both sides is everywhere afterwards",
        || {
            server.take().expect("a server").crash();
            fs::write(creds.join("tool/settings"), "host, meanwhile").expect("a file");
            server = Some(stage.serve());
            for shed in [ANN, BEN] {
                arrives(&cli, shed, "cat ~/.tool/settings", "host, meanwhile");
            }
            cli.sh(
                ANN,
                "nohup sh -c 'sleep 5; echo guest, meanwhile > ~/.tool/sub/run' >/dev/null 2>&1 & sleep 0.1",
            );
            let pid = server.as_ref().expect("a server").pid();
            server.take().expect("a server").crash();
            assert!(!vm_tests::is_alive(pid));
            let down = Instant::now();
            wait_for("the shed to have written", SHORT, || {
                (down.elapsed() > Duration::from_secs(8)).then_some(())
            });
            server = Some(stage.serve());
            returns(&creds.join("tool/sub/run"), "guest, meanwhile");
            arrives(&cli, BEN, "cat ~/.tool/sub/run", "guest, meanwhile");
        },
    );
    promises.keep("whatever a user in a shed does, the host gets files of the credential and nothing else", || {
        let before = odd_ones(&creds.join("tool")).1;
        cli.sh(
            ANN,
            "cd ~/.tool; ln -s /etc/shadow shadow; mkfifo pipe; truncate -s 1G huge; sudo cp /etc/shadow copied; \
             sudo chmod 6777 copied; rm -rf deep; ln -s /etc deep; mv sub gone; ln -s /root sub; \
             printf x > \"$(printf 'odd\\033[31m\\nname')\"; ln -s settings inner; mkdir flood; cd flood; \
             seq 20000 | xargs touch",
        );
        // Behind all that, an honest change of what is there comes through; for new files the shed's share is used up.
        cli.sh(ANN, "echo honest > ~/.tool/settings; echo honest > ~/.config/agent/auth.json");
        returns(&creds.join("token.json"), "honest");
        returns(&creds.join("tool/settings"), "honest");
        let (odd, files) = odd_ones(&creds.join("tool"));
        assert_eq!(odd, Vec::<Utf8PathBuf>::new());
        assert!(files <= before + SHARE + 10, "{files} files");
        for absent in ["shadow", "pipe", "huge", "inner"] {
            assert!(fs::symlink_metadata(creds.join("tool").join(absent)).is_err(), "{absent}");
        }
        assert!(creds.join("tool/deep/er/file").is_file() && creds.join("tool/sub/run").is_file());
        assert!(server.as_ref().is_some_and(Server::answers));
        let log = log();
        assert!(log.contains("longer than") && log.contains("more than its share") && !log.contains('\u{1b}'), "reported, and printably");
        arrives(&cli, BEN, "cat ~/.tool/settings", "honest");
        // Where a directory is a link now the host's file has no place; the others have.
        fs::write(creds.join("tool/sub/run"), "no way").expect("a file");
        fs::write(creds.join("tool/zz"), "fine").expect("a file");
        for shed in [ANN, BEN] {
            arrives(&cli, shed, "cat ~/.tool/zz", "fine");
        }
    });
    promises.keep(
        "what is written in the last moment before a stop is not lost, and the next start has the host's",
        || {
            cli.sh(BEN, "echo last words > ~/.tool/last");
            cli.run(&["stop", BEN]).ok();
            returns(&creds.join("tool/last"), "last words");
            fs::write(creds.join("tool/last"), "while it slept").expect("a file");
            cli.run(&["start", BEN]).ok();
            arrives(&cli, BEN, "cat ~/.tool/last", "while it slept");
        },
    );

    cli.delete(ANN);
    cli.delete(BEN);
    wait_for("the machines to be gone", BOOT, || {
        vm_tests::vmm_processes(stage.dir()).is_empty().then_some(())
    });
    assert!(
        !fs::read_dir(creds.join("tool"))
            .expect("a directory")
            .flatten()
            .any(|entry| { entry.file_name().to_string_lossy().starts_with(".shed-") })
    );
    promises.finish();
    drop(server);
    stage.finish();
}
