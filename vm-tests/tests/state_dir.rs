//! A state directory that something else has had its hands in: the server starts, and touches nothing it cannot read.

use std::fs;

use serde_json::json;
use vm_tests::{Promises, Stage};

/// Records and directories that cannot be used stay as they are; husks of killed creates go; everything else works.
#[test]
fn what_cannot_be_read_is_left_alone() {
    let Some(stage) = Stage::new() else { return };
    let mut promises = Promises::new();
    let place = |shed: &str, files: &[(&str, &str)]| {
        let dir = stage.instance_dir().join(shed);
        fs::create_dir_all(&dir).unwrap();
        for (name, content) in files {
            fs::write(dir.join(name), content).unwrap();
        }
        dir
    };
    let kept = [
        place("broken", &[("metadata.json", "{\"version\":1,"), ("rootfs.ext4", "work")]),
        place("empty-record", &[("metadata.json", ""), ("rootfs.ext4", "work")]),
        place("newer", &[("metadata.json", r#"{"version":4711,"name":"newer"}"#), ("rootfs.ext4", "work")]),
        place("lost-record", &[("rootfs.ext4", "work")]),
    ];
    let husks = [place("husk", &[]), place("half-husk", &[(".metadata.json.Ab12cd.tmp", "{")])];
    fs::write(stage.instance_dir().join("README"), "not a shed").unwrap();

    let server = stage.serve();
    let http = server.http();
    promises.keep("the server starts, and lists none of them", || assert!(http.names().is_empty()));
    promises.keep(
        "unreadable records and disks without one stay, and so do files that are none of Shed's",
        || {
            for dir in &kept {
                assert_eq!(fs::read_to_string(dir.join("rootfs.ext4")).unwrap(), "work", "{dir}");
            }
            assert_eq!(fs::read_to_string(stage.instance_dir().join("README")).unwrap(), "not a shed");
        },
    );
    promises.keep("their names stay taken: a create says what is in the way", || {
        for name in ["broken", "empty-record", "newer", "lost-record"] {
            let reply = http.create(&json!({ "name": name }));
            assert!((400..600).contains(&reply.status), "{}", reply.text());
            let (_, message) = reply.error();
            assert!(message.contains(name) && message.contains(stage.instance_dir().as_str()), "{message}");
        }
    });
    promises.keep("husks are removed", || {
        assert!(husks.iter().all(|dir| !dir.exists()), "{husks:?}");
    });
    promises.keep("the log names each of them", || {
        let log = fs::read_to_string(stage.server_log()).unwrap();
        for name in ["broken", "empty-record", "newer", "lost-record"] {
            assert!(log.contains(name), "{name} is not in the log");
        }
    });
    promises.finish();
}
