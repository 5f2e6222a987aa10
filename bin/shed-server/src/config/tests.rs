//! Whole configurations: what is read, what is refused and in which words.

use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use shed_image::ImageOrigin;
use tempfile::TempDir;

use super::*;

fn surroundings() -> Surroundings {
    Surroundings {
        current_dir: "/start".into(),
        home: Some("/home/ann".into()),
        data_home: None,
        user: locate::User::Ordinary,
    }
}

/// Loads a configuration and returns it, or what is wrong with it; the file is called `server.yaml` in messages.
fn load_text(text: &str) -> Result<Config, String> {
    let dir = TempDir::new().unwrap();
    let path = Utf8PathBuf::from_path_buf(dir.path().join("server.yaml")).unwrap();
    std::fs::write(&path, text).unwrap();
    load(Some(&path), &surroundings())
        .map_err(|error| error.to_string().replace(path.as_str(), "server.yaml"))
}

fn refused(text: &str) -> String {
    load_text(text).expect_err("this configuration must be refused")
}

#[test]
fn without_a_file_everything_is_at_its_default() {
    let config = load(None, &surroundings()).unwrap();
    // The only default that depends on the machine's architecture.
    let text = config.to_string().replace("/Image\"", "/vmlinux\"").replace("/bzImage\"", "/vmlinux\"");
    insta::assert_snapshot!(text, @r#"
    # no server.yaml was found: every value is a default
    name: "shed-server"
    listen: "127.0.0.1"
    http_port: 8080
    ssh_port: 2222
    ssh_host_key: "/home/ann/.shed/host_key"
    default_backend: detect
    log_level: info
    terminal:
      fallback_term: "xterm-256color"
      term_mappings: {}
    registries:
      insecure: []
      # allow: every registry
      # docker_config: DOCKER_CONFIG, else ~/.docker
    image_limits:
      max_size: "64G"
      max_files: 20000000
    credentials: {}
    # env_file: none
    git:
      extra_known_hosts: []
    extensions:
      bus: true
      enabled: []
    qemu:
      accel: auto
      # binary: the qemu-system program of this machine's architecture
      # virtiofsd: the one in PATH and the usual places
      share_cache: none
      images_dir: "/home/ann/.local/share/shed/qemu/images"
      instance_dir: "/home/ann/.local/share/shed/qemu/instances"
      socket_dir: "/home/ann/.shed/qemu/sockets"
      kernel_path: "/home/ann/.local/share/shed/qemu/images/vmlinux"
      initrd_path: "/home/ann/.local/share/shed/qemu/images/initrd.img"
      # base_rootfs: the image `default`, else `base`
      images: {}
      default_cpus: 2
      default_memory_mb: 2048
      default_disk_gb: 20
      # start_timeout: 1m0s, or 5m0s under software emulation
      # stop_timeout: 10s, or 1m0s under software emulation
      extra_cmdline: []
    firecracker:
      # binary: the one in PATH and the usual places
      seccomp: on
      jailer: auto
      # jailer_path: the one beside Firecracker
      jail_dir: "/home/ann/.local/share/shed/firecracker/jails"
      jail_uid_base: 70000
      vsock_base_cid: 100
      bridge_name: shed-br0
      bridge_cidr: 172.30.0.1/24
      tap_prefix: shed-tap
      # dns: the host's name servers
      images_dir: "/home/ann/.local/share/shed/firecracker/images"
      instance_dir: "/home/ann/.local/share/shed/firecracker/instances"
      socket_dir: "/home/ann/.shed/firecracker/sockets"
      kernel_path: "/home/ann/.local/share/shed/firecracker/images/vmlinux"
      initrd_path: "/home/ann/.local/share/shed/firecracker/images/initrd.img"
      # base_rootfs: the image `default`, else `base`
      images: {}
      default_cpus: 2
      default_memory_mb: 4096
      default_disk_gb: 20
      # start_timeout: 30s
      # stop_timeout: 10s
      extra_cmdline: []
    vz:
      vfkit_path: "vfkit"
      images_dir: "/home/ann/Library/Application Support/shed/vz"
      instance_dir: "/home/ann/Library/Application Support/shed/vz/instances"
      socket_dir: "/home/ann/.shed/vz/sockets"
      kernel_path: "/home/ann/Library/Application Support/shed/vz/vmlinux"
      initrd_path: "/home/ann/Library/Application Support/shed/vz/initrd.img"
      # base_rootfs: the image `default`, else `base`
      images: {}
      default_cpus: 2
      default_memory_mb: 4096
      default_disk_gb: 20
      # start_timeout: 1m0s
      # stop_timeout: 10s
      extra_cmdline: []
    "#);
}

#[test]
fn root_has_the_systems_directories_and_others_follow_xdg() {
    let root = Surroundings { user: locate::User::Root, home: None, ..surroundings() };
    let config = load(None, &root).unwrap();
    assert_eq!(config.ssh_host_key, "/etc/shed/host_key");
    let qemu = config.qemu.common;
    assert_eq!(qemu.images_dir, "/var/lib/shed/qemu/images");
    assert_eq!(qemu.instance_dir, "/var/lib/shed/qemu/instances");
    assert!(qemu.socket_dir.ends_with("run/shed/qemu"), "{}", qemu.socket_dir);

    let xdg = Surroundings { data_home: Some("/data".into()), ..surroundings() };
    assert_eq!(load(None, &xdg).unwrap().qemu.common.images_dir, "/data/shed/qemu/images");

    let nowhere = Surroundings { home: None, ..surroundings() };
    let error = load(None, &nowhere).unwrap_err().to_string();
    assert!(error.contains("HOME") && error.contains("qemu.images_dir"), "{error}");
}

#[test]
fn every_key_is_read_and_what_is_printed_reads_back() {
    let text = r#"
name: mini desktop
listen: 0.0.0.0
http_port: 0
ssh_port: 2022
ssh_host_key: ~/keys/host
default_backend: qemu
log_level: debug
terminal:
  fallback_term: linux
  term_mappings: {xterm-kitty: xterm-kitty, foot: vt100}
registries:
  insecure: ['registry.lan:5000', '10.0.0.7']
  allow: [ghcr.io]
  docker_config: ~/.docker-shed
image_limits: {max_size: 1536M, max_files: 7}
env_file: ~/shed.env
git:
  extra_known_hosts: ['[10.0.2.2]:2222 ssh-ed25519 AAAAC3Nz', "git.lan ssh-rsa AAAAB3Nz a \"comment\""]
qemu:
  accel: tcg
  binary: /opt/qemu/qemu-system-x86_64
  virtiofsd: ~/bin/virtiofsd
  share_cache: auto
  images_dir: ~/images
  instance_dir: /srv/instances
  socket_dir: ~/s
  kernel_path: /k
  initrd_path: /i
  base_rootfs: /b.ext4
  images: {sh: /bin/sh, tools: 'ghcr.io/owner/tools:v1', hub: ubuntu}
  default_cpus: 4
  default_memory_mb: 512
  default_disk_gb: 1
  start_timeout: 1m30s
  stop_timeout: 1.5s
  extra_cmdline: [quiet, "a=b"]
firecracker:
  binary: ~/fc/firecracker
  seccomp: off
  jailer: always
  jailer_path: ~/fc/jailer
  jail_dir: /srv/jails
  jail_uid_base: 80000
  vsock_base_cid: 300
  bridge_name: lab0
  bridge_cidr: 10.9.0.1/16
  tap_prefix: lab-
  dns: [10.9.0.1, 1.1.1.1]
  console_port: 1024
  images_dir: ~/fc/images
  images: {mine: /bin/sh}
  default_memory_mb: 128
  start_timeout: 2m
  extra_cmdline: [loglevel=7]
vz:
  vfkit_path: ~/bin/vfkit
  images_dir: ~/My Images
  instance_dir: /srv/My Sheds
  socket_dir: /tmp/vz~s
  kernel_path: /My Kernel
  tcp_proxy_port: 1028
  stop_timeout: 20s
"#;
    let config = load_text(text).unwrap();
    let fire = &config.firecracker;
    assert_eq!(fire.common.kernel_path.parent().unwrap(), "/home/ann/fc/images");
    assert_eq!((fire.vsock_base_cid, fire.seccomp, fire.dns.len()), (300, false, 2));
    assert_eq!(fire.common.instance_dir, "/home/ann/.local/share/shed/firecracker/instances");
    assert_eq!(config.idle_keys, ["firecracker.console_port", "vz.tcp_proxy_port"]);
    assert_eq!(
        (config.vz.vfkit_path.as_str(), config.vz.common.images_dir.as_str()),
        ("/home/ann/bin/vfkit", "/home/ann/My Images")
    );
    assert_eq!(config.vz.common.initrd_path, "/home/ann/My Images/initrd.img");
    assert_eq!(config.ssh_host_key, "/home/ann/keys/host");
    assert_eq!(
        (config.terms.in_guest("xterm-kitty"), config.terms.in_guest("foot")),
        ("xterm-kitty", "vt100")
    );
    assert_eq!(config.qemu.common.images_dir, "/home/ann/images");
    assert_eq!(config.qemu.common.start_timeout, Some(Duration::from_secs(90)));
    assert_eq!(config.qemu.virtiofsd.as_deref(), Some(Utf8Path::new("/home/ann/bin/virtiofsd")));
    assert_eq!(config.qemu.share_cache.as_str(), "auto");
    assert_eq!(config.qemu.common.extra_cmdline, ["quiet", "a=b"]);
    assert_eq!(config.qemu.binary.as_deref(), Some(Utf8Path::new("/opt/qemu/qemu-system-x86_64")));
    assert_eq!(config.registries.docker_config.as_deref(), Some(Utf8Path::new("/home/ann/.docker-shed")));
    assert_eq!(config.registries.insecure.len(), 2);
    assert!(config.registries.allows("ghcr.io") && !config.registries.allows("docker.io"));
    assert_eq!((config.image_limits.max_bytes, config.image_limits.max_entries), (1536 << 20, 7));
    let images: Vec<_> =
        config.qemu.common.images.iter().map(|(name, origin)| format!("{name} {origin}")).collect();
    assert_eq!(images, ["hub ubuntu", "sh /bin/sh", "tools ghcr.io/owner/tools:v1"]);
    assert_eq!(config.env_file.as_deref(), Some(Utf8Path::new("/home/ann/shed.env")));
    assert_eq!(config.extra_known_hosts[1].as_str(), "git.lan ssh-rsa AAAAB3Nz a \"comment\"");
    let again = load_text(&config.to_string()).unwrap();
    let idle_keys = Vec::new();
    assert_eq!(Config { file: None, ..again }, Config { file: None, idle_keys, ..config });
}

#[test]
fn an_image_is_a_path_or_a_reference_and_never_both() {
    for (text, path) in [
        ("/srv/base.ext4", Some("/srv/base.ext4")),
        ("~/base.ext4", Some("/home/ann/base.ext4")),
        ("ghcr.io/owner/tools:v1", None),
        ("localhost:5000/tools", None),
        ("tools", None),
    ] {
        let config = load_text(&format!("qemu: {{base_rootfs: '{text}'}}")).unwrap();
        let expected = match path {
            Some(path) => ImageOrigin::Path(path.into()),
            None => ImageOrigin::Reference(text.parse().unwrap()),
        };
        assert_eq!(config.qemu.common.base_rootfs.as_ref(), Some(&expected), "{text}");
        let again = load_text(&config.to_string()).unwrap();
        assert_eq!(again.qemu.common.base_rootfs, config.qemu.common.base_rootfs, "{text}");
    }
}

#[test]
fn an_empty_file_and_one_of_comments_are_the_defaults() {
    for text in ["", "# nothing\n", "---\n", "qemu:\n", "qemu: {}\n"] {
        let config = load_text(text).unwrap();
        assert_eq!(Config { file: None, ..config }, load(None, &surroundings()).unwrap(), "{text:?}");
    }
}

#[test]
fn both_ports_may_be_the_systems_choice_but_not_the_same() {
    let config = load_text("http_port: 0\nssh_port: 0").unwrap();
    assert_eq!((config.http_port, config.ssh_port), (0, 0));
    assert!(refused("http_port: 3000\nssh_port: 3000").contains("must differ"));
}

#[test]
fn a_value_out_of_range_is_named_with_key_place_and_range() {
    let all = [
        "http_port: 65536",
        "http_port: -1",
        "ssh_port: -1",
        "ssh_port: 70000",
        "http_port: 2222",
        "terminal: {fallback_term: ''}",
        "terminal: {fallback_term: 'xterm 256'}",
        "terminal:\n  term_mappings: {xterm-kitty: ../xterm}",
        "terminal: {term_mappings: {'a b': xterm}}",
        "name: '  '",
        "ssh_host_key: host_key",
        "listen: localhost",
        "log_level: loud",
        "default_backend: xen",
        "qemu: {accel: fast}",
        "qemu: {share_cache: never}",
        "qemu: {virtiofsd: virtiofsd}",
        "qemu:\n  default_cpus: 0",
        "qemu:\n  default_memory_mb: 1000000000",
        "qemu:\n  default_disk_gb: 1025",
        "qemu: {start_timeout: 500ms}",
        "qemu: {start_timeout: 31m}",
        "qemu: {stop_timeout: 60}",
        "qemu: {stop_timeout: 1 min}",
        "qemu: {images_dir: relative/dir}",
        "qemu: {images_dir: ~bob/dir}",
        "qemu: {images: {../x: /bin/sh}}",
        "qemu: {images: {x: 'ghcr.io/A/b:v1'}}",
        "qemu:\n  images:\n    x: ./x-rootfs.ext4",
        "qemu: {images: {x: ''}}",
        "qemu: {images: {x: ~bob/x.ext4}}",
        "qemu: {images: {_base: /bin/sh}}",
        "qemu: {base_rootfs: ../base.ext4}",
        "qemu:\n  base_rootfs: 'docker://x'",
        "qemu: {images: {x: /no/such/file}}",
        "qemu: {extra_cmdline: ['two words']}",
        "qemu: {binary: qemu-kvm}",
        "firecracker: {binary: firecracker}",
        "firecracker: {seccomp: perhaps}",
        "firecracker: {jailer: perhaps}",
        "firecracker: {jailer_path: jailer}",
        "firecracker: {jail_dir: jails}",
        "firecracker: {jail_uid_base: 0}",
        "firecracker: {jail_uid_base: 4294967295}",
        "firecracker:\n  vsock_base_cid: 2",
        "firecracker: {vsock_base_cid: 65536}",
        "firecracker: {bridge_name: 'a bridge'}",
        "firecracker: {bridge_name: a-name-much-too-long}",
        "firecracker: {bridge_name: shed-tap7}",
        "firecracker: {bridge_cidr: 172.30.0.1}",
        "firecracker: {bridge_cidr: 172.30.0.0/24}",
        "firecracker: {bridge_cidr: '::1/64'}",
        "firecracker: {tap_prefix: shed-long-tap}",
        "firecracker: {tap_prefix: tap0}",
        "firecracker: {dns: [localhost]}",
        "firecracker: {dns: [127.0.0.53]}",
        "firecracker: {dns: [1.1.1.1, 1.0.0.1, 8.8.8.8, 8.8.4.4]}",
        "firecracker: {console_port: 0}",
        "firecracker: {notify_port: 70000}",
        "firecracker: {console_port: 1024, notify_port: 1024}",
        "firecracker: {images: {_x: /bin/sh}}",
        "firecracker: {default_memory_mb: 64}",
        "firecracker: {start_timeout: 0s}",
        "vz: {vfkit_path: ''}",
        "vz: {vfkit_path: bin/vfkit}",
        "vz: {images_dir: '/a,b'}",
        "vz: {instance_dir: '/a,b'}",
        "vz: {kernel_path: '/a,b'}",
        "vz: {initrd_path: '/a\"b'}",
        "vz: {socket_dir: '/a b'}",
        "vz: {socket_dir: '~/ä'}",
        "vz: {socket_dir: '/a%20b'}",
        "vz: {tcp_proxy_port: 0}",
        "vz: {health_port: 1024, tcp_proxy_port: 1024}",
        "registries: {insecure: ['http://registry.lan']}",
        "registries:\n  insecure: [registry.lan, 'a b']",
        "registries: {insecure: [team]}",
        "registries: {allow: ['https://ghcr.io']}",
        "registries: {insecure: ['registry.lan/team']}",
        "registries: {docker_config: .docker}",
        "image_limits: {max_size: 64}",
        "image_limits: {max_size: 64 GB}",
        "image_limits: {max_size: 17T}",
        "image_limits: {max_files: 0}",
        "env_file: shed.env",
        "git: {extra_known_hosts: ['git.lan ssh-ed25519']}",
        "git:\n  extra_known_hosts:\n    - git.lan ssh-dss AAAAB3Nz",
    ]
    .map(|text| format!("{}\n    {}", text.replace('\n', " "), refused(text)))
    .join("\n");
    insta::assert_snapshot!(all);
}

#[test]
fn keys_that_are_gone_are_refused_with_a_hint() {
    let all = ["enabled_backends: [docker]", "docker:\n  host: unix:///x"].map(refused).join("\n");
    insta::assert_snapshot!(all);
}

#[test]
fn keys_that_this_build_does_not_act_on_are_accepted_and_named() {
    let text = "vz: {console_port: 1024}\ndefault_image: x\nname: a";
    let config = load_text(text).unwrap();
    assert_eq!((config.name.as_str(), config.idle_keys), ("a", vec!["default_image", "vz.console_port"]));
}

#[test]
fn credentials_are_read_and_printed_as_they_are_used() {
    let text = "credentials:\n  git-ssh: {source: ~/.ssh/, target: /home/shed/.ssh, readonly: true}\n  \
                claude: {source: ~/.claude, target: ~/.claude, exclude: ['cache/*', '*.log']}";
    let config = load_text(text).unwrap();
    let printed = config.to_string();
    let section = &printed[printed.find("credentials:").unwrap()..printed.find("# env_file").unwrap()];
    insta::assert_snapshot!(section, @r#"
    credentials:
      "claude":
        source: "/home/ann/.claude"
        target: "~/.claude"
        readonly: false
        exclude: ["cache/*", "*.log"]
      "git-ssh":
        source: "/home/ann/.ssh"
        target: "/home/shed/.ssh"
        readonly: true
        exclude: []
    "#);
    assert_eq!(load_text(&printed).unwrap().credentials, config.credentials);
}

#[test]
fn credentials_that_cannot_be_meant_are_refused() {
    let with = |entries: &str| {
        format!(
            "qemu: {{images_dir: /srv/i, instance_dir: /srv/n, socket_dir: /run/s}}\ncredentials: {{{entries}}}\nssh_host_key: /srv/keys/host\nenv_file: /srv/env"
        )
    };
    let all = [
        "a.b: {source: /x, target: /y}",
        "a: {target: /y}",
        "a: {source: /x}",
        "a: {source: x, target: /y}",
        "a: {source: '/x,y', target: /y}",
        "a: {source: /x/../y, target: /y}",
        "a: {source: /, target: /y}",
        "a: {source: /srv/i/cache, target: /y}",
        "a: {source: /srv/n, target: /y}",
        "a: {source: /srv, target: /y}",
        "a: {source: /srv/keys, target: /y}",
        "a: {source: /srv/env, target: /y}",
        "a: {source: /run/s/deep, target: /y}",
        "a: {source: /run, target: /y}",
        "a: {source: /x, target: /workspace}",
        "a: {source: /x, target: /workspace/a}",
        "a: {source: /x, target: y}",
        "a: {source: /x, target: /y/../z}",
        "a: {source: /x, target: /}",
        "a: {source: /x, target: ~/}",
        "a: {source: /x, target: ~/y}, b: {source: /z, target: /home/shed/y}",
        "a: {source: /x, target: /y/z}, b: {source: /z, target: /y}",
        "a: {source: /x, target: /y, exclude: ['[']}",
        "a: {source: /x, target: /y, exclude: ['../z']}",
        "a: {source: /x, target: /y, excludes: []}",
    ]
    .map(|entries| format!("{entries}\n    {}", refused(&with(entries))))
    .join("\n");
    insta::assert_snapshot!(all);
}

#[test]
fn what_is_no_server_yaml_is_shown_with_line_and_column() {
    let all = [
        "htp_port: 1",
        "name: a\nqemu:\n  default_cpu: 1",
        "firecracker: {accel: kvm}",
        "http_port: many",
        "name: [a]",
        "name: a\nname: b",
        "qemu: 7",
        "- a",
        "a: [",
    ]
    .map(refused)
    .join("\n----\n");
    insta::assert_snapshot!(all);
}

#[test]
fn a_huge_file_is_not_read() {
    let error = refused(&"# long\n".repeat(200_000));
    assert!(error.contains("longer than"), "{error}");
}

#[test]
fn the_file_that_was_asked_for_wins_and_must_exist() {
    let dir = TempDir::new().unwrap();
    let dir = Utf8Path::from_path(dir.path()).unwrap();
    let home = dir.join("home");
    std::fs::create_dir_all(home.join(".config/shed")).unwrap();
    let around = Surroundings { current_dir: dir.to_owned(), home: Some(home.clone()), ..surroundings() };
    assert!(matches!(locate(Some("x.yaml".into()), &around), Err(LocateConfigError::NotThere { .. })));

    let in_home = home.join(".config/shed/server.yaml");
    std::fs::write(&in_home, "").unwrap();
    assert_eq!(locate(None, &around).unwrap(), Some(in_home));
    let here = dir.join("server.yaml");
    std::fs::write(&here, "").unwrap();
    assert_eq!(locate(None, &around).unwrap(), Some(here));
    let asked = dir.join("x.yaml");
    std::fs::write(&asked, "").unwrap();
    assert_eq!(locate(Some("x.yaml".into()), &around).unwrap(), Some(asked));
}

#[test]
fn extensions_are_namespaces_and_none_of_our_own() {
    let config = load_text("extensions: {enabled: [ssh-agent, acme.x]}").unwrap();
    let enabled: Vec<_> = config.extensions.enabled.iter().map(shed_types::Namespace::as_str).collect();
    assert_eq!((config.extensions.bus, enabled), (true, vec!["acme.x", "ssh-agent"]));
    assert!(!load_text("extensions: {bus: false}").unwrap().extensions.bus);
    for (entry, named) in [("''", "empty"), ("a b", "a b"), ("system:health", "reserved"), ("a, a", "twice")]
    {
        let error = load_text(&format!("extensions: {{enabled: [{entry}]}}")).unwrap_err();
        assert!(error.contains("extensions.enabled") && error.contains(named), "{error}");
    }
}
