//! A process that is killed in the middle of a signature: the guest hears of it within its time, and it works again by itself.
//!
//! A signature is in its middle while it waits for a person's approval, for as long as the test wants.

use serde_json::json;
use vm_tests::{Finished, Promises, Running, SshKey, kill_process, wait_for};

use super::{BOOT, Signal, TIMEOUT, World, assert_signed, local_keys, sign_words};

const SHED: &str = "kills";

/// A signature that somebody waits for.
fn begin(world: &World, key: &SshKey, text: &str) -> Running {
    Running::spawn(&mut world.cli.exec_command(SHED, &["sh", "-c", &sign_words(key, text)]))
}

/// Begins one that depends on no command of the client, and waits until it is the person's turn: what its tool says is in files
/// of the guest.
#[track_caller]
fn begin_apart(world: &World, key: &SshKey) {
    let line = format!("({}) >/tmp/said 2>&1; echo $? >/tmp/ended", sign_words(key, "in the guest"));
    let start = "sudo rm -f /tmp/ended /tmp/said; sudo systemd-run -q --uid=shed sh -c \"$0\"";
    vm_tests::run(&mut world.cli.exec_command(SHED, &["sh", "-c", start, &line]), b"", TIMEOUT).ok();
    let _waiting = world.host.wait_for_approvals(SHED, 1);
}

/// Waits for the end of what [`begin_apart`] began, which must be an error.
#[track_caller]
fn assert_refused(world: &World) {
    let ended = wait_for("the tool to end", TIMEOUT, || {
        let told = world.cli.exec(SHED, &["cat", "/tmp/ended", "/tmp/said"]);
        (told.code == 0).then(|| told.out())
    });
    assert!(!ended.starts_with("0\n") && ended.contains("agent refused operation"), "{ended}");
}

/// Begins a signature and waits until it is the person's turn.
#[track_caller]
fn in_the_middle(world: &World, key: &SshKey, text: &str) -> Running {
    let signing = begin(world, key, text);
    let _waiting = world.host.wait_for_approvals(SHED, 1);
    signing
}

/// Asks for a signature, which the person approves.
#[track_caller]
fn approved(world: &World, key: &SshKey, text: &str) -> Finished {
    let signing = begin(world, key, text);
    let waiting = world.host.wait_for_approvals(SHED, 1);
    world.host.approve(&waiting[0]);
    signing.wait(TIMEOUT)
}

/// Signs once things are as they should be again; nothing but waiting may be needed for that.
#[track_caller]
fn signs_again(world: &World, key: &SshKey, text: &str) {
    let signed = wait_for("a signature", BOOT, || {
        let mut signing = begin(world, key, text);
        let mut approved = false;
        wait_for("the signature to end", TIMEOUT, || {
            if !approved && let Some(waiting) = world.host.approvals().first() {
                world.host.approve(waiting);
                approved = true;
            }
            signing.has_ended().then_some(())
        });
        Some(signing.wait(TIMEOUT)).filter(|done| done.code == 0)
    });
    assert_signed(&world.stage, key, text, &signed.out());
}

/// The last lines of a unit's journal in the guest.
fn journal(world: &World, unit: &str) -> String {
    world.cli.sh(SHED, &format!("sudo journalctl -q -o cat -u {unit} -n 20"))
}

