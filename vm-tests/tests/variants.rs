//! What the images of this repository have in them, in a shed: tools, agents, containers, and what must not be there.

use std::time::Duration;

use vm_tests::{BOOT, Cli, Finished, Promises, Stage, run};

const SHED: &str = "full";

/// Memory of the shed in MB: the agents are programs of hundreds of megabytes.
const MEMORY: &str = "3072";

/// Time for a program of that size to come from the disk and start, in software emulation on a busy machine.
const START: Duration = Duration::from_secs(240);

/// Programs, how to ask them for their version, and how the answer begins (or what is in it).
const PROGRAMS: [(&str, &str); 18] = [
    ("claude --version", "Claude Code"),
    ("opencode --version", "."),
    ("codex --version", "codex"),
    ("node --version", "v24."),
    ("npm --version", "."),
    ("npx --version", "."),
    ("python3.13 --version", "Python 3.13"),
    ("python --version", "Python 3.13"),
    ("uv --version", "uv "),
    ("tmux -V", "tmux "),
    ("git --version", "git version"),
    ("gh --version", "gh version"),
    ("rg --version", "ripgrep"),
    ("jq --version", "jq-"),
    ("nvim --version", "NVIM"),
    ("gcc --version", "gcc"),
    ("docker compose version", "Docker Compose"),
    ("docker buildx version", "buildx"),
];

#[test]
fn the_default_image_has_all_that_it_promises() {
    let Some(stage) = Stage::new() else { return };
    stage.bring_image("default");
    let server = stage.serve();
    let cli = stage.cli();
    let mut promises = Promises::new();
    cli.create(SHED, &["--image", "default", "--memory", MEMORY, "--cpus", "2"]);

    promises.keep("a boot starts neither Docker nor SSH, and nothing of it fails", || {
        // A shed is ready before its boot is over. By sudo, systemctl needs no message bus, which comes later still.
        assert_eq!(shell(&cli, "sudo systemctl is-system-running --wait").out(), "running");
        let state = |unit: &str| shell(&cli, &format!("sudo systemctl is-active {unit}")).out();
        assert_eq!(state("docker.socket"), "active");
        for unit in ["docker.service", "containerd.service", "ssh.service", "ssh.socket"] {
            assert_eq!(state(unit), "inactive", "{unit}");
        }
    });
    promises.keep(
        "the user is shed, in the groups of Docker and sudo, and workspace and logs are his",
        || {
            assert_eq!(
                cli.sh(SHED, "id -un; id -u; stat -c %U:%a ~/.ssh /workspace /var/log/shed"),
                "shed\n1000\nshed:700\nshed:755\nshed:755"
            );
            let groups = cli.sh(SHED, "id -Gn");
            assert!(
                ["docker", "sudo"].iter().all(|group| groups.split(' ').any(|word| word == *group)),
                "{groups}"
            );
            cli.sh(SHED, "sudo -n true");
        },
    );
    promises.keep("every program answers", || {
        for (command, answer) in PROGRAMS {
            let said = shell(&cli, command).ok();
            assert!(said.out().contains(answer), "{command} says {:?}, {:?}", said.out(), said.err());
        }
    });
    promises.keep("npm installs for the user alone, without sudo, and into his PATH", || {
        assert_eq!(cli.sh(SHED, "npm prefix --global"), "/home/shed/.local");
        let path = shell(&cli, "bash -lc 'echo $PATH'").ok().out();
        assert!(path.starts_with("/home/shed/.local/bin:"), "{path}");
    });
    promises.keep("no keys come from the image; SSH that is enabled makes its own and asks for keys", || {
        assert_eq!(cli.sh(SHED, "ls /etc/ssh | grep -c host_key || true"), "0");
        shell(&cli, "sudo systemctl start ssh.service").ok();
        assert!(cli.sh(SHED, "timeout 20 nc -d 127.0.0.1 22 | head -n 1").starts_with("SSH-2.0"));
        let settings = cli.sh(SHED, "sudo sshd -T");
        for line in ["permitrootlogin no", "passwordauthentication no", "kbdinteractiveauthentication no"] {
            assert!(settings.lines().any(|setting| setting == line), "{line}");
        }
        shell(&cli, "sudo systemctl stop ssh.service").ok();
    });
    promises.keep("Docker starts when it is asked, with overlay2 and cgroup v2", || {
        let info = shell(&cli, "docker info --format '{{.Driver}} {{.CgroupVersion}}'").ok();
        assert_eq!(info.out(), "overlay2 2", "{}", info.err());
    });
    promises.keep("a container of an image loaded from the disk runs, on Docker's own network", || {
        let imported = run(
            &mut cli.exec_command(SHED, &["docker", "import", "-", "tiny:1"]),
            &tiny_root(),
            START,
        );
        imported.ok();
        shell(&cli, "docker save tiny:1 -o tiny.tar && docker rmi tiny:1 && docker load -i tiny.tar").ok();
        let script = "docker run --rm tiny:1 /bin/busybox sh -c 'echo out of $(hostname | wc -c); ip route | head -n 1'";
        let said = shell(&cli, script).ok().out();
        assert!(said.starts_with("out of 13\ndefault via 172.17.0.1"), "{said}");
        let written = "docker run --name kept tiny:1 /bin/busybox touch /made && docker diff kept && docker rm kept";
        assert!(shell(&cli, written).ok().out().contains("A /made"));
    });
    promises.keep(
        "it all comes back after a stop, and Docker answers as soon as a command can ask it",
        || {
            cli.run(&["stop", SHED]).ok();
            cli.run(&["start", SHED]).ok();
            assert!(shell(&cli, "docker image ls --format '{{.Repository}}'").ok().out().contains("tiny"));
        },
    );
    promises.finish();
    cli.delete(SHED);
    drop(server);
    stage.finish();
}

/// Runs a line in the shed, as its user; the programs here are slow to start.
#[track_caller]
fn shell(cli: &Cli, line: &str) -> Finished {
    run(&mut cli.exec_command(SHED, &["sh", "-c", line]), b"", START.max(BOOT))
}

/// The tar of the smallest root that a container can run: one static program of this machine.
fn tiny_root() -> Vec<u8> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox", "/usr/local/bin/busybox"]
        .into_iter()
        .find_map(|path| std::fs::read(path).ok());
    let busybox = busybox.expect("a static busybox is here: scripts/setup.sh installs busybox-static");
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(busybox.len() as u64);
    tar.append_data(&mut header, "bin/busybox", busybox.as_slice()).expect("a tar in memory");
    tar.into_inner().expect("a tar in memory")
}
