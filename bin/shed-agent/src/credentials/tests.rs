use std::{fs, os::unix::fs::symlink, path::Path};

use shed_protocol::{EnvelopeKind, WatchedCredential};
use tokio::time::timeout;

use super::*;
use crate::messages::outbox::Cursor;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

struct Scene {
    dir: tempfile::TempDir,
    watcher: Watcher,
    outbox: Arc<Outbox>,
    cursor: Cursor,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, watcher: Watcher::default(), outbox: Arc::default(), cursor: Cursor::default() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).unwrap();
    }

    /// Watches directory `d`, without `d/cache`, and file `f`.
    async fn watch(&self) -> CredentialsWatched {
        let one = |name: &str, file, excludes: &[&str]| WatchedCredential {
            name: name.to_owned(),
            target: format!("~/{name}").parse().unwrap(),
            file,
            excludes: excludes.iter().map(|text| (*text).to_owned()).collect(),
        };
        let asked =
            WatchCredentials { credentials: vec![one("d", false, &["cache/*"]), one("f", true, &[])] };
        self.watcher.watch(asked, self.dir.path().to_str().unwrap().to_owned(), &self.outbox).await
    }

    async fn event(&mut self) -> CredentialChanged {
        let message = timeout(LONG, self.outbox.next(&self.cursor)).await.expect("an event comes");
        self.outbox.sent(&message, &mut self.cursor);
        let envelope: Envelope = message.frame.parse().unwrap();
        assert_eq!((envelope.kind, envelope.namespace.as_str()), (EnvelopeKind::Event, SYSTEM_CREDENTIALS));
        envelope.parse().unwrap()
    }

    /// The names of the next event, which is taken.
    async fn changed(&mut self, credential: &str) -> Vec<String> {
        let CredentialChanged { credential: of, files, more, serial } = self.event().await;
        assert_eq!((of.as_str(), more), (credential, false), "{files:?}");
        self.watcher.taken(&CredentialTaken { credential: of, serial });
        files
    }

    /// Waits until all these were told, in whatever events.
    async fn all_changed(&mut self, credential: &str, names: &[&str]) {
        let mut left: Vec<&str> = names.to_vec();
        while !left.is_empty() {
            let files = self.changed(credential).await;
            assert!(files.iter().all(|file| names.contains(&file.as_str())), "{files:?}");
            left.retain(|name| !files.iter().any(|file| file == name));
        }
    }
}

#[tokio::test]
async fn writes_and_renames_are_told_and_nothing_else() {
    let mut scene = Scene::new();
    fs::create_dir_all(scene.path("d/sub")).unwrap();
    fs::create_dir_all(scene.path("d/cache")).unwrap();
    scene.write("d/old", "1");
    scene.write("outside", "1");
    assert_eq!(scene.watch().await, CredentialsWatched::default());
    scene.write("d/old", "2");
    scene.write("d/sub/new", "1");
    scene.write("d/cache/x", "1");
    scene.write("d/.shed-0123456789abcdef-4", "half");
    fs::rename(scene.path("outside"), scene.path("d/moved")).unwrap();
    fs::hard_link(scene.path("d/moved"), scene.path("d/linked")).unwrap();
    symlink("/etc/passwd", scene.path("d/link")).unwrap();
    fs::remove_file(scene.path("d/link")).unwrap();
    scene.write("other", "1");
    scene.all_changed("d", &["old", "sub/new", "moved", "linked"]).await;
    // Directories that are new, moved and gone.
    fs::create_dir_all(scene.path("away/deep")).unwrap();
    scene.write("away/deep/file", "1");
    fs::rename(scene.path("away"), scene.path("d/came")).unwrap();
    scene.all_changed("d", &["came/deep/file"]).await;
    fs::rename(scene.path("d/came"), scene.path("d/went")).unwrap();
    scene.all_changed("d", &["went/deep/file"]).await;
    scene.write("d/went/deep/more", "1");
    scene.all_changed("d", &["went/deep/more"]).await;
    fs::remove_dir_all(scene.path("d/went")).unwrap();
    // A single file that is replaced, and comes and goes.
    scene.write("f", "1");
    assert_eq!(scene.changed("f").await, ["f"]);
    scene.write("f.tmp", "2");
    fs::rename(scene.path("f.tmp"), scene.path("f")).unwrap();
    assert_eq!(scene.changed("f").await, ["f"]);
    fs::remove_file(scene.path("f")).unwrap();
    scene.write("f", "3");
    assert_eq!(scene.changed("f").await, ["f"]);
}

