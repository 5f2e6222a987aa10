//! Disk usage and prune over the fake backend: what is counted, what goes and in which order, and that nothing goes that
//! somebody uses. Times are set, never waited for.

mod common;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write,
    os::unix::fs::{MetadataExt, symlink},
    sync::Arc,
    time::{Duration, SystemTime},
};

use camino::{Utf8Path, Utf8PathBuf};
use shed_backend::fake::{FakeWorld, Faults, KillFault};
use shed_image::{ImageStore, SidecarKind};
use shed_lifecycle::{
    AskedImage, FileRole, NewShed, Progress, PruneError, PruneOutcome, PruneRequest, PruneScope,
    PruneSubject, Settings, ShedStatus, Sheds, SkipReason,
};
use shed_types::ShedName;

const HOUR: Duration = Duration::from_secs(3600);

struct Host {
    world: FakeWorld,
    settings: Settings,
    _guard: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let (guard, settings) = common::settings();
        Self { world: FakeWorld::new(), settings, _guard: guard }
    }

    async fn server(&self) -> Sheds {
        Sheds::open(self.settings.clone(), Arc::new(self.world.backend())).await.unwrap()
    }

    fn image_file(&self, file: &str) -> Utf8PathBuf {
        self.settings.images_dir.join(file)
    }

    fn put_image_file(&self, file: &str, age: Duration) -> Utf8PathBuf {
        let path = self.image_file(file);
        fs::write(&path, b"1234").unwrap();
        set_age(&path, age);
        path
    }

    fn shed_file(&self, shed: &ShedName, file: &str) -> Utf8PathBuf {
        self.settings.instance_dir.join(shed.as_str()).join(file)
    }

    /// Makes a shed look as if its record was written so long ago.
    fn set_record_age(&self, shed: &ShedName, age: Duration) {
        set_age(&self.shed_file(shed, "metadata.json"), age);
    }

    /// Lists every file with what a change to it would change.
    fn listing(&self) -> BTreeSet<String> {
        fn walk(dir: &Utf8Path, listing: &mut BTreeSet<String>) {
            for entry in dir.read_dir_utf8().unwrap() {
                let entry = entry.unwrap();
                let metadata = entry.path().symlink_metadata().unwrap();
                listing.insert(format!(
                    "{} {} {} {:?}",
                    entry.path(),
                    metadata.ino(),
                    metadata.len(),
                    metadata.modified().unwrap()
                ));
                if metadata.is_dir() {
                    walk(entry.path(), listing);
                }
            }
        }
        let mut listing = BTreeSet::new();
        walk(self.settings.images_dir.parent().unwrap(), &mut listing);
        listing
    }
}

fn set_age(path: &Utf8Path, age: Duration) {
    File::open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
}

fn name(text: &str) -> ShedName {
    text.parse().unwrap()
}

async fn running(sheds: &Sheds, shed: &str) -> ShedName {
    let shed = name(shed);
    let new = NewShed {
        name: shed.clone(),
        image: None,
        cpus: None,
        memory_mb: None,
        repo: None,
        local_dir: None,
        no_provision: false,
    };
    sheds.create(new, Progress::silent()).await.unwrap();
    shed
}

async fn stopped(sheds: &Sheds, shed: &str) -> ShedName {
    let shed = running(sheds, shed).await;
    sheds.stop(&shed).await.unwrap();
    shed
}

fn request(scopes: &[PruneScope]) -> PruneRequest {
    PruneRequest {
        scopes: scopes.iter().copied().collect(),
        dry_run: false,
        until: 72 * HOUR,
        log_tail_bytes: 100,
    }
}

fn all() -> PruneRequest {
    request(&[PruneScope::Images, PruneScope::Instances, PruneScope::Logs, PruneScope::Orphans])
}

fn taken(outcome: &PruneOutcome) -> Vec<PruneSubject> {
    outcome.pruned.iter().map(|pruned| pruned.subject.clone()).collect()
}

fn kept(outcome: &PruneOutcome) -> Vec<(PruneSubject, String)> {
    outcome.skipped.iter().map(|skip| (skip.subject.clone(), skip.reason.to_string())).collect()
}

