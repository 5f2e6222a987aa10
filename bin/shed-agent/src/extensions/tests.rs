//! The keeper in a temporary root, with a systemctl that writes down what it is told.

use std::{fs, os::unix::fs::PermissionsExt};

use super::*;

/// Nobody is asked.
struct NoBus;

impl BusPing for NoBus {
    async fn ping(&self, _namespace: &Namespace) -> ExtensionOnHost {
        ExtensionOnHost::Unknown
    }
}

/// Answers for one namespace only.
struct OneAnswers;

impl BusPing for OneAnswers {
    async fn ping(&self, namespace: &Namespace) -> ExtensionOnHost {
        match namespace.as_str() {
            "ssh-agent" => ExtensionOnHost::Connected,
            _ => std::future::pending().await,
        }
    }
}

struct Guest {
    root: tempfile::TempDir,
}

impl Guest {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("run/shed/extensions.d");
        fs::create_dir_all(&own).unwrap();
        fs::create_dir_all(root.path().join("home/shed")).unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest/extensions.d");
        for entry in fs::read_dir(from).unwrap().flatten() {
            fs::copy(entry.path(), own.join(entry.file_name())).unwrap();
        }
        Self { root }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    /// A systemctl whose units are as the file `states` says, a line `UNIT STATE` each.
    fn systemctl(&self) -> Units {
        let program = self.path("systemctl");
        let root = self.root.path().display();
        let script = format!(
            r#"#!/bin/sh
cd "{root}"
verb=$1
if [ "$verb" = is-active ]; then
    shift 2
    for unit; do sed -n "s/^$unit //p" states | grep . || echo inactive; done
    exit 3
fi
echo "$*" >>told
[ ! -e broken ] || {{ echo "no bus" >&2; exit 1; }}
"#
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(self.path("states"), "").unwrap();
        Units::Systemd(units::Systemctl { program })
    }

    /// What systemctl was told since the last time.
    fn told(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("told")).unwrap_or_default();
        let _none = fs::remove_file(self.path("told"));
        text.lines().map(str::to_owned).collect()
    }

    fn owner(&self) -> User {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        User { name: "shed".into(), uid, gid, groups: vec![gid], home: "/home/shed".into() }
    }
}

fn set(names: &[&str]) -> BTreeSet<Namespace> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn reported(extensions: &Extensions) -> Vec<(String, ExtensionInGuest, ExtensionOnHost)> {
    extensions
        .report()
        .into_iter()
        .map(|(name, report)| (name.to_string(), report.guest, report.host))
        .collect()
}

const ON: &str = "enable --runtime --now --no-block --";
const OFF: &str = "disable --runtime --now --no-block --";

#[tokio::test]
async fn what_is_wanted_is_started_reported_and_taken_back() {
    let guest = Guest::new();
    let extensions = Extensions::default();
    let mut keeper = Keeper::new(guest.root.path().into(), guest.systemctl(), &extensions, &OneAnswers);
    fs::write(guest.path("states"), "shed-ssh-agent.service active\nshed-aws-proxy.service failed\n")
        .unwrap();
    keeper.enable(set(&["ssh-agent", "aws-credentials", "docker-credentials", "none"]), guest.owner()).await;
    keeper.pay().await;
    assert_eq!(
        guest.told(),
        [format!("{ON} shed-aws-proxy.service"), format!("{ON} shed-ssh-agent.service")]
    );
    keeper.look().await;
    use ExtensionInGuest::{Failed, Running, Stopped};
    use ExtensionOnHost::{Connected, Unreachable};
    let expected = [
        ("aws-credentials", Failed, Unreachable),
        ("docker-credentials", Running, Unreachable),
        ("none", Stopped, Unreachable),
        ("ssh-agent", Running, Connected),
    ];
    assert_eq!(reported(&extensions), expected.map(|(name, guest, host)| (name.to_owned(), guest, host)));
    assert!(guest.path("etc/environment.d/shed-extensions.conf").exists());
    assert!(fs::read_to_string(guest.path("home/shed/.docker/config.json")).unwrap().contains("shed"));

    // Another agent of the same boot knows what this one has started.
    let mut keeper = Keeper::new(guest.root.path().into(), guest.systemctl(), &extensions, &NoBus);
    keeper.enable(set(&["ssh-agent"]), guest.owner()).await;
    keeper.pay().await;
    assert_eq!(
        guest.told(),
        [format!("{OFF} shed-aws-proxy.service"), format!("{ON} shed-ssh-agent.service")]
    );
    keeper.look().await;
    assert_eq!(reported(&extensions), [("ssh-agent".to_owned(), Stopped, ExtensionOnHost::Unknown)]);
    assert_eq!(fs::read_to_string(guest.path("home/shed/.docker/config.json")).unwrap(), "{}\n");

    keeper.enable(set(&[]), guest.owner()).await;
    keeper.pay().await;
    assert_eq!(guest.told(), [format!("{OFF} shed-ssh-agent.service")]);
    keeper.look().await;
    assert!(extensions.report().is_empty());
    assert!(!guest.path("etc/environment.d/shed-extensions.conf").exists());
    // Nothing more is done when nothing is to be done.
    keeper.enable(set(&[]), guest.owner()).await;
    keeper.pay().await;
    assert!(guest.told().is_empty());
}

