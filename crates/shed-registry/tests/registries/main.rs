//! Registries, real and hostile: Debian's `docker-registry` with images of other tools, a line that breaks, and servers
//! that lie.

mod fake;
mod fetch;
mod hostile_blobs;
mod hostile_manifests;
mod hostile_pushes;
mod images;
mod line;
mod logins;
mod real;
mod resume;
mod server;
mod tokens;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use shed_image::{BlobStore, DigestHasher, ImageProgress, ImageStep, ImageStore, ImageWatch, Platform};
use shed_registry::{Patience, Registry, RegistrySettings};
use shed_types::{DigestAlgorithm, ImageReference};

/// A directory with an images directory and a config of Docker in it.
struct Home {
    _dir: tempfile::TempDir,
    path: Utf8PathBuf,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        Self { _dir: dir, path }
    }

    fn images(&self) -> ImageStore {
        ImageStore::new(self.path.join("images"))
    }

    fn blobs(&self) -> BlobStore {
        BlobStore::of(&self.images())
    }

    fn settings(&self) -> RegistrySettings {
        let docker_config = Some(self.path.join("docker"));
        RegistrySettings { docker_config, ..RegistrySettings::default() }
    }

    /// Writes Docker's config.
    fn docker_config(&self, text: &str) -> Utf8PathBuf {
        let dir = self.path.join("docker");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("config.json"), text).unwrap();
        dir.join("config.json")
    }

    fn registry(&self) -> Registry {
        Registry::with_patience(self.settings(), patience())
    }

    /// Returns how many bytes of unfinished blobs there are.
    fn partial_bytes(&self) -> u64 {
        let files = std::fs::read_dir(self.blobs().dir().join("partial"));
        files.into_iter().flatten().map(|file| file.unwrap().metadata().unwrap().len()).sum()
    }

    /// Reads every blob and checks that it is what its name says; returns how many there are.
    fn check_blobs(&self) -> usize {
        let mut count = 0;
        for algorithm in [DigestAlgorithm::Sha256, DigestAlgorithm::Sha512] {
            let files = std::fs::read_dir(self.blobs().dir().join("blobs").join(algorithm.as_str()));
            for file in files.into_iter().flatten() {
                let path = Utf8PathBuf::from_path_buf(file.unwrap().path()).unwrap();
                let mut hasher = DigestHasher::new(algorithm);
                hasher.update(&std::fs::read(&path).unwrap());
                assert_eq!(hasher.finish().hex(), path.file_name().unwrap());
                count += 1;
            }
        }
        count
    }
}

/// Short pauses, for registries that are on this host. What is waited for is as long as ever: hosts may be slow.
fn patience() -> Patience {
    Patience {
        pause: Duration::from_millis(5),
        longest_pause: Duration::from_millis(50),
        longest_asked_pause: Duration::from_secs(2),
        ..Patience::default()
    }
}

fn reference(text: &str) -> ImageReference {
    text.parse().unwrap()
}

fn amd64() -> Platform {
    Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: String::new() }
}

/// Prints an error with all its causes, as users see it.
fn chain(error: &dyn std::error::Error) -> String {
    shed_types::error_chain(error)
}

/// Remembers what it heard.
#[derive(Default)]
struct Watch {
    heard: Mutex<Vec<ImageProgress>>,
    latest: tokio::sync::watch::Sender<Option<ImageProgress>>,
    cancelled: AtomicBool,
}

impl Watch {
    fn new() -> Arc<Self> {
        Arc::default()
    }

    fn last(&self) -> ImageProgress {
        *self.heard.lock().unwrap().last().unwrap()
    }

    /// Waits until so many bytes are done.
    async fn reached(&self, bytes: u64) {
        let mut latest = self.latest.subscribe();
        let is_done = |now: &Option<ImageProgress>| now.is_some_and(|now| now.bytes_done >= bytes);
        let _now = latest.wait_for(is_done).await.unwrap();
    }

    /// Waits until this step has begun.
    async fn heard_step(&self, step: ImageStep) {
        let mut latest = self.latest.subscribe();
        let _now = latest.wait_for(|now| now.is_some_and(|now| now.step == step)).await.unwrap();
    }

    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

impl ImageWatch for Watch {
    fn progress(&self, progress: ImageProgress) {
        self.heard.lock().unwrap().push(progress);
        let _before = self.latest.send_replace(Some(progress));
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// Runs a program to its end, which must be a good one, and returns what it printed.
fn run(program: &str, arguments: &[&str], dir: &Utf8Path) -> String {
    let output = std::process::Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program} (scripts/setup.sh installs it): {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?} failed: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}