#[tokio::test]
async fn usage_counts_every_file_once_where_it_belongs() {
    let host = Host::new();
    let sheds = host.server().await;
    let (web, api) = (stopped(&sheds, "web").await, running(&sheds, "api").await);
    fs::write(host.image_file("_base-rootfs.ext4"), b"12").unwrap();
    fs::write(host.image_file("_base-rootfs.ext4.source"), b"ghcr.io/a/b:v1\n").unwrap();
    host.put_image_file("gone-rootfs.ext4.lock", HOUR);
    let before = host.listing();
    let usage = sheds.usage().await;
    assert_eq!(host.listing(), before, "a look changes nothing");

    let images: Vec<_> = usage
        .images
        .iter()
        .map(|image| (image.name.as_str(), image.reference.as_deref(), image.space.logical_bytes))
        .collect();
    assert_eq!(images, [("_base", Some("ghcr.io/a/b:v1"), 2), ("base", None, 7)]);
    assert_eq!(usage.kernel.as_ref().unwrap().role, FileRole::Kernel);
    assert_eq!(usage.initrd.as_ref().unwrap().path, host.settings.initrd);
    assert_eq!(usage.images_total().logical_bytes, 2 + 7 + 7 + 7);
    let seen: Vec<_> = usage.sheds.iter().map(|shed| (shed.name.clone(), shed.status)).collect();
    assert_eq!(seen, [(api.clone(), ShedStatus::Running), (web, ShedStatus::Stopped)]);
    let api = &usage.sheds[0];
    assert_eq!(api.image.as_ref().unwrap().as_str(), "base");
    assert_eq!(api.console_log.as_ref().unwrap().role, FileRole::ConsoleLog);
    let others: Vec<_> =
        api.other_files.iter().map(|file| (file.path.file_name().unwrap(), file.role)).collect();
    assert_eq!(
        others,
        [
            ("image.ext4", FileRole::Other),
            ("metadata.json", FileRole::Metadata),
            ("vmm.log", FileRole::Other)
        ]
    );
    let directory = host.shed_file(&api.name, "");
    let files = directory.read_dir_utf8().unwrap().map(|entry| entry.unwrap().metadata().unwrap());
    let (logical, blocks) = files.fold((0, 0), |sum, file| (sum.0 + file.len(), sum.1 + file.blocks() * 512));
    let total = api.total();
    assert_eq!((total.logical_bytes, total.physical_bytes), (logical, blocks));
    assert_eq!(usage.orphans[0].role, FileRole::Orphan(SidecarKind::Lock));
    assert_eq!(usage.notes.len(), 1, "{:?}", usage.notes);
    assert!(usage.notes[0].contains("image.ext4"), "{:?}", usage.notes);
}

#[tokio::test]
async fn usage_of_an_empty_or_odd_host_neither_fails_nor_hangs_nor_leaves_its_directories() {
    let host = Host::new();
    let sheds = host.server().await;
    for file in ["bzImage", "initrd.img", "base-rootfs.ext4"] {
        fs::remove_file(host.image_file(file)).unwrap();
    }
    let usage = sheds.usage().await;
    assert!(
        usage.images.is_empty() && usage.kernel.is_none() && usage.initrd.is_none() && usage.sheds.is_empty()
    );
    fs::remove_dir_all(&host.settings.images_dir).unwrap();
    assert_eq!(sheds.usage().await.orphans_total().logical_bytes, 0);

    fs::create_dir(&host.settings.images_dir).unwrap();
    symlink("/etc", host.settings.instance_dir.join("linked")).unwrap();
    symlink("/etc/passwd", host.image_file("passwd-rootfs.ext4.tmp")).unwrap();
    symlink("/etc/passwd", host.image_file("linked-rootfs.ext4")).unwrap();
    shed_testkit::make_pipe(host.image_file("pipe-rootfs.ext4"));
    shed_testkit::make_pipe(host.image_file("pipe-rootfs.ext4.source"));
    for shed in ["odd", "broken"] {
        fs::create_dir(host.settings.instance_dir.join(shed)).unwrap();
    }
    shed_testkit::make_pipe(host.shed_file(&name("odd"), "metadata.json"));
    fs::write(host.shed_file(&name("broken"), "metadata.json"), b"{").unwrap();
    let usage = sheds.usage().await;
    assert_eq!(usage.orphans, []);
    assert_eq!(usage.images.len(), 1);
    assert!(usage.images[0].space.logical_bytes < 20, "the link alone: {:?}", usage.images);
    assert!(usage.sheds.is_empty());
    assert_eq!(usage.notes.len(), 3, "{:?}", usage.notes);
    assert!(usage.notes[1].starts_with("shed `broken` is not counted: "), "{:?}", usage.notes);
    assert!(usage.notes[2].starts_with("shed `odd` is not counted: "), "{:?}", usage.notes);
}

