//! From a bare host to a service that runs Firecracker's machines, and back: `setup`, `doctor`, `install` and `uninstall` in an L1,
//! whose systemd, KVM and network are real. Skipped when there is no Firecracker.

use std::time::Duration;

use vm_tests::{BOOT, Finished, L1, Promises, Watched};

/// What `uninstall` and `setup --remove` leave nothing in.
const WATCHED: Watched<'static> =
    Watched { dirs: &["/etc/systemd/system", "/etc/modules-load.d", "/run/shed"], cgroups: &[] };

/// Nested machines under emulation are slow, and the host may be busy.
const SLOW: Duration = BOOT.saturating_mul(3);

/// The host as its administrator has it: programs in places where a service finds them, and a configuration.
const HOST: &str = r#"
for program in firecracker nft mke2fs; do ln -s "/l1/bin/$program" "/usr/local/sbin/$program"; done
cp /l1/bin/shed-server /l1/bin/shed /usr/local/bin/
mkdir -p /etc/shed
cat >/etc/shed/server.yaml <<'END'
http_port: 18080
ssh_port: 12222
firecracker:
  images_dir: /l1/images
  base_rootfs: /l1/images/base-rootfs.ext4
  instance_dir: /l1/system/instances
  start_timeout: 20m
  default_memory_mb: 512
END
useradd --create-home dev
mkdir -p ~dev/.config/shed
cat >~dev/.config/shed/server.yaml <<'END'
http_port: 18081
ssh_port: 12223
firecracker:
  images_dir: /l1/images-of-dev
  kernel_path: /l1/images/vmlinux
  initrd_path: /l1/images/initrd.img
  base_rootfs: /l1/images/base-rootfs.ext4
  bridge_name: shed-br1
  bridge_cidr: 172.31.7.1/24
  tap_prefix: dev-tap
END
chown -R dev: ~dev
"#;

/// Everything that a second run could change: rules with their numbers, devices, files with the time of their last change.
const ALL: &str = r#"
nft -a list ruleset
ip -d -o link | sed -E 's/_timer +[0-9.]+//g; s/gc_timer.*//'
ip -o addr | sed 's/valid_lft.*//'
stat -c '%n %a %U %Z' /usr/local/bin/shed-server /l1/system/instances ~dev/.shed ~dev/.local/share/shed/firecracker/instances \
    /l1/images /l1/images-of-dev /etc/shed /run/shed/firecracker /etc/group /etc/modules-load.d 2>&1 || true
"#;

/// A file that needs every kind of escape in a unit.
const NAME: &str = r#"name="/etc/shed/it's 100% \"\$HOME\" \\x %h.yaml""#;

fn as_root(l1: &L1, command: &str) -> Finished {
    l1.run(&format!("shed-server {command} 2>&1"), SLOW)
}

/// As the user does after a new login, groups included.
fn as_dev(l1: &L1, command: &str) -> Finished {
    l1.run(
        &format!("cd ~dev; runuser -u dev -- env HOME=/home/dev XDG_RUNTIME_DIR=/run/user/$(id -u dev) /usr/local/bin/shed-server {command} 2>&1"),
        SLOW,
    )
}

#[track_caller]
fn assert_ends(done: &Finished, code: i32, words: &[&str]) {
    let text = done.out();
    assert_eq!(done.code, code, "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in:\n{text}");
    }
}

#[track_caller]
fn assert_healthy(done: &Finished) {
    assert_ends(
        done,
        0,
        &[" 0 FAIL", "PASS  backend          firecracker", "PASS  accelerator      KVM", "PASS  bridge"],
    );
    print(&done.out());
}

