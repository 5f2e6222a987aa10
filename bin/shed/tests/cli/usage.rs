//! Command lines that are wrong, and servers that are not there: messages, exit codes, and nothing done.

use std::process::Stdio;

use crate::{
    peer::Peer,
    user::{User, closed_port},
};

#[test]
fn wrong_command_lines_exit_with_2_and_say_what_is_wrong() {
    let user = User::new();
    for (line, text) in [
        (&["create", "Web"][..], "shed name: it"),
        (&["create", ""], "a shed name must not be empty"),
        (&["create", "../x"], "shed name: it"),
        (&["create", "web", "--cpus", "0"], "between 1 and 32"),
        (&["create", "web", "--cpus", "-1"], "between 1 and 32"),
        (&["create", "web", "--memory", "1"], "between 128 and 262144"),
        (&["create", "web", "--memory", "4t"], "4096, 512m, 4g"),
        (&["create", "web", "--backend", "docker"], "is not a backend"),
        (&["create", "web", "--timeout", "soon"], "is not a time"),
        (&["start"], "required"),
        (&["stop", "web", "No"], "shed name: it"),
        (&["exec", "-e", "=x", "web", "ls"], "NAME=VALUE"),
        (&["exec", "web", "", "x"], "first word is empty"),
        (&["server", "add", "https://mini"], "HTTPS"),
        (&["server", "add", "mini", "--name", "a/b"], "is not a server name"),
        (&["server", "add", "mini:81", "--port", "82"], "give the port once"),
        (&["nonsense"], "unrecognized subcommand"),
        (&["list", "--all", "--server", "x"], "cannot be used with"),
    ] {
        // What exec refuses itself has its own code, as everything but the command's end has.
        let code = if line == ["exec", "web", "", "x"] { 255 } else { 2 };
        let ran = user.shed(line).exits(code).says(text);
        assert_eq!(ran.stdout, "", "{line:?}");
    }
    assert!(!user.home.path().join(".shed").exists(), "nothing was written");
}

#[test]
fn with_json_a_wrong_command_line_is_json_too() {
    let ran = User::new().shed(&["--json", "create", "Web"]).exits(2);
    let value: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
    assert!(value["error"].as_str().unwrap().contains("shed name: it"), "{ran:?}");
}

#[test]
fn help_and_version_are_no_errors() {
    let user = User::new();
    for line in [
        &["--help"][..],
        &["help"],
        &["exec", "--help"],
        &["help", "server", "add"],
        &["--version"],
        &["version"],
    ] {
        assert!(!user.shed(line).exits(0).stdout.is_empty(), "{line:?}");
    }
}

#[test]
fn a_server_that_is_not_there_exits_with_3_and_says_where_it_was_looked_for() {
    let (_guard, port) = closed_port();
    let user = User::with_server(port);
    for line in [
        &["list"][..],
        &["create", "web"],
        &["start", "web"],
        &["stop", "web"],
        &["delete", "-f", "web"],
        &["list", "--all"],
    ] {
        let ran =
            user.shed(line).exits(3).says(&format!("cannot reach server test at http://127.0.0.1:{port}"));
        assert!(
            ran.stderr.contains("caused by: Connection refused") && ran.stderr.contains("hint: "),
            "{ran:?}"
        );
        assert_eq!(ran.stdout, "");
    }
    user.shed(&["exec", "web", "ls"]).exits(255).says("cannot reach server test");
    let ran = user.shed(&["list", "--json"]).exits(3);
    let value: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
    assert!(value["error"].as_str().unwrap().contains("Connection refused"), "{ran:?}");
}

#[test]
fn servers_that_do_not_answer_are_listed_as_offline() {
    let (_guard, port) = closed_port();
    let user = User::with_server(port);
    let ran = user.shed(&["server", "list"]).exits(0);
    // Five digits, as ports of this kind have.
    insta::assert_snapshot!(ran.stdout.replace(&port.to_string(), "PPPPP"), @r"
    NAME  URL                     STATUS   VERSION  BACKEND  DEFAULT
    test  http://127.0.0.1:PPPPP  offline  -        -        yes
    ");
    let ran = user.shed(&["server", "list", "--json"]).exits(0);
    let value: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&value["servers"][0]["online"], &value["servers"][0]["default"]),
        (&false.into(), &true.into())
    );
    let ran = user.shed(&["version", "-v"]).exits(0);
    assert!(ran.stdout.contains("test    offline"), "{ran:?}");
}

#[test]
fn a_server_that_was_never_added_is_not_found() {
    User::new()
        .shed(&["-s", "mini", "list"])
        .exits(4)
        .says("no server is called mini")
        .says("shed server add HOST");
    let user = User::with_server(1);
    user.shed(&["-s", "mini", "list"]).exits(4).says("the servers are test");
    user.shed(&["server", "remove", "mini"]).exits(4);
    user.shed(&["server", "set-default", "mini"]).exits(4);
}

