use super::*;
use crate::config::ServerEntry;

fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

fn entry(shed: &str, server: &str) -> Entry {
    let alias = format!("shed-{shed}");
    Entry { text: format!("Host {alias}\n  # on server {server}\n"), alias }
}

/// Merges sheds of server `a` into entries of other servers, and returns each entry with its server, and the warnings.
fn merged(there: &[(&str, &str)], found: &[&str], reach: &Reach, seen: &str) -> (Vec<String>, Vec<String>) {
    let mut config: ClientConfig = serde_json::from_str(seen).unwrap();
    for server in ["a", "b", "c"] {
        config.servers.insert(name(server), ServerEntry::this_machine());
    }
    let entries = there.iter().map(|(shed, server)| entry(shed, server));
    let mut entries: Entries = entries.map(|entry| (entry.alias.clone(), entry)).collect();
    let wanted = found.iter().map(|shed| Wanted {
        shed: shed.parse().unwrap(),
        server: name("a"),
        entry: entry(shed, "a"),
    });
    let warnings = merge(&mut entries, wanted.collect(), reach, &config);
    let shown = entries.values().map(|entry| format!("{} {}", entry.alias, entry.server().unwrap()));
    (shown.collect(), warnings)
}

const UNSEEN: &str = "{}";
const WEB_ON_B: &str = r#"{"sheds": {"web": {"server": "b", "status": "running"}}}"#;

#[test]
fn the_default_server_takes_no_name_of_another_s() {
    let reach = Reach::Default(name("a"));
    let there = [("gone", "a"), ("old", "b"), ("web", "b")];
    let (entries, warnings) = merged(&there, &["api", "web"], &reach, UNSEEN);
    assert_eq!(entries, ["shed-api a", "shed-old b", "shed-web b"], "what is gone is only known of a");
    assert_eq!(
        warnings,
        [
            "shed-web is left as it is, because it is the shed web on b; for the one on a: shed ssh-config --install web -s a"
        ]
    );
    let (entries, warnings) = merged(&[], &["api", "web"], &reach, WEB_ON_B);
    assert_eq!(entries, ["shed-api a"]);
    assert!(warnings[0].contains("without --server the shed web is the one on b"), "{warnings:?}");
    let (entries, _) = merged(&[("web", "a")], &["web"], &reach, WEB_ON_B);
    assert_eq!(entries, ["shed-web a"], "what is left is not dropped either");
    let (entries, warnings) = merged(&[("web", "removed")], &["web"], &reach, UNSEEN);
    assert_eq!((entries.as_slice(), warnings.len()), (&["shed-web a".to_owned()][..], 0));
}

#[test]
fn who_names_the_server_or_the_shed_gets_it_and_is_told() {
    for reach in [Reach::Chosen(name("a")), Reach::Shed] {
        let (entries, warnings) = merged(&[("old", "b"), ("web", "b")], &["web"], &reach, WEB_ON_B);
        assert_eq!(entries, ["shed-old b", "shed-web a"]);
        assert_eq!(warnings, ["shed-web is the shed web on a now, and no more the one on b"]);
    }
    let (entries, warnings) = merged(&[], &["web"], &Reach::Chosen(name("a")), WEB_ON_B);
    assert_eq!(entries, ["shed-web a"]);
    assert_eq!(warnings, ["shed-web is the shed web on a, but without --server that is the one on b"]);
}

#[test]
fn with_all_a_silent_server_keeps_its_names_and_no_other_does() {
    let reach = Reach::AllBut(vec![name("b")]);
    let (entries, warnings) =
        merged(&[("web", "b"), ("api", "c"), ("old", "c")], &["api", "web"], &reach, UNSEEN);
    assert_eq!(entries, ["shed-api a", "shed-web b"]);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    let (entries, warnings) = merged(&[], &["web"], &reach, WEB_ON_B);
    assert_eq!((entries.len(), warnings.len()), (0, 1));
}
