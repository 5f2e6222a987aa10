//! `shed tunnels config` and the file it reads.

use crate::user::{User, json};

fn user(text: &str) -> User {
    let user = User::new();
    std::fs::create_dir(user.home.path().join(".shed")).unwrap();
    std::fs::write(user.home.path().join(".shed/tunnels.yaml"), text).unwrap();
    user
}

const BOTH: &str = "\
ssh: {server_alive_interval: 30, server_alive_count_max: 3, connect_timeout: 10}
profiles:
  default:
    description: the web server
    ports:
      - local: 3000
        remote: 3000
  db:
    ports: [{local: 15432, remote: 5432}]
sheds:
  api:
    profiles:
      default: [\"3000\", \"3001:3000\"]
";

#[test]
fn the_mapping_that_is_meant_is_shown_and_no_server_is_asked() {
    let user = user(BOTH);
    let ran =
        user.shed(&["tunnels", "config", "api", "-p", "default", "-p", "db", "-t", "3000:8080"]).exits(0);
    let rows: Vec<Vec<&str>> = ran.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        rows,
        [
            ["LOCAL", "REMOTE"],
            ["127.0.0.1:3000", "api:8080"],
            ["127.0.0.1:3001", "api:3000"],
            ["127.0.0.1:15432", "api:5432"]
        ]
    );
    let value = json(&user.shed(&["tunnels", "config", "web", "--json"]).exits(0).stdout);
    let expected = serde_json::json!({"shed_name": "web", "profile": "default", "ports": [{"local": 3000, "remote": 3000}]});
    assert_eq!(value, expected);
    user.shed(&["tunnels", "config", "web", "-p", "x"])
        .exits(2)
        .says("has no tunnel profile x")
        .says("db, default");
}

#[test]
fn a_file_that_breaks_the_rules_is_refused_with_its_line_and_what_is_wrong() {
    for (text, parts) in [
        ("profiles:\n  default: [3000, 70000]\n", &["line 2", "70000"][..]),
        ("profils: {}\n", &["line 1", "profils"]),
        ("sheds:\n  api:\n    profiles:\n      default: ['3000:']\n", &["line 4", "3000:"]),
        ("ssh:\n  connect_timeout: 301\n", &["line 2", "301"]),
        ("profiles:\n  default: [!!binary aGk=]\n", &["line 2"]),
        ("a: &a [*a]\n", &["line 1"]),
        ("{", &["line 1"]),
        ("\u{0}\u{1}", &["tunnels.yaml"]),
    ] {
        let mut ran = user(text)
            .shed(&["tunnels", "config", "api"])
            .exits(2)
            .says("tunnels.yaml is not a file of tunnels");
        for part in parts {
            ran = ran.says(part);
        }
        assert!(!ran.stderr.contains('\u{1}'), "{ran:?}");
    }
    user(&"#".repeat(2 << 20)).shed(&["tunnels", "config", "api"]).exits(2).says("longer than");
}