#[tokio::test]
async fn a_prune_takes_what_is_old_and_unused_and_says_why_the_rest_stays() {
    let host = Host::new();
    let sheds = host.server().await;
    let (old, recent, up) =
        (stopped(&sheds, "old").await, stopped(&sheds, "recent").await, running(&sheds, "up").await);
    host.set_record_age(&old, 5 * 24 * HOUR);
    host.set_record_age(&recent, 3 * HOUR + HOUR / 2);
    host.set_record_age(&up, 900 * HOUR);
    let unused = host.put_image_file("unused-rootfs.ext4", HOUR);
    host.put_image_file("unused-rootfs.ext4.source", HOUR);
    let stale = host.put_image_file("a-rootfs.ext4.tmp.77", 2 * HOUR);
    let young = host.put_image_file("b-rootfs.ext4.tmp", Duration::from_secs(12 * 60 + 30));
    let note = host.put_image_file("c-rootfs.ext4.source", Duration::ZERO);
    let lock = host.put_image_file("d-rootfs.ext4.lock", 99 * HOUR);
    let console = host.shed_file(&up, "console.log");
    fs::write(&console, "x".repeat(1000)).unwrap();

    let dry = sheds.prune(PruneRequest { dry_run: true, ..all() }).await.unwrap();
    let outcome = sheds.prune(all()).await.unwrap();
    assert_eq!(taken(&dry), taken(&outcome), "a dry run foretells what is done");
    assert_eq!(kept(&dry), kept(&outcome));
    assert_eq!(
        taken(&outcome),
        [
            PruneSubject::Instance(old.clone()),
            PruneSubject::Image("unused".parse().unwrap(), unused.clone()),
            PruneSubject::Orphan(stale.clone(), SidecarKind::Tmp),
            PruneSubject::Orphan(note.clone(), SidecarKind::Source),
            PruneSubject::Log(up.clone(), Some(console.clone())),
        ]
    );
    assert_eq!(outcome.pruned[0].reason.unwrap().text(false), "deleted (stopped 5d)");
    assert!(outcome.pruned[0].freed.logical_bytes > 4);
    assert_eq!(outcome.pruned[2].freed.logical_bytes, 4);
    assert_eq!(outcome.pruned[4].freed.logical_bytes, 900);
    assert_eq!(
        kept(&outcome),
        [
            (PruneSubject::Instance(recent), "too recent (3h < 72h)".to_owned()),
            (PruneSubject::Instance(up), "cannot prune running shed".to_owned()),
            (PruneSubject::Orphan(young.clone(), SidecarKind::Tmp), "too recent (12m < 1h)".to_owned()),
            (PruneSubject::Orphan(lock.clone(), SidecarKind::Lock), "locks are never removed".to_owned()),
        ]
    );
    assert_eq!(outcome.failures, Vec::<String>::new());
    for gone in [&unused, &stale, &note, &host.shed_file(&old, "")] {
        assert!(!gone.exists(), "{gone}");
    }
    for there in [&young, &lock, &host.image_file("base-rootfs.ext4")] {
        assert!(there.exists(), "{there}");
    }
    assert_eq!(sheds.get(&old), None);
    assert_eq!(fs::read_to_string(&console).unwrap(), "x".repeat(100));
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let host = Host::new();
    let sheds = host.server().await;
    let old = stopped(&sheds, "old").await;
    host.set_record_age(&old, 100 * HOUR);
    fs::write(host.shed_file(&old, "vmm.log"), "x".repeat(1000)).unwrap();
    host.put_image_file("unused-rootfs.ext4", HOUR);
    host.put_image_file("a-rootfs.ext4.tmp", 2 * HOUR);
    let before = host.listing();
    let dry_run = PruneRequest { dry_run: true, until: Duration::ZERO, ..all() };
    let outcome = sheds.prune(dry_run).await.unwrap();
    assert_eq!(outcome.pruned.len(), 3, "the log of a shed that would go is not cut: {outcome:?}");
    assert_eq!(host.listing(), before);
}