#[tokio::test]
async fn what_an_image_runs_by_itself_is_stopped_unless_it_is_wanted() {
    let guest = Guest::new();
    fs::create_dir_all(guest.path("etc/shed-extensions.d")).unwrap();
    fs::write(guest.path("etc/shed-extensions.d/a.yaml"), "namespace: a\nsystemd_unit: a.service\n").unwrap();
    fs::write(guest.path("etc/shed-extensions.d/b.yaml"), "namespace: b\nsystemd_unit: b\n").unwrap();
    let extensions = Extensions::default();
    let mut keeper = Keeper::new(guest.root.path().into(), guest.systemctl(), &extensions, &NoBus);
    fs::write(guest.path("states"), "a.service active\nb.service active\n").unwrap();
    keeper.enable(set(&["b"]), guest.owner()).await;
    keeper.pay().await;
    assert_eq!(guest.told(), [format!("{OFF} a.service"), format!("{ON} b.service")]);
}

#[tokio::test]
async fn what_fails_is_tried_again_and_a_look_that_fails_says_nothing_new() {
    let guest = Guest::new();
    let extensions = Extensions::default();
    let mut keeper = Keeper::new(guest.root.path().into(), guest.systemctl(), &extensions, &NoBus);
    fs::write(guest.path("broken"), "").unwrap();
    keeper.enable(set(&["ssh-agent"]), guest.owner()).await;
    for _ in 0..2 {
        keeper.pay().await;
        assert_eq!(guest.told(), [format!("{ON} shed-ssh-agent.service")]);
    }
    fs::remove_file(guest.path("broken")).unwrap();
    keeper.pay().await;
    keeper.pay().await;
    assert_eq!(guest.told().len(), 1);
    fs::write(guest.path("states"), "shed-ssh-agent.service active\n").unwrap();
    keeper.look().await;
    fs::remove_file(guest.path("systemctl")).unwrap();
    keeper.look().await;
    assert_eq!(reported(&extensions)[0].1, ExtensionInGuest::Running);
}

#[tokio::test]
async fn a_request_is_acted_upon_by_the_task_and_the_last_one_holds() {
    let guest = Guest::new();
    let extensions = Extensions::default();
    let keeper = Keeper::new(guest.root.path().into(), guest.systemctl(), &extensions, &OneAnswers);
    let owner = guest.owner();
    extensions.want(set(&["aws-credentials"]));
    extensions.want(set(&["ssh-agent"]));
    let seen = async {
        while !reported(&extensions).iter().any(|line| line.2 == ExtensionOnHost::Connected) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = keeper.run(|| owner.clone()) => panic!("the task ended"),
        seen = timeout(Duration::from_secs(60), seen) => seen.unwrap(),
    }
    assert_eq!(guest.told(), [format!("{ON} shed-ssh-agent.service")]);
}

#[tokio::test]
async fn without_systemd_the_agent_runs_services_and_starts_them_again() {
    let guest = Guest::new();
    let program = guest.path("shed-ext");
    // Each start leaves a line; the first ends at once.
    let script = format!(
        "#!/bin/sh\ncd '{}'\necho \"$1 $(id -u) $(grep CapAmb /proc/self/status)\" >>starts\n[ $(wc -l <starts) -gt 1 ] && exec sleep 1000\n",
        guest.root.path().display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    // A user who may not write into another's directory, where the tests run as root.
    let mut owner = guest.owner();
    if rustix::process::geteuid().is_root() {
        (owner.uid, owner.gid, owner.groups) = (4711, 4712, vec![4712]);
        fs::set_permissions(guest.root.path(), fs::Permissions::from_mode(0o777)).unwrap();
    }
    // Of root's rights only that to the port, and only where there is one to give (CAP_NET_BIND_SERVICE is bit 10).
    let rights = if rustix::process::geteuid().is_root() { "0000000000000400" } else { "0000000000000000" };
    let expected = format!("shed-aws-proxy {} CapAmb:\t{rights}\n", owner.uid);
    let supervisor = Supervisor::new(program, guest.path(RUN_DIR), owner.clone());
    let extensions = Extensions::default();
    let mut keeper = Keeper::new(guest.root.path().into(), Units::Agent(supervisor), &extensions, &NoBus);
    keeper.enable(set(&["aws-credentials"]), guest.owner()).await;
    keeper.pay().await;
    let running = async {
        while fs::read_to_string(guest.path("starts")).unwrap_or_default() != expected.repeat(2) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(60), running).await.unwrap();
    keeper.look().await;
    assert_eq!(reported(&extensions)[0].1, ExtensionInGuest::Running);
    keeper.enable(set(&[]), guest.owner()).await;
    keeper.pay().await;
    keeper.look().await;
    assert!(extensions.report().is_empty());
    assert!(guest.path(RUN_DIR).is_dir());
}
