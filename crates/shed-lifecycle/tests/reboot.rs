//! A guest that reboots where its machine does not outlive that: the server starts another one, once for each time that
//! the guest was up, and whatever somebody asks for meanwhile comes first.

mod common;

use std::{os::unix::fs::MetadataExt, sync::Arc, time::Duration};

use shed_backend::fake::{BootFault, FakeStep, FakeWorld, Faults, PowerOffFault};
use shed_lifecycle::{
    BootShedError, CreateShedError, NewShed, Progress, Settings, ShedStatus, Sheds, StartShedError, Started,
};
use shed_protocol::{Occasion, Step};
use shed_types::{GuestPort, ShedName};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use common::until;

/// A server with one shed, which is `api`.
struct Stage {
    world: FakeWorld,
    settings: Settings,
    sheds: Sheds,
    api: ShedName,
    _guard: tempfile::TempDir,
}

impl Stage {
    async fn empty() -> Self {
        let ((guard, settings), world) = (common::settings(), FakeWorld::new());
        let sheds = Sheds::open(settings.clone(), Arc::new(world.backend())).await.unwrap();
        Self { world, settings, sheds, api: "api".parse().unwrap(), _guard: guard }
    }

    async fn running() -> Self {
        let stage = Self::empty().await;
        stage.create().await.unwrap();
        stage
    }

    async fn create(&self) -> Result<Started, CreateShedError> {
        let name = self.api.clone();
        let (image, cpus, memory_mb, repo, local_dir) = (None, None, None, None, None);
        let new = NewShed { name, image, cpus, memory_mb, repo, local_dir, no_provision: false };
        self.sheds.create(new, Progress::silent()).await
    }

    fn status(&self) -> ShedStatus {
        self.sheds.get(&self.api).unwrap().status
    }

    async fn becomes(&self, status: ShedStatus) {
        until(|| self.status() == status).await;
    }

    /// Has the guest reboot and waits until the shed runs again.
    async fn reboot(&self) {
        let starts = self.starts();
        self.world.reboot(&self.api);
        until(|| self.starts() > starts && self.status() == ShedStatus::Running).await;
    }

    /// Has the guest reboot and not come up again until a test says so.
    async fn begin_reboot(&self) {
        self.boots(BootFault::Never);
        self.world.reboot(&self.api);
        self.becomes(ShedStatus::Starting).await;
    }

    /// How many machines the shed has had.
    fn starts(&self) -> u32 {
        self.world.starts(&self.api)
    }

    fn boots(&self, boot: BootFault) {
        self.world.set_faults(&self.api, Faults { boot, ..Faults::default() });
    }

    fn assert_at_rest(&self, starts: u32) {
        assert_eq!((self.status(), self.starts()), (ShedStatus::Stopped, starts));
        assert_eq!((self.world.running(), self.world.sockets()), (vec![], vec![]));
    }

    async fn start(&self) -> Result<Started, StartShedError> {
        self.sheds.start(&self.api, Progress::silent()).await
    }

    /// Deletes the shed, of which nothing is left then.
    async fn delete(&self) {
        self.sheds.delete(&self.api).await.unwrap();
        self.assert_gone();
    }

    fn assert_gone(&self) {
        assert_eq!(self.sheds.get(&self.api), None);
        assert_eq!((self.world.running(), self.world.sockets()), (vec![], vec![]));
        assert!(!self.settings.instance_dir.join("api").exists());
    }
}

#[tokio::test]
async fn a_guest_that_reboots_gets_a_new_machine_with_the_same_disk() {
    let stage = Stage::running().await;
    let disk = stage.settings.instance_dir.join("api/rootfs.ext4");
    let pid = || stage.sheds.get(&stage.api).unwrap().pid;
    let before = (pid(), disk.metadata().unwrap().ino());
    stage.reboot().await;
    assert_eq!(stage.world.running(), std::slice::from_ref(&stage.api));
    assert_eq!(stage.starts(), 2);
    assert!(pid().is_some() && pid() != before.0, "{:?}", pid());
    assert_eq!(disk.metadata().unwrap().ino(), before.1);
    assert_eq!(stage.world.disk_conflicts(), 0);
    drop(stage.sheds.connect_guest(&stage.api, GuestPort::Exec).await.unwrap());
    // It is a start as any other.
    until(|| stage.world.setups(&stage.api).len() == 2).await;
    assert_eq!(stage.world.setups(&stage.api)[1].occasion, Occasion::Start);
    // And the shed is as any other: it stops, and its end is an end.
    stage.sheds.stop(&stage.api).await.unwrap();
    stage.assert_at_rest(2);
}

#[tokio::test]
async fn a_guest_that_powers_off_is_stopped_also_after_a_reboot() {
    let stage = Stage::running().await;
    stage.reboot().await;
    stage.world.power_off(&stage.api);
    stage.becomes(ShedStatus::Stopped).await;
    stage.assert_at_rest(2);
}

