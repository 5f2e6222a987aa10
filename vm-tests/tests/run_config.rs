//! What an image says of its programs, in a machine: variables, user, directory and entrypoint, with systemd and with
//! nothing but busybox.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
};

use camino::Utf8Path;
use shed_image::{RunConfig, Trailer};
use vm_tests::{Cli, OpenSsh, Promises, SHORT, Stage, skipped, wait_for};

/// Where Debian and others put a busybox that is linked statically.
const BUSYBOX: [&str; 3] = ["/bin/busybox", "/usr/bin/busybox", "/usr/local/bin/busybox"];

/// A PATH that no system has by itself.
const PATH: &str = "/opt/tools/bin:/usr/local/bin:/usr/bin:/bin";

/// A value that is a danger to whoever puts it into a shell without care.
const HOSTILE: &str = "it's $(touch /tmp/evil) `touch /tmp/evil`\n\"; touch /tmp/evil; \"";

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Puts a trailer behind an image that has none.
fn say(image: &Utf8Path, config: RunConfig) {
    let mut file = File::options().read(true).write(true).open(image).expect("the image");
    Trailer { config, ..Trailer::default() }.append(&mut file).expect("the trailer");
}

/// A system with systemd, whose users, shells and sessions all come from Debian.
#[test]
fn a_system_has_what_its_image_says() {
    let Some(stage) = Stage::new() else { return };
    let image = stage.images_dir().join("team-rootfs.ext4");
    let copied =
        Command::new("cp").arg("--sparse=always").arg(stage.parts().base_image()).arg(&image).status();
    assert!(copied.is_ok_and(|status| status.success()), "cannot copy the base image");
    say(
        &image,
        RunConfig {
            user: "games".to_owned(),
            env: vec![format!("PATH={PATH}"), "GREETING=hello".to_owned(), format!("HOSTILE={HOSTILE}")],
            entrypoint: words(&["sh", "-c", "echo \"$0 $@ in $(pwd) as $(id -un) with $GREETING\"", "entry"]),
            cmd: words(&["its", "own"]),
            working_dir: "/srv/app".to_owned(),
        },
    );
    let server = stage.serve();
    let cli = stage.cli();
    cli.create("team", &["--image", "team"]);
    let mut promises = Promises::new();
    promises.keep("a command has the image's user, directory and variables", || {
        assert_eq!(
            cli.sh("team", "id -un; pwd; echo $PATH $GREETING $HOME"),
            format!("games\n/srv/app\n{PATH} hello /usr/games")
        );
        assert_eq!(cli.sh("team", "printf %s \"$HOSTILE\""), HOSTILE);
        assert_eq!(cli.sh("team", "touch /srv/app/x /workspace/x && echo both"), "both");
    });
    promises.keep("what is asked for wins", || {
        let asked = cli.run(&[
            "exec",
            "-u",
            "shed",
            "-w",
            "/tmp",
            "-e",
            "GREETING=asked",
            "team",
            "id -un; pwd; echo $GREETING",
        ]);
        assert_eq!(asked.ok().out(), "shed\n/tmp\nasked");
    });
    promises.keep("login shells have it, too: a line, SSH, a console, tmux", || {
        let line = "printf '%s\\n' \"$PATH $GREETING\"";
        let expected = format!("{PATH} hello");
        assert_eq!(cli.run(&["exec", "team", line]).ok().out(), expected);
        let ssh = OpenSsh::new(&stage, &server, &["team"]);
        assert_eq!(ssh.exec("team", line).ok().out(), expected);
        assert_eq!(ssh.exec("team", "printf %s \"$HOSTILE\"").ok().out(), HOSTILE);
        let mut console = cli.on_terminal(&["console", "team"], 24, 160);
        console.type_in("echo \"<$PATH $GREETING>\"; exit 4\r");
        console.wait_for(&format!("<{expected}>"), SHORT);
        assert_eq!(console.wait(SHORT), 4);
        cli.exec("team", &["tmux", "new-session", "-d", "-s", "main"]).ok();
        cli.run(&["exec", "-S", "main", "team", "echo \"$PATH $GREETING\" > /tmp/seen"]).ok();
        let seen = wait_for("the session's answer", SHORT, || {
            let seen = cli.sh("team", "cat /tmp/seen 2>/dev/null || true");
            (!seen.is_empty()).then_some(seen)
        });
        assert_eq!(seen, expected);
        assert!(cli.run(&["sessions", "team"]).ok().out().contains("main"));
    });
    promises.keep("a login that the agent did not start has it as well", || {
        let login =
            cli.run(&["exec", "-u", "root", "team", "--", "su", "-", "shed", "-c", "echo $PATH $GREETING"]);
        assert_eq!(login.ok().out(), format!("{PATH} hello"));
    });
    promises.keep("no value was more than a value", || {
        assert_eq!(cli.sh("team", "ls /tmp/evil 2>/dev/null || echo none"), "none");
    });
    promises.keep("without a command the image's program runs, and --entrypoint gives it others", || {
        assert_eq!(cli.run(&["exec", "team"]).ok().out(), "entry its own in /srv/app as games with hello");
        let other = cli.run(&["exec", "--entrypoint", "team", "--", "a", "$b"]).ok().out();
        assert_eq!(other, "entry a $b in /srv/app as games with hello");
    });
    promises.keep("files that are synced are the user's", || {
        fs::create_dir_all(stage.home().join(".shed")).expect("~/.shed");
        fs::write(stage.home().join("notes"), "n").expect("a file");
        let sync = "features:\n  notes:\n    paths:\n      - {source: ~/notes, target: /srv/app/notes}\nprofiles:\n  default: {features: [notes]}\n";
        fs::write(stage.home().join(".shed/sync.yaml"), sync).expect("sync.yaml");
        cli.run(&["sync", "team"]).ok();
        assert_eq!(cli.sh("team", "stat -c %U /srv/app/notes"), "games");
    });
    promises.keep("it stays so over a restart", || {
        cli.run(&["stop", "team"]).ok();
        cli.run(&["start", "team"]).ok();
        assert_eq!(cli.run(&["exec", "team", "id -un; echo $PATH"]).ok().out(), format!("games\n{PATH}"));
    });
    promises.keep("an image whose program is an init runs none without a command", || {
        cli.create("plain", &[]);
        assert_eq!(cli.sh("plain", "id -un; pwd"), "shed\n/workspace");
        let none = cli.run(&["exec", "plain"]);
        assert_eq!(none.code, 126);
        assert!(none.err().contains("shed console plain"), "{}", none.err());
    });
    promises.finish();
}

