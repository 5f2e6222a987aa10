//! What the doctor says.

use shed_net::{Finding, Host, Verdict};

use crate::stage::{Elsewhere, host, in_namespace, settings_of, sh, snapshot};

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
