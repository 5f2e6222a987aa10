//! Images come from a real registry and go to one: once however many want them, whole or not at all, with the same
//! digest wherever they go.

use std::{fs, os::unix::fs::symlink};

use serde_json::json;
use vm_tests::{BOOT, Cli, Expect, Gate, OciTools, Promises, Registry, Stage, listing, run};

/// Content of the image's large file, in bytes; most of it is one blob that cannot be compressed.
const HEAVY: usize = 64 << 20;

/// So much passes before the gate shuts.
const PART: u64 = 24 << 20;

/// Pushes an image of busybox and a large file to the registry, as `heavy:1`.
#[track_caller]
fn push_heavy(tools: &OciTools, registry: &Registry) {
    let root = tools.dir().join("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static; scripts/setup.sh installs it");
    for name in ["sh", "cat", "sha256sum"] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    tools.run("umoci", &["init", "--layout", "layout"]);
    tools.run("umoci", &["new", "--image", "layout:heavy"]);
    tools.run("umoci", &["insert", "--image", "layout:heavy", "root/bin", "/bin"]);
    let noise: Vec<u8> = (0..HEAVY / 8).flat_map(|_| rand::random::<u64>().to_le_bytes()).collect();
    fs::write(tools.dir().join("noise"), noise).unwrap();
    tools.run("umoci", &["insert", "--image", "layout:heavy", "noise", "/noise"]);
    tools.push("oci:layout:heavy", &registry.reference("heavy:1"));
}

/// Checks that a shed has the large file.
#[track_caller]
fn assert_heavy(cli: &Cli, tools: &OciTools, shed: &str) {
    let expected = tools.run("sha256sum", &["noise"]).out();
    let found = cli.sh(shed, "sha256sum /noise");
    assert_eq!(found.split(' ').next(), expected.split(' ').next());
}

/// However a pull is cut short, a create ends with a word or with a whole image, and what has come is not fetched again.
#[test]
fn a_pull_is_whole_or_goes_on_later() {
    let Some(stage) = Stage::new() else { return };
    let mut server = stage.serve();
    let cli = stage.cli();
    let tools = OciTools::in_directory(&stage.dir().join("tools"));
    let registry = Registry::start(&stage.dir().join("registry"));
    push_heavy(&tools, &registry);
    let mut promises = Promises::new();

    promises.keep("two creates of one missing image pull it once", || {
        let gate = Gate::to(registry.port(), PART);
        let image = format!("127.0.0.1:{}/heavy:1", gate.port());
        let sheds = ["one", "two"];
        let creates = sheds.map(|shed| cli.spawn(&["create", shed, "--image", &image, "--memory", "512"]));
        gate.wait_until_shut();
        gate.open();
        for create in creates {
            create.wait(BOOT * 2).ok();
        }
        let passed = gate.passed();
        assert!(passed > HEAVY as u64 && passed < HEAVY as u64 * 5 / 4, "{passed} bytes for {HEAVY}");
        for shed in sheds {
            assert_heavy(&cli, &tools, shed);
            cli.delete(shed);
        }
    });
    promises.keep("a client that goes away ends the pull, and the next create goes on with it", || {
        let gate = Gate::to(registry.port(), PART);
        // What an earlier pull left must not help.
        fs::remove_dir_all(stage.images_dir().join(".oci")).unwrap();
        let image = format!("127.0.0.1:{}/heavy:1", gate.port());
        let events = server.http().create_events(&json!({ "name": "gone", "image": image }));
        gate.wait_until_shut();
        drop(events);
        vm_tests::wait_for("the create to be undone", vm_tests::SHORT, || {
            (server.http().get("/api/sheds").json()["sheds"] == json!([])).then_some(())
        });
        stage.assert_only(&[]);
        gate.open();
        cli.create("gone", &["--image", &image, "--memory", "512"]);
        assert!(gate.passed() < HEAVY as u64 * 5 / 4, "{} bytes for {HEAVY}", gate.passed());
        assert_heavy(&cli, &tools, "gone");
        cli.delete("gone");
    });
    promises.keep("a connection that breaks is made again where it broke", || {
        let gate = Gate::to(registry.port(), PART);
        fs::remove_dir_all(stage.images_dir().join(".oci")).unwrap();
        let image = format!("127.0.0.1:{}/heavy:1", gate.port());
        let create = cli.spawn(&["create", "broken", "--image", &image, "--memory", "512"]);
        gate.wait_until_shut();
        gate.cut_and_open();
        create.wait(BOOT * 2).ok();
        assert!(gate.passed() < HEAVY as u64 * 5 / 4, "{} bytes for {HEAVY}", gate.passed());
        assert_heavy(&cli, &tools, "broken");
        cli.delete("broken");
    });
    let gate = Gate::to(registry.port(), PART);
    let image = format!("127.0.0.1:{}/heavy:1", gate.port());
    promises.keep("a server that is killed in a pull leaves no image, and the next one goes on", || {
        fs::remove_dir_all(stage.images_dir().join(".oci")).unwrap();
        let before = listing(stage.images_dir());
        let create = cli.spawn(&["create", "killed", "--image", &image, "--memory", "512"]);
        gate.wait_until_shut();
        vm_tests::kill_process(server.pid(), rustix::process::Signal::KILL);
        create.wait(BOOT).exits(3);
        let images = |tree: &std::collections::BTreeMap<camino::Utf8PathBuf, String>| {
            tree.keys().filter(|path| path.as_str().ends_with(".ext4")).cloned().collect::<Vec<_>>()
        };
        assert_eq!(images(&listing(stage.images_dir())), images(&before));
    });
    server = stage.serve();
    promises.keep("the next server makes it", || {
        gate.open();
        cli.create("killed", &["--image", &image, "--memory", "512"]);
        assert!(gate.passed() < HEAVY as u64 * 5 / 4, "{} bytes for {HEAVY}", gate.passed());
        stage.assert_only(&[Expect::Running("killed")]);
        assert_heavy(&cli, &tools, "killed");
        cli.delete("killed");
    });
    promises.keep(
        "a registry that is not there, or has no such image: the error says which and what to do",
        || {
            let nobody = format!("127.0.0.1:{}/heavy:1", vm_tests::free_port());
            for (image, word) in
                [(nobody.clone(), nobody.as_str()), (registry.reference("heavy:2"), "heavy:2")]
            {
                let refused = server.http().create(&json!({ "name": "never", "image": image }));
                let (code, message) = refused.error();
                assert!(code == "IMAGE_PULL_FAILED" && message.contains(word), "{code}: {message}");
            }
            stage.assert_only(&[]);
        },
    );
    promises.finish();
}

