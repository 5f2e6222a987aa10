//! What happens to a shed between the moment it runs and the moment its project is set up, and before it stops: who is
//! answered when, what is a warning, and that nothing a guest does in a setup harms anybody. The guest is the fake one.

mod common;

use std::{sync::Arc, time::Duration};

use shed_backend::fake::{BootFault, FakeStep, FakeWorld, Faults, StartFault};
use shed_lifecycle::{
    BootShedError, CreateShedError, Credential, NewShed, Phase, Progress, Settings, ShedStatus, Sheds,
    StartShedError, Started, Stopped,
};
use shed_protocol::{Failure, FrameKind, Occasion, SetupEvent, SetupReply, SetupRequest, Step, StepEnd};
use shed_types::{GuestPort, ShedName};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use common::{DEADLINE, until};

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

    /// Has setups of a kind do these steps and come to their end.
    fn steps(&self, occasion: Occasion, mut steps: Vec<FakeStep>) {
        steps.push(FakeStep::done());
        self.world.set_setup(&api(), occasion, steps);
    }

    fn setups(&self) -> Vec<SetupRequest> {
        self.world.setups(&api())
    }

    fn occasions(&self) -> Vec<Occasion> {
        self.setups().into_iter().map(|setup| setup.occasion).collect()
    }
}

fn api() -> ShedName {
    "api".parse().unwrap()
}

fn new() -> NewShed {
    NewShed {
        name: api(),
        image: None,
        cpus: None,
        memory_mb: None,
        repo: None,
        local_dir: None,
        no_provision: false,
    }
}

fn with_repo(repo: &str) -> NewShed {
    NewShed { repo: Some(repo.parse().unwrap()), ..new() }
}

type Creating = JoinHandle<Result<Started, CreateShedError>>;

fn begin_create(sheds: &Sheds, new: NewShed) -> Creating {
    let sheds = sheds.clone();
    tokio::spawn(async move { sheds.create(new, Progress::silent()).await })
}

/// Begins a create whose setup does not end before the token is cancelled, and waits until that has begun.
async fn begin_long_create(host: &Host, sheds: &Sheds) -> (Creating, CancellationToken) {
    let token = CancellationToken::new();
    let wait = FakeStep::Waits(token.clone());
    host.steps(Occasion::Create, vec![FakeStep::began(Step::Install), wait]);
    let create = begin_create(sheds, new());
    until(|| !host.setups().is_empty()).await;
    (create, token)
}

async fn create(sheds: &Sheds, new: NewShed) -> Started {
    sheds.create(new, Progress::silent()).await.unwrap()
}

fn phases(started: &Started) -> Vec<Phase> {
    started.timeline.iter().map(|timing| timing.phase).collect()
}

fn failure(message: &str) -> Failure {
    Failure { message: message.to_owned(), code: None, timed_out: false, last_lines: Vec::new(), log: None }
}

#[tokio::test]
async fn a_shed_runs_while_its_project_is_set_up_and_the_create_waits_for_that() {
    let host = Host::new();
    let sheds = host.server().await;
    let (create, token) = begin_long_create(&host, &sheds).await;
    assert_eq!(sheds.get(&api()).unwrap().status, ShedStatus::Running);
    drop(sheds.connect_guest(&api(), GuestPort::Exec).await.unwrap());
    let error = sheds.start(&api(), Progress::silent()).await.unwrap_err();
    assert!(matches!(error, StartShedError::AlreadyRunning { .. }), "{error}");
    assert!(!create.is_finished());
    token.cancel();
    let started = create.await.unwrap().unwrap();
    assert_eq!((phases(&started).last(), started.warnings), (Some(&Phase::Provision), vec![]));
}

#[tokio::test]
async fn a_client_that_goes_away_takes_no_shed_along_that_runs() {
    let host = Host::new();
    let sheds = host.server().await;
    let (create, token) = begin_long_create(&host, &sheds).await;
    create.abort();
    assert!(create.await.unwrap_err().is_cancelled());
    token.cancel();
    // What comes after it in the driver's queue is answered, and the shed is there.
    let error = sheds.start(&api(), Progress::silent()).await.unwrap_err();
    assert!(matches!(error, StartShedError::AlreadyRunning { .. }), "{error}");
    assert_eq!(host.world.running(), [api()]);
}