#[test]
fn a_bare_host_becomes_a_server_and_is_bare_again() {
    let Some(l1) = L1::boot() else { return };
    let mut promises = Promises::new();
    l1.sh(HOST);
    let before = l1.inventory(&WATCHED);

    promises.keep("before setup an ordinary user is told that it is missing", || {
        assert_ends(&as_dev(&l1, "doctor"), 1, &["sudo shed-server setup"]);
        assert_ends(&as_dev(&l1, "setup"), 1, &["only root may", "sudo"]);
    });
    promises.keep("setup makes the host ready for root, and a second one changes nothing", || {
        let first = as_root(&l1, "setup");
        print(&first.out());
        assert_ends(&first, 0, &["for the server of user root", "done    network", "done    instances"]);
        let once = l1.sh(ALL);
        assert_ends(&as_root(&l1, "setup"), 0, &["nothing had to be changed", "was so  network"]);
        assert_eq!(l1.sh(ALL), once);
    });
    promises.keep("doctor finds nothing that fails", || assert_healthy(&as_root(&l1, "doctor")));
    promises.keep("install --now starts the service, and a second one changes nothing", || {
        assert_ends(&as_root(&l1, "install --now"), 0, &["done    unit", "it is started"]);
        // The manager waits until the server answers, so there is nothing to wait for here.
        let info = l1.sh("curl -s http://127.0.0.1:18080/api/info");
        assert!(info.contains("\"firecracker\""), "{info}");
        assert_ends(&as_root(&l1, "install --now"), 0, &["was so  unit", "was so  service          it runs"]);
        assert_ends(
            &as_root(&l1, "doctor"),
            0,
            &["a shed-server answers on 18080", "a shed-server answers on 12222"],
        );
        let complaints = l1.sh(
            "systemd-analyze verify /etc/systemd/system/shed-server.service 2>&1 | grep shed-server || true",
        );
        assert_eq!(complaints, "");
    });
    promises.keep("setup leaves the network of a server that runs alone", || {
        let once = l1.sh(ALL);
        assert_ends(&as_root(&l1, "setup"), 0, &["nothing had to be changed"]);
        assert_eq!(l1.sh(ALL), once);
    });
    promises.keep("a machine outlives a restart of the service, and an end by force", || outlives(&l1));
    promises.keep("the network is not taken from a machine that runs", || {
        assert_ends(&as_root(&l1, "setup --remove"), 1, &["machines run on the bridge shed-br0: one"]);
        l1.run("shed delete one --force", SLOW).ok();
    });
    promises.keep("a unit that somebody else wrote stays", || {
        l1.sh(
            "echo '[Unit]' >/etc/systemd/system/other; cp /etc/systemd/system/shed-server.service /l1/unit; \
               sed -i 1d /etc/systemd/system/shed-server.service",
        );
        assert_ends(&as_root(&l1, "install"), 1, &["left alone", "--force"]);
        assert_ends(&as_root(&l1, "uninstall"), 1, &["left alone"]);
        l1.sh("cp /l1/unit /etc/systemd/system/shed-server.service; rm /etc/systemd/system/other");
    });
    promises.keep("uninstall and setup --remove leave nothing", || {
        assert_ends(
            &as_root(&l1, "uninstall"),
            0,
            &["it is stopped", "is removed", "sheds, images and machines"],
        );
        assert_ends(&as_root(&l1, "uninstall"), 0, &["there is no /etc/systemd/system/shed-server.service"]);
        // The server has given the network back with its last machine.
        assert_ends(&as_root(&l1, "setup"), 0, &["done    network"]);
        assert_ends(&as_root(&l1, "setup --remove"), 0, &["are removed"]);
        assert_ends(&as_root(&l1, "setup --remove"), 0, &["was so  network"]);
        l1.assert_nothing_beyond(&before, &WATCHED);
    });

    promises.keep(
        "setup makes the host ready for an ordinary user, and a second one changes nothing",
        || {
            let first = l1.run("/usr/local/bin/shed-server setup --user dev 2>&1", SLOW);
            print(&first.out());
            assert_ends(&first, 0, &["done    capability"]);
            let once = l1.sh(ALL);
            assert!(once.contains("/home/dev/.shed 700 dev"), "{once}");
            let second = l1.run("/usr/local/bin/shed-server setup --user dev 2>&1", SLOW);
            assert_ends(&second, 0, &["nothing had to be changed", "was so  capability"]);
            assert_eq!(l1.sh(ALL), once);
        },
    );
    promises
        .keep("then doctor finds nothing that fails as this user", || assert_healthy(&as_dev(&l1, "doctor")));
    promises.keep("the capability of the file is not given to a program of the user's choice", || {
        let fake = "mkdir -p ~dev/bin; printf '#!/bin/sh\\ngrep CapEff /proc/self/status >/tmp/caught\\n' >~dev/bin/nft; \
                    chmod 755 ~dev/bin/nft";
        l1.sh(fake);
        let done = l1.run("PATH=/home/dev/bin:$PATH runuser -u dev -- /usr/local/bin/shed-server doctor --config ~dev/.config/shed/server.yaml 2>&1", SLOW);
        assert_ends(&done, 0, &["/usr/local/sbin/nft"]);
        l1.sh("rm ~dev/bin/nft; [ ! -e /tmp/caught ]");
    });
    promises.keep("the system runs the service of an ordinary user, by a configuration of any name", || {
        let install = format!(
            "{NAME}\ncp ~dev/.config/shed/server.yaml \"$name\"; SUDO_USER=dev /usr/local/bin/shed-server install --now --config \"$name\" 2>&1"
        );
        assert_ends(&l1.run(&install, SLOW), 0, &["for the server of user dev", "it is started"]);
        let info = l1.sh("curl -s http://127.0.0.1:18081/api/info");
        assert!(info.contains("\"firecracker\""), "{info}");
        assert_eq!(l1.sh("ps -o user= -p $(systemctl show -P MainPID shed-server)"), "dev");
        let words = "tr '\\0' '\\n' </proc/$(systemctl show -P MainPID shed-server)/cmdline | tail -n 1";
        assert_eq!(l1.sh(words), l1.sh(&format!("{NAME}\necho \"$name\"; rm \"$name\"")));
    });
    promises.keep("a user's own manager runs it, too", || {
        assert_ends(&as_root(&l1, "uninstall"), 0, &["is removed"]);
        // The image of the L1 has no libpam-systemd, whose part of a user's manager this is.
        l1.sh(
            "dir=/run/user/$(id -u dev); install -d -m 0700 -o dev \"$dir\"; \
             systemd-run --quiet --unit manager-of-dev --uid dev -p Type=notify -p Delegate=yes --setenv XDG_RUNTIME_DIR=\"$dir\" \
             --setenv HOME=/home/dev /usr/lib/systemd/systemd --user",
        );
        let unit = "/home/dev/.config/systemd/user/shed-server.service";
        let installed = as_dev(&l1, "install --now");
        assert_ends(&installed, 0, &[unit, "it is started", "loginctl enable-linger dev"]);
        let info = l1.sh("curl -s http://127.0.0.1:18081/api/info");
        assert!(info.contains("\"firecracker\""), "{info}");
        assert_ends(&as_dev(&l1, "install --user root"), 1, &["only root can install"]);
        assert_ends(&as_dev(&l1, "uninstall"), 0, &["it is stopped", "is removed"]);
        l1.sh(&format!("systemctl stop manager-of-dev; rm -r /run/user/$(id -u dev); [ ! -e {unit} ]"));
    });
    promises.keep("and that is taken back, too", || {
        let removed = l1.run("/usr/local/bin/shed-server setup --remove --user dev 2>&1", SLOW);
        assert_ends(&removed, 0, &["CAP_NET_ADMIN no longer", "shed-br1"]);
        l1.assert_nothing_beyond(&before, &WATCHED);
        assert_ends(&as_dev(&l1, "doctor"), 1, &["sudo shed-server setup"]);
    });
    promises.keep("the L1 leaves nothing on its host", || l1.finish());
    promises.finish();
}

/// A shed's machine is the same process after its server was stopped and started, and after it was killed.
fn outlives(l1: &L1) {
    l1.sh("shed server add 127.0.0.1 --port 18080");
    l1.run("shed create one --cpus 1", SLOW).ok();
    let machine = || l1.sh("pgrep -x firecracker");
    let pid = machine();
    assert!(pid.parse::<u32>().is_ok(), "one machine, and not {pid:?}");
    l1.run("systemctl restart shed-server", SLOW).ok();
    assert_eq!(machine(), pid);
    l1.run("shed exec one -- true", SLOW).ok();
    // By force: systemd starts it again, because it did not end by itself.
    let server = l1.sh("systemctl show -P MainPID shed-server");
    l1.sh(&format!("kill -9 {server}; tail --pid={server} -f /dev/null"));
    let again = "until systemctl is-active --quiet shed-server; do systemctl start shed-server; done; shed exec one -- true";
    l1.run(again, SLOW).ok();
    assert_eq!(machine(), pid);
}

#[expect(clippy::print_stderr, reason = "what the commands say, for whoever reads the test's output")]
fn print(text: &str) {
    eprintln!("{text}");
}
