//! Every error code of the API, each provoked on a real server with real machines.
//!
//! The list is the table of `shed-api`: a code that is added there does not compile here until somebody has said how it
//! comes about.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    thread::{self, JoinHandle},
};

use rustix::process::Signal;
use serde_json::{Value, json};
use shed_api::ErrorCode;
use vm_tests::{Cli, Config, Expect, Http, Promises, SHORT, Server, Stage, kill_process, wait_for};

/// Runs throughout.
const RUNNING: &str = "walker";

/// Is stopped throughout.
const STOPPED: &str = "sleeper";

/// An image that server.yaml names.
const PINNED: &str = "pinned";

/// Headers of a tunnel.
const TUNNEL: &str = "Connection: Upgrade\r\nUpgrade: shed-tcp\r\n";

/// A status and a code, as a client sees them.
type Seen = (u16, String);

/// Everything that may go wrong goes wrong with the status and the code of the table.
#[test]
fn every_error_code_is_sent_with_its_status() {
    let Some(mut stage) = Stage::new() else { return };
    stage.configure(with_pinned_image(&stage));
    let server = stage.serve();
    let world = World { cli: stage.cli(), http: server.http(), stage: &stage, server: &server };
    world.cli.create(RUNNING, &["--memory", "768"]);
    world.cli.create(STOPPED, &["--memory", "768"]);
    world.cli.run(&["stop", STOPPED]).ok();
    // Takes as long as the server waits for a body, so it goes on beside the others.
    let slow = world.body_that_never_comes();

    let mut promises = Promises::new();
    for &code in ErrorCode::ALL {
        let wanted = (code.status(), code.as_str().to_owned());
        match code {
            // Each of these needs more time or another server; they come last.
            ErrorCode::RequestTimeout | ErrorCode::ShuttingDown | ErrorCode::PluginsDisabled => {}
            _ => promises.keep(&format!("{code} is {}: {}", code.status(), code.meaning()), || {
                assert_eq!(world.provoke(code), wanted);
            }),
        }
    }
    promises.keep("REQUEST_TIMEOUT is 408: a body that never comes is not waited for", || {
        assert_eq!(slow.join().expect("a reply"), (408, "REQUEST_TIMEOUT".to_owned()));
    });
    promises.keep("all this has changed nothing", || {
        assert!(server.answers());
        stage.assert_only(&[Expect::Running(RUNNING), Expect::Stopped(STOPPED)]);
    });
    world.cli.delete(RUNNING);
    world.cli.delete(STOPPED);
    drop(server);
    promises.keep("SHUTTING_DOWN is 503: what is in progress when the server ends is told so", || {
        assert_eq!(create_cut_off_by_the_end(&mut stage), (503, "SHUTTING_DOWN".to_owned()));
    });
    promises.keep("PLUGINS_DISABLED is 503: a bus that is turned off has no listeners", || {
        stage.configure(Config { extensions: Some(json!({ "bus": false })), ..Config::default() });
        let reply = stage.serve().http().request("GET", "/api/plugins/listeners", "", None);
        assert_eq!((reply.status, reply.error().0), (503, "PLUGINS_DISABLED".to_owned()));
        stage.configure(Config::default());
    });
    drop(stage.serve());
    promises.keep("nothing is left", || stage.assert_only(&[]));
    promises.finish();
}

fn with_pinned_image(stage: &Stage) -> Config {
    let images = json!({ PINNED: stage.images_dir().join("base-rootfs.ext4") });
    Config { images: Some(images), ..Config::default() }
}

struct World<'a> {
    stage: &'a Stage,
    server: &'a Server,
    cli: Cli,
    http: Http,
}

