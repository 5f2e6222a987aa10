//! The host's end against guests that a test plays: honest ones with real files, and one that means ill.

use std::{
    fs,
    path::{Path, PathBuf},
};

use futures::{SinkExt, StreamExt};
use jiff::Timestamp;
use shed_backend::{ConnectGuestError, EndVmError, GuestStream, VmIdentity};
use shed_files::{Beneath, Choice, TarWriter, pack, pack_file, scan_directory, unpack};
use shed_protocol::{
    CredentialChanged, CredentialTaken, CredentialsWatched, Envelope, FilesErrorKind, FilesReply,
    FilesRequest, Frame, FrameCodec, FrameKind, GENERATION, HelloReply, SYSTEM_CREDENTIALS,
    SYSTEM_CREDENTIALS_TAKEN, SYSTEM_HELLO,
};
use shed_state::InstanceDir;
use shed_types::{BackendKind, GuestPort, LaunchId};
use tokio::{io::DuplexStream, sync::broadcast};
use tokio_util::{bytes::Bytes, codec::Framed};

use super::*;
use crate::{
    BusSettings,
    bus::Bus,
    channel::{Health, Keeper},
};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

type Frames = Framed<DuplexStream, FrameCodec>;

/// What answers a request for files instead of the guest's own.
type Hostile = fn(Vec<String>) -> (Vec<u8>, FilesReply);

/// A guest with a home directory.
#[derive(Debug)]
struct Guest {
    name: ShedName,
    home: PathBuf,
    /// What it has not told yet.
    pending: Mutex<Vec<CredentialChanged>>,
    events: broadcast::Sender<Envelope>,
    taken: Mutex<Vec<CredentialTaken>>,
    /// Transfers to it, each with its number of files.
    puts: Mutex<Vec<u64>>,
    hostile: Option<Hostile>,
    ended: watch::Sender<bool>,
}

#[derive(Debug, Clone)]
struct GuestVm(Arc<Guest>);

#[async_trait::async_trait]
impl Vm for GuestVm {
    fn identity(&self) -> VmIdentity {
        VmIdentity { pid: 1, start_time: 1, launch_id: LaunchId::generate() }
    }

    async fn ended(&self) {
        let mut ended = self.0.ended.subscribe();
        let _ended = ended.wait_for(|ended| *ended).await;
    }

    fn has_ended(&self) -> bool {
        *self.0.ended.borrow()
    }

    async fn connect_guest(&self, port: GuestPort) -> Result<GuestStream, ConnectGuestError> {
        let (host, guest) = tokio::io::duplex(64 << 10);
        let frames = Framed::new(guest, FrameCodec);
        let of = Arc::clone(&self.0);
        match port {
            GuestPort::Messages => drop(tokio::spawn(async move { of.messages(frames).await })),
            _ => drop(tokio::spawn(async move { of.files(frames).await })),
        }
        Ok(GuestStream::new(host))
    }

    async fn press_power_button(&self) -> Result<(), EndVmError> {
        Ok(())
    }

    async fn kill(&self, _grace: Duration) -> Result<(), EndVmError> {
        Ok(())
    }
}

impl Guest {
    fn new(name: &str, dir: &Path, hostile: Option<Hostile>) -> Arc<Self> {
        let home = dir.join(name);
        fs::create_dir(&home).unwrap();
        Arc::new(Self {
            name: name.parse().unwrap(),
            home,
            pending: Mutex::default(),
            events: broadcast::Sender::new(4096),
            taken: Mutex::default(),
            puts: Mutex::default(),
            hostile,
            ended: watch::Sender::new(false),
        })
    }

