//! A server that is not root.

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
};
use shed_net::{BridgeError, TapOwner};
use shed_types::Verdict;

use crate::stage::{As, host, in_namespace, lease, shed};

in_namespace! {
    As::User,
    async fn a_capability_of_the_servers_file_is_enough() {
        // As after the start of a program that has the capability from its file: not inherited, not ambient.
        clear_ambient_capability_set().unwrap();
        let mut sets = capabilities(None).unwrap();
        sets.inheritable = CapabilitySet::empty();
        set_capabilities(None, sets).unwrap();
        assert!(!rustix::process::geteuid().is_root());

        let host = host();
        host.ensure_bridge().await.unwrap();
        host.create_tap(&lease(0), &shed("a"), TapOwner::this_process()).await.unwrap();
        assert_eq!(host.list().await.unwrap().len(), 1);
        // Whoever owns the TAP opens it without any capability.
        host.delete_tap("shed-tap0", &shed("a")).await.unwrap();
        host.remove_all().await.unwrap();
        assert_eq!(host.list().await.unwrap(), []);
    }
}

in_namespace! {
    As::User,
    async fn without_the_capability_every_refusal_says_what_to_do() {
        let none = CapabilitySet::empty();
        clear_ambient_capability_set().unwrap();
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none }).unwrap();
        let host = host();
        let error = host.ensure_bridge().await.unwrap_err();
        assert!(matches!(&error, BridgeError::Forwarding { .. }) && error.to_string().contains("sudo sysctl -w"), "{error}");
        let findings = host.check().await;
        let capability = findings.iter().find(|finding| finding.item == "capability").unwrap();
        assert!(capability.verdict == Verdict::Fail && capability.remedy.as_ref().unwrap().contains("setcap"));
        assert_eq!(host.list().await.unwrap(), []);
        host.remove_all().await.unwrap_err();
    }
}
