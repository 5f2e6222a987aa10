//! Files on their way into a real shed: what arrives is what was sent, nothing arrives anywhere else, and what goes wrong
//! is said and leaves nothing half-written.

use std::{
    fs,
    io::Write,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    path::Path,
    process::Command,
};

use camino::Utf8Path;
use serde_json::json;
use vm_tests::{Cli, Http, Promises, SHORT, Stage, run};

const SHED: &str = "files";

/// Files of the large tree.
const MANY: usize = 5000;

/// Length of the sparse file, in bytes.
const SPARSE: u64 = 100 << 20;

/// Prints everything below a directory that a transfer keeps: names, kinds, modes, times, links and contents.
const LIST: &str = "export LC_ALL=C; find . -print0 | sort -z | xargs -0 stat -c '%N %F %a %Y %s' | grep -v ' directory ' ; \
                    find . -type d -print0 | sort -z | xargs -0 stat -c '%N %a %Y'; \
                    find . -type f -print0 | sort -z | xargs -0 sha256sum";

/// A tree of the user's arrives as it was, whatever its names and sizes; it belongs to `shed`; features fail one by one;
/// and the log says what was done.
#[test]
fn sync_brings_a_tree_as_it_is() {
    let Some(stage) = Stage::new() else { return };
    let server = stage.serve();
    let cli = stage.cli();
    let home = stage.home();
    let odd = home.join("odd");
    make_odd_tree(&odd);
    make_large_tree(&home.join("many"));
    fs::write(home.join(".gitconfig"), "[user]\n").expect("a file");
    fs::create_dir(home.join("special")).expect("a directory");
    fs::write(home.join("special/kept"), "x").expect("a file");
    let _listener = UnixListener::bind(home.join("special/socket")).expect("a socket");
    assert!(Command::new("mkfifo").arg(home.join("special/fifo")).status().expect("mkfifo runs").success());
    write_sync(&home);

    let mut promises = Promises::new();
    promises.keep(
        "a create brings the features of the profile `default`, and says nothing else of it",
        || {
            let made = cli.run(&["create", SHED, "--memory", "768"]).ok();
            assert!(
                made.err().contains("git: ~/.gitconfig -> ~/.config/git/config: 1 file"),
                "{}",
                made.err()
            );
            assert_eq!(
                cli.sh(SHED, "cat ~/.config/git/config; stat -c '%U %G' ~/.config ~/.config/git/config"),
                "[user]\nshed shed\nshed shed"
            );
        },
    );
    promises.keep("a dry run shows the plan and changes nothing", || {
        let before =
            cli.sh(SHED, "sudo find /home /opt /var/log/shed -newermt 2000-01-01 -printf '%p %T@\\n' | sort");
        let plan = cli.run(&["sync", SHED, "-p", "all", "--dry-run"]).ok().out();
        assert!(plan.contains("~/many -> /opt/many/tree (5000 files"), "{plan}");
        let after =
            cli.sh(SHED, "sudo find /home /opt /var/log/shed -newermt 2000-01-01 -printf '%p %T@\\n' | sort");
        assert_eq!(before, after);
    });
    promises.keep(
        "odd names, modes, times, links, empty directories and a sparse file arrive as they were",
        || {
            let ran = run(&mut cli.command(&["sync", SHED, "-f", "odd"]), b"", SHORT * 6).ok();
            assert!(!ran.err().contains("warning"), "{}", ran.err());
            assert_eq!(listed_in_guest(&cli, "/home/shed/odd"), listed_here(&odd));
            assert_eq!(cli.sh(SHED, "find ~/odd ! -user shed -o ! -group shed | wc -l"), "0");
            let blocks: u64 = cli.sh(SHED, "stat -c %b ~/odd/sparse").parse().expect("a number");
            assert!(blocks * 512 < SPARSE / 10, "{blocks} blocks of a sparse file");
        },
    );
    promises.keep("five thousand files arrive, below a directory that only root may write to", || {
        run(&mut cli.command(&["sync", SHED, "-f", "many"]), b"", SHORT * 6).ok();
        assert_eq!(listed_in_guest(&cli, "/opt/many/tree"), listed_here(&home.join("many")));
        assert_eq!(
            cli.sh(SHED, "stat -c %U /opt /opt/many /opt/many/tree /opt/many/tree/d7/f7"),
            "root\nroot\nshed\nshed"
        );
    });
    promises.keep("a second sync replaces what has changed and keeps what is only in the shed", || {
        cli.sh(SHED, "echo mine > ~/odd/mine; echo changed > ~/odd/0600; chmod 777 ~/odd/0600");
        cli.run(&["sync", SHED, "-f", "odd"]).ok();
        assert_eq!(cli.sh(SHED, "cat ~/odd/mine ~/odd/0600; stat -c %a ~/odd/0600"), "mine\nsecret\n600");
    });
    promises.keep("what is no file is left out with a warning, and the rest arrives", || {
        let ran = cli.run(&["sync", SHED, "-f", "special"]).ok();
        for text in ["fifo: left out: it is a FIFO", "socket: left out: it is a socket"] {
            assert!(ran.err().contains(text), "{}", ran.err());
        }
        assert_eq!(cli.sh(SHED, "ls -A ~/special"), "kept");
    });
    promises.keep(
        "a command that fails ends its feature, and the others are done; the exit code says so",
        || {
            let ran = cli.run(&["sync", SHED, "-p", "failing"]).exits(1);
            assert!(
                ran.err().contains("error: feature broken: `echo first; exit 7` ended with exit code 7"),
                "{}",
                ran.err()
            );
            assert!(ran.out().starts_with("Synced 2 features of 3 to shed files"), "{}", ran.out());
            assert_eq!(
                cli.sh(SHED, "ls ~/broken ~/after; cat ~/after-ran; ls ~/never 2>&1 | grep -c 'No such'"),
                "/home/shed/after\n/home/shed/broken\nshed /workspace login\n1"
            );
        },
    );
    promises.keep("a target that is in the way fails its feature with the reason", || {
        let ran = cli.run(&["sync", SHED, "-f", "in-the-way"]).exits(1);
        assert!(
            ran.err().contains("cannot be written to") && ran.err().contains("a directory is in the way"),
            "{}",
            ran.err()
        );
    });
    promises.keep("the log in the shed says what was done and what commands printed", || {
        let log = cli.sh(SHED, "cat /var/log/shed/sync.log");
        for text in [
            "feature git, shed ",
            "~/.gitconfig -> ~/.config/git/config: 1 file",
            "$ echo first; exit 7\nfirst\n",
            "failed: feature broken: ",
            "~/gone is not there; skipped",
        ] {
            assert!(log.contains(text), "{text:?} is not in {log}");
        }
    });
    promises.keep("with --json the result is one object, and with --no-sync nothing is copied", || {
        let result = cli.run(&["sync", SHED, "--json"]).ok().json();
        assert_eq!(
            (&result["status"], &result["details"]["features"][0]["files"]),
            (&json!("ok"), &json!(1))
        );
        cli.create("bare", &["--memory", "512", "--no-sync"]);
        assert_eq!(cli.exec("bare", &["test", "-e", "/home/shed/.config/git/config"]).code, 1);
        cli.delete("bare");
    });
    promises.keep("a shed that does not run is started first, once, and that is said", || {
        cli.run(&["stop", SHED]).ok();
        let ran = cli.run(&["sync", SHED]).ok();
        assert!(ran.err().contains(&format!("shed {SHED} does not run; starting it")), "{}", ran.err());
    });
    cli.delete(SHED);
    drop(server);
    stage.finish();
    promises.finish();
}