#[tokio::test]
async fn a_stop_ends_a_setup_and_the_create_says_so() {
    let host = Host::new();
    let sheds = host.server().await;
    let (create, _token) = begin_long_create(&host, &sheds).await;
    assert_eq!(sheds.stop(&api()).await.unwrap().shed.status, ShedStatus::Stopped);
    let started = create.await.unwrap().unwrap();
    assert!(started.warnings[0].contains("was stopped before its project was set up"), "{started:?}");
    assert!(matches!(started.shed.status, ShedStatus::Stopping | ShedStatus::Stopped), "{started:?}");
    assert_eq!(host.occasions(), [Occasion::Create, Occasion::Stop]);
}

#[tokio::test]
async fn a_delete_ends_a_setup_and_the_create_with_it() {
    let host = Host::new();
    let sheds = host.server().await;
    let (create, _token) = begin_long_create(&host, &sheds).await;
    sheds.delete(&api()).await.unwrap();
    let error = create.await.unwrap().unwrap_err();
    let CreateShedError::Boot(boot) = &error else { panic!("{error}") };
    assert!(matches!(**boot, BootShedError::Cancelled { .. }), "{error}");
    assert_eq!((sheds.get(&api()), host.world.running()), (None, vec![]));
    assert_eq!(host.occasions(), [Occasion::Create], "what is deleted runs no hook");
}

#[tokio::test]
async fn a_machine_that_ends_ends_its_setup_and_the_create_says_so() {
    let host = Host::new();
    let sheds = host.server().await;
    let (create, _token) = begin_long_create(&host, &sheds).await;
    host.world.crash(&api());
    let started = create.await.unwrap().unwrap();
    let told = started.warnings.join("\n");
    assert!(told.contains("ended before its project was set up"), "{started:?}");
    assert_eq!(sheds.get(&api()).unwrap().status, ShedStatus::Stopped);
}

#[tokio::test]
async fn a_server_that_ends_leaves_the_shed_to_the_next_one_and_no_setup_is_asked_for_twice() {
    let host = Host::new();
    let sheds = host.server().await;
    let (create, _token) = begin_long_create(&host, &sheds).await;
    sheds.close().await;
    let started = create.await.unwrap().unwrap();
    assert!(started.warnings[0].contains("`shed status api`"), "{started:?}");
    drop(sheds);
    let next = host.server().await;
    assert_eq!(next.get(&api()).unwrap().status, ShedStatus::Running);
    let error = next.start(&api(), Progress::silent()).await.unwrap_err();
    assert!(matches!(error, StartShedError::AlreadyRunning { .. }), "{error}");
    assert_eq!(host.occasions(), [Occasion::Create]);
}

