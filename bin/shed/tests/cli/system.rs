//! `shed system df`, and lists that are long, against servers that answer as the test says.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use crate::{
    stub::{Stub, ok, unknown_path},
    user::{User, closed_port, json},
};

const USAGE: &str = include_str!("../../../../crates/shed-api/fixtures/system-df.json");

#[test]
fn the_summary_is_a_table_and_json_is_the_apis() {
    let stub = Stub::serve(|_| ok(USAGE));
    let user = User::with_server(stub.port);
    let ran = user.shed(&["system", "df"]).exits(0);
    insta::assert_snapshot!(ran.stdout, @r"
    TYPE     COUNT     SIZE  ON-DISK
    Images       2  10.0GiB   4.5GiB
    Sheds        1   2.0GiB   2.0GiB
    Orphans      1       0B       0B
    Total        4  12.0GiB   6.5GiB
    ");
    let ran = user.shed(&["system", "df", "--json"]).exits(0);
    assert_eq!(json(&ran.stdout), json(USAGE));
    assert_eq!(stub.asked(), ["GET /api/system/df", "GET /api/system/df"]);
}

#[test]
fn verbose_lists_every_item_and_the_notes_and_nothing_steers_the_terminal() {
    let hostile = USAGE
        .replace("api-dev\"", "api\\u001b]0;x\\u0007\"")
        .replace("\"physical bytes may", "\"line\\n\\u001b[2Jphysical bytes may")
        .replace("819200", "18446744073709551615");
    let stub = Stub::serve(move |_| ok(hostile.as_str()));
    let ran = User::with_server(stub.port).shed(&["system", "df", "-v"]).exits(0);
    for text in
        ["kernel  ", "initrd  ", "orphan  ", "console_log ", "16.0EiB", "cache of the base", "vmlinux\n"]
    {
        assert!(ran.stdout.contains(text), "{text:?} is not in {ran:?}");
    }
    assert!(ran.stdout.contains("\nNote: line \u{fffd}[2Jphysical bytes may overcount"), "{ran:?}");
    assert!(!ran.stdout.contains(['\u{1b}', '\u{7}']), "{ran:?}");
}

#[test]
fn all_servers_are_asked_and_missing_ones_are_part_of_the_answer() {
    let stub = Stub::serve(|_| ok(USAGE));
    let old = Stub::serve(|_| unknown_path());
    let (_guard, closed) = closed_port();
    let user = User::with_servers(&[("big", stub.port), ("gone", closed), ("old", old.port)]);
    let ran = user.shed(&["system", "df", "--all", "-v"]).exits(0);
    assert!(ran.stdout.starts_with("SERVER  TYPE    NAME "), "{ran:?}");
    assert!(ran.stdout.contains("big     Total ") && ran.stdout.contains("Note: big: physical"), "{ran:?}");
    ran.says("the figures of gone are missing: cannot reach")
        .says("the figures of old are missing: server old");

    let value = json(&user.shed(&["system", "df", "--all", "--json"]).exits(0).stdout);
    let servers = value["servers"].as_array().unwrap();
    assert_eq!((&servers[0]["server_name"], &servers[0]["usage"]), (&"big".into(), &json(USAGE)));
    assert!(servers[0].get("error").is_none() && servers[1].get("usage").is_none(), "{value}");
    assert!(servers[1]["error"].as_str().unwrap().contains("Connection refused"), "{value}");

    let alone = User::with_servers(&[("gone", closed)]);
    let value = json(&alone.shed(&["system", "df", "--all", "--json"]).exits(0).stdout);
    assert_eq!(value["servers"].as_array().unwrap().len(), 1);
    let ran = alone.shed(&["system", "df", "--all"]).exits(0).says("the figures of gone are missing");
    assert_eq!(ran.stdout, "");
    alone.shed(&["system", "df"]).exits(3).says("cannot reach server gone");
}

/// A list of this many sheds with long fields.
fn sheds(count: usize) -> String {
    let shed = |number: usize| {
        format!(
            r#"{{"name":"s{number}","status":"running","created_at":"2026-01-20T10:30:00Z","backend":"qemu","cpus":2,"memory_mb":4096,"repo":"owner/a-repository-with-a-long-name-{number}","rootfs_path":"/var/lib/shed/instances/s{number}/rootfs.ext4","started_at":"2026-01-20T10:30:00Z","extensions":{{"ssh":{{"guest":"running","host":"connected"}}}}}}"#
        )
    };
    let sheds: Vec<String> = (0..count).map(shed).collect();
    format!(r#"{{"sheds":[{}]}}"#, sheds.join(","))
}

#[test]
fn ten_thousand_sheds_are_listed_each_on_its_line() {
    let body = sheds(10_000);
    let stub = Stub::serve(move |_| ok(body.as_str()));
    let user = User::with_server(stub.port);
    for line in [&["list"][..], &["list", "-v"], &["list", "--all"]] {
        let ran = user.shed(line).exits(0);
        assert_eq!((ran.stdout.lines().count(), ran.stderr.as_str()), (10_001, ""), "{line:?}");
    }
    let value = json(&user.shed(&["list", "--json"]).exits(0).stdout);
    assert_eq!(value["sheds"].as_array().unwrap().len(), 10_000);
}

#[test]
fn a_reader_that_has_seen_enough_of_a_list_ends_it_quietly() {
    let body = sheds(10_000);
    let stub = Stub::serve(move |_| ok(body.as_str()));
    let user = User::with_server(stub.port);
    for line in [&["list", "-vv"][..], &["list", "--json"]] {
        let mut child = user.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        // The buffer is far smaller than the list, and the reader goes away with it.
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(141), ""));
    }
}