/// No archive writes outside its target or makes anything but files, directories and links, and what is no archive does
/// no harm; a transfer that fails in the middle leaves no half file behind.
#[test]
fn hostile_archives_are_refused() {
    let Some(stage) = Stage::new() else { return };
    let server = stage.serve();
    let (cli, http) = (stage.cli(), server.http());
    cli.create(SHED, &["--memory", "768", "--no-sync"]);
    cli.sh(SHED, "mkdir -p ~/t ~/outside && echo kept > ~/outside/kept && ln -s ~/outside ~/t/there");
    let world = World { cli: &cli, http };
    let mut promises = Promises::new();
    for (what, archive) in [
        ("a name with `..`", Archive::new().file("../outside/new", b"x")),
        ("an absolute name", Archive::new().file("/home/shed/outside/new", b"x")),
        (
            "a link of its own that leads out",
            Archive::new().link("l", "/home/shed/outside").file("l/new", b"x"),
        ),
        ("a relative link that leads out", Archive::new().link("l", "../outside").file("l/kept", b"x")),
        ("a link that is there and leads out", Archive::new().file("there/new", b"x")),
        ("a directory behind such a link", Archive::new().entry("there/d", b'5', "", 0o755, b"")),
        ("a name of 5,000 bytes", Archive::new().long(&"n".repeat(5000)).file("n", b"x")),
        ("a part of a name of 300 bytes", Archive::new().long(&"n".repeat(300)).file("n", b"x")),
        ("a name that says it has a gigabyte", Archive::new().entry_of("l", b'L', 1 << 30)),
        ("records that say they have a gigabyte", Archive::new().entry_of("x", b'x', 1 << 30)),
        ("a link without a target", Archive::new().entry("l", b'2', "", 0o777, b"")),
        ("a directory with content", Archive::new().entry("d", b'5', "", 0o755, b"x")),
    ] {
        promises.keep(&format!("{what} is refused, and nothing is outside"), || {
            world.refused(&archive.end(), 400, "INVALID_REQUEST");
        });
    }
    promises.keep("devices, FIFOs and hard links are left out, and no file gets a set-user-id bit", || {
        let archive = Archive::new()
            .entry("null", b'3', "", 0o666, b"")
            .entry("sda", b'4', "", 0o666, b"")
            .entry("fifo", b'6', "", 0o666, b"")
            .entry("hard", b'1', "/etc/shadow", 0o666, b"")
            .entry("root-shell", b'0', "", 0o6755, b"#!/bin/sh\n");
        let reply = world.http.put_files(SHED, "~/devices", &archive.end()).is(200).json();
        assert_eq!(
            (&reply["files"], reply["warnings"].as_array().map(Vec::len)),
            (&json!(1), Some(4)),
            "{reply}"
        );
        assert_eq!(cli.sh(SHED, "cd ~/devices && stat -c '%n %a %U' *"), "root-shell 755 shed");
    });
    promises.keep("what is cut off, garbage or compressed is refused, wherever it is cut", || {
        let whole = Archive::new().file("a", &[7; 300_000]).file("b", &[8; 300_000]).end();
        for length in [0, 1, 511, 512, 513, 100_000, 300_000, 400_000, whole.len() - 1024] {
            world.refused(&whole[..length], 400, "INVALID_REQUEST");
        }
        let noise: Vec<u8> =
            (0..1_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        world.refused(&noise, 400, "INVALID_REQUEST");
        world.refused(&[&[0x1f, 0x8b, 8, 0][..], &noise].concat(), 400, "INVALID_REQUEST");
        let mut damaged = whole;
        damaged[300_544 + 5] ^= 1;
        world.refused(&damaged, 400, "INVALID_REQUEST");
    });
    promises.keep("a full disk is said, and leaves nothing half-written", || {
        cli.sh(SHED, "sudo mkdir -p /mnt/small && sudo mount -t tmpfs -o size=2m tmpfs /mnt/small");
        let archive = Archive::new().file("fits", &[7; 100_000]).file("does-not", &[7; 30 << 20]).end();
        let reply = world.http.put_files(SHED, "/mnt/small", &archive);
        assert_eq!((reply.status, reply.error().0.as_str()), (507, "INSUFFICIENT_STORAGE"));
        assert_eq!(cli.sh(SHED, "ls -A /mnt/small"), "fits");
        cli.sh(SHED, "sudo umount /mnt/small");
    });
    promises.keep("a place that is read-only, or no directory, is said", || {
        cli.sh(SHED, "sudo mount -t tmpfs -o ro tmpfs /mnt/small; echo file > ~/file");
        for target in ["/mnt/small", "/mnt/small/below", "~/file", "~/file/below", "/proc/x", "/sys/kernel"] {
            let reply = world.http.put_files(SHED, target, &Archive::new().file("x", b"x").end());
            assert_eq!((reply.status, reply.error().0.as_str()), (409, "TARGET_UNUSABLE"), "{target}");
        }
        cli.sh(SHED, "sudo umount /mnt/small");
    });
    promises.keep("a client that goes away in the middle leaves the file before it, and no half one", || {
        let archive = Archive::new().file("whole", &[7; 100_000]).file("half", &[8; 20 << 20]).end();
        let mut stream = world.http.connect().expect("a connection");
        let head = format!(
            "PUT /api/sheds/{SHED}/files?path=~/gone HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
            archive.len()
        );
        stream.write_all(head.as_bytes()).expect("the head is taken");
        stream.write_all(&archive[..10 << 20]).expect("half of it is taken");
        drop(stream);
        vm_tests::wait_for("the half file to be removed", SHORT, || {
            (cli.sh(SHED, "ls -A ~/gone 2>/dev/null || true") == "whole").then_some(())
        });
    });
    promises.keep("all this has hurt nobody: files still arrive", || {
        let reply = world.http.put_files(SHED, "~/fine", &Archive::new().file("x", b"fine").end()).is(200);
        assert_eq!(reply.json()["bytes"], 4);
        assert_eq!(cli.sh(SHED, "cat ~/fine/x; cat ~/outside/*; ls -A ~/outside"), "finekept\nkept");
    });
    cli.delete(SHED);
    drop(server);
    stage.finish();
    promises.finish();
}

struct World<'a> {
    cli: &'a Cli,
    http: Http,
}