/// The record of a shed that runs, with a planned setup that the guest has not been asked for: what a crash leaves between
/// the commit and the request.
#[tokio::test]
async fn a_setup_that_a_former_server_did_not_come_to_is_begun_by_the_next_one() {
    for (repo, cloned) in [("https://host/x", Some("https://host/x")), ("https://u:secret@host/x", None)] {
        let host = Host::new();
        let sheds = host.server().await;
        let started = create(&sheds, NewShed { no_provision: true, ..new() }).await;
        assert_eq!((started.shed.repo, host.setups()), (None, vec![]));
        sheds.close().await;
        drop(sheds);
        let path = host.settings.instance_dir.join("api/metadata.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let masked = shed_types::Repo::mask(repo);
        let text = text.replacen('{', &format!("{{\"repo\": \"{masked}\","), 1);
        let text = text.replacen("\"launch_id\"", "\"setup\": \"create\", \"launch_id\"", 1);
        std::fs::write(&path, text).unwrap();
        let next = host.server().await;
        until(|| !host.setups().is_empty()).await;
        let [setup] = &host.setups()[..] else { panic!("{:?}", host.setups()) };
        assert_eq!((setup.occasion, setup.hooks), (Occasion::Create, true));
        assert_eq!(setup.clone.as_ref().map(|clone| clone.url.as_str()), cloned);
        assert_eq!(next.get(&api()).unwrap().status, ShedStatus::Running);
        next.close().await;
        drop(next);
        // It is begun once.
        let last = host.server().await;
        assert_eq!(last.stop(&api()).await.unwrap().shed.status, ShedStatus::Stopped);
        assert_eq!(host.occasions(), [Occasion::Create, Occasion::Stop]);
    }
}

#[tokio::test]
async fn a_create_asks_for_what_it_was_asked_for_and_a_start_for_the_startup_hook() {
    let mut host = Host::new();
    let env_file = host.settings.images_dir.join("env");
    std::fs::write(&env_file, "TOKEN=abc\nNONSENSE\n").unwrap();
    host.settings.env_file = Some(env_file.clone());
    host.settings.extra_known_hosts = vec!["git.lan ssh-ed25519 AAAAC3Nz".parse().unwrap()];
    let sheds = host.server().await;
    let started = create(&sheds, with_repo("owner/repo")).await;
    assert_eq!(phases(&started)[6..], [Phase::Repo, Phase::Provision]);
    assert_eq!(started.warnings.len(), 1, "{started:?}");
    assert!(started.warnings[0].contains("line 2 left out"), "{started:?}");
    assert_eq!(started.shed.repo.as_deref(), Some("owner/repo"));
    sheds.stop(&api()).await.unwrap();
    std::fs::remove_file(&env_file).unwrap();
    let started = sheds.start(&api(), Progress::silent()).await.unwrap();
    assert!(
        started.warnings[0].contains("env_file") && started.warnings[0].contains("No such file"),
        "{started:?}"
    );
    let [first, stop, start] = &host.setups()[..] else { panic!("{:?}", host.setups()) };
    let clone = first.clone.as_ref().unwrap();
    assert_eq!((clone.url.as_str(), clone.known_hosts.len()), ("git@github.com:owner/repo.git", 4));
    assert_eq!((&first.env[..], first.hooks, first.limit_ms), (&["TOKEN=abc".to_owned()][..], true, None));
    assert_eq!((stop.occasion, &stop.env, stop.hooks), (Occasion::Stop, &first.env, true));
    assert!(stop.limit_ms.is_some_and(|limit| u128::from(limit) <= DEADLINE.as_millis() / 2), "{stop:?}");
    assert_eq!((start.occasion, &start.clone, start.hooks), (Occasion::Start, &None, true));
}

#[tokio::test]
async fn without_provisioning_hooks_are_left_out_and_without_a_repository_nothing_is_asked_for() {
    let host = Host::new();
    let sheds = host.server().await;
    let started = create(&sheds, NewShed { no_provision: true, ..new() }).await;
    assert_eq!((phases(&started).last(), host.setups()), (Some(&Phase::Commit), vec![]));
    sheds.delete(&api()).await.unwrap();
    let started = create(&sheds, NewShed { no_provision: true, ..with_repo("git://host/x") }).await;
    assert_eq!(phases(&started).last(), Some(&Phase::Repo));
    let [setup] = &host.setups()[..] else { panic!("{:?}", host.setups()) };
    assert_eq!((setup.hooks, setup.clone.as_ref().unwrap().known_hosts.len()), (false, 0));
}

#[tokio::test]
async fn a_directory_of_the_host_is_not_cloned_into() {
    let host = Host::new();
    let sheds = host.server().await;
    let local_dir = Some(host.settings.images_dir.clone());
    let _started = create(&sheds, NewShed { local_dir, ..with_repo("a/b") }).await;
    assert_eq!(host.setups()[0].clone, None);
}

#[tokio::test]
async fn a_password_goes_to_the_clone_and_nowhere_else() {
    let host = Host::new();
    let end = StepEnd::Failed(Failure {
        last_lines: vec!["fatal: unable to access 'https://u:se@cret@host/x/'".to_owned()],
        log: Some("/var/log/shed/clone-se@cret.log".to_owned()),
        ..failure("could not use se@cret")
    });
    host.steps(Occasion::Create, vec![FakeStep::began(Step::Clone), FakeStep::ended(Step::Clone, end)]);
    let sheds = host.server().await;
    let started = create(&sheds, with_repo("https://u:se@cret@host/x")).await;
    assert_eq!(host.setups()[0].clone.as_ref().unwrap().url, "https://u:se@cret@host/x");
    let record = host.settings.instance_dir.join("api/metadata.json");
    let record = std::fs::read_to_string(record).unwrap();
    assert!(record.contains("https://u:***@host/x"), "{record}");
    for text in [record, format!("{started:?}"), format!("{:?}", sheds.get(&api()))] {
        assert!(!text.contains("cret@"), "{text}");
        assert!(text.contains("u:***@host/x"), "{text}");
    }
}

#[tokio::test]
async fn what_a_guest_writes_and_does_is_told_in_its_order() {
    let host = Host::new();
    host.steps(
        Occasion::Create,
        vec![
            FakeStep::began(Step::Clone),
            FakeStep::Writes(b"Receiving objects: 50%\r".to_vec()),
            FakeStep::Writes(b"Receiving objects: 100%\n".to_vec()),
            FakeStep::ended(Step::Clone, StepEnd::Done),
            FakeStep::began(Step::Provision),
            FakeStep::Tells(SetupEvent::Warning {
                step: Step::Provision,
                message: "unknown key `hoks`\u{1b}[2J".into(),
            }),
            FakeStep::ended(Step::Provision, StepEnd::Done),
            FakeStep::began(Step::Install),
            FakeStep::Writes("\u{1b}[32mgr\u{fc}n\u{1b}[0m\n".into()),
            FakeStep::ended(
                Step::Install,
                StepEnd::Failed(Failure {
                    code: Some(3),
                    last_lines: vec!["one".into(), "t\two".into()],
                    log: Some("/var/log/shed/install.log".into()),
                    ..failure("the install hook, x.sh, ended with exit code 3")
                }),
            ),
        ],
    );
    let sheds = host.server().await;
    let (progress, mut updates) = Progress::channel();
    let started = sheds.create(with_repo("https://host/x"), progress).await.unwrap();
    let mut told = Vec::new();
    while let Some(update) = updates.recv().await {
        let sign = if update.warning { "! " } else { "" };
        let text = update.output.map_or(update.message, |output| format!("{output:?}"));
        told.push(format!("{} {sign}{text}", update.phase.as_str()));
    }
    let install = "the install hook, x.sh, ended with exit code 3\nits last lines:\n  one\n  t wo\n\
                   all of its output: shed exec api -- cat /var/log/shed/install.log";
    let warning = "unknown key `hoks`";
    assert_eq!(
        told[6..],
        [
            "repo Cloning the repository".to_owned(),
            "repo \"Receiving objects: 50%\\r\"".to_owned(),
            "repo \"Receiving objects: 100%\\n\"".to_owned(),
            "provision Looking for the project's hooks".to_owned(),
            format!("provision ! {warning}"),
            "provision Running the install hook".to_owned(),
            "provision \"gr\u{fc}n\\n\"".to_owned(),
            format!("provision ! {install}"),
        ]
    );
    assert_eq!(started.warnings, [warning, install]);
}

#[tokio::test]
async fn a_guest_that_misbehaves_in_a_setup_costs_a_warning() {
    let host = Host::new();
    let sheds = host.server().await;
    let long = "x".repeat(100_000);
    let flood = vec![FakeStep::began(Step::Install); 1000];
    let warnings =
        vec![
            FakeStep::Tells(SetupEvent::Warning { step: Step::Install, message: format!("{long}\u{1b}[2J") });
            150
        ];
    let giant = Failure {
        last_lines: vec![long.clone(); 7],
        log: Some(format!("{long}\u{7}")),
        ..failure(&format!("\n\r\u{0}{long}"))
    };
    for (steps, expected) in [
        (vec![], "no longer followed: the agent hung up; it may go on in the shed, and `shed status api`"),
        (vec![FakeStep::Sends(FrameKind::SetupReply, b"{".to_vec())], "the stream broke"),
        (
            vec![FakeStep::Replies(SetupReply {
                error: Some("a setup goes on\u{1b}]0;x\u{7} already".into()),
            })],
            "did not begin: the agent refused it: a setup goes on already",
        ),
        (flood, "more than a setup has to tell"),
        (warnings, "xxxxxxxxxx"),
        (vec![FakeStep::ended(Step::Install, StepEnd::Failed(giant))], "xxxxxxxxxx"),
        (
            vec![
                FakeStep::Sends(FrameKind::SetupEvent, br#"{"event":"of tomorrow"}"#.to_vec()),
                FakeStep::Sends(FrameKind::SetupEvent, vec![0xff; 1000]),
                FakeStep::Sends(FrameKind::ExitStatus, vec![0xff; 1000]),
                FakeStep::Sends(FrameKind::Data, vec![0x1b; 1 << 20]),
            ],
            "the agent hung up",
        ),
    ] {
        host.world.set_setup(&api(), Occasion::Create, steps);
        let started = create(&sheds, new()).await;
        let told = started.warnings.join("\n");
        assert!(told.contains(expected), "{expected}: {told:.2000}");
        assert!(started.warnings.len() <= 25 && told.len() < 30_000, "{} bytes", told.len());
        assert!(!told.contains(|c: char| c.is_control() && c != '\n'), "{told:?}");
        assert_eq!(sheds.get(&api()).unwrap().status, ShedStatus::Running);
        sheds.delete(&api()).await.unwrap();
    }
}

#[tokio::test]
async fn a_setup_that_hangs_for_ever_is_gone_with_its_machine() {
    let host = Host::new();
    let sheds = host.server().await;
    host.world.set_setup(&api(), Occasion::Create, vec![FakeStep::Hangs]);
    let create = begin_create(&sheds, new());
    until(|| !host.setups().is_empty()).await;
    sheds.delete(&api()).await.unwrap();
    assert!(create.await.unwrap().is_err());
    tokio::time::timeout(DEADLINE, sheds.close()).await.unwrap();
}

#[tokio::test]
async fn whoever_only_wants_to_use_a_shed_does_not_wait_for_its_startup_hook() {
    let host = Host::new();
    let sheds = host.server().await;
    create(&sheds, new()).await;
    sheds.stop(&api()).await.unwrap();
    host.world.set_setup(&api(), Occasion::Start, vec![FakeStep::Hangs]);
    let started = tokio::time::timeout(DEADLINE, sheds.bring_up(&api(), drop)).await.unwrap().unwrap();
    assert_eq!(started.unwrap().shed.status, ShedStatus::Running);
}

#[tokio::test]
async fn a_shutdown_hook_that_hangs_takes_its_budget_and_no_more() {
    let mut host = Host::new();
    host.settings.stop_timeout = Duration::from_secs(1);
    let sheds = host.server().await;
    create(&sheds, new()).await;
    host.world.set_setup(&api(), Occasion::Stop, vec![FakeStep::Hangs]);
    let begun = std::time::Instant::now();
    let stopped = sheds.stop(&api()).await.unwrap();
    assert_eq!(stopped.shed.status, ShedStatus::Stopped);
    let took = begun.elapsed();
    assert!(!stopped.warnings.is_empty(), "whoever stops it is told");
    assert!(took >= Duration::from_millis(500) && took < DEADLINE, "{took:?}");
    let limit = host.setups().last().unwrap().limit_ms.unwrap();
    assert!((1..500).contains(&limit), "the guest ends it before the host gives up: {limit} ms");
}

#[tokio::test]
async fn a_shutdown_hook_that_fails_is_told_to_whoever_stops_the_shed() {
    let host = Host::new();
    let sheds = host.server().await;
    create(&sheds, new()).await;
    let end = StepEnd::Failed(Failure { code: Some(3), ..failure("") });
    host.steps(Occasion::Stop, vec![FakeStep::began(Step::Shutdown), FakeStep::ended(Step::Shutdown, end)]);
    let Stopped { shed, warnings } = sheds.stop(&api()).await.unwrap();
    assert_eq!(shed.status, ShedStatus::Stopped);
    assert!(
        warnings.iter().any(|text| text.contains("the shutdown hook ended with exit code 3")),
        "{warnings:?}"
    );
}

#[tokio::test]
async fn an_agent_that_is_away_does_not_keep_a_shed_from_stopping() {
    let mut host = Host::new();
    host.settings.stop_timeout = Duration::from_millis(400);
    let sheds = host.server().await;
    create(&sheds, new()).await;
    host.world.set_agent_up(&api(), false);
    assert_eq!(sheds.stop(&api()).await.unwrap().shed.status, ShedStatus::Stopped);
}

/// Returns all that is below a directory.
fn walk(dir: &camino::Utf8Path) -> Vec<camino::Utf8PathBuf> {
    let mut found = Vec::new();
    for entry in dir.read_dir_utf8().unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(walk(entry.path()));
        }
        found.push(entry.into_path());
    }
    found
}

