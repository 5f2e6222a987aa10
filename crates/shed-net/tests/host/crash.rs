//! Whoever works is killed at any moment, or two work at once; what is left is known and goes.

use std::{
    os::unix::process::ExitStatusExt as _,
    process::{Command, Stdio},
    time::Duration,
};

use shed_net::TapOwner;

use crate::stage::{host, in_namespace, lease, ruleset, shed, sheds, snapshot};

/// Set in the process that is to be killed.
const VICTIM: &str = "SHED_NET_TEST_VICTIM";

/// Not a test by itself: makes and deletes all that there is, until it is killed. It runs where its parent runs.
#[test]
#[ignore = "it is started by another test"]
fn victim() {
    if std::env::var_os(VICTIM).is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let host = host();
        loop {
            host.ensure_bridge().await.unwrap();
            for tap in host.list().await.unwrap() {
                host.delete_tap(&tap.tap, &tap.shed).await.unwrap();
            }
            sheds(&host, 2).await;
            host.delete_tap("shed-tap1", &shed("b")).await.unwrap();
            host.remove_all().await.unwrap();
        }
    });
}

in_namespace! {
    async fn a_server_that_is_killed_at_any_moment_leaves_nothing_unknown() {
        let before = snapshot();
        for round in 0..14_u64 {
            let mut victim = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "crash::victim", "--ignored"])
                .env(VICTIM, "1")
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            // Not a wait for anything: another moment each time.
            tokio::time::sleep(Duration::from_millis(40 + round * 31)).await;
            victim.kill().unwrap();
            let status = victim.wait().unwrap();
            assert_eq!(status.signal(), Some(9), "it did not fail by itself: {status}");
            let taps = host().list().await.unwrap();
            let there = crate::stage::sh("ip -o link | cut -d: -f2 | grep -c shed-tap || true");
            assert_eq!(there.trim(), taps.len().to_string(), "every TAP that stays bears its mark");
            if round % 2 == 0 {
                host().ensure_bridge().await.unwrap();
                for tap in host().list().await.unwrap() {
                    host().delete_tap(&tap.tap, &tap.shed).await.unwrap();
                }
                assert_eq!(ruleset().matches("hook ingress").count(), 0, "{}", ruleset());
            }
            host().remove_all().await.unwrap();
            assert_eq!(snapshot(), before);
        }
    }
}

in_namespace! {
    /// `shed-server setup` beside a server that works.
    async fn two_processes_at_once_lose_no_rules() {
        let (serving, setup) = (host(), host());
        serving.ensure_bridge().await.unwrap();
        let work = async {
            for number in 0..6 {
                let name = shed("a");
                let lease = lease(number);
                serving.create_tap(&lease, &name, TapOwner::this_process()).await.unwrap();
                if number % 2 == 1 {
                    serving.delete_tap(lease.tap().as_str(), &name).await.unwrap();
                }
            }
        };
        let again = async {
            for _ in 0..6 {
                setup.ensure_bridge().await.unwrap();
            }
        };
        futures::future::join(work, again).await;
        let rules = ruleset();
        for number in [0, 2, 4] {
            assert!(rules.contains(&format!("chain shed-tap{number} ")), "{rules}");
        }
        assert_eq!(rules.matches("table ip ").count(), 1);
        serving.remove_all().await.unwrap();
    }
}