/// An image of one program has no accounts and no profile.
#[test]
fn an_image_that_is_only_busybox_has_what_it_says() {
    let Some(stage) = Stage::new() else { return };
    let Some(busybox) = BUSYBOX.into_iter().find(|path| Path::new(path).is_file()) else {
        skipped(&format!("there is no static busybox at {BUSYBOX:?}; the package busybox-static has it"));
        return;
    };
    let image = busybox_image(Utf8Path::new(busybox), &stage);
    let config = RunConfig {
        user: "4711:4712".to_owned(),
        env: words(&["PATH=/opt:/bin", "A=b"]),
        entrypoint: Vec::new(),
        cmd: words(&["sh", "-c", "echo $A; id -u; id -g; pwd"]),
        working_dir: "/srv/app".to_owned(),
    };
    say(&image, config);
    let _server = stage.serve();
    let cli = stage.cli();
    cli.create("small", &["--image", "busybox"]);
    let mut promises = Promises::new();
    promises.keep("the image's program runs as an id without an account", || {
        assert_eq!(cli.run(&["exec", "small"]).ok().out(), "b\n4711\n4712\n/srv/app");
        assert_eq!(cli.sh("small", "echo $PATH; touch x && ls"), "/opt:/bin\nx");
    });
    promises.keep("a console falls back to sh and keeps the image's PATH", || {
        console(&cli);
    });
    promises.keep("a line for a shell says what to do without bash", || {
        let line = cli.run(&["exec", "small", "echo a; echo b"]);
        assert_eq!(line.code, 127);
        assert!(line.err().contains("sh -c"), "{}", line.err());
    });
    promises.finish();
}

fn console(cli: &Cli) {
    let mut console = cli.on_terminal(&["console", "small"], 24, 80);
    console.type_in("echo \"<$0 $PATH $A>\"; exit 5\r");
    console.wait_for("/opt:/bin b>", SHORT);
    assert_eq!(console.wait(SHORT), 5, "{}", console.screen());
}

fn busybox_image(busybox: &Utf8Path, stage: &Stage) -> camino::Utf8PathBuf {
    let tree = stage.dir().join("busybox-tree");
    fs::create_dir_all(tree.join("bin")).expect("a directory of the stage");
    fs::copy(busybox, tree.join("bin/busybox")).expect("a copy of busybox");
    for name in ["sh", "cat", "echo", "id", "ls", "touch", "true"] {
        std::os::unix::fs::symlink("busybox", tree.join("bin").join(name)).expect("a link");
    }
    let image = stage.images_dir().join("busybox-rootfs.ext4");
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-d", tree.as_str(), image.as_str(), "16m"])
        .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()))
        .output()
        .expect("mke2fs, of e2fsprogs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    image
}
