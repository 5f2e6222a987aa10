//! `shed image build`, `save` and `push` with real buildah, skopeo and docker-registry, and with users, tools and archives
//! that are wrong.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

use crate::{
    exec::{PATIENCE, signal, wait},
    pty::Pty,
    stub::{Stub, ok, refused},
    user::{Ran, User, closed_port, json},
};

/// Where Debian and others put a busybox that is linked statically.
const BUSYBOX: [&str; 3] = ["/bin/busybox", "/usr/bin/busybox", "/usr/local/bin/busybox"];

/// A directory with what these tests build from and into, and storage of buildah's own.
struct Bench {
    dir: tempfile::TempDir,
    user: User,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("context")).unwrap();
        Self { dir, user: User::new() }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    /// Puts a program into the context that needs nothing else.
    fn with_busybox(self) -> Self {
        let busybox = BUSYBOX.into_iter().find(|path| Path::new(path).is_file());
        let busybox = busybox.expect("these tests need the package busybox-static");
        fs::copy(busybox, self.path("context/busybox")).unwrap();
        self
    }

    /// The client, with tools that keep what they keep in this directory.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.user.command(arguments);
        command
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("STORAGE_DRIVER", "vfs")
            .env("CONTAINERS_STORAGE_CONF", self.path("storage.conf"))
            .env("XDG_RUNTIME_DIR", self.dir.path())
            .current_dir(self.dir.path());
        self.write(
            "storage.conf",
            &format!(
                "[storage]\ndriver = \"vfs\"\ngraphroot = {:?}\nrunroot = {:?}\n",
                self.path("graph"),
                self.path("run")
            ),
        );
        command
    }

    fn shed(&self, arguments: &[&str]) -> Ran {
        Ran::of(&self.command(arguments).output().unwrap())
    }

    /// Builds into `images`.
    fn build(&self, arguments: &[&str]) -> Ran {
        let images = self.path("images");
        self.shed(&[&["image", "build", "--output-dir", &images, "-n"], arguments].concat())
    }

    /// The names in the images directory, but for locks and the blobs.
    fn images(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.path("images"))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with(".lock") && name != ".oci")
            .filter(|name| name != ".cache" || fs::read_dir(self.path("images/.cache")).unwrap().count() > 1)
            .collect();
        names.sort();
        names
    }

    /// Makes an OCI layout without a system in it, by umoci.
    fn layout(&self, name: &str) -> String {
        let layout = self.path(name);
        let image = format!("{layout}:v1");
        umoci(&["init", "--layout", &layout]);
        umoci(&["new", "--image", &image]);
        fs::create_dir_all(self.path("tree/etc")).unwrap();
        self.write("tree/etc/motd", "hello\n");
        run("tar", &["-C", &self.path("tree"), "-cf", &self.path("tree.tar"), "."]);
        umoci(&["raw", "add-layer", "--image", &image, &self.path("tree.tar")]);
        umoci(&["config", "--image", &image, "--config.env", "A=b", "--config.cmd", "/bin/true"]);
        layout
    }
}

fn umoci(arguments: &[&str]) {
    run("umoci", arguments);
}

/// Runs a tool that has to succeed.
fn run(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("these tests need {tool}: {error}"));
    assert!(output.status.success(), "{tool} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Debian's registry on a port of its own.
struct Registry {
    child: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Registry {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.yml");
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {:?}}}}}\nhttp: {{addr: \"127.0.0.1:0\"}}\n",
            dir.path().join("data")
        );
        fs::write(&config, text).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("these tests need the package docker-registry");
        let log = BufReader::new(child.stderr.take().unwrap());
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            // Read to its end, so that the registry is never held up.
            for line in log.lines().map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once("listening on ") {
                    let address: String =
                        rest.chars().take_while(|c| !matches!(c, '"' | ',' | ' ')).collect();
                    let _test_over = tell.send(address);
                }
            }
        });
        let address = told.recv_timeout(PATIENCE).expect("the registry says where it listens");
        Self { child, address, _dir: dir }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A directory with programs of these names, which are scripts.
