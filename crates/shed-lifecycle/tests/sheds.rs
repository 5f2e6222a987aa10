//! The lifecycle over the fake backend: what is promised about requests that meet, failures at every step, and
//! servers that follow one another. Disks are real files made by the real mke2fs; only the machines are not.

mod common;

use std::{sync::Arc, time::Duration};

use camino::Utf8PathBuf;
use shed_backend::fake::{BootFault, FakeWorld, Faults, KillFault, PowerOffFault, StartFault};
use shed_image::file_name;
use shed_lifecycle::{
    AskedImage, BootShedError, ClearVmError, CreateShedError, DeleteShedError, NewShed, Phase, Progress,
    ReachGuestError, Settings, ShedStatus, Sheds, StartShedError, StopShedError,
};
use shed_types::{GuestPort, ShedName};

use common::{CREATE, DEADLINE};

struct Host {
    world: FakeWorld,
    settings: Settings,
    _guard: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let (guard, settings) = common::settings();
        // A real disk, so that a full one can be felt.
        std::fs::remove_dir_all(settings.images_dir.join(file_name::CACHE)).unwrap();
        let soon = Duration::from_millis(400);
        let settings = Settings { start_timeout: soon, stop_timeout: soon, ..settings };
        Self { world: FakeWorld::new(), settings, _guard: guard }
    }

    async fn server(&self) -> Sheds {
        Sheds::open(self.settings.clone(), Arc::new(self.world.backend())).await.unwrap()
    }

    fn shed_dir(&self, shed: &ShedName) -> Utf8PathBuf {
        self.settings.instance_dir.join(shed.as_str())
    }

    /// Asserts that nothing of any shed is left anywhere.
    fn assert_empty(&self) {
        assert_eq!(self.world.running(), [], "no machine is left");
        assert_eq!(self.world.sockets(), [], "no socket is left");
        let left: Vec<_> = self
            .settings
            .instance_dir
            .read_dir_utf8()
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_owned())
            .filter(|name| name != ".lock")
            .collect();
        assert_eq!(left, Vec::<String>::new(), "no directory is left");
    }

    fn fault(&self, shed: &ShedName, faults: Faults) {
        self.world.set_faults(shed, faults);
    }
}

fn name(text: &str) -> ShedName {
    text.parse().unwrap()
}

fn new(shed: &ShedName) -> NewShed {
    NewShed {
        name: shed.clone(),
        image: None,
        cpus: None,
        memory_mb: None,
        repo: None,
        local_dir: None,
        no_provision: false,
    }
}

async fn create(sheds: &Sheds, shed: &ShedName) -> shed_lifecycle::Started {
    sheds.create(new(shed), Progress::silent()).await.unwrap()
}