    fn path(&self, path: &str) -> PathBuf {
        self.home.join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    fn changed(credential: &str, files: &[&str], serial: u64) -> CredentialChanged {
        let files = files.iter().map(|file| (*file).to_owned()).collect();
        CredentialChanged { credential: credential.to_owned(), files, more: false, serial }
    }

    /// Writes a file, and says so.
    fn write(&self, credential: &str, dir: &str, file: &str, text: &str, serial: u64) {
        fs::create_dir_all(self.path(dir).join(file).parent().unwrap()).unwrap();
        fs::write(self.path(dir).join(file), text).unwrap();
        self.say(&Self::changed(credential, &[file], serial));
    }

    fn say(&self, changed: &CredentialChanged) {
        let _listeners = self.events.send(Envelope::event(SYSTEM_CREDENTIALS, changed));
    }

    async fn messages(&self, mut frames: Frames) {
        let mut events = self.events.subscribe();
        loop {
            let reply = tokio::select! {
                event = events.recv() => match event {
                    Ok(event) => event,
                    Err(_lost) => continue,
                },
                frame = frames.next() => {
                    let Some(Ok(frame)) = frame else { return };
                    let request: Envelope = frame.parse().unwrap();
                    match request.namespace.as_str() {
                        SYSTEM_HELLO => request.reply(&HelloReply {
                            generation: GENERATION,
                            version: "test".to_owned(),
                            features: [].into(),
                            boot_id: String::new(),
                            started_at: Timestamp::now(),
                        }),
                        SYSTEM_CREDENTIALS => {
                            let changed = std::mem::take(&mut *self.pending.lock().unwrap());
                            request.reply(&CredentialsWatched { changed, warnings: Vec::new() })
                        }
                        SYSTEM_CREDENTIALS_TAKEN => {
                            self.taken.lock().unwrap().push(request.parse().unwrap());
                            request.reply(&serde_json::json!({}))
                        }
                        _ => request.reply(&serde_json::json!({})),
                    }
                }
            };
            if frames.send(Frame::json(FrameKind::Message, &reply)).await.is_err() {
                return;
            }
        }
    }

    async fn files(&self, mut frames: Frames) {
        let first = frames.next().await.unwrap().unwrap();
        let home = self.home.to_str().unwrap();
        match first.parse::<FilesRequest>().unwrap() {
            FilesRequest::Put { target } => {
                let mut archive = Vec::new();
                while let Some(Ok(frame)) = frames.next().await {
                    match frame.kind {
                        FrameKind::Data => archive.extend_from_slice(&frame.payload),
                        _ => break,
                    }
                }
                let unpacked = unpack(&archive[..], Path::new(&target.below_home(home)), None).unwrap();
                self.puts.lock().unwrap().push(unpacked.files);
                let reply = FilesReply { files: unpacked.files, ..FilesReply::default() };
                let _gone = frames.send(Frame::json(FrameKind::FilesReply, &reply)).await;
            }
            FilesRequest::Get { source, only, max_total, .. } => {
                let (archive, reply) = match self.hostile {
                    Some(hostile) => hostile(only),
                    None => {
                        let source = source.below_home(home);
                        (archive_of(Path::new(&source), only, max_total), FilesReply::default())
                    }
                };
                for piece in archive.chunks(60_000) {
                    if frames.send(Frame::new(FrameKind::Data, Bytes::copy_from_slice(piece))).await.is_err()
                    {
                        return;
                    }
                }
                let _gone = frames.send(Frame::json(FrameKind::FilesReply, &reply)).await;
            }
        }
    }
}

fn archive_of(source: &Path, only: Vec<String>, max_total: u64) -> Vec<u8> {
    let mut total = 0;
    let root = Beneath::open(source).unwrap();
    let mut out = TarWriter::new(Vec::new());
    let names = if only.is_empty() {
        root.files(&|_| false, 1000, &mut shed_files::Warnings::default())
    } else {
        only.into_iter().map(PathBuf::from).collect()
    };
    for name in names {
        if let Ok((mut file, meta)) = root.file(&name) {
            if total + meta.len() > max_total {
                continue;
            }
            total += meta.len();
            pack_file(&name, &mut file, &meta, &mut out, &mut |_| ()).unwrap();
        }
    }
    out.finish().unwrap()
}

/// A host with a writable directory `tool`, a writable file `token` and a read-only directory `keys`.
struct Host {
    dir: tempfile::TempDir,
    credentials: Arc<Credentials>,
}

/// A shed that is attended.
struct Running {
    guest: Arc<Guest>,
    keeper: Keeper,
    attending: Attending,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for path in ["tool/cache", "keys"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        for (path, text) in [("tool/a", "a1"), ("tool/cache/c", "c"), ("token.json", "t1"), ("keys/id", "k1")]
        {
            fs::write(dir.path().join(path), text).unwrap();
        }
        let credentials = Self::credentials(&dir);
        Self { dir, credentials }
    }