#[tokio::test]
async fn an_image_goes_with_the_last_shed_that_was_made_from_it_even_in_a_dry_run() {
    let host = Host::new();
    let sheds = host.server().await;
    fs::write(host.image_file("tools-rootfs.ext4"), b"tools").unwrap();
    let shed = name("old");
    let new = NewShed {
        name: shed.clone(),
        image: Some(AskedImage::Name("tools".parse().unwrap())),
        cpus: None,
        memory_mb: None,
        repo: None,
        local_dir: None,
        no_provision: false,
    };
    sheds.create(new, Progress::silent()).await.unwrap();
    sheds.stop(&shed).await.unwrap();
    let images = sheds.prune(request(&[PruneScope::Images])).await.unwrap();
    assert_eq!(images.pruned, [], "a shed uses it");
    host.set_record_age(&shed, 72 * HOUR);
    for dry_run in [true, false] {
        let outcome = sheds.prune(PruneRequest { dry_run, ..all() }).await.unwrap();
        assert!(
            matches!(&taken(&outcome)[..], [PruneSubject::Instance(_), PruneSubject::Image(image, _)] if image.as_str() == "tools"),
            "{outcome:?}"
        );
    }
    assert!(!host.image_file("tools-rootfs.ext4").exists());
}

#[tokio::test]
async fn any_age_is_old_enough_for_a_limit_of_zero_and_scopes_that_are_not_named_are_left_alone() {
    let host = Host::new();
    let sheds = host.server().await;
    let shed = stopped(&sheds, "young").await;
    let orphan = host.put_image_file("a-rootfs.ext4.tmp", 2 * HOUR);
    host.put_image_file("unused-rootfs.ext4", HOUR);
    let zero = |scope| PruneRequest { until: Duration::ZERO, ..request(&[scope]) };
    assert_eq!(taken(&sheds.prune(zero(PruneScope::Orphans)).await.unwrap()).len(), 1);
    assert!(!orphan.exists() && sheds.get(&shed).is_some());
    let outcome = sheds.prune(zero(PruneScope::Instances)).await.unwrap();
    assert_eq!(taken(&outcome), [PruneSubject::Instance(shed)]);
    assert!(host.image_file("unused-rootfs.ext4").exists());
    assert_eq!(sheds.prune(zero(PruneScope::Instances)).await.unwrap(), PruneOutcome::default());
}

#[tokio::test]
async fn what_another_process_converts_is_left_alone() {
    let host = Host::new();
    let sheds = host.server().await;
    let tmp = host.put_image_file("a-rootfs.ext4.tmp", 2 * HOUR);
    let store = ImageStore::new(host.settings.images_dir.clone());
    let held = store.lock(&"a".parse().unwrap()).unwrap();
    for dry_run in [true, false] {
        let outcome = sheds.prune(PruneRequest { dry_run, ..all() }).await.unwrap();
        assert_eq!(taken(&outcome), []);
        let reason = kept(&outcome)
            .into_iter()
            .find(|(subject, _)| matches!(subject, PruneSubject::Orphan(path, _) if *path == tmp));
        assert_eq!(reason.unwrap().1, "lock held (conversion in progress)");
    }
    drop(held);
    assert_eq!(taken(&sheds.prune(all()).await.unwrap()).len(), 1);
    assert!(!tmp.exists() && host.image_file("a-rootfs.ext4.lock").exists());
}

#[tokio::test]
async fn sheds_that_are_used_while_a_prune_goes_on_stay() {
    let host = Host::new();
    let sheds = host.server().await;
    for round in 0..20 {
        let mut names = Vec::new();
        for number in 0..4 {
            let shed = stopped(&sheds, &format!("s{round}-{number}")).await;
            host.set_record_age(&shed, 100 * HOUR);
            names.push(shed);
        }
        // The first is left to the prune; the others are started at once, or as soon as the first is gone.
        let starts = futures::future::join_all(names[1..].iter().map(|shed| {
            let (sheds, first) = (&sheds, &names[0]);
            async move {
                while round % 2 == 0 && sheds.get(first).is_some() {
                    tokio::task::yield_now().await;
                }
                sheds.start(shed, Progress::silent()).await
            }
        }));
        let prune = sheds.prune(request(&[PruneScope::Instances]));
        let (outcome, starts) = futures::join!(prune, starts);
        let outcome = outcome.unwrap();
        assert!(taken(&outcome).contains(&PruneSubject::Instance(names[0].clone())));
        for (shed, start) in names[1..].iter().zip(starts) {
            let pruned = taken(&outcome).contains(&PruneSubject::Instance(shed.clone()));
            assert_eq!(start.is_ok(), !pruned, "{shed}: either it runs or it is gone: {start:?}");
            assert_eq!(sheds.get(shed).map(|view| view.status), (!pruned).then_some(ShedStatus::Running));
            if !pruned {
                sheds.delete(shed).await.unwrap();
            }
        }
    }
    assert_eq!(host.world.running(), []);
}