fn tools(bench: &Bench, scripts: &[(&str, &str)]) -> PathBuf {
    let bin = bench.dir.path().join("bin");
    fs::create_dir_all(&bin).unwrap();
    for (name, script) in scripts {
        let path = bin.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    bin
}

#[test]
fn what_cannot_be_built_is_refused_before_anything_is_done() {
    let bench = Bench::new();
    bench.write("file", "");
    for (arguments, code, text) in [
        (&["../x"][..], 2, "image name"),
        (&["_base"], 2, "Shed's own"),
        (&["web", "--build-arg", "NAME"], 2, "NAME=VALUE"),
        (&["web", "--from", "UPPER CASE"], 2, "neither an archive"),
        (&["web", "--from", "./none.tar"], 2, "no archive or OCI layout"),
        (&["web", "--from", "debian", "-f", "x"], 2, "cannot be used with"),
        (&["web", "--from", "debian", "context"], 2, "cannot be used with"),
        (&["web", "nowhere"], 2, "is no directory"),
        (&["web", "file"], 2, "is no directory"),
        (&["web", "-f", "nothing", "context"], 2, "there is no file nothing"),
        (&["web", "context"], 2, "neither a Dockerfile.shed nor a Dockerfile"),
    ] {
        bench.build(arguments).exits(code).says(text);
    }
    assert_eq!(bench.images(), [""; 0]);
    assert!(!Path::new(&bench.path("images")).exists());
}

#[test]
fn without_a_tool_that_builds_it_is_said_what_to_do() {
    let bench = Bench::new();
    bench.write("context/Dockerfile", "FROM scratch\n");
    let bin = tools(&bench, &[]);
    let line = ["image", "build", "-n", "web", "--output-dir", &bench.path("images"), "context"];
    let output = bench.command(&line).env("PATH", bin).output().unwrap();
    Ran::of(&output).exits(1).says("no buildah, podman or docker on PATH").says("--from REF|ARCHIVE");
}

#[test]
fn the_first_tool_is_taken_and_its_words_and_code_are_shown() {
    let bench = Bench::new();
    bench.write("context/Dockerfile", "FROM scratch\n");
    let line = ["image", "build", "-n", "web", "--output-dir", &bench.path("images"), "context"];
    for (tools_there, first) in [
        (&["docker", "podman", "buildah"][..], "buildah"),
        (&["docker", "podman"], "podman"),
        (&["docker"], "docker"),
    ] {
        let bench_bin = bench.dir.path().join("bin");
        let _none = fs::remove_dir_all(&bench_bin);
        let scripts: Vec<(&str, &str)> = tools_there
            .iter()
            .map(|tool| (*tool, "echo \"working: $1\"; printf 'bad \\033[2Jthing\\n' >&2; exit 7"))
            .collect();
        let bin = tools(&bench, &scripts);
        let ran = Ran::of(&bench.command(&line).env("PATH", &bin).output().unwrap()).exits(1);
        let ran = ran.says(&format!("error: {first} failed with exit code 7")).says("working: build");
        assert!(ran.stderr.contains("bad \u{fffd}[2Jthing") && ran.stdout.is_empty(), "{ran:?}");
        let ran =
            Ran::of(&bench.command(&[&["--json"], &line[..]].concat()).env("PATH", &bin).output().unwrap());
        let error = json(&ran.exits(1).stderr)["error"].as_str().unwrap().to_owned();
        assert!(error.starts_with(&format!("{first} failed with exit code 7: ")), "{error}");
    }
    // A build that ends well and says nothing of what it has built.
    let bin = tools(&bench, &[("buildah", "exit 0")]);
    let ran = Ran::of(&bench.command(&line).env("PATH", &bin).output().unwrap());
    ran.exits(1).says("buildah did not say what it has built");
    assert_eq!(bench.images(), [""; 0]);
}

#[test]
fn a_machine_without_containers_is_built_on_all_the_same() {
    let bench = Bench::new();
    bench.write("context/Dockerfile", "FROM scratch\n");
    let script = "echo \"$@\" >> \"$HOME/asked\"; case $* in *chroot*) exit 9;; esac\n\
                  echo 'error running container: from /usr/bin/crun creating container for [x]: no' >&2; exit 1";
    let bin = tools(&bench, &[("buildah", script)]);
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let line = ["image", "build", "-n", "web", "--output-dir", &bench.path("images"), "context"];
    let ran = Ran::of(&bench.command(&line).env("PATH", &path).output().unwrap());
    ran.exits(1).says("once more with --isolation chroot").says("exit code 9");
    // Who has chosen an isolation has chosen.
    let output = bench.command(&line).env("PATH", &path).env("BUILDAH_ISOLATION", "oci").output().unwrap();
    Ran::of(&output).exits(1).says("exit code 1");
}

#[test]
fn a_build_that_is_interrupted_ends_its_tool_and_leaves_nothing() {
    let bench = Bench::new();
    bench.write("context/Dockerfile", "FROM scratch\n");
    // Ends when it is told to, and says so.
    let script = format!(
        "trap 'echo told > {0}; exit 1' TERM\necho ready\nwhile :; do sleep 0.1; done",
        bench.path("told")
    );
    let bin = tools(&bench, &[("buildah", &script)]);
    let line = ["image", "build", "-n", "web", "--output-dir", &bench.path("images"), "context"];
    let mut child = bench
        .command(&line)
        .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.by_ref().any(|line| line.unwrap() == "ready"));
    signal(&child, rustix::process::Signal::INT);
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(wait(&mut child), Some(130), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("the build of image web was interrupted")), "{rest:?}");
    assert_eq!(fs::read_to_string(bench.path("told")).unwrap(), "told\n");
    assert_eq!(bench.images(), [""; 0]);
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let bench = Bench::new();
    bench.write("context/Dockerfile", "FROM scratch\n");
    bench.write("file", "");
    let line =
        |dir: &str| bench.shed(&["image", "build", "-n", "web", "--from", "debian", "--output-dir", dir]);
    line(&bench.path("file")).exits(1).says("cannot use").says("it is no directory");
    line(&bench.path("file/below")).exits(1).says("it is no directory");
    line("/proc/shed").exits(1).says("it cannot be made");
    line("/sys").exits(1).says("/sys");
}