/// What is built from a Dockerfile here is pushed, pulled by a second server, and is the same image there.
#[test]
fn an_image_that_was_built_here_is_the_same_elsewhere() {
    let Some(here) = Stage::new() else { return };
    let _server = here.serve();
    let cli = here.cli();
    let tools = OciTools::in_directory(&here.dir().join("tools"));
    let registry = Registry::start(&here.dir().join("registry"));
    let mut promises = Promises::new();
    // The store of blobs of the base image, which `FROM localhost/shed/base` needs.
    tools.run("cp", &["-a", here.parts().guest_dir.join(".oci").as_str(), here.images_dir().as_str()]);
    let reference = registry.reference("team/app:v1");
    promises.keep("it is built from a Dockerfile that extends our base, and boots", || {
        let context = concat!(env!("CARGO_MANIFEST_DIR"), "/images/context");
        let build = ["image", "build", "-n", "app", context];
        run(&mut cli.command(&build), b"", BOOT * 2).ok();
        cli.create("app", &["--image", "app", "--memory", "768"]);
        assert_eq!(cli.sh("app", "id -un; cat /opt/built"), "app\nbuilt");
        cli.delete("app");
    });
    promises.keep("it is pushed, pulled by another server, and has the same digest everywhere", || {
        run(&mut cli.command(&["image", "push", "app", &reference]), b"", BOOT * 2).ok();
        let digest = |from: &str, insecure: &[&str]| {
            let arguments: Vec<&str> = ["inspect", "--format", "{{.Digest}}"]
                .into_iter()
                .chain(insecure.iter().copied())
                .chain([from])
                .collect();
            tools.run("skopeo", &arguments).out()
        };
        let pushed = digest(&format!("docker://{reference}"), &["--tls-verify=false"]);
        let there = Stage::new().expect("this test goes on");
        let _server = there.serve();
        there.cli().create("app", &["--image", &reference, "--memory", "768"]);
        assert_eq!(there.cli().sh("app", "id -un; cat /opt/built"), "app\nbuilt");
        there.cli().delete("app");
        let images = there.cli().run(&["image", "list", "--json"]).ok().json();
        let pulled = images["images"]
            .as_array()
            .unwrap()
            .iter()
            .find(|image| image["docker_ref"] == reference.as_str());
        let pulled = pulled.expect("the image is listed")["name"].as_str().unwrap().to_owned();
        let archive = tools.dir().join("again.tar");
        there.cli().run(&["image", "save", &pulled, "-o", archive.as_str()]).ok();
        assert_eq!(digest(&format!("oci-archive:{archive}"), &[]), pushed);
        there.assert_only(&[]);
    });
    promises.keep("nothing is left", || here.assert_only(&[]));
    promises.finish();
}