impl World<'_> {
    /// Does what makes the server answer with this code, and puts everything back.
    fn provoke(&self, code: ErrorCode) -> Seen {
        let create = |body: Value| self.ask("POST", "/api/sheds", "", Some(&body.to_string()));
        let tunnel = |shed: &str, port: &str| {
            self.ask("GET", &format!("/api/sheds/{shed}/connect/{port}"), TUNNEL, None)
        };
        let post = |path: &str| self.ask("POST", path, "", None);
        let delete = |path: &str| self.ask("DELETE", path, "", None);
        match code {
            ErrorCode::InvalidShedName => self.ask("GET", "/api/sheds/No", "", None),
            ErrorCode::InvalidRepoUrl => create(json!({ "name": "fresh", "repo": "file:///etc" })),
            ErrorCode::InvalidLocalDir => create(json!({ "name": "fresh", "local_dir": "src" })),
            ErrorCode::InvalidSessionName => delete(&format!("/api/sheds/{RUNNING}/sessions/a.b")),
            ErrorCode::InvalidPort => tunnel(RUNNING, "65536"),
            ErrorCode::InvalidRequest => post("/api/system/prune?until="),
            ErrorCode::UnknownImage => create(json!({ "name": "fresh", "image": "no-such-image" })),
            ErrorCode::BackendNotEnabled => create(json!({ "name": "fresh", "backend": "firecracker" })),
            ErrorCode::Forbidden => self.ask_from_the_guest(),
            ErrorCode::ShedNotFound => post("/api/sheds/nobody/start"),
            ErrorCode::ImageNotFound => delete("/api/images/no-such-image"),
            ErrorCode::UnitNotFound => {
                self.ask("GET", &format!("/api/sheds/{RUNNING}/logs?unit=no-such-unit"), "", None)
            }
            ErrorCode::LogsNotAvailable => self.read_logs_without_a_journal(),
            ErrorCode::SessionNotFound => delete(&format!("/api/sheds/{RUNNING}/sessions/none")),
            ErrorCode::NotFound => self.ask("GET", "/api/nothing", "", None),
            ErrorCode::MethodNotAllowed => post("/api/info"),
            ErrorCode::ShedAlreadyExists => create(json!({ "name": STOPPED })),
            ErrorCode::ShedAlreadyRunning => post(&format!("/api/sheds/{RUNNING}/start")),
            ErrorCode::ShedAlreadyStopped => post(&format!("/api/sheds/{STOPPED}/stop")),
            ErrorCode::ShedBusy => self.start_during_a_create(),
            ErrorCode::ImageInUse => delete(&format!("/api/images/{PINNED}")),
            ErrorCode::TargetUnusable => self.put_files("/etc/passwd", ""),
            ErrorCode::InsufficientStorage => self.put_files_on_a_full_disk(),
            ErrorCode::BodyTooLarge => self.ask("POST", "/api/sheds", "", Some(&" ".repeat((1 << 20) + 1))),
            ErrorCode::UnsupportedMediaType => self.raw(
                "POST /api/sheds HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: text/xml\r\n\
                 Content-Length: 4\r\n\r\n<a/>",
            ),
            ErrorCode::HeadersTooLarge => {
                self.raw(&format!("GET /api/info HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(100_000)))
            }
            ErrorCode::BackendError => self.start_without_a_disk(),
            ErrorCode::InternalError => self.start_without_a_writable_record(),
            ErrorCode::HijackUnsupported => {
                self.raw(&format!("GET /api/sheds/{RUNNING}/connect/1 HTTP/1.0\r\n{TUNNEL}\r\n"))
            }
            ErrorCode::InvalidNamespace => self.listen("a%20b"),
            ErrorCode::NamespaceReserved => self.listen("system:health"),
            ErrorCode::InvalidBody => self.respond("[]"),
            ErrorCode::MissingShed => self.respond("{}"),
            ErrorCode::ShedNotConnected => self.respond(&answer("nobody")),
            ErrorCode::RequestNotPending => self.respond(&answer(RUNNING)),
            ErrorCode::NamespaceAlreadyRegistered => self.listen_twice(),
            ErrorCode::ImagePullFailed => {
                create(json!({ "name": "fresh", "image": "127.0.0.1:1/no/registry:v1" }))
            }
            ErrorCode::ConnectFailed => tunnel(RUNNING, "1"),
            ErrorCode::ShedNotRunning => tunnel(STOPPED, "22"),
            ErrorCode::TmuxNotAvailable => self.list_sessions_without_tmux(),
            ErrorCode::RequestTimeout | ErrorCode::ShuttingDown | ErrorCode::PluginsDisabled => {
                unreachable!("these come last")
            }
        }
    }

    fn ask(&self, method: &str, path: &str, headers: &str, body: Option<&str>) -> Seen {
        let reply = self.http.request(method, path, headers, body.map(str::as_bytes));
        (reply.status, reply.error().0)
    }

    fn listen(&self, namespace: &str) -> Seen {
        self.ask("GET", &format!("/api/plugins/listeners/{namespace}/messages"), "", None)
    }

    fn listen_twice(&self) -> Seen {
        let path = "/api/plugins/listeners/acme/messages";
        let mut first = self.http.connect().expect("a connection");
        write!(first, "GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
            .expect("the request is taken");
        wait_for("the first to listen", SHORT, || {
            let list = self.http.request("GET", "/api/plugins/listeners", "", None).text();
            list.contains("\"acme\"").then_some(())
        });
        self.listen("acme")
    }

    fn respond(&self, body: &str) -> Seen {
        self.ask("POST", "/api/plugins/listeners/acme/respond", "", Some(body))
    }

    /// Sends these bytes and reads the reply to its end. The sending side stays open: a client that closes it is gone.
    fn raw(&self, request: &str) -> Seen {
        let mut stream = self.http.connect().expect("a connection");
        stream.write_all(request.as_bytes()).expect("the request is taken");
        let mut reply = Vec::new();
        let _reset = stream.read_to_end(&mut reply);
        seen(&reply)
    }

    /// A guest behind user-mode networking reaches its host at this address.
    fn ask_from_the_guest(&self) -> Seen {
        let url = format!("http://10.0.2.2:{}/api/sheds", self.server.port());
        let reply = self.cli.exec(RUNNING, &["curl", "-s", "-i", "-m", "20", &url]).ok();
        seen(reply.out().as_bytes())
    }

    fn start_during_a_create(&self) -> Seen {
        let events = self.http.create_events(&json!({ "name": "fresh", "memory_mb": 768 }));
        wait_for("the create to begin", SHORT, || {
            self.http.names().contains(&"fresh".to_owned()).then_some(())
        });
        let refused = self.ask("POST", "/api/sheds/fresh/start", "", None);
        // Going away cancels the create.
        drop(events);
        wait_for("the create to be undone", SHORT, || {
            (!self.http.names().contains(&"fresh".to_owned())).then_some(())
        });
        refused
    }

    fn start_without_a_disk(&self) -> Seen {
        let disk = self.stage.shed_file(STOPPED, "rootfs.ext4");
        let away = disk.with_extension("away");
        fs::rename(&disk, &away).expect("the disk can be moved");
        let refused = self.ask("POST", &format!("/api/sheds/{STOPPED}/start"), "", None);
        fs::rename(&away, &disk).expect("the disk can be moved back");
        refused
    }

    /// A directory where the record belongs cannot be replaced by a file, not even by root.
    fn start_without_a_writable_record(&self) -> Seen {
        let record = self.stage.shed_file(STOPPED, "metadata.json");
        let away = PathBuf::from(format!("{record}.away"));
        fs::rename(&record, &away).expect("the record can be moved");
        fs::create_dir(&record).expect("a directory in its place");
        let refused = self.ask("POST", &format!("/api/sheds/{STOPPED}/start"), "", None);
        fs::remove_dir(&record).expect("the directory is empty");
        fs::rename(&away, &record).expect("the record can be moved back");
        refused
    }

    /// Sends an archive of one file with this content.
    fn put_files(&self, target: &str, content: &str) -> Seen {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, "file", content.as_bytes()).expect("an archive in memory");
        let archive = archive.into_inner().expect("an archive in memory");
        let reply = self.http.put_files(RUNNING, target, &archive);
        (reply.status, reply.error().0)
    }

    fn put_files_on_a_full_disk(&self) -> Seen {
        self.cli.sh(RUNNING, "sudo mkdir /mnt/small && sudo mount -t tmpfs -o size=64k tmpfs /mnt/small");
        let refused = self.put_files("/mnt/small", &"x".repeat(1 << 20));
        self.cli.sh(RUNNING, "sudo umount /mnt/small && sudo rmdir /mnt/small");
        refused
    }

    fn list_sessions_without_tmux(&self) -> Seen {
        self.cli.sh(RUNNING, "sudo mv /usr/bin/tmux /usr/bin/tmux.away");
        let refused = self.ask("GET", &format!("/api/sheds/{RUNNING}/sessions"), "", None);
        self.cli.sh(RUNNING, "sudo mv /usr/bin/tmux.away /usr/bin/tmux");
        refused
    }

    fn read_logs_without_a_journal(&self) -> Seen {
        self.cli.sh(RUNNING, "sudo mv /usr/bin/journalctl /usr/bin/journalctl.away");
        let refused = self.ask("GET", &format!("/api/sheds/{RUNNING}/logs"), "", None);
        self.cli.sh(RUNNING, "sudo mv /usr/bin/journalctl.away /usr/bin/journalctl");
        refused
    }

    /// Announces a body, sends half of it, and waits for what the server says.
    fn body_that_never_comes(&self) -> JoinHandle<Seen> {
        let mut stream: TcpStream = self.http.connect().expect("a connection");
        let head = "POST /api/sheds HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
                    Content-Length: 20\r\n\r\n{\"name\":";
        stream.write_all(head.as_bytes()).expect("the head is taken");
        thread::spawn(move || {
            let mut reply = Vec::new();
            let _reset = stream.read_to_end(&mut reply);
            seen(&reply)
        })
    }
}

/// A create that outlasts the time a server gives to what is in progress: its guest has no agent.
fn create_cut_off_by_the_end(stage: &mut Stage) -> Seen {
    stage.configure(Config {
        extra_cmdline: vec!["systemd.mask=shed-agent.service".to_owned()],
        ..Config::default()
    });
    let server = stage.serve();
    let http = server.http();
    let create = thread::spawn(move || http.create(&json!({ "name": "fresh", "memory_mb": 768 })));
    wait_for("the create to begin", SHORT, || {
        server.http().names().contains(&"fresh".to_owned()).then_some(())
    });
    kill_process(server.pid(), Signal::TERM);
    let reply = create.join().expect("a reply");
    drop(server);
    stage.configure(Config::default());
    (reply.status, reply.error().0)
}

/// A response to a request that nobody has made.
fn answer(shed: &str) -> String {
    json!({ "in_reply_to": "0192f3c4-5a6b-7c8d-9e0f-a1b2c3d4e5f6", "shed": { "name": shed } }).to_string()
}

/// Takes a reply apart.
fn seen(reply: &[u8]) -> Seen {
    let text = String::from_utf8_lossy(reply);
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no reply: {text:?}"));
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let json: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("no JSON: {text:?}"));
    (status, json["error"]["code"].as_str().unwrap_or_else(|| panic!("no code: {text:?}")).to_owned())
}
