//! The rules, as commands for `nft`. Pure: what is applied follows from the settings and the lease alone.
//!
//! There are two tables, both named after the bridge. The one of family `ip` is about the bridge as a whole, and is replaced whole:
//!
//! - *postrouting*: what guests send to other networks has the host's address there.
//! - *forward*: nobody outside opens connections to guests; what guests asked for comes back. Here nothing is accepted for good:
//!   a chain of others at this hook that drops (Docker's and ufw's policy) drops all the same, and must be told by its owner to let
//!   the bridge through. `Host::check` looks for such chains.
//! - *input*: guests reach the host as any neighbour on its network does: services that listen on all addresses, or on the
//!   bridge's. They never reach the ports of the server that owns them, on whatever address, nor 127.0.0.0/8, which a host with
//!   route_localnet would otherwise let them.
//!
//! The one of family `netdev` has a chain a TAP, at the moment a frame leaves the guest and before the bridge sees it. Only
//! IPv4 and ARP pass, and only with the address of this shed and the hardware address of this shed, so no guest can be
//! another, or the gateway. IPv6, VLAN tags, spanning tree and all else end here: guests have IPv4 only. A chain depends on its TAP
//! alone, so sheds that come and go at once do not get in each other's way; and its policy is to drop, so there is no moment
//! when a guest is not held to its address.

use nftables::{
    batch::Batch,
    expr::{CT, Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField, Prefix, SetItem},
    schema::{Chain, NfListObject, Nftables, Rule, Table},
    stmt::{Match, Operator, Statement},
    types::{NfChainPolicy, NfChainType, NfFamily, NfHook},
};

use serde_json::Value;

use crate::{lease::Lease, names::BridgeName, settings::NetSettings};

/// Where other filters are (linux/netfilter_ipv4.h: NF_IP_PRI_FILTER).
const FILTER: i32 = 0;

/// Where source addresses are translated (linux/netfilter_ipv4.h: NF_IP_PRI_NAT_SRC).
const SOURCE_NAT: i32 = 100;

/// Before whatever else looks at what comes from a TAP.
const FIRST: i32 = -500;

/// Returns the name of the bridge's tables.
pub(crate) fn table_name(bridge: &BridgeName) -> String {
    format!("shed-net-{bridge}")
}

/// Replaces the table of the bridge as a whole.
pub(crate) fn bridge_rules(settings: &NetSettings) -> Nftables<'static> {
    let mut batch = Batch::new();
    remove_table(&mut batch, NfFamily::IP, settings);
    batch.add(table(NfFamily::IP, settings));
    let bridge = settings.bridge().as_str();
    let network = settings.network();

    let chain = Writer::new(settings, NfFamily::IP, "postrouting");
    chain.open(&mut batch, NfChainType::NAT, NfHook::Postrouting, SOURCE_NAT);
    let guests = prefix(&network.network().to_string(), network.prefix().into());
    let leaves = is_not(meta(MetaKey::Oifname), text(bridge));
    chain.rule(&mut batch, vec![is(field("ip", "saddr"), guests), leaves, Statement::Masquerade(None)]);

    let chain = Writer::new(settings, NfFamily::IP, "forward");
    chain.open(&mut batch, NfChainType::Filter, NfHook::Forward, FILTER);
    let from_outside =
        || vec![is_not(meta(MetaKey::Iifname), text(bridge)), is(meta(MetaKey::Oifname), text(bridge))];
    let answer = Match {
        left: named(NamedExpression::CT(CT { key: "state".into(), family: None, dir: None })),
        right: Expression::List(vec![text("established"), text("related")]),
        op: Operator::IN,
    };
    let mut answers = from_outside();
    answers.extend([Statement::Match(answer), Statement::Accept(None)]);
    chain.rule(&mut batch, answers);
    let mut others = from_outside();
    others.push(Statement::Drop(None));
    chain.rule(&mut batch, others);

    let chain = Writer::new(settings, NfFamily::IP, "input");
    chain.open(&mut batch, NfChainType::Filter, NfHook::Input, FILTER);
    let from_guest = || is(meta(MetaKey::Iifname), text(bridge));
    let loopback = is(field("ip", "daddr"), prefix("127.0.0.0", 8));
    chain.rule(&mut batch, vec![from_guest(), loopback, Statement::Drop(None)]);
    if !settings.protect_ports().is_empty() {
        let ports = settings
            .protect_ports()
            .iter()
            .map(|port| SetItem::Element(Expression::Number(port.get().into())));
        let protected = is(field("tcp", "dport"), named(NamedExpression::Set(ports.collect())));
        chain.rule(&mut batch, vec![from_guest(), protected, Statement::Drop(None)]);
    }
    batch.to_nftables()
}

