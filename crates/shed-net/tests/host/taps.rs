//! TAPs: made and found again, never taken from anybody, and leases that nobody else has.

use std::collections::BTreeSet;

use shed_net::{LeaseIndex, TapError, TapOwner};

use crate::stage::{
    Elsewhere, carries, host, in_namespace, lease, link, open_tap, ruleset, sh, shed, sheds, snapshot,
    wait_for,
};

in_namespace! {
    async fn taps_are_made_listed_and_deleted() {
        let host = host();
        host.ensure_bridge().await.unwrap();
        let before = snapshot();
        let leases = sheds(&host, 2).await;
        let listed = host.list().await.unwrap();
        assert_eq!(listed.len(), 2);
        assert_eq!(listed[0].lease.as_ref(), Some(&leases[0]));
        assert!(listed[0].shed == shed("a") && listed[1].tap == "shed-tap1" && !listed[0].in_use);
        let seen = link("shed-tap0");
        assert!(seen.contains("persist on") && seen.contains("master shed-br0") && seen.contains("alias shed/test/tap/a"), "{seen}");
        for (tap, name) in [("shed-tap0", "a"), ("shed-tap0", "a"), ("shed-tap1", "b"), ("shed-tap9", "x")] {
            host.delete_tap(tap, &shed(name)).await.unwrap();
        }
        assert_eq!(host.list().await.unwrap(), []);
        let rules = |text: &str| text.replace("table netdev shed-net-shed-br0 {\n}\n", "");
        assert_eq!(rules(&snapshot()), rules(&before));
        host.remove_all().await.unwrap();
    }
}

in_namespace! {
    async fn a_tap_that_is_left_is_made_anew_and_one_in_use_is_not() {
        let host = host();
        host.ensure_bridge().await.unwrap();
        let leases = sheds(&host, 1).await;
        let whole = ruleset();
        let number = || link("shed-tap0").split(':').next().unwrap().to_owned();
        let old = number();
        // A user namespace of an ordinary user has nobody but root.
        let everybody = std::fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295");
        let other = TapOwner { uid: 4711, gid: 4712 };
        let owner = if everybody { other } else { TapOwner::this_process() };
        host.create_tap(&leases[0], &shed("a"), owner).await.unwrap();
        assert_ne!(number(), old);
        assert_eq!(ruleset(), whole);
        let seen = link("shed-tap0");
        assert!(!everybody || seen.contains("user 4711 group 4712"), "{seen}");

        let machine = open_tap("shed-tap0").unwrap();
        assert!(host.list().await.unwrap()[0].in_use);
        let error = host.create_tap(&leases[0], &shed("a"), owner).await.unwrap_err();
        assert!(matches!(error, TapError::InUse { .. }), "{error}");
        drop(machine);
        // Whoever held it may die at any moment: it stays.
        wait_for("the TAP to be free", || (!carries("shed-tap0")).then_some(()));
        host.create_tap(&leases[0], &shed("a"), owner).await.unwrap();
        // Deleted it is in use or not: a machine that hangs keeps nothing.
        let _machine = open_tap("shed-tap0").unwrap();
        host.delete_tap("shed-tap0", &shed("a")).await.unwrap();
        host.remove_all().await.unwrap();
    }
}

in_namespace! {
    async fn devices_of_others_are_left_alone() {
        sh("ip tuntap add shed-tap0 mode tap; ip tuntap add shed-tap1 mode tap; ip link set shed-tap1 alias shed/other/tap/a; \
            ip link add shed-tap2 type veth peer name shed-tap3; ip link set shed-tap2 alias shed/test");
        let host = host();
        host.ensure_bridge().await.unwrap();
        let before = snapshot();
        for number in 0..3 {
            let lease = lease(number);
            let error = host.create_tap(&lease, &shed("a"), TapOwner::this_process()).await.unwrap_err();
            assert!(matches!(error, TapError::NotOurs { .. }), "{error}");
            let error = host.delete_tap(lease.tap().as_str(), &shed("a")).await.unwrap_err();
            assert!(matches!(error, TapError::NotOurs { .. }), "{error}");
        }
        assert_eq!(host.list().await.unwrap(), []);
        assert_eq!(host.lease(&BTreeSet::new()).await.unwrap(), lease(4));
        assert_eq!(snapshot(), before);
        host.remove_all().await.unwrap();
        assert_eq!(sh("ip -o link | grep -c shed-tap"), "4\n");
        sh("ip link del shed-tap0; ip link del shed-tap1; ip link del shed-tap2");
    }
}

