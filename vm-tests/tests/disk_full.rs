//! A full disk: a create fails with a reason and leaves nothing, the server lives, and works again when there is room.
//!
//! The full disk is a small tmpfs. Mounting one needs a mount namespace, so the test runs itself again inside
//! `unshare`, with a user namespace where it is not root. Where neither is allowed it is skipped and says so.

use std::{fs, process::Command};

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::json;
use vm_tests::{Config, Expect, Parts, Promises, SHORT, Stage, skipped, wait_for};

/// Set inside the namespace.
const INSIDE: &str = "SHED_TEST_INSIDE_NAMESPACE";

/// Size of the small disk in MiB: room for a copy of the image's data, as it lies on another file system than the
/// images, and for one shed's own disk.
const DISK_MB: u64 = 2048;

/// Runs this test again where it may mount; returns whether this is that run.
fn inside_a_namespace(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let namespaces = if rustix::process::geteuid().is_root() { "-m" } else { "-Urm" };
    let may = Command::new("unshare").args([namespaces, "mount", "-t", "tmpfs", "none", "/mnt"]).output();
    match may {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            skipped(&format!(
                "no tmpfs can be mounted here: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ));
            return false;
        }
        Err(error) => {
            skipped(&format!("unshare, of util-linux, cannot be run: {error}"));
            return false;
        }
    }
    let again = Command::new("unshare")
        .arg(namespaces)
        .arg(std::env::current_exe().expect("this program has a path"))
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare ran a moment ago");
    assert!(again.success(), "the run inside the namespace failed");
    false
}

/// A mounted tmpfs. Nobody can remove the stage's directory while it is there.
struct SmallDisk(Utf8PathBuf);

impl SmallDisk {
    fn mount(place: Utf8PathBuf) -> Self {
        fs::create_dir_all(&place).expect("a mount point");
        let size = format!("size={DISK_MB}m");
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none", place.as_str()]).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot mount a tmpfs at {place}");
        Self(place)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _gone_with_the_namespace = Command::new("umount").args(["--lazy", self.0.as_str()]).status();
    }
}

/// Bytes that are free at `place`.
fn free_bytes(place: &Utf8Path) -> u64 {
    let stat = rustix::fs::statvfs(place.as_std_path()).expect("statvfs");
    stat.f_bavail * stat.f_frsize
}

/// Fills the disk until only `leave` bytes are free, or fewer: a guest that runs may write at the same time.
fn fill(place: &Utf8Path, leave: u64) -> Utf8PathBuf {
    let ballast = place.join("ballast");
    let file = fs::File::create(&ballast).expect("a file on the disk");
    wait_for("the disk to be full", SHORT, || {
        let length = free_bytes(place).saturating_sub(leave);
        if length == 0 {
            return Some(());
        }
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length) {
            Ok(()) => Some(()),
            // The guest was quicker; then there is less to fill.
            Err(rustix::io::Errno::NOSPC) => None,
            Err(error) => panic!("the ballast cannot be written: {error}"),
        }
    });
    ballast
}

/// Wherever the disk is full during a create, the answer is a 500 that says so, and nothing is left.
#[test]
fn a_full_disk_fails_a_create_cleanly() {
    let Some(_parts) = Parts::find() else { return };
    if !inside_a_namespace("a_full_disk_fails_a_create_cleanly") {
        return;
    }
    let mut stage = Stage::new().expect("the parts were found above");
    let small = SmallDisk::mount(stage.dir().join("small"));
    let place = small.0.clone();
    let instances = place.join("instances");
    fs::create_dir(&instances).unwrap();
    stage.configure(Config { instance_dir: Some(instances), ..Config::default() });
    let server = stage.serve();
    let (cli, http) = (stage.cli(), server.http());
    let mut promises = Promises::new();
    let body = json!({ "name": "full", "memory_mb": 768 });

    for (what, leave) in
        [("not even the record", 0), ("the record only", 64 << 10), ("half of the image", 100 << 20)]
    {
        promises.keep(
            &format!("with room for {what}, a create fails with a reason and leaves nothing"),
            || {
                let ballast = fill(&place, leave);
                let reply = http.create(&body).is(500);
                let (code, message) = reply.error();
                assert!(["BACKEND_ERROR", "INTERNAL_ERROR"].contains(&code.as_str()), "{code}");
                assert!(message.contains("No space left on device") || message.contains("full"), "{message}");
                assert!(
                    message.contains("`full`") && message.contains(place.as_str()),
                    "the shed and the path: {message}"
                );
                assert!(http.names().is_empty());
                fs::remove_file(ballast).unwrap();
                stage.assert_only(&[]);
            },
        );
    }
    promises.keep("when there is room the same create works", || {
        http.create(&body).is(201);
        assert_eq!(cli.exec("full", &["hostname"]).ok().out(), "full");
    });
    promises.keep(
        "a disk that fills up under running sheds does not stop the server, nor what it says",
        || {
            let ballast = fill(&place, 0);
            assert_eq!(http.status("full"), "running");
            assert_eq!(cli.exec("full", &["echo", "alive"]).ok().out(), "alive");
            let (_, message) = http.create(&json!({ "name": "other", "memory_mb": 768 })).is(500).error();
            assert!(message.contains("No space left"), "{message}");
            stage.assert_only(&[Expect::Running("full")]);
            // Deleting is what makes room, so it must work without any.
            http.delete("/api/sheds/full").is(204);
            fs::remove_file(ballast).unwrap();
            stage.assert_only(&[]);
        },
    );
    drop(server);
    promises.keep("nothing is left", || stage.assert_only(&[]));
    drop(small);
    promises.finish();
}