/// What becomes of a create in which a step fails.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It fails, and nothing is left.
    Fatal,
    /// It succeeds, and this is said.
    Warning(&'static str),
}

/// The lines of the specification's table (C.2) that this backend has, each made to fail once. Those before the commit are
/// fatal and leave nothing; those after it are warnings, and the shed runs.
#[tokio::test]
async fn each_step_of_a_create_is_fatal_or_a_warning_as_the_specification_says() {
    type Break = fn(&mut Host);
    let failed = |step, code| {
        let end = StepEnd::Failed(Failure { code, ..failure("") });
        vec![FakeStep::began(step), FakeStep::ended(step, end)]
    };
    let clone = failed(Step::Clone, Some(128));
    let provision = failed(Step::Provision, None);
    let install = failed(Step::Install, Some(1));
    let startup = failed(Step::Startup, Some(2));
    let table: [(&str, Break, Option<Vec<FakeStep>>, Fate); 15] = [
        (
            "1: the name exists",
            |host| {
                let dir = host.settings.instance_dir.join("api");
                std::fs::create_dir_all(&dir).unwrap();
                std::fs::write(dir.join("metadata.json"), "{").unwrap();
            },
            None,
            Fate::Fatal,
        ),
        (
            "2: the image",
            |host| std::fs::remove_file(host.settings.images_dir.join("base-rootfs.ext4")).unwrap(),
            None,
            Fate::Fatal,
        ),
        (
            "6: the disk",
            |host| {
                // mke2fs finds no room for its template.
                let cache = host.settings.images_dir.join(shed_image::file_name::CACHE);
                std::fs::remove_dir_all(&cache).unwrap();
                std::fs::write(&cache, "").unwrap();
            },
            None,
            Fate::Fatal,
        ),
        (
            "8: the machine",
            |host| {
                host.world.set_faults(&api(), Faults { start: StartFault::EndsAtOnce, ..Faults::default() });
            },
            None,
            Fate::Fatal,
        ),
        (
            "8: health",
            |host| {
                host.settings.start_timeout = Duration::from_millis(200);
                host.world.set_faults(&api(), Faults { boot: BootFault::Never, ..Faults::default() });
            },
            None,
            Fate::Fatal,
        ),
        (
            "9: identity",
            |host| {
                host.settings.start_timeout = Duration::from_millis(200);
                host.world
                    .set_faults(&api(), Faults { boot: BootFault::NeverIdentified, ..Faults::default() });
            },
            None,
            Fate::Fatal,
        ),
        (
            "10: a mount",
            |host| {
                host.world.set_faults(&api(), Faults { boot: BootFault::MountFails, ..Faults::default() });
            },
            None,
            Fate::Fatal,
        ),
        (
            "11: credentials",
            |host| {
                let credential = Credential {
                    source: "/no/such/file".into(),
                    target: "~/.token".parse().unwrap(),
                    read_only: false,
                    exclude: Vec::new(),
                };
                host.settings.credentials = [("token".parse().unwrap(), credential)].into();
            },
            None,
            Fate::Warning("its source /no/such/file is not there"),
        ),
        (
            "11: env_file",
            |host| host.settings.env_file = Some("/no/such/file".into()),
            None,
            Fate::Warning("env_file"),
        ),
        (
            "13: the clone",
            |_| {},
            Some(clone),
            Fate::Warning("the clone of the repository ended with exit code 128"),
        ),
        (
            "14: provision.yaml",
            |_| {},
            Some(provision),
            Fate::Warning("reading .shed/provision.yaml failed, and the shed does not say why"),
        ),
        ("14: install", |_| {}, Some(install), Fate::Warning("the install hook ended with exit code 1")),
        ("14: startup", |_| {}, Some(startup), Fate::Warning("the startup hook ended with exit code 2")),
        (
            "14: the agent refuses",
            |host| {
                let reply = SetupReply { error: Some("no room".into()) };
                host.world.set_setup(&api(), Occasion::Create, vec![FakeStep::Replies(reply)]);
            },
            None,
            Fate::Warning("did not begin"),
        ),
        (
            "14: the stream is lost",
            |host| host.world.set_setup(&api(), Occasion::Create, Vec::new()),
            None,
            Fate::Warning("no longer followed"),
        ),
    ];
    for (line, break_it, steps, fate) in table {
        let mut host = Host::new();
        // The server makes the directory before anything is broken in it.
        drop(host.server().await);
        break_it(&mut host);
        if let Some(steps) = steps {
            host.steps(Occasion::Create, steps);
        }
        let sheds = host.server().await;
        let files = || walk(&host.settings.instance_dir);
        let before = files();
        match (sheds.create(with_repo("https://host/x"), Progress::silent()).await, fate) {
            (Err(_), Fate::Fatal) => {
                assert_eq!(
                    (host.world.running(), host.world.sockets(), sheds.list()),
                    (vec![], vec![], vec![]),
                    "{line}"
                );
                assert_eq!(files(), before, "{line}");
            }
            (Ok(started), Fate::Warning(text)) => {
                assert!(started.warnings.iter().any(|warning| warning.contains(text)), "{line}: {started:?}");
                assert_eq!(sheds.get(&api()).unwrap().status, ShedStatus::Running, "{line}");
                sheds.delete(&api()).await.unwrap();
            }
            (result, fate) => panic!("{line}: {result:?} instead of {fate:?}"),
        }
    }
}