#[tokio::test]
async fn a_guest_gets_one_machine_for_each_reboot_and_none_when_it_was_not_up() {
    let stage = Stage::running().await;
    for _ in 0..3 {
        stage.reboot().await;
    }
    assert_eq!(stage.starts(), 4);
    stage.boots(BootFault::Reboots);
    stage.world.reboot(&stage.api);
    stage.becomes(ShedStatus::Stopped).await;
    stage.assert_at_rest(5);
    let error = stage.sheds.get(&stage.api).unwrap().error.expect("why it is stopped");
    assert!(error.contains("ended while it booted"), "{error}");
    // Nor is it started again when somebody asks for it, and it is well when its guest is.
    let error = stage.start().await.unwrap_err();
    assert!(matches!(&error, StartShedError::Boot(boot) if matches!(**boot, BootShedError::Ended { .. })));
    stage.assert_at_rest(6);
    stage.boots(BootFault::None);
    stage.start().await.unwrap();
}

#[tokio::test]
async fn a_create_whose_guest_reboots_before_it_is_up_fails_and_leaves_nothing() {
    let stage = Stage::empty().await;
    stage.boots(BootFault::Reboots);
    let error = stage.create().await.unwrap_err();
    assert!(matches!(&error, CreateShedError::Boot(boot) if matches!(**boot, BootShedError::Ended { .. })));
    assert_eq!(stage.starts(), 1);
    stage.assert_gone();
}

#[tokio::test]
async fn a_stop_or_delete_while_the_guest_comes_up_again_wins() {
    let stage = Stage::running().await;
    stage.begin_reboot().await;
    assert_eq!(stage.sheds.stop(&stage.api).await.unwrap().shed.status, ShedStatus::Stopped);
    let starts = stage.starts();
    stage.assert_at_rest(starts);

    stage.boots(BootFault::None);
    stage.start().await.unwrap();
    stage.begin_reboot().await;
    stage.delete().await;
}

#[tokio::test]
async fn a_stop_or_delete_while_the_guest_goes_down_wins() {
    let stage = Stage::empty().await;
    // It takes a while to go, and does not come back.
    let power_off = PowerOffFault::Slow(std::time::Duration::from_millis(100));
    stage.world.set_faults(&stage.api, Faults { power_off, ..Faults::default() });
    stage.create().await.unwrap();
    stage.world.say_reboot(&stage.api);
    stage.sheds.stop(&stage.api).await.unwrap();
    stage.assert_at_rest(1);

    stage.start().await.unwrap();
    stage.world.say_reboot(&stage.api);
    stage.delete().await;
    assert_eq!(stage.starts(), 2);
}

#[tokio::test]
async fn who_comes_while_the_guest_reboots_waits_for_its_new_machine() {
    let stage = Stage::running().await;
    stage.begin_reboot().await;
    let mut found = None;
    let come = stage.sheds.bring_up(&stage.api, |status| found = Some(status));
    let agent = async {
        until(|| stage.world.running().len() == 1).await;
        stage.world.set_agent_up(&stage.api, true);
    };
    let (came, ()) = tokio::join!(come, agent);
    came.unwrap();
    assert_eq!((found, stage.status()), (Some(ShedStatus::Starting), ShedStatus::Running));
    assert_eq!(stage.starts(), 2);
}

#[tokio::test]
async fn a_reboot_that_no_server_sees_the_end_of_is_an_end() {
    let stage = Stage::running().await;
    stage.world.say_reboot(&stage.api);
    stage.sheds.close().await;
    let Stage { world, settings, sheds, api, _guard } = stage;
    drop(sheds);
    world.reboot(&api);
    let sheds = Sheds::open(settings.clone(), Arc::new(world.backend())).await.unwrap();
    Stage { world, settings, sheds, api, _guard }.assert_at_rest(1);
}

#[tokio::test]
async fn a_reboot_in_the_middle_of_a_setup_ends_it_and_says_so() {
    let stage = Stage::empty().await;
    let wait = FakeStep::Waits(CancellationToken::new());
    stage.world.set_setup(&stage.api, Occasion::Create, vec![FakeStep::began(Step::Install), wait]);
    let reboot = async {
        until(|| !stage.world.setups(&stage.api).is_empty()).await;
        stage.reboot().await;
    };
    let (created, ()) = tokio::join!(stage.create(), reboot);
    let warnings = created.unwrap().warnings;
    assert!(warnings.concat().contains("ended before its project was set up"), "{warnings:?}");
    assert_eq!((stage.starts(), stage.status()), (2, ShedStatus::Running));
}

#[tokio::test]
async fn a_shed_whose_disk_has_gone_is_not_started_by_its_guest() {
    let stage = Stage::running().await;
    std::fs::remove_file(stage.settings.instance_dir.join("api/rootfs.ext4")).unwrap();
    stage.world.reboot(&stage.api);
    stage.becomes(ShedStatus::Stopped).await;
    stage.assert_at_rest(1);
}

/// Where a machine outlives the reboot of its guest, nobody may end the streams into the former boot. The shed would run
/// without its directories and its name.
#[tokio::test(start_paused = true)]
async fn a_guest_that_rebooted_within_its_machine_is_told_again_who_it_is() {
    let stage = Stage::running().await;
    let starts = stage.starts();
    // By its own word, or because it says nothing for as long as no guest does.
    for (says_so, within) in [(true, 15), (false, 130), (true, 15)] {
        stage.world.reboot_within(&stage.api, says_so);
        let told = async {
            while stage.world.identified(&stage.api).is_none() {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(Duration::from_secs(within), told).await.expect("it is told");
        assert_eq!((stage.starts(), stage.status()), (starts, ShedStatus::Running));
    }
    stage.sheds.stop(&stage.api).await.unwrap();
}