in_namespace! {
    async fn a_record_with_another_shed_or_a_hostile_name_deletes_nothing() {
        let host = host();
        host.ensure_bridge().await.unwrap();
        sheds(&host, 1).await;
        let before = snapshot();
        let error = host.delete_tap("shed-tap0", &shed("b")).await.unwrap_err();
        assert!(matches!(&error, TapError::OtherShed { other, .. } if *other == shed("a")), "{error}");
        let error = host.create_tap(&lease(0), &shed("b"), TapOwner::this_process()).await.unwrap_err();
        assert!(matches!(error, TapError::OtherShed { .. }), "{error}");
        let long = "x".repeat(1 << 16);
        for name in [
            "", "lo", "shed-br0", "../shed-tap0", "shed-tap0/", "shed-tap-1", "shed-tap00", "shed-tap0\n", "shed-tap12345678",
            "*", "shed-tap%d", "shed-tap0 accept; flush ruleset", "\0", &long,
        ] {
            host.delete_tap(name, &shed("a")).await.unwrap();
        }
        assert_eq!(snapshot(), before);
        host.remove_all().await.unwrap();
    }
}

in_namespace! {
    async fn without_a_bridge_nothing_is_made() {
        let host = host();
        let error = host.create_tap(&lease(0), &shed("a"), TapOwner::this_process()).await.unwrap_err();
        assert!(matches!(error, TapError::NoBridge { .. }), "{error}");
        assert!(matches!(host.lease(&BTreeSet::new()).await.unwrap_err(), TapError::NoBridge { .. }));
        host.delete_tap("shed-tap0", &shed("a")).await.unwrap();
        host.remove_all().await.unwrap();
    }
}

in_namespace! {
    async fn many_at_once_all_come_and_go() {
        let host = host();
        host.ensure_bridge().await.unwrap();
        let names: Vec<_> = ('a'..='h').map(|name| shed(&name.to_string())).collect();
        let leases: Vec<_> = (0..8).map(lease).collect();
        let both = || leases.iter().zip(&names);
        let made = both().map(|(lease, name)| host.create_tap(lease, name, TapOwner::this_process()));
        for result in futures::future::join_all(made).await {
            result.unwrap();
        }
        assert_eq!(host.list().await.unwrap().len(), 8);
        assert_eq!(ruleset().matches("hook ingress").count(), 8);
        let deleted = both().map(|(lease, name)| host.delete_tap(lease.tap().as_str(), name));
        let (again, deleted) = futures::future::join(host.ensure_bridge(), futures::future::join_all(deleted)).await;
        again.unwrap();
        for result in deleted {
            result.unwrap();
        }
        assert_eq!((host.list().await.unwrap().len(), ruleset().matches("hook ingress").count()), (0, 0));
        host.remove_all().await.unwrap();
    }
}

in_namespace! {
    async fn an_address_that_answers_is_passed_over() {
        let host = host();
        host.ensure_bridge().await.unwrap();
        assert_eq!(host.lease(&BTreeSet::new()).await.unwrap(), lease(0));
        let stranger = Elsewhere::new();
        stranger.cable("wire", "172.30.0.2/24");
        stranger.sh("ip addr add 172.30.0.4/24 dev eth0");
        sh("ip link set wire master shed-br0");
        wait_for("the wire to carry", || carries("shed-br0").then_some(()));
        let taken = BTreeSet::from([LeaseIndex::new(1).unwrap()]);
        assert_eq!(host.lease(&taken).await.unwrap(), lease(3));
        assert_eq!(host.lease(&BTreeSet::new()).await.unwrap(), lease(1));
        assert_eq!(sh("ip neigh"), "", "nothing is left of asking");
        host.remove_all().await.unwrap();
        sh("ip link del wire");
    }
}
