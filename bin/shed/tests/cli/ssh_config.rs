//! `shed ssh-config`, read by the real ssh.

use std::{collections::HashMap, fs, path::PathBuf, process::Command};

use crate::{
    stub::{Stub, ok, refused},
    user::{User, closed_port, json},
};

/// A server with sheds of these names.
fn server(sheds: &'static [&'static str]) -> Stub {
    Stub::serve(move |line| {
        let shed = |name: &str| {
            format!(r#"{{"name":"{name}","status":"stopped","created_at":"2026-01-20T10:30:00Z"}}"#)
        };
        if line == "GET /api/sheds" {
            let all: Vec<String> = sheds.iter().map(|name| shed(name)).collect();
            return ok(format!(r#"{{"sheds":[{}]}}"#, all.join(",")));
        }
        match line.strip_prefix("GET /api/sheds/") {
            Some(name) if sheds.contains(&name) => ok(shed(name)),
            _ => refused("404 Not Found", "SHED_NOT_FOUND", "no such shed"),
        }
    })
}

/// A user of servers at these HTTP ports, each with an SSH port of its own; the first is the default.
fn user(servers: &[(&str, u16, u16)]) -> User {
    let user = User::new();
    let entries: Vec<String> = servers
        .iter()
        .map(|(name, http, ssh)| format!("{name}: {{host: 127.0.0.1, http_port: {http}, ssh_port: {ssh}}}"))
        .collect();
    user.write_config(&format!("servers: {{{}}}\ndefault_server: {}\n", entries.join(", "), servers[0].0));
    let keys: String =
        servers.iter().map(|(_, _, ssh)| format!("[127.0.0.1]:{ssh} ssh-ed25519 AAAA\n")).collect();
    fs::write(user.home.path().join(".shed/known_hosts"), keys).unwrap();
    user
}

fn config(user: &User) -> PathBuf {
    user.home.path().join(".ssh/config")
}

fn read(user: &User) -> String {
    fs::read_to_string(config(user)).unwrap()
}

/// Returns what ssh makes of a host.
#[track_caller]
fn ssh(user: &User, host: &str) -> HashMap<String, String> {
    let output = Command::new("ssh").arg("-G").arg("-F").arg(config(user)).arg(host).output();
    let output = output.expect("ssh, of openssh-client");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// What a user may have in the file that must not reach a shed, and must reach every other host.
const OWN: &str = "ServerAliveInterval 77\nForwardX11 yes\n\nHost *\n  ForwardAgent yes\n  User somebody\n  Port 2020\n  \
                   UserKnownHostsFile /dev/null\n  StrictHostKeyChecking no\n  CanonicalizeHostname yes\n";

#[test]
fn ssh_reads_the_entries_and_the_rest_as_before() {
    let stub = server(&["web", "api"]);
    let user = user(&[("mini", stub.port, 4022)]);
    fs::create_dir(user.home.path().join(".ssh")).unwrap();
    fs::write(config(&user), OWN).unwrap();
    let before = ssh(&user, "elsewhere");
    user.shed(&["ssh-config", "--install"]).exits(0);
    for name in ["web", "api"] {
        let seen = ssh(&user, &format!("shed-{name}"));
        let known_hosts = user.home.path().join(".shed/known_hosts").display().to_string();
        for (key, value) in [
            ("hostname", "127.0.0.1"),
            ("port", "4022"),
            ("user", name),
            ("userknownhostsfile", &known_hosts),
            ("stricthostkeychecking", "true"),
            ("forwardagent", "no"),
            ("forwardx11", "no"),
            ("serveraliveinterval", "30"),
            ("canonicalizehostname", "false"),
            ("checkhostip", "no"),
        ] {
            assert_eq!(seen[key], value, "{key}");
        }
    }
    assert_eq!(ssh(&user, "elsewhere"), before, "other hosts are what they were");
    assert!(read(&user).ends_with(OWN));
    user.shed(&["ssh-config", "--uninstall"]).exits(0);
    assert_eq!(read(&user), OWN);
}

#[test]
fn a_path_with_blanks_and_percent_signs_reaches_ssh_as_it_is() {
    let stub = server(&["web"]);
    let home = user(&[("mini", stub.port, 4022)]);
    let there = home.home.path().join("a b%h#");
    fs::create_dir(&there).unwrap();
    fs::copy(home.home.path().join(".shed/config.yaml"), there.join("c.yaml")).unwrap();
    let path = there.join("c.yaml").display().to_string();
    home.shed(&["-c", &path, "ssh-config", "web", "--install"])
        .exits(0)
        .says("is not known, and ssh will refuse");
    let seen = ssh(&home, "shed-web");
    let expected = there.join("known_hosts").display().to_string();
    // ssh shows it with its tokens replaced, or, before 8.4, as it stands.
    assert!(
        [expected.clone(), expected.replace('%', "%%")].contains(&seen["userknownhostsfile"]),
        "{seen:?}"
    );
}

#[test]
fn without_install_the_entries_are_printed_and_nothing_is_written() {
    let stub = server(&["web", "api"]);
    let user = user(&[("mini", stub.port, 4022)]);
    let ran = user.shed(&["ssh-config", "web"]).exits(0);
    assert!(ran.stdout.starts_with("Host shed-web\n") && ran.stderr.is_empty(), "{ran:?}");
    let ran = user.shed(&["ssh-config"]).exits(0);
    assert_eq!(ran.stdout.matches("Host shed-").count(), 2);
    let value = json(&user.shed(&["ssh-config", "api", "--json"]).exits(0).stdout);
    assert_eq!((&value["hosts"][0]["host"], &value["hosts"][0]["port"]), (&"shed-api".into(), &4022.into()));
    user.shed(&["ssh-config", "nosuch"]).exits(4);
    assert!(!config(&user).exists());
}

#[test]
fn a_name_is_added_brought_up_to_date_and_taken_out_alone() {
    let stub = server(&["web", "api"]);
    let user = user(&[("mini", stub.port, 4022)]);
    let details = |line: &[&str]| json(&user.shed(line).exits(0).stdout)["details"].clone();
    let added = details(&["ssh-config", "--install", "web", "--json"]);
    assert_eq!(
        (&added["added"], &added["removed"]),
        (&serde_json::json!(["shed-web"]), &serde_json::json!([]))
    );
    assert_eq!(added["path"], config(&user).to_str().unwrap());
    details(&["ssh-config", "--install", "api", "--json"]);
    assert_eq!(
        (ssh(&user, "shed-web")["port"].as_str(), ssh(&user, "shed-api")["port"].as_str()),
        ("4022", "4022")
    );

    // Nothing new: the file is not touched.
    let before = (fs::metadata(config(&user)).unwrap().modified().unwrap(), read(&user));
    user.shed(&["ssh-config", "--install", "web"]).exits(0).says("There is nothing to change");
    assert_eq!((fs::metadata(config(&user)).unwrap().modified().unwrap(), read(&user)), before);

    user.write_config(&user.config().replace("4022", "4023"));
    let dry = user.shed(&["ssh-config", "--install", "web", "--dry-run"]).exits(0);
    assert!(dry.stdout.contains("+   Port 4023\n") && dry.stdout.contains("Would change "), "{dry:?}");
    assert_eq!(read(&user), before.1);
    let updated = details(&["ssh-config", "--install", "web", "--json"]);
    assert_eq!(
        (&updated["updated"], &updated["added"]),
        (&serde_json::json!(["shed-web"]), &serde_json::json!([]))
    );
    assert_eq!(
        (ssh(&user, "shed-web")["port"].as_str(), ssh(&user, "shed-api")["port"].as_str()),
        ("4023", "4022")
    );

    user.shed(&["ssh-config", "--uninstall", "web", "--dry-run"]).exits(0);
    let removed = details(&["ssh-config", "--uninstall", "web", "--json"]);
    assert_eq!(removed["removed"], serde_json::json!(["shed-web"]));
    assert!(!read(&user).contains("shed-web") && read(&user).contains("shed-api"));
    user.shed(&["ssh-config", "--uninstall", "web"]).exits(0).says("There is nothing to change");
    user.shed(&["ssh-config", "--uninstall"]).exits(0);
    assert_eq!(read(&user), "");
}

#[test]
fn with_all_what_is_gone_goes_unless_its_server_was_silent() {
    let (here, there) = (server(&["web", "new"]), server(&["api", "old"]));
    let user = user(&[("here", here.port, 4001), ("there", there.port, 4002)]);
    user.shed(&["ssh-config", "--install", "--all"]).exits(0);
    assert_eq!(ssh(&user, "shed-old")["port"], "4002");
    // `there` is silent, `here` has lost a shed.
    let (_guard, closed) = closed_port();
    let fewer = server(&["web"]);
    let config = user.config();
    user.write_config(
        &config
            .replace(&there.port.to_string(), &closed.to_string())
            .replace(&here.port.to_string(), &fewer.port.to_string()),
    );
    let ran =
        user.shed(&["ssh-config", "--install", "--all"]).exits(0).says("the sheds of there are missing");
    assert!(ran.stdout.contains(": removed shed-new\n"), "{ran:?}");
    assert_eq!(read(&user).matches("Host shed-").count(), 3);
    // Now it answers, and has nothing left.
    let none = server(&[]);
    user.write_config(&user.config().replace(&closed.to_string(), &none.port.to_string()));
    let ran = user.shed(&["ssh-config", "--install", "--all"]).exits(0);
    assert!(ran.stdout.contains(": removed shed-api, shed-old\n"), "{ran:?}");
    // Without --all only the entries of the one server are looked at.
    user.shed(&["ssh-config", "--install", "-s", "there"]).exits(0).says("There is nothing to change");
    assert!(read(&user).contains("shed-web"));
}

#[test]
fn of_two_sheds_of_one_name_the_one_that_was_seen_last_gets_it() {
    let (a, b) = (server(&["web"]), server(&["web"]));
    let user = user(&[("a", a.port, 4001), ("b", b.port, 4002)]);
    user.shed(&["ssh-config", "--install", "--all"])
        .exits(0)
        .says("warning: shed-web is the shed web on a, and not the one on b");
    assert_eq!(ssh(&user, "shed-web")["port"], "4001");
    user.write_config(&format!("{}sheds: {{web: {{server: b}}}}\n", user.config()));
    user.shed(&["ssh-config", "--install", "--all"]).exits(0).says("on b, and not the one on a");
    assert_eq!(ssh(&user, "shed-web")["port"], "4002");
}

#[test]
fn a_name_that_another_server_has_stays_with_it_until_the_user_says_so() {
    let (a, b) = (server(&["web", "api"]), server(&["web", "db"]));
    let user = user(&[("a", a.port, 4001), ("b", b.port, 4002)]);
    let port = |name: &str| ssh(&user, &format!("shed-{name}"))["port"].clone();
    user.shed(&["ssh-config", "--install", "-s", "b"]).exits(0);
    for dry in [true, false] {
        let line = ["ssh-config", "--install", "--dry-run"];
        user.shed(&line[..if dry { 3 } else { 2 }])
            .exits(0)
            .says("warning: shed-web is left as it is, because it is the shed web on b; for the one on a: ")
            .says("shed ssh-config --install web -s a");
    }
    assert_eq!((port("web"), port("api"), port("db")), ("4002".into(), "4001".into(), "4002".into()));
    user.shed(&["ssh-config", "--install", "-s", "a"])
        .exits(0)
        .says("warning: shed-web is the shed web on a now, and no more the one on b");
    assert_eq!((port("web"), port("db")), ("4001".into(), "4002".into()));
    // Nothing is installed, but commands without --server mean the one on b.
    user.shed(&["ssh-config", "--uninstall"]).exits(0);
    user.write_config(&format!("{}sheds: {{web: {{server: b}}}}\n", user.config()));
    user.shed(&["ssh-config", "--install"]).exits(0).says("without --server the shed web is the one on b");
    assert!(!read(&user).contains("shed-web") && read(&user).contains("shed-api"));
}

#[test]
fn what_cannot_be_told_apart_is_left_alone() {
    let stub = server(&["web"]);
    let user = user(&[("mini", stub.port, 4022)]);
    fs::create_dir(user.home.path().join(".ssh")).unwrap();
    let text = "Host a\n# --- BEGIN SHED MANAGED BLOCK ---\n";
    fs::write(config(&user), text).unwrap();
    for line in [&["--install"][..], &["--install", "web"], &["--uninstall"], &["--install", "--dry-run"]] {
        user.shed(&[&["ssh-config"], line].concat())
            .exits(1)
            .says("is left as it is")
            .says("line 2 begins a block");
    }
    assert_eq!(read(&user), text);
    for line in [
        &["--dry-run"][..],
        &["--install", "--uninstall"],
        &["--all", "web"],
        &["--all", "-s", "mini"],
        &["Web"],
        &["a", "b"],
    ] {
        user.shed(&[&["ssh-config"], line].concat()).exits(2);
    }
}