#[test]
fn a_server_that_does_not_answer_is_not_added() {
    let (_guard, port) = closed_port();
    let user = User::new();
    user.shed(&["server", "add", &format!("127.0.0.1:{port}")]).exits(3).says("no shed-server answers");
    assert_eq!(user.config(), "");
}

#[test]
fn what_answers_but_is_no_shed_server_is_said_to_be_none() {
    let peer = Peer::answer("200 OK", "hello");
    let user = User::with_server(peer.port);
    user.shed(&["list"]).exits(1).says("is not understood").says("shed version -v");
    peer.end();
}

#[test]
fn a_server_is_removed_and_chosen_without_being_asked() {
    let user = User::new();
    user.write_config(
        "servers: {a: {host: 10.0.0.1, added_at: 2026-01-01T00:00:00Z}, b: {host: 10.0.0.2, added_at: 2026-01-02T00:00:00Z}}\n\
         default_server: a\nsheds: {web: {server: a, status: running}}\n",
    );
    user.shed(&["server", "set-default", "b"]).exits(0);
    assert!(user.config().contains("default_server: b"), "{}", user.config());
    user.shed(&["server", "remove", "b"]).exits(0).says("The default server is now a");
    let ran = user.shed(&["--json", "server", "rm", "a"]).exits(0);
    assert_eq!(
        ran.stdout,
        "{\"status\":\"ok\",\"action\":\"server remove\",\"name\":\"a\",\"server\":\"a\"}\n"
    );
    assert!(!user.config().contains("web"), "{}", user.config());
}

#[test]
fn changes_made_at_once_are_all_kept() {
    let user = User::new();
    let entries: Vec<String> =
        (0..10).map(|number| format!("s{number}: {{host: 10.0.0.{number}}}")).collect();
    user.write_config(&format!("servers: {{{}}}\n", entries.join(", ")));
    let names: Vec<String> = (1..10).map(|number| format!("s{number}")).collect();
    let children: Vec<_> = names
        .iter()
        .map(|name| user.command(&["server", "remove", name]).stdout(Stdio::null()).spawn().unwrap())
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let list = user.shed(&["server", "remove", "nosuch"]).exits(4);
    assert!(list.stderr.contains("the servers are s0;"), "{list:?}");
}

#[test]
fn a_known_name_or_address_is_refused_before_anybody_is_asked() {
    let user = User::with_server(9);
    user.shed(&["server", "add", "127.0.0.1:9"]).exits(1).says("already added, as test");
    user.shed(&["server", "add", "10.255.255.1", "-n", "test"])
        .exits(1)
        .says("there is a server test already");
}

#[test]
fn a_broken_config_file_is_named_with_the_place_that_is_wrong() {
    let user = User::new();
    user.write_config("servers:\n  a:\n    hots: b\n");
    let ran = user.shed(&["list"]).exits(2).says(".shed/config.yaml is not a config file of shed");
    assert!(ran.stderr.contains("hots"), "{ran:?}");
}

#[test]
fn delete_asks_nobody_who_is_not_there_and_does_nothing_then() {
    let user = User::with_server(1);
    user.shed(&["delete", "web"]).exits(2).says("not a terminal").says("--force");
    let ran = user.shed(&["delete", "--json", "web"]).exits(2);
    assert!(ran.stderr.starts_with("{\"error\":"), "{ran:?}");
}

#[test]
fn without_a_config_file_this_machine_is_tried_and_nothing_is_written() {
    // Whether something listens on the usual port here is not ours to say.
    let user = User::new();
    let ran = user.shed(&["list"]);
    if ran.code != 0 {
        ran.says("a server on this machine at http://127.0.0.1:8080").says("shed-server serve");
    }
    assert!(!user.home.path().join(".shed").exists());
}

#[test]
fn completions_and_manual_pages_cover_every_command() {
    let user = User::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = user.shed(&["completions", shell]).exits(0).stdout;
        assert!(script.contains("set-default") && script.contains("keep-volume"), "{shell}");
    }
    let dir = user.home.path().join("man1");
    user.shed(&["man", "--dir", dir.to_str().unwrap()]).exits(0);
    let page = std::fs::read_to_string(dir.join("shed-server-add.1")).unwrap();
    assert!(page.contains(".TH shed-server-add 1"), "{page}");
    assert!(user.shed(&["man"]).exits(0).stdout.contains("Exit codes"));
}

#[test]
fn a_reader_that_goes_away_is_no_error_message() {
    let user = User::new();
    let mut child =
        user.command(&["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(matches!(output.status.code(), Some(0 | 141)), "{output:?}");
}