#[test]
fn the_images_of_a_server_elsewhere_are_out_of_reach() {
    let bench = Bench::new();
    let images = bench.path("images");
    fs::create_dir(&images).unwrap();
    let info = |dir: Option<&str>| {
        let mut info = serde_json::json!({
            "name": "mini", "version": "1", "ssh_port": 1, "http_port": 2, "backend": "qemu",
        });
        if let Some(dir) = dir {
            info["images_dir"] = dir.into();
        }
        info.to_string()
    };
    for (dir, text) in [
        (None, "does not say where its images are"),
        (Some("/no/such/directory"), "there is no such directory on this machine"),
    ] {
        let stub = Stub::serve(move |_| ok(info(dir)));
        let user = User::with_server(stub.port);
        for line in [
            &["image", "build", "-n", "web", "--from", "debian"][..],
            &["image", "save", "web", "-o", "x"],
            &["image", "push", "web", "r.example/web"],
        ] {
            let flag = if line[1] == "build" { "--output-dir DIR" } else { "--images-dir DIR" };
            user.shed(line).exits(1).says(text).says(flag).says("on the server's own host");
        }
    }
    let stub = Stub::serve(move |_| ok(info(Some(&images))));
    let user = User::with_server(stub.port);
    user.shed(&["image", "save", "web", "-o", "x"]).exits(4).says("there is no image web in");
    let user = User::new();
    user.write_config(&format!(
        "servers: {{far: {{host: shed.invalid, http_port: {}}}}}\ndefault_server: far\n",
        stub.port
    ));
    user.shed(&["image", "save", "web", "-o", "x"])
        .exits(3)
        .says("cannot reach server far")
        .says("--images-dir DIR");
    let (_guard, closed) = closed_port();
    User::with_server(closed)
        .shed(&["image", "build", "-n", "web", "--from", "debian"])
        .exits(3)
        .says("--output-dir DIR");
    let old = Stub::serve(|_| refused("500 Internal Server Error", "INTERNAL_ERROR", "no"));
    User::with_server(old.port).shed(&["image", "push", "web", "r/x"]).exits(1).says("--images-dir DIR");
}

