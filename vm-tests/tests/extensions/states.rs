//! What the server enables: each shed says how each extension is, and what is not enabled any more is taken back.

use serde_json::{Value, json};
use vm_tests::{BOOT, Promises, wait_for};

use super::{ALL, World};

const SHED: &str = "states";

/// The states of extensions are those that there are, in the API and in the client, and `extensions.enabled` is what runs.
#[test]
fn extensions_are_what_the_server_enables_and_say_how_they_are() {
    let Some(mut world) = World::new(&["ssh-agent", "aws-credentials", "my-tokens"], &[SHED]) else { return };
    let mut promises = Promises::new();
    let state = |world: &World| world.server.http().shed(SHED)["extensions"].clone();
    let until = |world: &World, namespace: &str, wanted: Value| {
        let mut last = Value::Null;
        wait_for(&format!("{namespace} to be {wanted}"), BOOT, || {
            last = state(world)[namespace].clone();
            (last == wanted).then_some(())
        });
    };

    promises.keep("without a host agent the guest's side runs and the host's does not answer", || {
        until(&world, "ssh-agent", json!({ "guest": "running", "host": "unreachable" }));
        until(&world, "aws-credentials", json!({ "guest": "running", "host": "unreachable" }));
        until(&world, "my-tokens", json!({ "guest": "stopped", "host": "unreachable" }));
        assert_eq!(state(&world).as_object().map(serde_json::Map::len), Some(3));
    });
    promises.keep("with one they agree, and `shed list -vv` says so", || {
        let _key = world.start_with_key_files();
        until(&world, "ssh-agent", json!({ "guest": "running", "host": "connected" }));
        let listed = world.cli.run(&["list", "-vv"]).ok().out();
        assert!(listed.contains("ssh-agent: running in the shed, host connected"), "{listed}");
        assert!(listed.contains("my-tokens: stopped in the shed, host unreachable"), "{listed}");
        let status = world.cli.sh(SHED, "shed-ext status; echo $?; shed-ext health >/dev/null; echo $?");
        assert!(status.contains("ssh-agent: connected (local-keys, 1 key)"), "{status}");
    });
    promises.keep("a service that ends by itself comes back, and one that is masked is told", || {
        let pid = world.cli.sh(SHED, "systemctl show -P MainPID shed-ssh-agent");
        world.cli.sh(SHED, &format!("sudo kill -9 {pid}"));
        wait_for("the service to run again", BOOT, || {
            let now = world.cli.sh(SHED, "systemctl show -P MainPID shed-ssh-agent");
            (now != "0" && now != pid).then_some(())
        });
        world.cli.sh(SHED, "sudo systemctl stop shed-ssh-agent");
        until(&world, "ssh-agent", json!({ "guest": "stopped", "host": "connected" }));
        world.cli.sh(SHED, "sudo systemctl start shed-ssh-agent");
        until(&world, "ssh-agent", json!({ "guest": "running", "host": "connected" }));
    });
    promises.keep("two listeners of one namespace: the second is told, and the first goes on", || {
        let refused = world.server.http().get("/api/plugins/listeners/ssh-agent/messages");
        assert_eq!(refused.is(409).error().0, "NAMESPACE_ALREADY_REGISTERED");
        assert_eq!(state(&world)["ssh-agent"], json!({ "guest": "running", "host": "connected" }));
    });
    promises.keep("what is enabled follows the configuration, with the next start of the server", || {
        world.enable(&["docker-credentials"]);
        until(&world, "docker-credentials", json!({ "guest": "running", "host": "unreachable" }));
        assert_eq!(state(&world).as_object().map(serde_json::Map::len), Some(1));
        wait_for("the services to be gone", BOOT, || {
            let active = world.cli.sh(SHED, "systemctl is-active shed-ssh-agent shed-aws-proxy || true");
            (active == "inactive\ninactive").then_some(())
        });
        let line = "echo ${SSH_AUTH_SOCK:-none} ${AWS_CONTAINER_CREDENTIALS_FULL_URI:-none}; \
                    ls /usr/local/bin | grep -c '^shed-\\(ssh-agent\\|aws\\)'; grep -c credsStore ~/.docker/config.json";
        assert_eq!(world.cli.exec(SHED, &["sh", "-c", line]).out(), "none none\n0\n1");
    });
    promises.keep("a list that is empty takes all of it back", || {
        world.enable(&[]);
        wait_for("the file of Docker to be as it was", BOOT, || {
            (world.cli.exec(SHED, &["sh", "-c", "cat ~/.docker/config.json 2>/dev/null"]).out() == "")
                .then_some(())
        });
        assert_eq!(state(&world), Value::Null);
    });
    promises.keep("and so it comes again", || {
        world.enable(&ALL);
        // The host agent has connected anew by itself.
        world.wait_until_it_works(SHED, &["ssh-agent"]);
    });
    world.finish(&[SHED]);
    promises.finish();
}