/// Whoever is killed while a key signs, the tool in the guest ends with an error in its time, and the next signature comes.
#[test]
fn a_kill_in_the_middle_of_a_signature_is_an_error_and_no_more() {
    let Some(mut world) = World::new(&["ssh-agent"], &[SHED]) else { return };
    let key = SshKey::generate(world.host.home().join(".ssh/id_ed25519"), "ed25519");
    world.host.start(&world.server, local_keys(json!({ "enabled": true, "policy": "per-request" })));
    world.wait_until_it_works(SHED, &["ssh-agent"]);
    let mut promises = Promises::new();

    promises.keep(
        "a signature waits for the yes of a person, and others are listed and answered meanwhile",
        || {
            let first = in_the_middle(&world, &key, "first");
            let listed = world.cli.sh(SHED, "SSH_AUTH_SOCK=/run/shed-extensions/ssh-agent.sock ssh-add -L");
            assert!(listed.contains(&key.blob()), "{listed}");
            let second = begin(&world, &key, "second");
            let waiting = world.host.wait_for_approvals(SHED, 2);
            // The later one goes on while the earlier one still waits.
            world.host.approve(&waiting[1]);
            assert_signed(&world.stage, &key, "second", &second.wait(TIMEOUT).ok().out());
            world.host.approve(&waiting[0]);
            assert_signed(&world.stage, &key, "first", &first.wait(TIMEOUT).ok().out());
        },
    );
    promises.keep("a no is an error that says so, and is in the audit log", || {
        let signing = begin(&world, &key, "no");
        let waiting = world.host.wait_for_approvals(SHED, 1);
        world.host.deny(&waiting[0]);
        let done = signing.wait(TIMEOUT);
        assert!(done.code != 0 && done.err().contains("agent refused operation"), "{}", done.err());
        assert!(
            journal(&world, "shed-ssh-agent").contains("approval denied"),
            "{}",
            journal(&world, "shed-ssh-agent")
        );
        assert!(world.host.audit().iter().any(|line| line["op"] == "sign" && line["result"] == "denied"));
    });
    promises.keep("the host agent is killed: an error in time, and signatures once it runs again", || {
        let signing = in_the_middle(&world, &key, "host agent");
        world.host.kill();
        let done = signing.wait(TIMEOUT);
        assert!(done.code != 0 && !done.err().is_empty(), "{}", done.err());
        let said = journal(&world, "shed-ssh-agent");
        assert!(said.contains("shed-host-agent"), "{said}");
        world.host.resume(&world.server);
        assert_signed(&world.stage, &key, "again", &approved(&world, &key, "again").ok().out());
    });
    promises.keep(
        "the server is killed: an error at once, and signatures when it is back, with nobody's help",
        || {
            begin_apart(&world, &key);
            world.server.restart(&world.stage, Signal::KILL);
            assert_refused(&world);
            let said = journal(&world, "shed-ssh-agent");
            assert!(said.contains("shed-server is not connected to this shed"), "{said}");
            world.host.wait_until_it_listens(&world.server);
            signs_again(&world, &key, "after the server");
        },
    );
    promises.keep(
        "the agent in the guest is killed: an error, and signatures when systemd has started it again",
        || {
            let pid = world.cli.sh(SHED, "systemctl show -P MainPID shed-agent");
            begin_apart(&world, &key);
            let _cut = world.cli.exec(SHED, &["sudo", "kill", "-9", &pid]);
            world.cli.wait_for_exec(SHED, BOOT);
            assert_refused(&world);
            signs_again(&world, &key, "after the agent");
        },
    );
    promises.keep("the SSH agent in the guest is killed: an error, and signatures when it is back", || {
        let signing = in_the_middle(&world, &key, "shed-ssh-agent");
        let pid = world.cli.sh(SHED, "systemctl show -P MainPID shed-ssh-agent");
        world.cli.sh(SHED, &format!("sudo kill -9 {pid}"));
        let done = signing.wait(TIMEOUT);
        assert!(done.code != 0 && !done.err().is_empty(), "{}", done.err());
        signs_again(&world, &key, "after the SSH agent");
    });
    promises.keep(
        "the machine is killed: what waits for it is let go, and it signs after its next start",
        || {
            let signing = in_the_middle(&world, &key, "machine");
            let pid = world.server.http().shed(SHED)["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
            kill_process(pid.expect("a machine runs"), Signal::KILL);
            assert_ne!(signing.wait(TIMEOUT).code, 0);
            wait_for("the shed to be seen as stopped", BOOT, || {
                (world.server.http().status(SHED) == "stopped").then_some(())
            });
            world.cli.run(&["start", SHED]).ok();
            world.wait_until_it_works(SHED, &["ssh-agent"]);
            signs_again(&world, &key, "after the machine");
        },
    );
    world.finish(&[SHED]);
    promises.finish();
}
