//! Chains of others that stand in the way of what the bridge forwards, as `nft -j` lists them. Pure.
//!
//! Every chain at a hook has its say, and one that drops wins. Docker, ufw and firewalld have such chains at the forward
//! hook, and only they can be told to let the bridge through.

use std::fmt;

use serde_json::Value;

/// The chain that Docker keeps for its users' own rules (Docker's manual, "Packet filtering and firewalls").
const DOCKER_USER: &str = "DOCKER-USER";

/// A chain at the forward hook whose policy is to drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dropping {
    pub family: String,
    pub table: String,
    chain: String,
}

impl fmt::Display for Dropping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chain {} of table {} {}", self.chain, self.family, self.table)
    }
}

/// Returns those among the chains listed that drop IPv4.
pub(crate) fn dropping(listed: &[Value]) -> Vec<Dropping> {
    let text = |chain: &Value, key: &str| chain[key].as_str().unwrap_or_default().to_owned();
    let chains = listed.iter().filter_map(|object| object.get("chain"));
    chains
        .filter(|chain| chain["hook"] == "forward" && chain["policy"] == "drop")
        .filter(|chain| chain["family"] == "ip" || chain["family"] == "inet")
        .map(|chain| Dropping {
            family: text(chain, "family"),
            table: text(chain, "table"),
            chain: text(chain, "name"),
        })
        .collect()
}

/// Returns whether a rule of the table accepts what comes in by the bridge, without any other condition on where from.
pub(crate) fn lets_through(table: &[Value], bridge: &str) -> bool {
    let comes_in = |statement: &Value| {
        let matched = &statement["match"];
        matched["op"] == "==" && matched["left"]["meta"]["key"] == "iifname" && matched["right"] == bridge
    };
    table.iter().filter_map(|object| object["rule"]["expr"].as_array()).any(|statements| {
        statements.iter().any(comes_in)
            && statements.iter().any(|statement| statement.get("accept").is_some())
    })
}

/// Returns what to do about a table that drops.
pub(crate) fn remedy(table: &[Value], bridge: &str) -> String {
    if table.iter().any(|object| object["chain"]["name"] == DOCKER_USER) {
        return format!(
            "Docker leaves a chain for this: `sudo iptables -I {DOCKER_USER} -i {bridge} -j ACCEPT` and `sudo iptables -I {DOCKER_USER} -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT`, at each boot"
        );
    }
    if table.iter().any(|object| object["chain"]["name"] == "ufw-user-forward") {
        return format!("sudo ufw route allow in on {bridge}");
    }
    format!("have that firewall accept what comes in by {bridge}, and the answers to it")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chain(family: &str, hook: &str, policy: &str) -> Value {
        json!({"chain": {"family": family, "table": "filter", "name": "FORWARD", "hook": hook, "policy": policy}})
    }

    #[test]
    fn only_chains_that_drop_what_is_forwarded_stand_in_the_way() {
        let listed = [
            json!({"metainfo": {"version": "1.0.6"}}),
            chain("ip", "forward", "drop"),
            chain("ip", "forward", "accept"),
            chain("ip", "input", "drop"),
            chain("ip6", "forward", "drop"),
            json!({"chain": {"family": "ip", "table": "filter", "name": "DOCKER-USER"}}),
            json!({"chain": 7}),
        ];
        let found = dropping(&listed);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].to_string(), "chain FORWARD of table ip filter");
    }

    #[test]
    fn a_rule_for_the_bridge_lets_it_through() {
        let rule = |device: &str, verdict: &str| {
            let matched =
                json!({"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": device}});
            json!({"rule": {"expr": [matched, {"counter": {"packets": 0, "bytes": 0}}, {verdict: null}]}})
        };
        assert!(lets_through(&[rule("eth0", "drop"), rule("shed-br0", "accept")], "shed-br0"));
        assert!(!lets_through(&[rule("eth0", "accept"), rule("shed-br0", "drop")], "shed-br0"));
        assert!(!lets_through(&[json!({"rule": {"expr": [{"xt": null}]}}), json!([])], "shed-br0"));
    }

    #[test]
    fn the_remedy_is_that_of_whoever_drops() {
        let docker = [json!({"chain": {"name": "DOCKER-USER"}})];
        assert!(remedy(&docker, "shed-br0").contains("iptables -I DOCKER-USER -i shed-br0 -j ACCEPT"));
        assert!(
            remedy(&[json!({"chain": {"name": "ufw-user-forward"}})], "b")
                .contains("ufw route allow in on b")
        );
        assert!(remedy(&[], "shed-br0").contains("shed-br0"));
    }
}