    fn credentials(dir: &tempfile::TempDir) -> Arc<Credentials> {
        let of = |source: &str, target: &str, read_only| Credential {
            source: dir.path().join(source).to_str().unwrap().into(),
            target: target.parse().unwrap(),
            read_only,
            exclude: vec!["cache/*".into()],
        };
        let all = [
            ("tool", of("tool", "~/.tool", false)),
            ("token", of("token.json", "~/.config/auth.json", false)),
            ("keys", of("keys", "~/.keys", true)),
        ];
        let all = all.into_iter().map(|(name, credential)| (name.parse().unwrap(), credential));
        Arc::new(Credentials::new(all.collect()))
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    fn guest(&self, name: &str, hostile: Option<Hostile>) -> Arc<Guest> {
        Guest::new(name, self.dir.path(), hostile)
    }

    async fn boot(&self, guest: &Arc<Guest>) -> Running {
        let vm = GuestVm(Arc::clone(guest));
        let progress = Progress::silent();
        self.credentials.deliver(&guest.name, &vm, &progress).await;
        assert_eq!(progress.warnings(), Vec::<String>::new());
        self.adopt(guest)
    }

    fn adopt(&self, guest: &Arc<Guest>) -> Running {
        let vm: Arc<dyn Vm> = Arc::new(GuestVm(Arc::clone(guest)));
        let instances = InstanceDir::new(camino::Utf8PathBuf::from(self.path("instances").to_str().unwrap()));
        let keeper = Keeper::adopt(
            Arc::clone(&vm),
            guest.name.clone(),
            None,
            Vec::new(),
            watch::Sender::new(Health::default()),
            instances.files(&guest.name),
            Arc::new(Bus::new(BusSettings::default(), BackendKind::Qemu)),
        );
        let attending = self.credentials.attend(guest.name.clone(), vm, keeper.channel());
        Running { guest: Arc::clone(guest), keeper, attending }
    }

    fn tree(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut pending = vec![self.dir.path().to_owned()];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(directory).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    pending.push(entry.path());
                }
                found.push(entry.path());
            }
        }
        found.sort();
        found
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let reached = timeout(LONG, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    reached.await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

/// Fourteen files of 9 MiB are more than one request is answered with: while the server runs, and after a time without one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_large_files_all_arrive_though_not_at_once() {
    let mut host = Host::new();
    let ann = host.guest("ann", None);
    let names: Vec<String> = (0..14).map(|number| format!("large{number}")).collect();
    let told: Vec<&str> = names.iter().map(String::as_str).collect();
    let later = std::time::SystemTime::now() + LONG;
    let write = |byte: u8| {
        for name in &names {
            let mut file = fs::File::create(ann.path(".tool").join(name)).unwrap();
            std::io::Write::write_all(&mut file, &vec![byte; 9 << 20]).unwrap();
            file.set_modified(later + Duration::from_secs(byte.into())).unwrap();
        }
    };
    let thanked = |serial| ann.taken.lock().unwrap().iter().any(|taken| taken.serial == serial);
    let arrived = |host: &Host, byte: u8| {
        names
            .iter()
            .filter(|name| fs::read(host.path("tool").join(name)).is_ok_and(|read| read[0] == byte))
            .count()
    };
    let running = host.boot(&ann).await;
    until("the opening", || ann.events.receiver_count() > 0).await;
    write(1);
    ann.say(&Guest::changed("tool", &told, 1));
    until("thanks for all of them", || thanked(1)).await;
    assert_eq!(arrived(&host, 1), 14);
    drop(running);
    write(2);
    ann.pending.lock().unwrap().push(Guest::changed("tool", &told, 2));
    host.credentials = Host::credentials(&host.dir);
    let _running = host.adopt(&ann);
    until("thanks for all of them", || thanked(2)).await;
    assert_eq!(arrived(&host, 2), 14);
    assert_eq!(host.credentials.reports(&ann.name), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_go_both_ways_and_end_there() {
    let host = Host::new();
    let ann = host.boot(&host.guest("ann", None)).await;
    let ben = host.boot(&host.guest("ben", None)).await;
    for guest in [&ann.guest, &ben.guest] {
        assert_eq!(["a", "cache/c"].map(|file| guest.read(&format!(".tool/{file}"))), ["a1", ""]);
        assert_eq!((guest.read(".config/auth.json"), guest.read(".keys/id")), ("t1".into(), "k1".into()));
    }
    let puts = |guest: &Guest| guest.puts.lock().unwrap().len();
    until("the openings", || !ann.guest.events.is_empty() || ann.guest.events.receiver_count() > 0).await;
    until("the openings", || ben.guest.events.receiver_count() > 0).await;
    ann.guest.write("token", ".config", "auth.json", "t2", 1);
    until("the host's token", || host.read("token.json") == "t2").await;
    until("ben's token", || ben.guest.read(".config/auth.json") == "t2").await;
    until("the word that it was taken", || !ann.guest.taken.lock().unwrap().is_empty()).await;
    // What was put into ben's guest is told by its watcher, and is no news.
    ben.guest.say(&Guest::changed("token", &["auth.json"], 1));
    until("the word that it was taken", || !ben.guest.taken.lock().unwrap().is_empty()).await;
    fs::write(host.path("tool/new"), "from the host").unwrap();
    for guest in [&ann.guest, &ben.guest] {
        until("the new file", || guest.read(".tool/new") == "from the host").await;
    }
    ben.guest.write("tool", ".tool", "deep/er/file", "from ben", 2);
    until("the host's file", || host.read("tool/deep/er/file") == "from ben").await;
    until("ann's file", || ann.guest.read(".tool/deep/er/file") == "from ben").await;
    // Everything said above has been pushed once: three credentials at the start, and what the other or the host wrote.
    fs::write(host.path("tool/mark"), "mark").unwrap();
    for guest in [&ann.guest, &ben.guest] {
        until("the mark", || guest.read(".tool/mark") == "mark").await;
    }
    assert_eq!((puts(&ann.guest), puts(&ben.guest)), (6, 6));
    assert_eq!(host.credentials.reports(&ann.guest.name), Vec::<String>::new());
    // A file that is replaced, a source that goes and comes again.
    fs::rename(host.path("tool"), host.path("away")).unwrap();
    fs::create_dir(host.path("tool")).unwrap();
    fs::write(host.path("tool/again"), "again").unwrap();
    until("the new source's file", || ann.guest.read(".tool/again") == "again").await;
    fs::write(host.path("tool/a"), "a9").unwrap();
    until("the file in the new source", || ben.guest.read(".tool/a") == "a9").await;
    let _ended = ann.guest.ended.send(true);
    until("ann to be forgotten", || !host.credentials.sheds().contains_key(&ann.guest.name)).await;
    assert!(ben.keeper.channel().openings().borrow().gt(&0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_server_takes_what_guests_wrote_first_and_then_brings_them_up_to_date() {
    let mut host = Host::new();
    let ann = host.guest("ann", None);
    drop(host.boot(&ann).await);
    // The server is dead; both sides write, the guest keeps what it wrote in mind.
    fs::write(ann.path(".tool/a"), "a2 of ann").unwrap();
    let later = std::time::SystemTime::now() + LONG;
    fs::File::options().write(true).open(ann.path(".tool/a")).unwrap().set_modified(later).unwrap();
    fs::write(ann.path(".config/auth.json"), "stale").unwrap();
    fs::write(host.path("token.json"), "t2 of the host").unwrap();
    fs::write(host.path("tool/b"), "b of the host").unwrap();
    ann.pending.lock().unwrap().push(Guest::changed("tool", &["a"], 4));
    host.credentials = Host::credentials(&host.dir);
    let running = host.adopt(&ann);
    until("what ann wrote", || host.read("tool/a") == "a2 of ann").await;
    until("what the host wrote", || ann.read(".tool/b") == "b of the host").await;
    until("the token, of which ann has said nothing", || ann.read(".config/auth.json") == "t2 of the host")
        .await;
    assert_eq!(ann.read(".tool/a"), "a2 of ann");
    until("the word that it was taken", || ann.taken.lock().unwrap().iter().any(|taken| taken.serial == 4))
        .await;
    // What is told at the last moment is taken before the machine goes.
    fs::write(ann.path(".tool/last"), "last words").unwrap();
    ann.pending.lock().unwrap().push(Guest::changed("tool", &["last"], 5));
    let vm = GuestVm(Arc::clone(&ann));
    let Running { keeper, attending, .. } = running;
    Credentials::farewell(attending, &vm, &keeper.channel()).await;
    assert_eq!(host.read("tool/last"), "last words");
}

/// An archive with everything in it that must not be taken, and one file that may be.
fn everything_bad(_only: Vec<String>) -> (Vec<u8>, FilesReply) {
    let dir = tempfile::tempdir().unwrap();
    let mut out = TarWriter::new(Vec::new());
    let mut file = |name: &str, length: usize| {
        fs::write(dir.path().join("x"), vec![b'x'; length]).unwrap();
        let (mut open, meta) = Beneath::open(dir.path()).unwrap().file(Path::new("x")).unwrap();
        pack_file(Path::new(name), &mut open, &meta, &mut out, &mut |_| ()).unwrap();
    };
    for name in [
        "/etc/evil",
        "../evil",
        "a/../../evil",
        "link/evil",
        "dir",
        "file-link",
        "cache/evil",
        "e\nvil",
        "a\u{1b}[2J",
        ".",
    ] {
        file(name, 3);
    }
    file("huge", (10 << 20) + 1);
    file("good", 3);
    file("good", 4);
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("made")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", tree.join("symlink")).unwrap();
    pack(scan_directory(&tree, &|_| Choice::Take).unwrap(), &mut out, &mut |_| ()).unwrap();
    let warnings = vec!["\u{1b}[31m".repeat(1000); 1000];
    (out.finish().unwrap(), FilesReply { warnings, ..FilesReply::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_means_ill_changes_nothing_else_and_is_reported() {
    let host = Host::new();
    let outside = host.path("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::create_dir(host.path("tool/dir")).unwrap();
    fs::write(outside.join("target"), "kept").unwrap();
    std::os::unix::fs::symlink(&outside, host.path("tool/link")).unwrap();
    std::os::unix::fs::symlink(outside.join("target"), host.path("tool/file-link")).unwrap();
    let evil = host.boot(&host.guest("evil", Some(everything_bad))).await;
    until("the opening", || evil.guest.events.receiver_count() > 0).await;
    let before = host.tree();
    for serial in 0..2000 {
        for credential in ["keys", "none", "../x", "\u{1b}[2J", ""] {
            evil.guest.say(&Guest::changed(credential, &["id"], serial));
        }
        evil.guest.say(&Guest::changed("tool", &["/etc/passwd", "../x", "", "a\nb"], serial));
        if serial % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    evil.guest.say(&CredentialChanged { more: true, ..Guest::changed("tool", &[], 9) });
    until("the one good file", || host.read("tool/good") == "xxx").await;
    let reports = || host.credentials.reports(&evil.guest.name);
    until("the reports", || reports().iter().any(|text| text.contains("not taken"))).await;
    let mut expected = before.clone();
    expected.push(host.path("tool/good"));
    expected.sort();
    let of_guest = |path: &PathBuf| path.starts_with(host.path("evil"));
    let tree = |paths: Vec<PathBuf>| paths.into_iter().filter(|path| !of_guest(path)).collect::<Vec<_>>();
    assert_eq!(tree(host.tree()), tree(expected));
    assert_eq!((host.read("outside/target"), host.read("keys/id")), ("kept".into(), "k1".into()));
    assert!(
        reports().len() <= 20
            && reports().iter().all(|text| !text.contains(char::is_control) && text.len() < 2000)
    );
    // The others go on.
    let ann = host.boot(&host.guest("ann", None)).await;
    fs::write(host.path("tool/a"), "a2").unwrap();
    until("ann's file", || ann.guest.read(".tool/a") == "a2").await;
}

/// Has no directory there.
fn refuses(_only: Vec<String>) -> (Vec<u8>, FilesReply) {
    (Vec::new(), FilesReply::failed(FilesErrorKind::BadPath, "it is no directory"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_has_nothing_to_give_gets_the_hosts_files() {
    let host = Host::new();
    // A former server made it, before the credentials were configured.
    let ann = host.adopt(&host.guest("ann", Some(refuses)));
    until("the files", || ann.guest.read(".tool/a") == "a1" && ann.guest.read(".config/auth.json") == "t1")
        .await;
    let texts = host.credentials.reports(&ann.guest.name);
    assert!(texts.iter().any(|text| text.contains("no directory")), "{texts:?}");
}

/// Sends less than it says.
fn cut_off(_only: Vec<String>) -> (Vec<u8>, FilesReply) {
    let (mut archive, reply) = everything_bad(Vec::new());
    archive.truncate(5000);
    (archive, reply)
}

/// Sends something else.
fn noise(_only: Vec<String>) -> (Vec<u8>, FilesReply) {
    (vec![0x5a; 3 << 20], FilesReply::default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archives_that_are_none_are_reported_and_the_next_try_waits() {
    for hostile in [cut_off as Hostile, noise] {
        let host = Host::new();
        let evil = host.boot(&host.guest("evil", Some(hostile))).await;
        until("the opening", || evil.guest.events.receiver_count() > 0).await;
        evil.guest.say(&Guest::changed("tool", &["a"], 1));
        let reports = || host.credentials.reports(&evil.guest.name);
        until("the report", || reports().iter().any(|text| text.contains("archive"))).await;
        assert_eq!(host.read("tool/a"), "a1");
        assert!(evil.guest.taken.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn what_is_too_much_or_not_there_is_a_warning_and_the_rest_arrives() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("fine"), "fine").unwrap();
    let huge = fs::File::create(dir.path().join("huge")).unwrap();
    huge.set_len(2 << 30).unwrap();
    let of = |source: &str, target: &str| Credential {
        source: if source.starts_with('/') {
            source.into()
        } else {
            dir.path().join(source).to_str().unwrap().into()
        },
        target: target.parse().unwrap(),
        read_only: true,
        exclude: Vec::new(),
    };
    let all = [
        ("everything", of("/", "~/all")),
        ("huge", of("huge", "~/huge")),
        ("none", of("none", "~/none")),
        ("one", of("fine", "/")),
        ("two", of("fine", "~/two")),
    ];
    let all = all.into_iter().map(|(name, credential)| (name.parse().unwrap(), credential));
    let credentials = Credentials::new(all.collect());
    let guest = Guest::new("ann", dir.path(), None);
    let progress = Progress::silent();
    credentials.deliver(&guest.name, &GuestVm(Arc::clone(&guest)), &progress).await;
    let warnings = progress.warnings();
    for text in [
        "credential `everything`: its source cannot be sent: / holds more than",
        "`huge`",
        "`none`: its source",
        "`one`",
    ] {
        assert!(warnings.iter().any(|warning| warning.contains(text)), "{text}: {warnings:?}");
    }
    assert_eq!((guest.read("two").as_str(), warnings.len()), ("fine", 4), "{warnings:?}");
}
