//! Keys of an SSH agent and of files sign for sheds, and OpenSSH verifies what they signed.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    bus::Bus,
    world::{World, begin, mode, sign},
};

const KINDS: [(&str, &str); 3] = [("id_ed25519", "ed25519"), ("id_rsa", "rsa"), ("id_ecdsa", "ecdsa")];

fn blobs(list: &Value) -> Vec<Vec<u8>> {
    let keys = list["keys"].as_array().unwrap_or_else(|| panic!("{list}"));
    keys.iter().map(|key| STANDARD.decode(key["blob"].as_str().unwrap()).unwrap()).collect()
}

/// Has each key sign, RSA with both hashes, and OpenSSH verify it.
async fn all_sign(world: &World, bus: &mut Bus, keys: &[Vec<u8>]) {
    for (number, blob) in keys.iter().enumerate() {
        let data = format!("data of key {number}").into_bytes();
        let kind = String::from_utf8_lossy(&blob[4..11]).into_owned();
        let flags: &[(u32, &str)] =
            if kind == "ssh-rsa" { &[(2, "rsa-sha2-256"), (4, "rsa-sha2-512")] } else { &[(0, "")] };
        for (flags, format) in flags {
            let answer = bus.ask("api", &sign(blob, &data, *flags)).await;
            assert!(answer["format"].as_str().unwrap_or_default().starts_with(format), "{answer}");
            world.verify(blob, &data, &answer);
        }
    }
}

#[tokio::test]
async fn keys_of_the_users_agent_sign_and_others_do_not() {
    let mut world = World::new();
    let made: Vec<_> = KINDS.iter().map(|(file, kind)| world.key(file, kind, "")).collect();
    let stranger = world.key("stranger", "ed25519", "");
    let agent = world.ssh_agent(&KINDS.map(|(file, _)| file));
    let mut bus = Bus::start().await;
    world.configure(&format!("server: {}\n", bus.url()));
    world.start();
    bus.listened().await;

    let list = bus.ask("api", &json!({"operation": "list"})).await;
    assert_eq!(blobs(&list), made);
    assert_eq!(list["keys"][1]["format"], "ssh-rsa");
    assert_eq!(list["keys"][1]["comment"], "id_rsa");
    all_sign(&world, &mut bus, &made).await;
    let status = bus.ask("api", &json!({"operation": "status"})).await;
    assert_eq!(status, json!({"connected": true, "mode": "agent-forward", "key_count": 3}));
    assert_eq!(bus.ask("api", &json!({"operation": "ping"})).await, json!({"status": "ok"}));
    let refused = bus.ask("api", &sign(&stranger, b"x", 0)).await;
    assert_eq!(refused["code"], "KEY_NOT_FOUND", "{refused}");

    let audit = world.audit();
    assert_eq!((mode(&world.audit_path()), mode(world.audit_path().parent().unwrap())), (0o600, 0o700));
    // A list, four signatures and a refusal; nobody needs to know of pings.
    assert_eq!(audit.len(), 6, "{audit:?}");
    assert_eq!((&audit[0]["op"], &audit[0]["detail"]), (&json!("list"), &json!("3 keys")));
    assert_eq!((&audit[1]["shed"], &audit[1]["result"]), (&json!("api"), &json!("ok")));
    assert_eq!((&audit[1]["ns"], &audit[1]["approval"]), (&json!("ssh-agent"), &json!("none")));
    assert_eq!(audit[1]["server"], bus.url());
    let printed = std::process::Command::new("ssh-keygen")
        .args(["-lf", world.home.join("id_ed25519").as_str()])
        .output();
    let printed = String::from_utf8(printed.unwrap().stdout).unwrap();
    let detail = format!("ssh-ed25519 {}", printed.split(' ').nth(1).unwrap());
    assert_eq!(audit[1]["detail"], detail);
    assert_eq!(audit[5]["result"], "error");

    // The agent ends: in the automatic mode files are next, and there are none.
    drop(agent);
    let status = bus.ask("api", &json!({"operation": "status"})).await;
    assert_eq!(status, json!({"connected": false, "mode": "local-keys", "key_count": 0}));
}

#[tokio::test]
async fn keys_in_files_sign_and_encrypted_ones_are_passed_over() {
    let mut world = World::new();
    let rsa = world.key(".ssh/id_rsa", "rsa", "");
    let ecdsa = world.key(".ssh/id_ecdsa", "ecdsa", "");
    let encrypted = world.key(".ssh/id_ed25519", "ed25519", "hunter2");
    let mut bus = Bus::start().await;
    world.configure(&format!("server: {}\n", bus.url()));
    world.start();
    bus.listened().await;

    let keys = [rsa.clone(), ecdsa];
    assert_eq!(blobs(&bus.ask("api", &json!({"operation": "list"})).await), keys);
    all_sign(&world, &mut bus, &keys).await;
    assert_eq!(bus.ask("api", &sign(&encrypted, b"x", 0)).await["code"], "KEY_NOT_FOUND");
    let old = bus.ask("api", &sign(&rsa, b"x", 0)).await;
    assert_eq!(old["code"], "SIGN_FAILED", "{old}");
    assert!(world.log().contains("id_ed25519 is encrypted"), "{}", world.log());
    assert_eq!(world.log().matches("is encrypted").count(), 1);

    let status = world.print(&["status"]);
    assert!(status.contains("2 keys from files in ~/.ssh") && status.contains("✓ listening"), "{status}");
    let status: Value = serde_json::from_str(&world.print(&["status", "--json"])).unwrap();
    assert_eq!((&status["ssh"]["mode"], &status["pid"]), (&json!("local-keys"), &json!(world.pid())));
    assert_eq!(status["connections"][0]["state"], "listening");
}

#[tokio::test]
async fn what_cannot_be_logged_is_not_given() {
    let (world, mut bus, blob) = begin("").await;
    std::fs::remove_file(world.audit_path()).unwrap();
    std::fs::create_dir(world.audit_path()).unwrap();
    let refused = bus.ask("api", &sign(&blob, b"x", 0)).await;
    assert_eq!(refused["code"], "INTERNAL_ERROR");
    assert!(
        refused["error"].as_str().unwrap().contains("audit log") && refused.get("blob").is_none(),
        "{refused}"
    );
    std::fs::remove_dir(world.audit_path()).unwrap();
    world.verify(&blob, b"x", &bus.ask("api", &sign(&blob, b"x", 0)).await);
    assert_eq!(world.audit().len(), 1);
}