impl World<'_> {
    /// Sends an archive that must be refused, and looks at what is there afterwards.
    #[track_caller]
    fn refused(&self, archive: &[u8], status: u16, code: &str) {
        let reply = self.http.put_files(SHED, "~/t", archive);
        assert_eq!((reply.status, reply.error().0.as_str()), (status, code), "{}", reply.text());
        let seen =
            self.cli.sh(SHED, "ls -A ~/outside; cat ~/outside/kept; ls -A ~/t | grep -c '^.shed-' || true");
        assert_eq!(seen, "kept\nkept\n0");
    }
}

/// Makes archives that no good program makes.
struct Archive(Vec<u8>);

impl Archive {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn header(mut self, name: &str, kind: u8, link: &str, mode: u32, size: u64) -> Self {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(mode);
        header.set_size(size);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self
    }

    fn entry(self, name: &str, kind: u8, link: &str, mode: u32, content: &[u8]) -> Self {
        let mut archive = self.header(name, kind, link, mode, content.len() as u64);
        archive.0.extend_from_slice(content);
        archive.0.resize(archive.0.len().next_multiple_of(512), 0);
        archive
    }

    /// An entry that says it is so long, and is not.
    fn entry_of(self, name: &str, kind: u8, size: u64) -> Self {
        self.header(name, kind, "", 0o644, size)
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(name, b'0', "", 0o644, content)
    }