#[tokio::test]
async fn a_shed_whose_stop_could_not_be_recorded_is_not_taken_for_one_that_has_rested() {
    let host = Host::new();
    let sheds = host.server().await;
    let shed = stopped(&sheds, "api").await;
    // As a full disk leaves it: the record is that of the start, long ago.
    let record = host.shed_file(&shed, "metadata.json");
    let text = std::fs::read_to_string(&record).unwrap();
    assert!(text.contains(r#""status": "stopped""#), "{text}");
    std::fs::write(&record, text.replace(r#""status": "stopped""#, r#""status": "running""#)).unwrap();
    host.set_record_age(&shed, 100 * HOUR);
    let outcome = sheds.prune(request(&[PruneScope::Instances])).await.unwrap();
    assert_eq!(taken(&outcome), []);
    assert_eq!(sheds.get(&shed).map(|view| view.status), Some(ShedStatus::Stopped));
    assert!(host.shed_file(&shed, "rootfs.ext4").exists());
}

#[tokio::test]
async fn prunes_at_once_take_turns_and_delete_nothing_twice() {
    let host = Host::new();
    let sheds = host.server().await;
    for number in 0..6 {
        let shed = stopped(&sheds, &format!("s{number}")).await;
        host.set_record_age(&shed, 100 * HOUR);
    }
    let outcomes = futures::future::join_all((0..4).map(|_| sheds.prune(all()))).await;
    let deleted: usize = outcomes.iter().map(|outcome| outcome.as_ref().unwrap().pruned.len()).sum();
    assert_eq!(deleted, 6);
    assert!(outcomes.iter().all(|outcome| outcome.as_ref().unwrap().skipped.is_empty()), "{outcomes:?}");
}

#[tokio::test]
async fn a_failure_is_told_beside_what_was_done_and_is_an_error_when_nothing_was() {
    let host = Host::new();
    fs::create_dir_all(host.settings.instance_dir.join("damaged")).unwrap();
    fs::write(host.shed_file(&name("damaged"), "metadata.json"), b"{").unwrap();
    let sheds = host.server().await;
    let old = stopped(&sheds, "old").await;
    host.set_record_age(&old, 100 * HOUR);
    // One record that cannot be read keeps all images, whatever it would say.
    host.put_image_file("unused-rootfs.ext4", HOUR);
    let outcome = sheds.prune(all()).await.unwrap();
    assert_eq!(taken(&outcome), [PruneSubject::Instance(old)]);
    assert!(outcome.failures[0].starts_with("no images were pruned: "), "{:?}", outcome.failures);
    assert!(kept(&outcome)[0].1.contains("record"), "{:?}", kept(&outcome));
    match sheds.prune(all()).await {
        Err(PruneError::Failed { failures }) => assert!(failures[0].contains("`damaged`"), "{failures:?}"),
        other => panic!("{other:?}"),
    }
    assert!(host.image_file("unused-rootfs.ext4").exists());
    assert!(host.shed_file(&name("damaged"), "metadata.json").exists());
}

#[tokio::test]
async fn a_machine_that_cannot_be_shown_dead_keeps_its_shed() {
    let host = Host::new();
    let sheds = host.server().await;
    let stuck = running(&sheds, "stuck").await;
    host.world.set_faults(&stuck, Faults { kill: KillFault::StillRunning, ..Faults::default() });
    host.set_record_age(&stuck, 900 * HOUR);
    let outcome = sheds.prune(PruneRequest { until: Duration::ZERO, ..all() }).await.unwrap();
    assert_eq!(taken(&outcome), []);
    assert!(sheds.get(&stuck).is_some());
}

#[tokio::test]
async fn a_shed_that_lost_its_disk_is_not_taken() {
    let host = Host::new();
    let sheds = host.server().await;
    let shed = stopped(&sheds, "hurt").await;
    sheds.close().await;
    drop(sheds);
    fs::rename(host.shed_file(&shed, "rootfs.ext4"), host.image_file("saved")).unwrap();
    host.set_record_age(&shed, 900 * HOUR);
    let sheds = host.server().await;
    let outcome = sheds.prune(all()).await.unwrap();
    assert_eq!(kept(&outcome), [(PruneSubject::Instance(shed), "cannot prune error shed".to_owned())]);
}

#[tokio::test]
async fn a_log_is_cut_in_place_and_its_writer_goes_on_behind_the_end() {
    let host = Host::new();
    let sheds = host.server().await;
    let shed = running(&sheds, "api").await;
    let console = host.shed_file(&shed, "console.log");
    let mut guest = File::options().append(true).open(&console).unwrap();
    guest.write_all("0123456789\n".repeat(1000).as_bytes()).unwrap();
    let (inode, vmm_log) = (console.metadata().unwrap().ino(), host.shed_file(&shed, "vmm.log"));
    fs::remove_file(&vmm_log).unwrap();
    symlink(host.image_file("bzImage"), &vmm_log).unwrap();
    let logs = PruneRequest { log_tail_bytes: 22, ..request(&[PruneScope::Logs]) };
    let outcome = sheds.prune(logs.clone()).await.unwrap();
    assert_eq!(taken(&outcome), [PruneSubject::Log(shed, Some(console.clone()))]);
    guest.write_all(b"and on").unwrap();
    assert_eq!(fs::read_to_string(&console).unwrap(), "0123456789\n0123456789\nand on");
    assert_eq!(console.metadata().unwrap().ino(), inode);
    assert_eq!(fs::read(host.image_file("bzImage")).unwrap(), b"content");
    let exact = PruneRequest { log_tail_bytes: 28, ..logs };
    assert_eq!(sheds.prune(exact).await.unwrap().pruned, [], "what is as long as the tail stays");
}

#[tokio::test]
async fn a_backend_without_console_logs_skips_each_shed_once() {
    let host = Host::new();
    host.world.keep_no_console_logs();
    let sheds = host.server().await;
    let (a, b) = (running(&sheds, "a").await, stopped(&sheds, "b").await);
    fs::write(host.shed_file(&a, "console.log"), "x".repeat(1000)).unwrap();
    let outcome = sheds.prune(request(&[PruneScope::Logs])).await.unwrap();
    let skipped: Vec<_> = outcome.skipped.into_iter().map(|skip| (skip.subject, skip.reason)).collect();
    let expected = [a, b].map(|shed| (PruneSubject::Log(shed, None), SkipReason::NoConsoleLog));
    assert_eq!(skipped, expected);
    assert_eq!(outcome.pruned, []);
    assert!(sheds.usage().await.sheds.iter().all(|shed| shed.console_log.is_none()));
}

#[tokio::test]
async fn links_and_pipes_among_the_files_of_a_prune_are_left_alone() {
    let host = Host::new();
    let sheds = host.server().await;
    let shed = stopped(&sheds, "odd").await;
    host.set_record_age(&shed, 100 * HOUR);
    let outside = host.image_file("outside");
    fs::write(&outside, "x".repeat(1000)).unwrap();
    for log in ["console.log", "vmm.log"] {
        let _gone = fs::remove_file(host.shed_file(&shed, log));
    }
    symlink(&outside, host.shed_file(&shed, "console.log")).unwrap();
    shed_testkit::make_pipe(host.shed_file(&shed, "vmm.log"));
    symlink(&host.settings.images_dir, host.shed_file(&shed, "everything")).unwrap();
    shed_testkit::make_pipe(host.image_file("a-rootfs.ext4.tmp"));
    symlink(&outside, host.image_file("b-rootfs.ext4.source")).unwrap();
    assert_eq!(sheds.prune(request(&[PruneScope::Logs, PruneScope::Orphans])).await.unwrap().pruned, []);
    let outcome = sheds.prune(request(&[PruneScope::Instances])).await.unwrap();
    assert_eq!(
        taken(&outcome),
        [PruneSubject::Instance(shed)],
        "deleting removes links, not what they lead to"
    );
    assert_eq!(fs::read(&outside).unwrap().len(), 1000);
    assert!(host.image_file("base-rootfs.ext4").exists());
}
