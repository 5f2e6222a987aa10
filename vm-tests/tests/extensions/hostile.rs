//! A hostile guest: whatever it publishes reaches nobody else's keys, other sheds are answered as before, and the audit log
//! has what it asked for.

use std::time::Duration;

use serde_json::{Value, json};
use vm_tests::{BOOT, Finished, Promises, Running, SshKey, run};

use super::{World, assert_signed, local_keys};

const BAD: &str = "bad";
const GOOD: &str = "good";

/// Publishes of one flood.
const FLOOD: usize = 10_000;

/// So many signatures are measured at a time.
const MEASURED: usize = 40;

const PUBLISH: &[u8] = include_bytes!("../../extensions/publish.py");
const SIGN: &[u8] = include_bytes!("../../extensions/sign.py");

/// Publishes one body as it stands; returns the status and what was answered.
#[track_caller]
fn publish(world: &World, body: &[u8]) -> (u16, Value) {
    world.cli.exec_with(BAD, &["sh", "-c", "cat >/tmp/body"], body).ok();
    let line = "python3 /tmp/publish.py one </tmp/body";
    let told = world.cli.exec(BAD, &["sh", "-c", line]).ok().out();
    let (status, answer) = told.split_once('\n').expect("two lines");
    (status.parse().expect("a status"), serde_json::from_str(answer).unwrap_or(Value::Null))
}

/// Publishes JSON.
#[track_caller]
fn publish_json(world: &World, body: &Value) -> (u16, Value) {
    publish(world, body.to_string().as_bytes())
}

fn code(answer: &Value) -> &str {
    answer["error"]["code"].as_str().unwrap_or_default()
}

