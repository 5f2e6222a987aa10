//! What no honest shed sends.

use serde_json::{Value, json};

use crate::{
    bus::{Bus, PATIENCE},
    world::{World, begin, sign},
};

#[tokio::test]
async fn nonsense_gets_an_error_and_harms_nobody() {
    let (world, mut bus, blob) = begin("").await;
    // Not of the bus at all: passed over.
    for data in ["{}", "[]", "no json", r#"{"type":"response"}"#] {
        bus.write(&format!("event: message\ndata: {data}\n\n"));
    }
    bus.write("event: other\ndata: x\n\n: a comment\n\n");
    let huge = "A".repeat(700_000);
    for (payload, code) in [
        (Value::Null, "INTERNAL_ERROR"),
        (json!([]), "INTERNAL_ERROR"),
        (json!({"operation": "add", "key": "x"}), "INTERNAL_ERROR"),
        (json!({"operation": "remove_all"}), "INTERNAL_ERROR"),
        (json!({"operation": ["list"]}), "INTERNAL_ERROR"),
        (json!({"operation": "sign"}), "INTERNAL_ERROR"),
        (json!({"operation": "\u{1b}[2J\n{\"forged\":1}"}), "INTERNAL_ERROR"),
        (json!({"operation": "sign", "public_key": "*", "data": "", "flags": 0}), "INTERNAL_ERROR"),
        (json!({"operation": "sign", "public_key": huge, "data": "", "flags": 0}), "INTERNAL_ERROR"),
        (json!({"operation": "sign", "public_key": "", "data": "", "flags": -1}), "INTERNAL_ERROR"),
        (json!({"operation": "sign", "public_key": "", "data": "", "flags": 0}), "KEY_NOT_FOUND"),
        (json!({"operation": "sign", "public_key": "/////w==", "data": "", "flags": 0}), "KEY_NOT_FOUND"),
        (sign(&blob, b"x", 0xffff_fff8), "SIGN_FAILED"),
    ] {
        let answer = bus.ask("ev\u{1b}il\n", &payload).await;
        assert_eq!(answer["code"], code, "{answer}");
        assert!(answer["error"].as_str().unwrap().len() < 600, "{answer}");
    }
    world.verify(&blob, b"x", &bus.ask("api", &sign(&blob, b"x", 0)).await);
    let audit = world.audit();
    assert_eq!(audit.len(), 14);
    assert!(audit.iter().all(|line| !line.to_string().contains("\\u001b") && line.to_string().len() < 1500));
    assert!(!world.log().contains('\u{1b}') && !world.log().contains("AAAAAAAA"), "{}", world.log());
}

#[tokio::test]
async fn a_shed_that_floods_is_refused_and_delays_no_other() {
    let mut world = World::new();
    let blob = world.key(".ssh/id_ed25519", "ed25519", "");
    // An agent that takes what is asked and never answers.
    let silent = tokio::net::UnixListener::bind(world.home.join("run/agent.sock")).unwrap();
    let mut bus = Bus::start().await;
    world.configure(&format!("server: {}\nssh: {{mode: agent-forward}}\n", bus.url()));
    world.start();
    bus.listened().await;
    let waiting: Vec<_> = (0..16).map(|_| bus.send("flood", &sign(&blob, b"x", 0))).collect();
    let refused = bus.ask("flood", &json!({"operation": "ping"})).await;
    assert!(refused["error"].as_str().unwrap().contains("too many requests"), "{refused}");
    assert_eq!(bus.ask("api", &json!({"operation": "ping"})).await, json!({"status": "ok"}));
    for id in waiting {
        let answer = bus.answer(&id).await;
        assert_eq!(answer["code"], "INTERNAL_ERROR", "{answer}");
        assert!(answer["error"].as_str().unwrap().contains("has not listed its keys"), "{answer}");
    }
    // A place is free when the server has taken the answer, a moment after this test has seen it.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while bus.ask("flood", &json!({"operation": "ping"})).await != json!({"status": "ok"}) {
        assert!(tokio::time::Instant::now() < deadline, "no place becomes free");
    }
    assert!(world.audit().iter().any(|line| line["detail"].as_str().unwrap().contains("(refused: 1)")));
    drop(silent);
}

#[tokio::test]
async fn no_secret_is_in_the_log_or_the_audit() {
    let (world, mut bus, blob) = begin("").await;
    let request = sign(&blob, b"very secret", 0);
    let answer = bus.ask("api", &request).await;
    let private = std::fs::read_to_string(world.home.join(".ssh/id_ed25519")).unwrap();
    let written = world.log() + &std::fs::read_to_string(world.audit_path()).unwrap();
    let secrets = [
        answer["blob"].as_str().unwrap(),
        request["data"].as_str().unwrap(),
        private.lines().nth(2).unwrap(),
    ];
    for secret in secrets {
        assert!(secret.len() > 8, "{secret}");
        assert!(!written.contains(secret), "{secret}");
    }
}