/// Replaces the chains of these TAPs, which must be there.
pub(crate) fn tap_rules(settings: &NetSettings, leases: &[Lease]) -> Nftables<'static> {
    let mut batch = Batch::new();
    batch.add(table(NfFamily::NetDev, settings));
    for lease in leases {
        let chain = Writer::new(settings, NfFamily::NetDev, lease.tap().as_str());
        chain.remove(&mut batch);
        chain.open_on_device(&mut batch);
        let mac = lease.mac().to_string();
        let sender = |protocol| {
            vec![is(field("ether", "saddr"), text(&mac)), is(field("ether", "type"), text(protocol))]
        };
        let address = lease.address().to_string();

        let mut arp = sender("arp");
        // One that asks whether an address is taken says 0.0.0.0 for its own (RFC 5227 §2.1.1).
        let own = NamedExpression::Set(
            [address.as_str(), "0.0.0.0"].map(|address| SetItem::Element(text(address))).into(),
        );
        arp.extend([
            // Ethernet and IPv4 (RFC 826), which fixes where the addresses are.
            is(field("arp", "htype"), Expression::Number(1)),
            is(field("arp", "ptype"), text("ip")),
            is(field("arp", "hlen"), Expression::Number(6)),
            is(field("arp", "plen"), Expression::Number(4)),
            is(field("arp", "saddr ether"), text(&mac)),
            is(field("arp", "saddr ip"), named(own)),
            Statement::Accept(None),
        ]);
        chain.rule(&mut batch, arp);
        let mut ip = sender("ip");
        ip.extend([is(field("ip", "saddr"), text(&address)), Statement::Accept(None)]);
        chain.rule(&mut batch, ip);
    }
    batch.to_nftables()
}

/// Removes the chains of TAPs, whether they are there or not.
pub(crate) fn no_tap_rules(settings: &NetSettings, taps: &[String]) -> Nftables<'static> {
    let mut batch = Batch::new();
    batch.add(table(NfFamily::NetDev, settings));
    for tap in taps {
        Writer::new(settings, NfFamily::NetDev, tap).remove(&mut batch);
    }
    batch.to_nftables()
}

/// Removes both tables, whether they are there or not.
pub(crate) fn no_rules(settings: &NetSettings) -> Nftables<'static> {
    let mut batch = Batch::new();
    remove_table(&mut batch, NfFamily::IP, settings);
    remove_table(&mut batch, NfFamily::NetDev, settings);
    batch.to_nftables()
}

/// A table or chain is made before it is deleted: deleting one that is not there is an error, making one that is there is none.
fn remove_table(batch: &mut Batch<'static>, family: NfFamily, settings: &NetSettings) {
    batch.add(table(family, settings));
    batch.delete(table(family, settings));
}

fn table(family: NfFamily, settings: &NetSettings) -> NfListObject<'static> {
    NfListObject::Table(Table { family, name: table_name(settings.bridge()).into(), handle: None })
}

/// One chain.
struct Writer {
    family: NfFamily,
    table: String,
    name: String,
}

impl Writer {
    fn new(settings: &NetSettings, family: NfFamily, name: &str) -> Self {
        Self { family, table: table_name(settings.bridge()), name: name.to_owned() }
    }

    fn chain(&self) -> Chain<'static> {
        Chain {
            family: self.family,
            table: self.table.clone().into(),
            name: self.name.clone().into(),
            ..Chain::default()
        }
    }

    fn open(&self, batch: &mut Batch<'static>, kind: NfChainType, hook: NfHook, priority: i32) {
        batch.add(NfListObject::Chain(Chain {
            _type: Some(kind),
            hook: Some(hook),
            prio: Some(priority),
            policy: Some(NfChainPolicy::Accept),
            ..self.chain()
        }));
    }

    fn open_on_device(&self, batch: &mut Batch<'static>) {
        batch.add(NfListObject::Chain(Chain {
            _type: Some(NfChainType::Filter),
            hook: Some(NfHook::Ingress),
            prio: Some(FIRST),
            dev: Some(self.name.clone().into()),
            policy: Some(NfChainPolicy::Drop),
            ..self.chain()
        }));
    }

    fn remove(&self, batch: &mut Batch<'static>) {
        batch.add(NfListObject::Chain(self.chain()));
        batch.delete(NfListObject::Chain(self.chain()));
    }

    fn rule(&self, batch: &mut Batch<'static>, expr: Vec<Statement<'static>>) {
        batch.add(NfListObject::Rule(Rule {
            family: self.family,
            table: self.table.clone().into(),
            chain: self.name.clone().into(),
            expr: expr.into(),
            ..Rule::default()
        }));
    }
}

fn named(expression: NamedExpression<'static>) -> Expression<'static> {
    Expression::Named(expression)
}

fn text(text: &str) -> Expression<'static> {
    Expression::String(text.to_owned().into())
}

fn meta(key: MetaKey) -> Expression<'static> {
    named(NamedExpression::Meta(Meta { key }))
}

fn field(protocol: &'static str, field: &'static str) -> Expression<'static> {
    let field = PayloadField { protocol: protocol.into(), field: field.into() };
    named(NamedExpression::Payload(Payload::PayloadField(field)))
}

fn prefix(address: &str, length: u32) -> Expression<'static> {
    named(NamedExpression::Prefix(Prefix { addr: Box::new(text(address)), len: length }))
}

fn is(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left, right, op: Operator::EQ })
}

fn is_not(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left, right, op: Operator::NEQ })
}

/// Returns the names of the bridge's chains among what `nft` lists.
pub(crate) fn chains_of_bridge(settings: &NetSettings, listed: &[Value]) -> Vec<String> {
    chains(settings, listed, "ip")
}

/// Returns the names of the chains of TAPs, which are the TAPs' own, among what `nft` lists.
pub(crate) fn chains_of_taps(settings: &NetSettings, listed: &[Value]) -> Vec<String> {
    chains(settings, listed, "netdev")
}

fn chains(settings: &NetSettings, listed: &[Value], family: &str) -> Vec<String> {
    let table = table_name(settings.bridge());
    let chains = listed.iter().filter_map(|object| object.get("chain"));
    chains
        .filter(|chain| chain["table"] == table.as_str() && chain["family"] == family)
        .filter_map(|chain| chain["name"].as_str().map(str::to_owned))
        .collect()
}
