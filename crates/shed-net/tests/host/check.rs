//! What the doctor says.

use shed_net::Host;
use shed_types::{Finding, Verdict};

use crate::stage::{Elsewhere, host, in_namespace, settings_of, sh, sheds, snapshot};

async fn of(host: &Host, item: &str) -> Finding {
    let findings = host.check().await;
    findings.into_iter().find(|finding| finding.item == item).unwrap()
}

in_namespace! {
    async fn a_host_that_is_ready_passes_and_looking_changes_nothing() {
        let host = host();
        assert_eq!(of(&host, "forwarding").await.verdict, Verdict::Warn);
        assert_eq!(of(&host, "bridge").await.verdict, Verdict::Pass);
        host.ensure_bridge().await.unwrap();
        let before = snapshot();
        // What name servers this machine has is its own business.
        let findings: Vec<_> = host.check().await.into_iter().filter(|finding| finding.item != "name servers").collect();
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Pass), "{findings:#?}");
        assert_eq!(snapshot(), before);
        host.remove_all().await.unwrap();
    }
}

in_namespace! {
    async fn what_is_wrong_is_said_with_a_remedy() {
        let host = host();
        Host::new(settings_of("elsewhere", &[])).ensure_bridge().await.unwrap();
        let bridge = of(&host, "bridge").await;
        assert!(bridge.verdict == Verdict::Fail && bridge.text.contains("`elsewhere`"), "{bridge:?}");
        Host::new(settings_of("elsewhere", &[])).remove_all().await.unwrap();

        let lan = Elsewhere::new();
        lan.cable("uplink", "172.30.9.2/16");
        sh("ip addr add 172.30.9.1/16 dev uplink");
        let overlap = of(&host, "other networks").await;
        assert!(overlap.verdict == Verdict::Fail && overlap.text.contains("uplink"), "{overlap:?}");
        sh("ip link del uplink");
        assert!(host.check().await.iter().all(|finding| finding.verdict == Verdict::Pass || finding.remedy.is_some()));
    }
}

in_namespace! {
    async fn rules_that_somebody_flushed_are_missed() {
        let host = host();
        host.ensure_bridge().await.unwrap();
        sheds(&host, 2).await;
        assert_eq!(of(&host, "rules").await.text, "the bridge and 2 TAPs have theirs");
        sh("nft delete chain netdev shed-net-shed-br0 shed-tap1");
        let found = of(&host, "rules").await;
        assert!(found.verdict == Verdict::Fail && found.text.contains("shed-tap1 are gone"), "{found:?}");
        sh("nft delete table ip shed-net-shed-br0");
        assert_eq!(of(&host, "rules").await.verdict, Verdict::Fail);
        host.ensure_bridge().await.unwrap();
        assert_eq!(of(&host, "rules").await.verdict, Verdict::Pass);
        host.remove_all().await.unwrap();
    }
}

in_namespace! {
    async fn a_firewall_that_drops_is_found_until_it_lets_the_bridge_through() {
        let host = host();
        sh("nft 'add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }; \
            add chain ip filter DOCKER-USER; add rule ip filter FORWARD jump DOCKER-USER'");
        let found = of(&host, "other firewalls").await;
        assert!(found.verdict == Verdict::Warn && found.text.contains("chain FORWARD of table ip filter"), "{found:?}");
        assert!(found.remedy.unwrap().contains("iptables -I DOCKER-USER -i shed-br0"));
        sh("nft insert rule ip filter DOCKER-USER iifname shed-br0 counter accept");
        assert_eq!(of(&host, "other firewalls").await.verdict, Verdict::Pass);
        sh("nft delete table ip filter");
    }
}
