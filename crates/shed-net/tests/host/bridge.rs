//! The bridge and its rules: made once however often, never over what is somebody else's.

use shed_net::{BridgeError, Host, HostState, TapOwner};

use crate::stage::{Elsewhere, host, in_namespace, link, ruleset, settings_of, sh, shed, sheds};

in_namespace! {
    async fn ensuring_twice_is_ensuring_once() {
        let host = host();
        host.ensure_bridge().await.unwrap();
        let once = (ruleset(), sh("ip -o -4 addr; ip -d -o link show shed-br0 | sed 's/_timer *[0-9.]*//g'"));
        assert!(once.0.contains("masquerade") && once.1.contains("172.30.0.1/24"), "{once:?}");
        assert_eq!(sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/shed-br0/disable_ipv6"), "1\n1\n");
        host.ensure_bridge().await.unwrap();
        let twice = (ruleset(), sh("ip -o -4 addr; ip -d -o link show shed-br0 | sed 's/_timer *[0-9.]*//g'"));
        assert_eq!(once, twice);
        host.remove_all().await.unwrap();
        host.remove_all().await.unwrap();
    }
}

in_namespace! {
    async fn what_was_damaged_is_put_right_and_taps_keep_their_rules() {
        let host = host();
        host.ensure_bridge().await.unwrap();
        sheds(&host, 2).await;
        let whole = ruleset();
        sh("nft flush ruleset; ip link set shed-br0 down; ip addr flush dev shed-br0; ip addr add 10.9.9.9/24 dev shed-br0; \
            ip addr add 172.30.0.5/24 dev shed-br0; ip addr add 172.30.0.1/24 dev shed-br0; ip addr add 172.30.0.6/24 dev shed-br0");
        host.ensure_bridge().await.unwrap();
        assert_eq!(ruleset(), whole);
        let addresses = sh("ip -o -4 addr show dev shed-br0");
        assert!(addresses.contains("172.30.0.1/24") && addresses.lines().count() == 1, "{addresses}");
        assert!(sh("ip -o link show shed-br0").contains(",UP"));
        host.remove_all().await.unwrap();
    }
}

in_namespace! {
    async fn how_much_is_there_is_seen_without_changing_it() {
        let host = host();
        assert_eq!(host.state().await.unwrap(), HostState::Absent);
        host.ensure_bridge().await.unwrap();
        sheds(&host, 1).await;
        let whole = ruleset();
        assert_eq!(host.state().await.unwrap(), HostState::Ready);
        assert_eq!(ruleset(), whole);
        for damage in [
            "nft flush ruleset",
            "ip link set shed-br0 down",
            "ip addr flush dev shed-br0",
            "sysctl -q -w net.ipv4.ip_forward=0",
            "nft list tables netdev | sed 's/^/delete /' | nft -f -",
        ] {
            sh(damage);
            assert_eq!(host.state().await.unwrap(), HostState::Partial, "{damage}");
            host.ensure_bridge().await.unwrap();
            assert_eq!(host.state().await.unwrap(), HostState::Ready, "{damage}");
        }
        sh("ip link delete shed-br0");
        assert_eq!(host.state().await.unwrap(), HostState::Partial);
        host.remove_all().await.unwrap();
        assert_eq!(host.state().await.unwrap(), HostState::Absent);
    }
}

in_namespace! {
    async fn rules_of_taps_that_are_gone_go_at_the_next_start() {
        let host = host();
        host.ensure_bridge().await.unwrap();
        sheds(&host, 2).await;
        sh("ip link delete shed-tap1");
        host.ensure_bridge().await.unwrap();
        let rules = ruleset();
        assert!(rules.contains("shed-tap0") && !rules.contains("shed-tap1"), "{rules}");
        host.remove_all().await.unwrap();
    }
}

in_namespace! {
    async fn what_belongs_to_others_survives() {
        sh("nft 'add table ip filter; add chain ip filter forward { type filter hook forward priority 0; policy drop; }; \
            add rule ip filter forward iifname shed-br0 accept; add table netdev mine; add table inet shed-net'");
        sh("ip tuntap add shed-tap7 mode tap; ip link add other type bridge; ip link set other alias shed/elsewhere/bridge; \
            ip tuntap add shed-tap8 mode tap; ip link set shed-tap8 alias shed/elsewhere/tap/a");
        let before = crate::stage::snapshot();
        let host = host();
        host.ensure_bridge().await.unwrap();
        sheds(&host, 2).await;
        host.remove_all().await.unwrap();
        assert_eq!(crate::stage::snapshot(), before);
        sh("nft flush ruleset; ip link del shed-tap7; ip link del shed-tap8; ip link del other");
    }
}

in_namespace! {
    async fn a_bridge_of_another_server_or_of_nobody_is_refused() {
        let (ours, theirs) = (host(), Host::new(settings_of("elsewhere", &[])));
        theirs.ensure_bridge().await.unwrap();
        let whole = crate::stage::snapshot();
        let error = ours.ensure_bridge().await.unwrap_err();
        assert!(matches!(error, BridgeError::NotOurs { .. }) && error.to_string().contains("`elsewhere`"), "{error}");
        let lease = crate::stage::lease(0);
        ours.create_tap(&lease, &shed("a"), TapOwner::this_process()).await.unwrap_err();
        ours.remove_all().await.unwrap();
        assert_eq!(crate::stage::snapshot(), whole);
        theirs.remove_all().await.unwrap();

        sh("ip link add shed-br0 type bridge");
        let error = ours.ensure_bridge().await.unwrap_err();
        assert!(error.to_string().contains("without a mark"), "{error}");
        sh("ip link del shed-br0; ip link add shed-br0 type veth peer name x");
        let error = ours.ensure_bridge().await.unwrap_err();
        assert!(error.to_string().contains("it is no bridge"), "{error}");
        assert_eq!(ruleset(), "");
        sh("ip link del shed-br0");
    }
}

in_namespace! {
    async fn a_bridge_that_was_made_and_not_marked_is_ours() {
        let host = host();
        host.ensure_bridge().await.unwrap();
        sh("ip link set shed-br0 alias '' down");
        host.ensure_bridge().await.unwrap();
        assert!(link("shed-br0").contains("alias shed/test/bridge"));
        host.remove_all().await.unwrap();
    }
}

in_namespace! {
    async fn an_overlapping_network_is_refused_by_name_and_nothing_is_made() {
        let lan = Elsewhere::new();
        lan.cable("uplink", "172.30.9.2/16");
        sh("ip addr add 172.30.9.1/16 dev uplink");
        let before = crate::stage::snapshot();
        let error = host().ensure_bridge().await.unwrap_err();
        assert!(error.to_string().contains("uplink (172.30.9.1/16)"), "{error}");
        assert_eq!(crate::stage::snapshot(), before);
        sh("ip link del uplink");
    }
}

in_namespace! {
    async fn the_mtu_is_that_of_the_way_out() {
        assert_eq!(Host::mtu().await.unwrap(), 1500);
        let lan = Elsewhere::new();
        lan.cable("uplink", "203.0.113.2/24");
        sh("ip addr add 203.0.113.1/24 dev uplink; ip link set uplink mtu 1420; ip route add default via 203.0.113.2");
        assert_eq!(Host::mtu().await.unwrap(), 1420);
        let host = host();
        host.ensure_bridge().await.unwrap();
        sheds(&host, 1).await;
        assert!(link("shed-br0").contains("mtu 1420 ") && link("shed-tap0").contains("mtu 1420 "));
        sh("ip route replace default via 203.0.113.2 mtu 1380");
        assert_eq!(Host::mtu().await.unwrap(), 1380);
        sh("ip link set uplink mtu 9000; ip route replace default via 203.0.113.2");
        assert_eq!(Host::mtu().await.unwrap(), 1500);
        host.remove_all().await.unwrap();
        sh("ip route del default");
        for kind in ["blackhole", "prohibit", "unreachable"] {
            sh(&format!("ip route replace {kind} default"));
            assert_eq!(Host::mtu().await.unwrap(), 1500);
            sh(&format!("ip route del {kind} default"));
        }
        sh("ip link del uplink");
    }
}
