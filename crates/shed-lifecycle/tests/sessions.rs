//! tmux sessions over the fake backend: what is listed and ended, what is said when that is not possible, and that
//! no guest can do harm with its answers.

mod common;

use std::{future::Future, sync::Arc, time::Duration};

use shed_backend::fake::{BootFault, FakeSession, FakeTmux, FakeWorld, Faults};
use shed_lifecycle::{
    GuestCommandError, KillSessionError, ListSessionsError, NewShed, ParseSessionsError, Progress,
    ShedStatus, Sheds, TmuxError,
};
use shed_types::{ShedName, error_chain};

use common::DEADLINE;

struct Host {
    world: FakeWorld,
    sheds: Sheds,
    _guard: tempfile::TempDir,
}

impl Host {
    async fn new() -> Self {
        let (guard, settings) = common::settings();
        let world = FakeWorld::new();
        let sheds = Sheds::open(settings, Arc::new(world.backend())).await.unwrap();
        Self { world, sheds, _guard: guard }
    }

    async fn create(&self, name: &str) -> ShedName {
        let name: ShedName = name.parse().unwrap();
        let new = NewShed {
            name: name.clone(),
            image: None,
            cpus: None,
            memory_mb: None,
            repo: None,
            local_dir: None,
            no_provision: false,
        };
        let _started = self.sheds.create(new, Progress::silent()).await.unwrap();
        name
    }

    /// Creates a shed whose guest has this tmux.
    async fn with_tmux(&self, name: &str, tmux: FakeTmux) -> ShedName {
        let name = self.create(name).await;
        self.world.set_tmux(&name, tmux);
        name
    }

    async fn names(&self, shed: &ShedName) -> Vec<String> {
        self.sheds.sessions(shed).await.unwrap().into_iter().map(|session| session.name).collect()
    }
}

fn session(name: &str) -> FakeSession {
    FakeSession { name: name.into(), created: 1_768_905_000, clients: 0, windows: 1 }
}

fn sessions(names: &[&str]) -> FakeTmux {
    FakeTmux::Sessions(names.iter().map(|name| session(name)).collect())
}

fn prints(stdout: impl Into<Vec<u8>>, stderr: &str, code: i32) -> FakeTmux {
    FakeTmux::Prints { stdout: stdout.into(), stderr: stderr.into(), code }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let reached = tokio::time::timeout(DEADLINE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(reached.await.is_ok(), "{what}");
}

#[tokio::test]
async fn sessions_are_listed_by_name_with_everything_that_is_known_of_them() {
    let host = Host::new().await;
    let main = FakeSession { clients: 2, windows: 3, ..session("main") };
    let api = host.with_tmux("api", FakeTmux::Sessions(vec![main, session("über: x"), session("a")])).await;
    let listed = host.sheds.sessions(&api).await.unwrap();
    let seen: Vec<_> = listed
        .iter()
        .map(|session| (session.name.as_str(), session.attached, session.window_count))
        .collect();
    assert_eq!(seen, [("a", false, 1), ("main", true, 3), ("über: x", false, 1)]);
    assert!(
        listed.iter().all(|session| session.created_at.to_string() == "2026-01-20T10:30:00Z"),
        "{listed:?}"
    );
}

#[tokio::test]
async fn the_session_that_is_named_ends_and_no_other() {
    let host = Host::new().await;
    let api = host.with_tmux("api", sessions(&["main", "main-2"])).await;
    let kill = |name: &str| {
        let name = name.parse().unwrap();
        async { (host.sheds.kill_session(&api, &name).await, name).0 }
    };
    let error = kill("mai").await.unwrap_err();
    assert!(matches!(error, KillSessionError::SessionNotFound { .. }), "{error}");
    assert_eq!(error.to_string(), "shed `api` has no tmux session named `mai`");
    kill("main").await.unwrap();
    assert_eq!(host.names(&api).await, ["main-2"]);
    kill("main-2").await.unwrap();
    assert_eq!(host.names(&api).await, Vec::<String>::new(), "without a tmux server");
    let error = kill("main-2").await.unwrap_err();
    assert!(matches!(error, KillSessionError::SessionNotFound { .. }), "{error}");
}

#[tokio::test]
async fn a_shed_without_tmux_says_so_and_what_to_do() {
    let host = Host::new().await;
    let api = host.with_tmux("api", FakeTmux::Absent).await;
    let error = host.sheds.sessions(&api).await.unwrap_err();
    assert!(matches!(error, ListSessionsError::Tmux(TmuxError::NotAvailable { .. })), "{error}");
    assert!(error.to_string().contains("command not found") && error.to_string().contains("install tmux"));
    let error = host.sheds.kill_session(&api, &"x".parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, KillSessionError::Tmux(TmuxError::NotAvailable { .. })), "{error}");
}