/// The middle one of the times, in milliseconds, that signatures of the good shed take.
#[track_caller]
fn median(world: &World, count: usize) -> f64 {
    let line = format!("SSH_AUTH_SOCK=/run/shed-extensions/ssh-agent.sock python3 - {count}");
    let done: Finished = run(&mut world.cli.exec_command(GOOD, &["sh", "-c", &line]), SIGN, BOOT).ok();
    let mut times: Vec<f64> = serde_json::from_str(&done.out()).expect("a list of times");
    assert_eq!(times.len(), count);
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Runs something in the bad shed that keeps its processor busy for as long as it is kept.
fn in_bad(world: &World, line: &str) -> Running {
    Running::spawn(&mut world.cli.exec_command(BAD, &["sh", "-c", line]))
}

/// One guest does its worst; another's keys, answers and times are as they were.
#[test]
fn a_hostile_guest_harms_itself_alone() {
    let Some(mut world) = World::new(&["ssh-agent"], &[]) else { return };
    for shed in [BAD, GOOD] {
        world.cli.create(shed, &["--memory", super::SMALL, "--cpus", "1"]);
    }
    let key = SshKey::generate(world.host.home().join(".ssh/id_ed25519"), "ed25519");
    let unlisted = SshKey::generate(world.stage.dir().join("unlisted"), "ed25519");
    world.host.start(&world.server, local_keys(json!({})));
    for shed in [BAD, GOOD] {
        world.wait_until_it_works(shed, &["ssh-agent"]);
    }
    world.cli.exec_with(BAD, &["sh", "-c", "cat >/tmp/publish.py"], PUBLISH).ok();
    let mut promises = Promises::new();
    let sign = |key: &SshKey, data: &str| json!({ "operation": "sign", "public_key": key.blob(), "data": data, "flags": 0 });

    promises.keep("namespaces of the system, bodies that are none, and responses are refused", || {
        for namespace in ["system:health", "system:credentials", "system:", "", "a b", &"x".repeat(4096)] {
            let (status, answer) = publish_json(&world, &json!({ "namespace": namespace, "payload": {} }));
            assert_eq!((status, code(&answer)), (400, "MISSING_NAMESPACE"), "{namespace}: {answer}");
        }
        for body in [&b""[..], b"[]", b"\xff\xfe\x00", b"{\"namespace\": \"ssh-agent\"", b"null"] {
            let (status, answer) = publish(&world, body);
            assert_eq!((status, code(&answer)), (400, "INVALID_BODY"), "{answer}");
        }
        let response =
            json!({ "namespace": "ssh-agent", "type": "response", "in_reply_to": "x", "payload": {} });
        assert_eq!(code(&publish_json(&world, &response).1), "INVALID_TYPE");
    });
    promises.keep("a body of 1 MiB is taken up to the limit and refused beyond it", || {
        let filled = |bytes: usize| {
            let message = json!({ "namespace": "ssh-agent", "payload": { "operation": "sign", "data": "" } })
                .to_string();
            message.replace("\"data\":\"\"", &format!("\"data\":\"{}\"", "A".repeat(bytes - message.len())))
        };
        let (status, answer) = publish(&world, filled(1 << 20).as_bytes());
        // It is a request that makes no sense, or too long with what goes around it: an answer, not a crash.
        assert!(status == 200 || code(&answer) == "INVALID_BODY", "{status} {answer}");
        let (status, answer) = publish(&world, filled((1 << 20) + 1).as_bytes());
        assert_eq!((status, code(&answer)), (400, "INVALID_BODY"), "{answer}");
    });
    promises.keep("who asks is what the server knows, whatever the message says", || {
        let mut forged = json!({
            "namespace": "ssh-agent", "payload": sign(&key, "QUFB"),
            "shed": { "name": GOOD, "backend": "none", "server": "other" }, "id": "00000000-0000-0000-0000-000000000000",
        });
        forged["payload"]["shed"] = json!(GOOD);
        let (status, answer) = publish_json(&world, &forged);
        assert_eq!(status, 200, "{answer}");
        let audit = world.host.audit();
        let last = audit.iter().rev().find(|line| line["op"] == "sign").expect("it is in the log");
        assert_eq!(last["shed"], BAD, "{last}");
        assert!(!audit.iter().any(|line| line["shed"] == GOOD && line["op"] == "sign"), "{audit:?}");
    });
    promises.keep("a key that was not listed signs nothing, and the log has its fingerprint", || {
        let (_, answer) =
            publish_json(&world, &json!({ "namespace": "ssh-agent", "payload": sign(&unlisted, "QUFB") }));
        assert_eq!(answer["payload"]["code"], "KEY_NOT_FOUND", "{answer}");
        let audit = world.host.audit();
        let line = audit.iter().rev().find(|line| line["op"] == "sign").expect("it is in the log");
        assert!(line["result"] == "error" && line["detail"].to_string().contains("SHA256:"), "{line}");
    });
    promises.keep("what was answered once is no answer to anything else: each request is its own", || {
        let body = json!({ "namespace": "ssh-agent", "payload": sign(&key, "UmVwbGF5"), "id": "1", "in_reply_to": "1" });
        let answers = [publish_json(&world, &body).1, publish_json(&world, &body).1];
        assert_ne!(answers[0]["id"], answers[1]["id"], "{answers:?}");
        assert_ne!(answers[0]["in_reply_to"], answers[1]["in_reply_to"], "{answers:?}");
    });
    promises.keep("the host agent's commands say the truth about a shed with an evil tongue", || {
        let evil =
            json!({ "namespace": "ssh-agent", "payload": { "operation": "\u{1b}[2Jsign\n{\"forged\":1}" } });
        assert_eq!(publish_json(&world, &evil).1["payload"]["code"], "INTERNAL_ERROR");
        let text = std::fs::read_to_string(world.host.audit_log()).expect("the audit log");
        assert!(
            !text.contains('\u{1b}') && text.lines().all(|line| !line.starts_with("{\"forged")),
            "{text}"
        );
    });

    let quiet = median(&world, MEASURED);
    promises.keep("ten thousand publishes at once: another shed's keys sign, and in the time they take beside any busy shed", || {
        // A busy neighbour takes its share of the processors whatever it does; what it does to the bus is the question.
        let busy = in_bad(&world, "while :; do :; done");
        let normal = median(&world, MEASURED);
        drop(busy);
        let mut flood = in_bad(&world, &format!("ulimit -n 4096; python3 /tmp/publish.py flood {FLOOD} ssh-agent 300"));
        let mut medians = Vec::new();
        while !flood.has_ended() {
            medians.push(median(&world, MEASURED));
        }
        let outcomes = flood.wait(Duration::from_secs(1)).ok().json();
        let all: u64 = outcomes.as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
        println!("a signature takes {quiet:.1} ms, {normal:.1} ms beside a busy shed, {medians:.1?} ms in the flood; {outcomes}");
        assert_eq!(all, FLOOD as u64, "{outcomes}");
        assert!(!medians.is_empty(), "the flood was over before anything was measured");
        medians.sort_by(f64::total_cmp);
        let flooded = medians[medians.len() / 2];
        assert!(flooded <= 2.0 * normal, "{flooded} ms while it floods, {normal} ms while it is only busy");
    });
    promises.keep("a flood of large bodies does no more", || {
        let flood = in_bad(&world, "python3 /tmp/publish.py flood 200 ssh-agent 1000000");
        let signed = world.sign(GOOD, &key, "in the flood").ok().out();
        assert_signed(&world.stage, &key, "in the flood", &signed);
        let outcomes = flood.wait(BOOT).ok().json();
        assert!(outcomes.get("broken").is_none(), "{outcomes}");
    });
    promises.keep("a namespace that nobody listens to costs nobody anything", || {
        let flood = in_bad(&world, "ulimit -n 4096; python3 /tmp/publish.py flood 600 nobody 100");
        let _time = median(&world, MEASURED);
        let outcomes = flood.wait(BOOT).ok().json();
        let codes: Vec<&String> = outcomes.as_object().expect("an object").keys().collect();
        assert!(
            codes.iter().all(|code| ["TIMEOUT", "TOO_MANY_REQUESTS"].contains(&code.as_str())),
            "{outcomes}"
        );
    });
    promises.keep(
        "all of it is in the audit log, under the name of the shed that did it, and the host agent is well",
        || {
            let audit = world.host.audit();
            let floods = audit.iter().filter(|line| line["shed"] == BAD && line["result"] == "error").count();
            assert!(floods > 10, "{floods} lines");
            let good: Vec<_> = audit.iter().filter(|line| line["shed"] == GOOD).collect();
            assert!(good.iter().all(|line| line["result"] == "ok"), "{good:?}");
            assert!(world.host.command(&["status"]).ok().out().contains("ssh-agent"));
            let signed = world.sign(BAD, &key, "afterwards").ok().out();
            assert_signed(&world.stage, &key, "afterwards", &signed);
        },
    );
    world.finish(&[BAD, GOOD]);
    promises.finish();
}
