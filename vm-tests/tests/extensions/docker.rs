//! Docker: `docker pull` in a shed uses logins of the host, for registries that the user allows, and none for others.

use std::{fs, os::unix::fs::PermissionsExt};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use vm_tests::{BOOT, FROM_GUEST, Finished, HostSettings, OciTools, Promises, Registry, run};

use super::World;

/// A login that only the host has: planted, and looked for.
pub(super) const USER: &str = "reader";
pub(super) const PASSWORD: &str = "planted-password-of-the-registry";

/// Two registries: one asks for a login, one does not.
pub(super) struct Registries {
    closed: Registry,
    open: Registry,
    /// As a guest names it.
    closed_name: String,
}

impl Registries {
    /// Starts them, with a small image in each.
    pub(super) fn start(world: &World) -> Self {
        let dir = world.stage.dir();
        let tools = OciTools::in_directory(&dir.join("tools"));
        tools.run("umoci", &["init", "--layout", "layout"]);
        tools.run("umoci", &["new", "--image", "layout:tiny"]);
        tools.run("umoci", &["insert", "--image", "layout:tiny", "/bin/busybox", "/bin/busybox"]);
        tools.run("umoci", &["config", "--image", "layout:tiny", "--config.entrypoint", "/bin/busybox"]);
        let closed = Registry::with_login(&dir.join("closed"), USER, PASSWORD);
        let open = Registry::start(&dir.join("open"));
        tools.push("oci:layout:tiny", &open.reference("tiny:1"));
        let to = format!("docker://{}", closed.reference("tiny:1"));
        let login = format!("{USER}:{PASSWORD}");
        let words = ["copy", "--dest-tls-verify=false", "--dest-creds", &login, "oci:layout:tiny", &to];
        tools.run("skopeo", &words);
        let closed_name = format!("{FROM_GUEST}:{}", closed.port());
        Self { closed, open, closed_name }
    }

    /// What the host agent is told: the closed registry is allowed, with a login in Docker's configuration.
    pub(super) fn settings(&self, world: &World) -> HostSettings {
        self.write_config(world, &json!({ "auths": { &self.closed_name: { "auth": STANDARD.encode(format!("{USER}:{PASSWORD}")) } } }));
        HostSettings {
            docker: Some(json!({ "registries": [&self.closed_name] })),
            namespaces: vec!["docker-credentials"],
            ..HostSettings::default()
        }
    }

    fn write_config(&self, world: &World, config: &Value) {
        let docker = world.host.home().join(".docker");
        fs::create_dir_all(&docker).expect("a directory");
        fs::write(docker.join("config.json"), config.to_string()).expect("Docker's configuration");
    }
}

fn shell(world: &World, shed: &str, line: &str) -> Finished {
    run(&mut world.cli.exec_command(shed, &["sh", "-c", line]), b"", BOOT)
}

/// Proves what is promised of Docker.
pub(super) fn prove(promises: &mut Promises, world: &mut World, registries: &Registries, shed: &str) {
    let (closed, open) =
        (registries.closed.reference_in_guest("tiny:1"), registries.open.reference_in_guest("tiny:1"));
    let open_name = format!("{FROM_GUEST}:{}", registries.open.port());
    promises.keep("Docker in the shed asks the host, without anybody having told it to", || {
        assert!(shell(world, shed, "cat ~/.docker/config.json").ok().json()["credsStore"] == "shed");
        // Plain HTTP is for loopback alone unless it is said.
        let config = json!({ "insecure-registries": [&registries.closed_name, &open_name] });
        let write = format!(
            "echo '{config}' | sudo tee /etc/docker/daemon.json && sudo systemctl restart docker.service"
        );
        shell(world, shed, &write).ok();
    });
    promises.keep(
        "an image of a registry with a login can be pulled and run, and so can one of an open registry",
        || {
            for image in [&closed, &open] {
                shell(world, shed, &format!("docker pull -q {image} && docker run --rm {image} echo out"))
                    .ok();
                shell(world, shed, &format!("docker rmi {image}")).ok();
            }
            let audit = world.host.audit();
            let line = audit.iter().rev().find(|line| line["op"] == "get" && line["result"] == "ok");
            let line = line.expect("the login is in the audit log");
            assert_eq!(
                (line["shed"].as_str(), line["detail"].as_str()),
                (Some(shed), Some(&*registries.closed_name))
            );
        },
    );
    promises.keep(
        "a helper of Docker's on the host gives the login as well, and its words stay there",
        || {
            let bin = world.host.home().join("bin");
            fs::create_dir_all(&bin).expect("a directory");
            let helper = bin.join("docker-credential-vault");
            let login = json!({ "Username": USER, "Secret": PASSWORD });
            fs::write(&helper, format!("#!/bin/sh\ncat >/dev/null\necho vault says >&2\necho '{login}'\n"))
                .expect("a helper");
            fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("a program");
            registries.write_config(world, &json!({ "credHelpers": { &registries.closed_name: "vault" } }));
            let mut settings = world.host.settings().clone();
            let path = std::env::var("PATH").unwrap_or_default();
            settings.variables = vec![("PATH", format!("{bin}:{path}"))];
            world.host.start(&world.server, settings);
            let pull = format!("docker pull -q {closed} && docker rmi {closed}");
            let done = shell(world, shed, &pull).ok();
            assert!(!done.err().contains("vault"), "{}", done.err());
        },
    );
    promises.keep("without a host agent an open registry is still open", || {
        let settings = world.host.settings().clone();
        world.host.kill();
        shell(world, shed, &format!("docker pull -q {open} && docker rmi {open}")).ok();
        world.host.start(&world.server, settings);
    });
    promises.keep("`docker login` in the shed is refused, and says where to log in", || {
        let line = format!("docker login -u {USER} -p other {} 2>&1", registries.closed_name);
        let said = shell(world, shed, &line);
        assert!(said.code != 0, "{}", said.out());
        let said = shell(world, shed, "echo '{\"ServerURL\":\"x.example\",\"Username\":\"u\",\"Secret\":\"s\"}' | docker-credential-shed store");
        assert!(said.code != 0 && said.out().contains("on your own machine"), "{} {}", said.out(), said.err());
    });
    promises.keep("a registry that the user does not allow has no login, whatever the host knows", || {
        let mut settings = world.host.settings().clone();
        settings.docker = Some(json!({ "registries": ["ghcr.io"] }));
        world.host.start(&world.server, settings);
        let ask = format!("printf {} | docker-credential-shed get", registries.closed_name);
        let said = shell(world, shed, &ask);
        assert!(said.code != 0 && !said.out().contains(PASSWORD), "{}", said.out());
        let said = shell(world, shed, &format!("docker pull -q {closed}"));
        assert!(said.code != 0 && said.err().contains("no basic auth credentials"), "{}", said.err());
        shell(world, shed, &format!("docker pull -q {open} && docker rmi {open}")).ok();
        let audit = world.host.audit();
        let refused = audit.iter().any(|line| {
            line["result"] == "error"
                && line["detail"].as_str().is_some_and(|text| text.contains(&registries.closed_name))
        });
        assert!(refused, "{audit:?}");
    });
}