#[test]
fn an_archive_that_is_garbage_makes_no_image() {
    let bench = Bench::new();
    bench.write("garbage.tar", &"garbage".repeat(1000));
    bench.write("empty.tar", "");
    fs::create_dir(bench.path("layout")).unwrap();
    bench.write("layout/index.json", "[]");
    for name in ["garbage.tar", "empty.tar", "layout"] {
        bench.build(&["web", "--from", name]).exits(1).says(&format!("could not read an image from {name}"));
    }
    assert_eq!(bench.images(), [""; 0]);
}

#[test]
fn an_image_that_is_no_system_is_made_only_when_somebody_wants_it() {
    let bench = Bench::new();
    let layout = bench.layout("layout");
    let ran = bench.build(&["web", "--from", &layout]).exits(2);
    ran.says("io.shed.base-version").says("nobody can be asked").says("--force");
    assert_eq!(bench.images(), [""; 0]);
    for (answer, yes) in [(&b"n\n"[..], false), (b"y\n", true)] {
        let images = bench.path("images");
        let pty = Pty::open();
        let line = ["image", "build", "-n", "web", "--output-dir", &images, "--from", &layout];
        let mut child = pty.spawn(&bench.user, &line);
        pty.shows("Make image web all the same? [y/N] ");
        pty.types(answer);
        pty.shows(if yes { "Built image web" } else { "Nothing was changed." });
        assert_eq!(wait(&mut child), Some(if yes { 0 } else { 1 }));
        assert_eq!(bench.images().contains(&"web-rootfs.ext4".to_owned()), yes);
    }
}

#[test]
fn a_layout_becomes_an_image_that_can_be_saved_pushed_and_pulled() {
    let bench = Bench::new();
    let layout = bench.layout("layout");
    let ran = bench.build(&["web", "--from", &format!("{layout}:v1"), "--force", "--json"]).exits(0);
    assert_eq!(ran.stderr, "");
    let built = json(&ran.stdout)["details"].clone();
    let file = bench.path("images/web-rootfs.ext4");
    assert_eq!((&built["name"], &built["path"]), (&"web".into(), &file.as_str().into()));
    assert_eq!(built["size_bytes"], fs::metadata(&file).unwrap().len());
    let source = fs::read_to_string(bench.path("images/web-rootfs.ext4.source")).unwrap();
    assert_eq!(source, format!("build: {layout}\n"));
    assert_eq!(run("debugfs", &["-R", "cat /etc/motd", &file]), "hello\n");

    let images = ["--images-dir", "images"];
    let saved = bench.shed(&[&["image", "save", "web", "-o", "web.tar"], &images[..]].concat()).exits(0);
    assert!(saved.stdout.starts_with("Saved image web ("), "{saved:?}");
    let inspected = json(&run("skopeo", &["inspect", &format!("oci-archive:{}", bench.path("web.tar"))]));
    assert_eq!(inspected["Digest"], built["digest"]);
    let piped =
        bench.command(&[&["image", "save", "web", "-o", "-"], &images[..]].concat()).output().unwrap();
    assert_eq!(piped.stdout, fs::read(bench.path("web.tar")).unwrap());

    let registry = Registry::start();
    let reference = format!("{}/team/web:v3", registry.address);
    let pushed =
        bench.shed(&[&["image", "push", "web", &reference, "--json"], &images[..]].concat()).exits(0);
    assert_eq!(json(&pushed.stdout)["details"]["digest"], built["digest"]);
    let inspected = run("skopeo", &["inspect", "--tls-verify=false", &format!("docker://{reference}")]);
    assert_eq!(json(&inspected)["Digest"], built["digest"]);

    let other = Bench::new();
    let pulled = other.build(&["web", "--from", &reference, "--force", "--json"]).exits(0);
    assert_eq!(json(&pulled.stdout)["details"]["digest"], built["digest"]);
    let source = fs::read_to_string(other.path("images/web-rootfs.ext4.source")).unwrap();
    assert_eq!(source.trim(), reference);
    other.build(&["old", "--from", "web.tar"]).exits(2).says("no archive or OCI layout web.tar");
    let archive = bench.path("web.tar");
    let imported = other.build(&["copy", "--from", &archive, "--force", "--json"]).exits(0);
    assert_eq!(json(&imported.stdout)["details"]["digest"], built["digest"]);
    assert_eq!(
        other.images(),
        ["copy-rootfs.ext4", "copy-rootfs.ext4.source", "web-rootfs.ext4", "web-rootfs.ext4.source"]
    );
    let missing = format!("{}/team/none:v1", registry.address);
    other.build(&["none", "--from", &missing]).exits(1).says(&format!("could not pull {missing}"));
}