    fn link(self, name: &str, to: &str) -> Self {
        self.entry(name, b'2', to, 0o777, b"")
    }

    /// Gives the next entry this name.
    fn long(self, name: &str) -> Self {
        self.entry("././@LongLink", b'L', "", 0o644, format!("{name}\0").as_bytes())
    }

    fn end(&self) -> Vec<u8> {
        let mut bytes = self.0.clone();
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }
}

fn write_sync(home: &Utf8Path) {
    let text = "\
features:
  git:
    paths: [{source: ~/.gitconfig, target: ~/.config/git/config}]
  odd:
    paths: [{source: ~/odd, target: ~/odd}]
  many:
    paths: [{source: ~/many, target: /opt/many/tree}]
  special:
    paths: [{source: ~/special, target: ~/special}]
  in-the-way:
    paths: [{source: ~/.gitconfig, target: ~/odd}]
  broken:
    paths: [{source: ~/.gitconfig, target: ~/broken}]
    postSync:
      - run: echo first; exit 7
      - run: touch ~/never
  after:
    paths:
      - {source: ~/gone, target: ~/gone}
      - {source: ~/.gitconfig, target: ~/after}
    postSync:
      - run: |
          shopt -q login_shell && login=login
          echo $USER $PWD $login > ~/after-ran
profiles:
  default: {features: [git]}
  all: {features: [odd, many]}
  failing: {features: [git, broken, after]}
";
    fs::write(home.join(".shed/sync.yaml"), text).expect("sync.yaml");
}