async fn status_becomes(sheds: &Sheds, shed: &ShedName, wanted: ShedStatus) {
    let reached = tokio::time::timeout(DEADLINE, async {
        while sheds.get(shed).map(|view| view.status) != Some(wanted) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(reached.await.is_ok(), "{shed} is {:?}, not {wanted:?}", sheds.get(shed));
}

#[tokio::test]
async fn a_create_goes_through_every_phase_in_order_and_ends_running() {
    let host = Host::new();
    let sheds = host.server().await;
    let (progress, mut updates) = Progress::channel();
    let api = name("api");
    let started = sheds.create(new(&api), progress).await.unwrap();
    assert_eq!(started.shed.status, ShedStatus::Running);
    assert_eq!(started.timeline.iter().map(|timing| timing.phase).collect::<Vec<_>>(), CREATE);
    let mut seen = Vec::new();
    while let Some(update) = updates.recv().await {
        seen.push(update.phase);
    }
    seen.dedup();
    assert_eq!(seen, CREATE);
    assert_eq!(host.world.identified(&api).unwrap().hostname, "api");
    assert_eq!(started.shed.image.unwrap().as_str(), "base");
}

#[tokio::test]
async fn a_new_shed_costs_a_link_and_a_few_megabytes() {
    use std::os::unix::fs::MetadataExt;
    let host = Host::new();
    let sheds = host.server().await;
    let api = name("api");
    create(&sheds, &api).await;
    let image = host.shed_dir(&api).join("image.ext4").metadata().unwrap();
    assert_eq!(image.nlink(), 2, "the image is a hardlink");
    let disk = host.shed_dir(&api).join("rootfs.ext4").metadata().unwrap();
    assert_eq!(disk.len(), 1 << 30);
    assert!(disk.blocks() * 512 < 10 << 20, "{} bytes", disk.blocks() * 512);
}

#[tokio::test]
async fn of_two_creates_of_one_name_exactly_one_wins() {
    let host = Host::new();
    let sheds = host.server().await;
    let api = name("api");
    let attempts = (0..8).map(|_| sheds.create(new(&api), Progress::silent()));
    let results = futures::future::join_all(attempts).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    for error in results.into_iter().filter_map(Result::err) {
        assert!(matches!(error, CreateShedError::AlreadyExists { .. }), "{error}");
    }
    assert_eq!((host.world.starts(&api), host.world.disk_conflicts()), (1, 0));
}

#[tokio::test]
async fn whatever_fails_in_a_create_nothing_is_left_and_the_name_is_free() {
    let none = Faults::default();
    let faults = [
        Faults { start: StartFault::EndsAtOnce, ..none },
        Faults { boot: BootFault::Never, ..none },
        Faults { boot: BootFault::Dies(Duration::ZERO), ..none },
        Faults { boot: BootFault::Dies(Duration::from_millis(50)), ..none },
    ];
    let host = Host::new();
    let sheds = host.server().await;
    let api = name("api");
    for fault in faults {
        host.fault(&api, fault);
        let error = sheds.create(new(&api), Progress::silent()).await.unwrap_err();
        assert!(matches!(error, CreateShedError::Boot(_)), "{fault:?}: {error}");
        assert_eq!(sheds.list(), [], "{fault:?}");
        host.assert_empty();
    }
    host.fault(&api, none);
    create(&sheds, &api).await;
}

#[tokio::test]
async fn a_guest_that_is_never_ready_is_reported_with_its_console() {
    let host = Host::new();
    let sheds = host.server().await;
    let api = name("api");
    host.fault(&api, Faults { boot: BootFault::Never, ..Faults::default() });
    let error = sheds.create(new(&api), Progress::silent()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("not ready within 0.4 s") && text.contains("a disk that never comes"), "{text}");
}

#[tokio::test]
async fn a_vmm_that_crashes_while_its_guest_boots_is_started_once_more_and_no_more() {
    let host = Host::new();
    let sheds = host.server().await;
    let (once, always) = (name("once"), name("always"));
    host.fault(&once, Faults { boot: BootFault::CrashesOnce, ..Faults::default() });
    assert_eq!(create(&sheds, &once).await.shed.status, ShedStatus::Running);
    assert_eq!(host.world.starts(&once), 2);
    host.fault(&always, Faults { boot: BootFault::Crashes, ..Faults::default() });
    let error = sheds.create(new(&always), Progress::silent()).await.unwrap_err();
    assert!(error.to_string().contains("ended while it booted"), "{error}");
    assert_eq!(host.world.starts(&always), 2);
    sheds.delete(&once).await.unwrap();
    host.assert_empty();
}

#[tokio::test]
async fn an_unknown_image_is_refused_with_what_there_is() {
    let host = Host::new();
    let sheds = host.server().await;
    let api = name("api");
    let request = NewShed { image: Some(AskedImage::Name("nosuch".parse().unwrap())), ..new(&api) };
    let error = sheds.create(request, Progress::silent()).await.unwrap_err();
    let CreateShedError::UnknownImage { available, .. } = error else { panic!("{error}") };
    assert_eq!(available, ["base"]);
    host.assert_empty();
}

#[tokio::test]
async fn a_create_whose_caller_goes_away_is_undone() {
    let host = Host::new();
    let sheds = host.server().await;
    let api = name("api");
    host.fault(&api, Faults { boot: BootFault::Never, ..Faults::default() });
    let (progress, mut updates) = Progress::channel();
    let caller = tokio::spawn({
        let (sheds, request) = (sheds.clone(), new(&api));
        async move { sheds.create(request, progress).await }
    });
    while updates.recv().await.unwrap().phase != Phase::Boot {}
    assert_eq!(host.world.running(), std::slice::from_ref(&api));
    caller.abort();
    let gone = tokio::time::timeout(DEADLINE, async {
        while sheds.get(&api).is_some() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    gone.await.unwrap();
    host.assert_empty();
}

#[tokio::test]
async fn stop_and_start_keep_the_disk_and_refuse_what_makes_no_sense() {
    let host = Host::new();
    let sheds = host.server().await;
    let api = name("api");
    create(&sheds, &api).await;
    let error = sheds.start(&api, Progress::silent()).await.unwrap_err();
    assert!(matches!(error, StartShedError::AlreadyRunning { .. }), "{error}");
    std::fs::write(host.shed_dir(&api).join("rootfs.ext4"), b"the user's").unwrap();
    assert_eq!(sheds.stop(&api).await.unwrap().shed.status, ShedStatus::Stopped);
    assert_eq!((host.world.running(), host.world.sockets()), (vec![], vec![]));
    let error = sheds.stop(&api).await.unwrap_err();
    assert!(matches!(error, StopShedError::AlreadyStopped { .. }), "{error}");
    let error = sheds.connect_guest(&api, GuestPort::Exec).await.unwrap_err();
    assert!(matches!(error, ReachGuestError::NotRunning { .. }), "{error}");
    let started = sheds.start(&api, Progress::silent()).await.unwrap();
    assert_eq!(started.shed.status, ShedStatus::Running);
    assert!(!started.timeline.iter().any(|timing| timing.phase == Phase::Disk), "a start makes no disk");
    assert_eq!(std::fs::read(host.shed_dir(&api).join("rootfs.ext4")).unwrap(), b"the user's");
}

#[tokio::test]
async fn starts_that_meet_get_one_machine() {
    let host = Host::new();
    let sheds = host.server().await;
    let api = name("api");
    create(&sheds, &api).await;
    sheds.stop(&api).await.unwrap();
    host.fault(&api, Faults { boot: BootFault::Slow(Duration::from_millis(100)), ..Faults::default() });
    let results = futures::future::join_all((0..4).map(|_| sheds.start(&api, Progress::silent()))).await;
    let pids: Vec<_> = results.into_iter().map(|result| result.unwrap().shed.pid).collect();
    assert!(pids[0].is_some() && pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    assert_eq!(host.world.starts(&api), 2, "one for the create, one for all starts");
}

#[tokio::test]
async fn a_failed_start_leaves_the_shed_stopped_and_says_why() {
    let host = Host::new();
    let sheds = host.server().await;
    let api = name("api");
    create(&sheds, &api).await;
    sheds.stop(&api).await.unwrap();
    host.fault(&api, Faults { boot: BootFault::Dies(Duration::ZERO), ..Faults::default() });
    let error = sheds.start(&api, Progress::silent()).await.unwrap_err();
    let StartShedError::Boot(boot) = &error else { panic!("{error}") };
    assert!(matches!(**boot, BootShedError::Ended { .. }), "{error}");
    let view = sheds.get(&api).unwrap();
    assert_eq!(view.status, ShedStatus::Stopped);
    assert!(view.error.unwrap().contains("Kernel panic"));
    assert_eq!((host.world.running(), host.world.sockets()), (vec![], vec![]));
    host.fault(&api, Faults::default());
    assert_eq!(sheds.start(&api, Progress::silent()).await.unwrap().shed.error, None);
}

#[tokio::test]
async fn a_guest_that_ignores_the_request_is_ended_by_force() {
    let host = Host::new();
    let sheds = host.server().await;
    for (index, fault) in [PowerOffFault::Ignored, PowerOffFault::IgnoredByAgent].into_iter().enumerate() {
        let shed = name(&format!("api{index}"));
        host.fault(&shed, Faults { power_off: fault, ..Faults::default() });
        create(&sheds, &shed).await;
        assert_eq!(sheds.stop(&shed).await.unwrap().shed.status, ShedStatus::Stopped, "{fault:?}");
    }
    assert_eq!(host.world.running(), []);
}

#[tokio::test]
async fn a_machine_that_cannot_be_ended_is_never_called_stopped() {
    let host = Host::new();
    let sheds = host.server().await;
    let api = name("api");
    let stuck =
        Faults { power_off: PowerOffFault::Ignored, kill: KillFault::StillRunning, ..Faults::default() };
    host.fault(&api, stuck);
    create(&sheds, &api).await;
    let error = sheds.stop(&api).await.unwrap_err();
    assert!(matches!(error, StopShedError::Clear(ClearVmError::End { .. })), "{error}");
    assert_eq!(sheds.get(&api).unwrap().status, ShedStatus::Broken);
    let error = sheds.start(&api, Progress::silent()).await.unwrap_err();
    assert!(matches!(error, StartShedError::Broken { .. }), "{error}");
    let error = sheds.stop(&api).await.unwrap_err();
    assert!(matches!(error, StopShedError::Clear(ClearVmError::End { .. })), "a stop tries again: {error}");
    let error = sheds.delete(&api).await.unwrap_err();
    assert!(matches!(error, DeleteShedError::Clear(ClearVmError::End { .. })), "{error}");
    assert!(host.shed_dir(&api).join("rootfs.ext4").exists(), "a disk in use is not removed");
    assert_eq!(host.world.disk_conflicts(), 0);
}

#[tokio::test]
async fn a_stop_or_delete_cancels_a_boot_that_hangs() {
    let mut host = Host::new();
    host.settings.start_timeout = Duration::from_secs(600);
    let sheds = host.server().await;
    let api = name("api");
    create(&sheds, &api).await;
    sheds.stop(&api).await.unwrap();
    host.fault(&api, Faults { boot: BootFault::Never, ..Faults::default() });
    let start = || {
        let (sheds, api) = (sheds.clone(), api.clone());
        let (progress, updates) = Progress::channel();
        (tokio::spawn(async move { sheds.start(&api, progress).await }), updates)
    };

    let (starter, mut updates) = start();
    while updates.recv().await.unwrap().phase != Phase::Boot {}
    assert_eq!(sheds.stop(&api).await.unwrap().shed.status, ShedStatus::Stopped);
    let error = starter.await.unwrap().unwrap_err();
    assert!(
        matches!(&error, StartShedError::Boot(boot) if matches!(**boot, BootShedError::Cancelled { .. })),
        "{error}"
    );
    assert_eq!((host.world.running(), host.world.sockets()), (vec![], vec![]));

    let (starter, mut updates) = start();
    while updates.recv().await.unwrap().phase != Phase::Boot {}
    sheds.delete(&api).await.unwrap();
    assert!(starter.await.unwrap().is_err());
    host.assert_empty();
}

#[tokio::test]
async fn a_delete_cancels_a_create_and_both_are_answered() {
    let mut host = Host::new();
    host.settings.start_timeout = Duration::from_secs(600);
    let sheds = host.server().await;
    let api = name("api");
    host.fault(&api, Faults { boot: BootFault::Never, ..Faults::default() });
    let (progress, mut updates) = Progress::channel();
    let creator = tokio::spawn({
        let (sheds, request) = (sheds.clone(), new(&api));
        async move { sheds.create(request, progress).await }
    });
    while updates.recv().await.unwrap().phase != Phase::Boot {}
    sheds.delete(&api).await.unwrap();
    let error = creator.await.unwrap().unwrap_err();
    assert!(
        matches!(&error, CreateShedError::Boot(boot) if matches!(**boot, BootShedError::Cancelled { .. })),
        "{error}"
    );
    host.assert_empty();
}

#[tokio::test]
async fn a_machine_that_ends_by_itself_is_noticed_without_being_asked_about() {
    let host = Host::new();
    let sheds = host.server().await;
    let api = name("api");
    create(&sheds, &api).await;
    host.world.crash(&api);
    status_becomes(&sheds, &api, ShedStatus::Stopped).await;
    assert_eq!(host.world.sockets(), [], "its sockets are removed");
    sheds.start(&api, Progress::silent()).await.unwrap();
}

#[tokio::test]
async fn the_next_server_adopts_running_machines_and_notices_dead_ones() {
    let host = Host::new();
    let first = host.server().await;
    let (alive, dead, stopped) = (name("alive"), name("dead"), name("stopped"));
    for shed in [&alive, &dead, &stopped] {
        create(&first, shed).await;
    }
    first.stop(&stopped).await.unwrap();
    let pid = first.get(&alive).unwrap().pid;
    first.close().await;
    drop(first);
    host.world.crash(&dead);

    let second = host.server().await;
    assert_eq!(second.get(&alive).unwrap().status, ShedStatus::Running);
    assert_eq!(second.get(&alive).unwrap().pid, pid);
    assert_eq!(second.get(&dead).unwrap().status, ShedStatus::Stopped);
    assert_eq!(second.get(&stopped).unwrap().status, ShedStatus::Stopped);
    second.connect_guest(&alive, GuestPort::Exec).await.unwrap();
    for shed in [&alive, &dead, &stopped] {
        second.delete(shed).await.unwrap();
    }
    host.assert_empty();
}

/// Ends a server in the middle of a phase as a crash does: its tasks end, nothing is undone.
async fn crash_in(host: &Host, sheds: Sheds, phase: Phase, work: Work) {
    let (progress, mut updates) = Progress::channel();
    let task = tokio::spawn({
        let sheds = sheds.clone();
        async move {
            match work {
                Work::Create(request) => drop(sheds.create(request, progress).await),
                Work::Start(shed) => drop(sheds.start(&shed, progress).await),
            }
        }
    });
    while updates.recv().await.is_some_and(|update| update.phase != phase) {}
    sheds.close().await;
    task.abort();
    let _ended = task.await;
    drop(sheds);
    assert!(host.world.running().len() <= 1);
}

enum Work {
    Create(NewShed),
    Start(ShedName),
}

#[tokio::test]
async fn a_crash_in_any_phase_of_a_create_leaves_a_whole_shed_or_nothing() {
    for phase in Phase::ALL {
        let host = Host::new();
        let api = name("api");
        let slow = Faults {
            start: StartFault::Slow(Duration::from_millis(20)),
            boot: BootFault::Slow(Duration::from_millis(20)),
            ..Faults::default()
        };
        host.fault(&api, slow);
        crash_in(&host, host.server().await, phase, Work::Create(new(&api))).await;

        let next = host.server().await;
        match next.get(&api) {
            None => host.assert_empty(),
            Some(view) => {
                assert_eq!(view.status, ShedStatus::Running, "{phase:?}");
                assert_eq!(host.world.running(), std::slice::from_ref(&api), "{phase:?}");
                next.connect_guest(&api, GuestPort::Exec).await.unwrap();
                next.delete(&api).await.unwrap();
                host.assert_empty();
            }
        }
        create(&next, &api).await;
    }
}

#[tokio::test]
async fn a_crash_in_any_phase_of_a_start_leaves_the_shed_and_at_most_one_machine() {
    for phase in [Phase::Record, Phase::Vm, Phase::Boot, Phase::Identify, Phase::Commit] {
        let host = Host::new();
        let api = name("api");
        let first = host.server().await;
        create(&first, &api).await;
        first.stop(&api).await.unwrap();
        let boot = BootFault::Slow(Duration::from_millis(20));
        host.fault(&api, Faults { boot, ..Faults::default() });
        crash_in(&host, first, phase, Work::Start(api.clone())).await;

        let next = host.server().await;
        let reached = tokio::time::timeout(DEADLINE, async {
            while next.get(&api).unwrap().status == ShedStatus::Starting {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        reached.await.unwrap();
        let view = next.get(&api).unwrap();
        match view.status {
            ShedStatus::Running => assert_eq!(host.world.running(), std::slice::from_ref(&api), "{phase:?}"),
            ShedStatus::Stopped => assert_eq!(host.world.running(), [], "{phase:?}"),
            ShedStatus::Starting | ShedStatus::Stopping | ShedStatus::Broken => panic!("{phase:?}: {view:?}"),
        }
        assert_eq!(host.world.disk_conflicts(), 0, "{phase:?}");
        next.delete(&api).await.unwrap();
        host.assert_empty();
    }
}

#[tokio::test]
async fn a_second_server_is_kept_off_the_directory() {
    let host = Host::new();
    let first = host.server().await;
    let error = Sheds::open(host.settings.clone(), Arc::new(host.world.backend())).await.unwrap_err();
    assert!(error.to_string().contains("another shed-server"), "{error}");
    first.close().await;
    drop(first);
    host.server().await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_read_is_kept_hidden_and_its_name_stays_taken() {
    let host = Host::new();
    let api = name("api");
    let dir = host.shed_dir(&api);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("metadata.json"), b"{ damaged").unwrap();
    std::fs::write(dir.join("rootfs.ext4"), b"somebody's work").unwrap();
    let sheds = host.server().await;
    assert_eq!(sheds.list(), []);
    let error = sheds.create(new(&api), Progress::silent()).await.unwrap_err();
    assert!(matches!(error, CreateShedError::Occupied { .. }), "{error}");
    assert_eq!(std::fs::read(dir.join("rootfs.ext4")).unwrap(), b"somebody's work");
}

#[tokio::test]
async fn a_directory_that_appears_while_the_server_runs_is_not_written_over() {
    let host = Host::new();
    let sheds = host.server().await;
    let api = name("api");
    let rootfs = host.shed_dir(&api).join("rootfs.ext4");
    std::fs::create_dir(host.shed_dir(&api)).unwrap();
    std::fs::write(&rootfs, b"a restored backup").unwrap();
    let error = sheds.create(new(&api), Progress::silent()).await.unwrap_err();
    assert!(matches!(error, CreateShedError::Occupied { .. }), "{error}");
    assert_eq!(std::fs::read(&rootfs).unwrap(), b"a restored backup");
}

#[tokio::test]
async fn a_shed_without_its_disk_is_broken_until_that_is_back_or_it_is_deleted() {
    let host = Host::new();
    let api = name("api");
    let first = host.server().await;
    create(&first, &api).await;
    first.stop(&api).await.unwrap();
    first.close().await;
    drop(first);
    std::fs::remove_file(host.shed_dir(&api).join("rootfs.ext4")).unwrap();

    let sheds = host.server().await;
    assert_eq!(sheds.get(&api).unwrap().status, ShedStatus::Broken);
    let error = sheds.start(&api, Progress::silent()).await.unwrap_err();
    assert!(error.to_string().contains("rootfs.ext4 is missing"), "{error}");
    let rootfs = host.shed_dir(&api).join("rootfs.ext4");
    std::fs::write(&rootfs, b"restored").unwrap();
    assert_eq!(sheds.start(&api, Progress::silent()).await.unwrap().shed.status, ShedStatus::Running);
    sheds.stop(&api).await.unwrap();
    std::fs::remove_file(&rootfs).unwrap();
    let error = sheds.start(&api, Progress::silent()).await.unwrap_err();
    assert!(matches!(error, StartShedError::Broken { .. }), "{error}");
    sheds.delete(&api).await.unwrap();
    host.assert_empty();
}

#[tokio::test]
async fn replacing_or_deleting_an_image_does_not_touch_a_shed_made_from_it() {
    let host = Host::new();
    let sheds = host.server().await;
    let api = name("api");
    create(&sheds, &api).await;
    sheds.stop(&api).await.unwrap();
    std::fs::remove_file(host.settings.images_dir.join("base-rootfs.ext4")).unwrap();
    sheds.start(&api, Progress::silent()).await.unwrap();
    assert_eq!(std::fs::read(host.shed_dir(&api).join("image.ext4")).unwrap(), b"content");
}

#[tokio::test]
async fn a_full_disk_fails_the_create_and_leaves_nothing() {
    let host = Host::new();
    let sheds = host.server().await;
    let api = name("api");
    create(&sheds, &api).await;
    sheds.delete(&api).await.unwrap();
    // RLIMIT_FSIZE makes writes fail with EFBIG as a full disk makes them fail with ENOSPC, for this process only.
    let limit = limit_file_size(4096);
    let error = sheds.create(new(&api), Progress::silent()).await.unwrap_err();
    drop(limit);
    assert!(
        matches!(&error, CreateShedError::Boot(boot) if matches!(**boot, BootShedError::Disk { .. })),
        "{error}"
    );
    host.assert_empty();
    create(&sheds, &api).await;
}

/// Lowers the largest size of a file that this process may write, until it is dropped.
fn limit_file_size(bytes: u64) -> impl Drop {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    struct Restore(Rlimit);
    impl Drop for Restore {
        fn drop(&mut self) {
            setrlimit(Resource::Fsize, self.0).expect("a soft limit may be raised to the hard one");
        }
    }
    let before = getrlimit(Resource::Fsize);
    // The signal's default ends the process; ignored, the write fails instead.
    ignore_file_size_signal();
    setrlimit(Resource::Fsize, Rlimit { current: Some(bytes), maximum: before.maximum }).unwrap();
    Restore(before)
}

/// Ignores SIGXFSZ by taking it: tokio's handler replaces the default action.
fn ignore_file_size_signal() {
    const SIGXFSZ: i32 = 25;
    let _taken = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::from_raw(SIGXFSZ)).unwrap();
}