#[tokio::test]
async fn only_a_shed_that_runs_has_sessions() {
    let host = Host::new().await;
    let missing: ShedName = "none".parse().unwrap();
    let x = "x".parse().unwrap();
    assert!(matches!(host.sheds.sessions(&missing).await, Err(ListSessionsError::NotFound { .. })));
    assert!(matches!(host.sheds.kill_session(&missing, &x).await, Err(KillSessionError::NotFound { .. })));

    let api = host.with_tmux("api", sessions(&["main"])).await;
    host.sheds.stop(&api).await.unwrap();
    let refused = async |status, advice: &str| {
        let error = host.sheds.sessions(&api).await.unwrap_err();
        assert!(matches!(error, ListSessionsError::NotRunning { status: s, .. } if s == status), "{error}");
        assert!(error.to_string().contains(advice), "{error}");
        let error = host.sheds.kill_session(&api, &x).await.unwrap_err();
        assert!(matches!(error, KillSessionError::NotRunning { status: s, .. } if s == status), "{error}");
        assert!(error.to_string().contains(advice), "{error}");
        assert_eq!(host.sheds.all_sessions().await, shed_lifecycle::AllSessions::default());
    };
    refused(ShedStatus::Stopped, "start it with `shed start api`").await;

    host.world.set_faults(&api, Faults { boot: BootFault::Never, ..Faults::default() });
    let starting = tokio::spawn({
        let (sheds, api) = (host.sheds.clone(), api.clone());
        async move { sheds.start(&api, Progress::silent()).await }
    });
    until("it starts", || host.sheds.get(&api).unwrap().status == ShedStatus::Starting).await;
    refused(ShedStatus::Starting, "try again when it runs").await;
    host.sheds.stop(&api).await.unwrap();
    starting.await.unwrap().unwrap_err();

    host.world.set_faults(&api, Faults::default());
    let _started = host.sheds.start(&api, Progress::silent()).await.unwrap();
    assert_eq!(host.names(&api).await, Vec::<String>::new(), "sessions do not survive a stop");
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_a_failure_and_never_an_empty_list() {
    let host = Host::new().await;
    let api = host.create("api").await;
    let listed = async |tmux| {
        host.world.set_tmux(&api, tmux);
        host.sheds.sessions(&api).await
    };
    let error = listed(prints("ok:1:0:1\nhello\u{1b}[2J world\n", "", 0)).await.unwrap_err();
    let text = error_chain(&error);
    assert!(matches!(error, ListSessionsError::Unreadable { .. }), "{text}");
    assert!(text.contains("line 2") && text.contains("hello") && !text.contains('\u{1b}'), "{text}");

    let error = listed(prints("a:1:0:1\n".repeat(1001), "", 0)).await.unwrap_err();
    let too_many = ParseSessionsError::TooMany;
    assert!(matches!(error, ListSessionsError::Unreadable { source, .. } if source == too_many));

    let error = listed(prints(vec![b'x'; (1 << 20) + 1], "", 0)).await.unwrap_err();
    let ListSessionsError::Tmux(TmuxError::Guest(GuestCommandError::TooMuchOutput { .. })) = error else {
        panic!("{error}");
    };

    let error = listed(FakeTmux::HangsUp).await.unwrap_err();
    let ListSessionsError::Tmux(TmuxError::Guest(GuestCommandError::HungUp { .. })) = error else {
        panic!("{error}");
    };

    let error = listed(prints("", "error connecting to /tmp/x (Permission denied)", 1)).await.unwrap_err();
    assert!(error.to_string().ends_with("/tmp/x (Permission denied)"), "{error}");
    let error = listed(prints("a:1:0:1\n", &"\u{7}x".repeat(100_000), 3)).await.unwrap_err();
    assert!(error.to_string().len() < 500 && !error.to_string().contains('\u{7}'), "{error}");
    let error = listed(prints("", "can't find session: x", 1)).await.unwrap_err();
    assert!(matches!(error, ListSessionsError::Tmux(TmuxError::Failed { .. })), "{error}");

    host.world.set_tmux(&api, prints("", "out of luck", 1));
    let error = host.sheds.kill_session(&api, &"x".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.to_string(), "tmux failed in shed `api`: out of luck");
}

#[tokio::test]
async fn who_no_longer_waits_ends_the_command_in_the_guest() {
    let host = Host::new().await;
    let api = host.with_tmux("api", FakeTmux::Hangs).await;
    let asking = tokio::spawn({
        let (sheds, api) = (host.sheds.clone(), api.clone());
        async move { sheds.sessions(&api).await.map(drop) }
    });
    until("tmux runs in the guest", || host.world.commands(&api) == 1).await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    until("tmux has ended", || host.world.commands(&api) == 0).await;
}

#[tokio::test]
async fn a_shed_that_is_stopped_meanwhile_is_not_running_rather_than_broken() {
    let host = Host::new().await;
    let api = host.with_tmux("api", FakeTmux::Hangs).await;
    let asking = tokio::spawn({
        let (sheds, api) = (host.sheds.clone(), api.clone());
        async move { sheds.sessions(&api).await.map(drop) }
    });
    until("tmux runs in the guest", || host.world.commands(&api) == 1).await;
    host.sheds.stop(&api).await.unwrap();
    let error = within(asking).await.unwrap().unwrap_err();
    assert!(matches!(error, ListSessionsError::NotRunning { .. }), "{error}");
}

#[tokio::test]
async fn of_all_sheds_those_that_fail_are_named_and_the_others_listed() {
    let host = Host::new().await;
    let _good = host.with_tmux("good", sessions(&["b", "a"])).await;
    let _also = host.with_tmux("also-good", sessions(&["z"])).await;
    let _liar = host.with_tmux("liar", prints("nonsense", "", 0)).await;
    let _mute = host.with_tmux("mute", FakeTmux::HangsUp).await;
    let _bare = host.with_tmux("bare", FakeTmux::Absent).await;
    let _idle = host.create("idle").await;
    let stopped = host.with_tmux("stopped", prints("nonsense", "", 0)).await;
    host.sheds.stop(&stopped).await.unwrap();
    let all = host.sheds.all_sessions().await;
    let seen: Vec<_> =
        all.sessions.iter().map(|(shed, session)| format!("{shed}/{}", session.name)).collect();
    assert_eq!(seen, ["also-good/z", "good/a", "good/b"]);
    let [bare, rest @ ..] = &all.warnings[..] else { panic!("no warnings: {all:?}") };
    assert!(bare.contains("`bare`") && bare.contains("tmux"), "{bare}");
    let expected = [
        "the list that tmux wrote in shed `liar` cannot be read: line 1 is not NAME:CREATED:ATTACHED:WINDOWS: \"nonsense\"",
        "the agent of shed `mute` hung up before it said how `tmux` ended",
    ];
    assert_eq!(rest, expected);
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("it ends")
}