#[tokio::test]
async fn a_target_that_comes_and_goes_is_watched_wherever_it_is() {
    let mut scene = Scene::new();
    assert!(scene.watch().await.warnings.is_empty());
    for round in 0..3 {
        fs::create_dir(scene.path("d")).unwrap();
        scene.write("d/x", "1");
        let first = scene.event().await;
        assert!(first.more, "{round}: {first:?}");
        scene.watcher.taken(&CredentialTaken { credential: "d".into(), serial: first.serial });
        scene.write("d/y", "1");
        scene.all_changed("d", &["y"]).await;
        if round == 1 {
            fs::rename(scene.path("d"), scene.path("gone")).unwrap();
            scene.write("gone/z", "1");
        } else {
            fs::remove_dir_all(scene.path("d")).unwrap();
        }
    }
}

#[tokio::test]
async fn a_target_that_is_a_link_is_not_watched() {
    let scene = Scene::new();
    symlink("/etc", scene.path("d")).unwrap();
    let watched = scene.watch().await;
    assert!(watched.warnings[0].contains("it is a link"), "{watched:?}");
}

#[tokio::test]
async fn what_is_not_taken_is_told_to_the_next_host_at_once() {
    let mut scene = Scene::new();
    fs::create_dir(scene.path("d")).unwrap();
    scene.watch().await;
    scene.write("d/told", "1");
    let event = scene.event().await;
    assert_eq!(event.files, ["told"]);
    // Nobody takes it, and this comes within the time in which changes are gathered.
    scene.write("d/later", "1");
    let again = scene.watch().await.changed;
    assert_eq!((again.len(), again[0].files.join(" ").as_str()), (1, "later told"));
    scene.watcher.taken(&CredentialTaken { credential: "d".into(), serial: event.serial });
    let again = scene.watch().await.changed;
    assert_eq!(again[0].files, ["later", "told"], "an old number takes nothing");
    scene.watcher.taken(&CredentialTaken { credential: "d".into(), serial: again[0].serial });
    assert!(scene.watch().await.changed.is_empty());
    // Another list of credentials forgets those that are gone, and only those.
    scene.write("d/kept", "1");
    let home = scene.dir.path().to_str().unwrap().to_owned();
    let only_d = WatchCredentials {
        credentials: vec![WatchedCredential {
            name: "d".into(),
            target: "~/d".parse().unwrap(),
            file: false,
            excludes: vec!["cache/*".into()],
        }],
    };
    let changed = scene.watcher.watch(only_d, home, &scene.outbox).await.changed;
    assert_eq!(changed[0].files, ["kept"]);
}

#[tokio::test]
async fn a_flood_is_one_message_and_says_that_there_is_more() {
    let mut scene = Scene::new();
    fs::create_dir(scene.path("d")).unwrap();
    scene.watch().await;
    for number in 0..20_000 {
        fs::write(scene.path("d").join(number.to_string()), "x").unwrap();
    }
    let first = scene.event().await;
    assert!(Path::new(&scene.path("d")).exists() && first.files.len() <= 1000);
    let mut more = first.more;
    let mut serial = first.serial;
    while !more {
        scene.watcher.taken(&CredentialTaken { credential: "d".into(), serial });
        let next = scene.event().await;
        (more, serial) = (next.more, next.serial);
    }
}

#[tokio::test]
async fn one_file_that_is_written_without_end_keeps_nobody_waiting() {
    let mut scene = Scene::new();
    fs::create_dir(scene.path("d")).unwrap();
    scene.watch().await;
    let (file, over) = (scene.path("d").join("f"), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let stop = Arc::clone(&over);
    let writer = std::thread::spawn(move || {
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            fs::write(&file, "x").unwrap();
        }
    });
    assert_eq!(scene.event().await.files, ["f"]);
    timeout(LONG, scene.watch()).await.unwrap();
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
    scene.write("d/a\u{1}b", "1");
    scene.write("d/plain", "1");
    let changed = scene.watch().await.changed;
    assert!(!changed[0].files.iter().any(|name| name.contains('\u{1}')), "{changed:?}");
}