#[test]
fn an_image_without_layers_is_neither_saved_nor_pushed() {
    let bench = Bench::new();
    fs::create_dir(bench.path("images")).unwrap();
    bench.write("images/plain-rootfs.ext4", "an ext4 of somebody's own");
    let images = ["--images-dir", "images"];
    for line in [&["image", "save", "plain", "-o", "x.tar"][..], &["image", "push", "plain", "r.example/x"]] {
        let ran = bench.shed(&[line, &images].concat()).exits(1);
        ran.says("made by other means").says("shed image build -n plain");
    }
    let layout = bench.layout("layout");
    bench.build(&["web", "--from", &layout, "--force"]).exits(0);
    fs::remove_dir_all(bench.path("images/.oci/blobs")).unwrap();
    let ran = bench.shed(&["image", "save", "web", "-o", "x.tar", "--images-dir", "images"]).exits(1);
    ran.says("are not in").says("shed image build -n web");
    assert!(!Path::new(&bench.path("x.tar")).exists());
    let ran = bench.shed(&["image", "save", "web", "-o", "context", "--images-dir", "images"]);
    assert_eq!(ran.code, 1, "{ran:?}");
}

#[test]
fn a_dockerfile_becomes_an_image_and_another_extends_it() {
    let bench = Bench::new().with_busybox();
    let dockerfile = "FROM scratch AS first\nARG WORD=none\nCOPY busybox /bin/busybox\n\
                      RUN [\"/bin/busybox\", \"mkdir\", \"-p\", \"/etc\", \"/sbin\"]\n\
                      ENV GREETING=$WORD\nLABEL io.shed.base-version=1\nENTRYPOINT [\"/sbin/init\"]\n\
                      FROM first AS second\nENV SECOND=1\n";
    bench.write("context/Dockerfile", "FROM nonsense/that/is/not/used\n");
    bench.write("context/Dockerfile.shed", dockerfile);
    let ran = bench.build(&["one", "--target", "first", "--build-arg", "WORD=hello", "context"]).exits(0);
    assert!(ran.stdout.starts_with("Built image one ("), "{ran:?}");
    let ran = ran.says("ENV GREETING=$WORD");
    assert!(!ran.stderr.contains("SECOND"), "{ran:?}");
    let file = bench.path("images/one-rootfs.ext4");
    assert!(run("debugfs", &["-R", "stat /bin/busybox", &file]).contains("Type: regular"));
    let tail =
        String::from_utf8_lossy(&fs::read(&file).unwrap()).rsplit("GREETING=").next().unwrap().to_owned();
    assert!(tail.starts_with("hello"), "the image's config is in its file");

    // With storage that knows nothing of the first one.
    fs::rename(bench.path("graph"), bench.path("graph-of-before")).unwrap();
    bench.write("context/extended", "ARG BASE=shed/one\nFROM ${BASE}\nENV MORE=1\n");
    let ran = bench.build(&["two", "-f", "context/extended", "context"]).exits(0);
    ran.says("giving image one to buildah");
    assert!(
        run("debugfs", &["-R", "stat /bin/busybox", &bench.path("images/two-rootfs.ext4")])
            .contains("regular")
    );
    assert_eq!(
        bench.images(),
        ["one-rootfs.ext4", "one-rootfs.ext4.source", "two-rootfs.ext4", "two-rootfs.ext4.source"]
    );

    bench.write(
        "context/failing",
        "FROM shed/one\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"echo out of luck; exit 3\"]\n",
    );
    let ran = bench.build(&["two", "-f", "context/failing", "context"]).exits(1);
    ran.says("out of luck").says("buildah failed with exit code ");
    bench.write("context/broken", "FROMM x\n");
    bench.build(&["two", "-f", "context/broken", "context"]).exits(1).says("buildah failed with exit code ");
    assert!(Path::new(&bench.path("images/two-rootfs.ext4")).exists(), "what was there is there still");
}