fn make_odd_tree(root: &Utf8Path) {
    let long = "l".repeat(255);
    let deep: Vec<String> = (0..30).map(|level| format!("directory-{level:02}-of-many")).collect();
    let deep = root.join(deep.join("/"));
    for directory in [root.join("empty"), root.join(&long), deep.clone()] {
        fs::create_dir_all(directory).expect("a directory");
    }
    let seven = "d".repeat(120);
    for name in [
        "space in it",
        "line\nfeed",
        "tab\tand\u{1b}[31mescape",
        "\u{fc}n\u{ef}c\u{f6}de \u{1f984}",
        "-rf",
        "'quotes\" $HOME `id`",
        "back\\slash",
        "*",
        ".hidden",
        &seven,
        &long,
    ] {
        fs::write(root.join(&long).join(name), name).expect("a file");
    }
    fs::write(root.as_std_path().join(std::ffi::OsStr::from_bytes(b"no \xff text")), "x").expect("a file");
    fs::write(deep.join("at the bottom"), "deep").expect("a file");
    fs::write(root.join("nothing"), "").expect("a file");
    fs::write(root.join("0600"), "secret\n").expect("a file");
    for (name, mode) in [("0600", 0o600), ("empty", 0o700), ("nothing", 0o755)] {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).expect("a mode");
    }
    for (name, to) in [("link", "0600"), ("dangling", "no\nwhere"), ("out", "/etc/hostname"), ("up", "../..")]
    {
        symlink(to, root.join(name)).expect("a link");
    }
    symlink("t".repeat(300), root.join("long-link")).expect("a link");
    let sparse = fs::File::create(root.join("sparse")).expect("a file");
    sparse.set_len(SPARSE).expect("a length");
    (&sparse).write_all(b"begin").expect("some bytes");
    let old = ["-h", "-d", "1999-12-31 23:59:58 UTC"];
    for name in ["0600", "link", "empty"] {
        let touched = Command::new("touch").args(old).arg(root.join(name)).status();
        assert!(touched.expect("touch runs").success());
    }
}

fn make_large_tree(root: &Utf8Path) {
    for number in 0..MANY {
        let directory = root.join(format!("d{}", number % 50));
        fs::create_dir_all(&directory).expect("a directory");
        fs::write(directory.join(format!("f{number}")), format!("content {number}")).expect("a file");
    }
}

fn listed_here(directory: &Utf8Path) -> String {
    let output =
        Command::new("sh").args(["-c", LIST]).current_dir(Path::new(directory)).output().expect("sh runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn listed_in_guest(cli: &Cli, directory: &str) -> String {
    cli.sh(SHED, &format!("cd {directory} && {LIST}"))
}
