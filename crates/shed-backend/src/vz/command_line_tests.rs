//! Tests of vfkit's command line: whole ones as one reads them, what is refused, and how one is recognised.

use camino::Utf8PathBuf;
use proptest::prelude::*;

use super::*;

const DIR: &str = "/Users/ann/Library/Application Support/shed/vz";

fn spec() -> VmSpec {
    let disk = |name: &str, serial, access| Disk {
        path: Utf8PathBuf::from(format!("{DIR}/instances/api/{name}")),
        serial,
        access,
    };
    VmSpec {
        shed: "api".parse().unwrap(),
        launch_id: "6b3c1a52-8a4e-4d3a-9f0e-0c1d2e3f4a5b".parse().unwrap(),
        cpus: 2.try_into().unwrap(),
        memory_mb: 1024.try_into().unwrap(),
        kernel: format!("{DIR}/Image").into(),
        initrd: format!("{DIR}/initrd.img").into(),
        extra_cmdline: vec!["systemd.show_status=false".into()],
        disks: vec![
            disk("image.ext4", "shed-image", DiskAccess::ReadOnly),
            disk("rootfs.ext4", "shed-upper", DiskAccess::ReadWrite),
        ],
        shares: Vec::new(),
        network: None,
        console_log: format!("{DIR}/instances/api/console.log").into(),
        vmm_log: format!("{DIR}/instances/api/vmm.log").into(),
    }
}

fn share(tag: &'static str, source: &str) -> Share {
    Share { tag, source: source.into(), access: DiskAccess::ReadWrite }
}

fn sockets() -> SocketPaths {
    SocketPaths::new(Utf8Path::new("/Users/ann/.shed/vz/sockets"), &"api".parse().unwrap())
}

/// One option a line, as one reads it.
fn shown(spec: &VmSpec) -> String {
    let args = arguments(spec, &sockets()).unwrap();
    args.chunks(2).map(|pair| format!("{} {}\n", pair[0], pair[1])).collect()
}

/// What a change of the machine changes: lines that go, and lines that come.
fn changed(spec: &VmSpec) -> String {
    let (before, after) = (shown(&self::spec()), shown(spec));
    let only = |sign: char, one: &str, other: &str| -> String {
        let lines = one.lines().filter(|line| !other.lines().any(|there| there == *line));
        lines.map(|line| format!("{sign} {line}\n")).collect()
    };
    format!("{}{}", only('-', &before, &after), only('+', &after, &before))
}

fn refusal(spec: &VmSpec) -> String {
    arguments(spec, &sockets()).unwrap_err().to_string()
}

fn as_words(args: &[String]) -> Vec<Vec<u8>> {
    ["vfkit"]
        .into_iter()
        .chain(args.iter().map(String::as_str))
        .map(|word| word.as_bytes().to_vec())
        .collect()
}

/// As `ps` on macOS tells a command line.
fn as_text_words(args: &[String]) -> Vec<Vec<u8>> {
    args.join(" ").split_ascii_whitespace().map(|word| word.as_bytes().to_vec()).collect()
}

#[test]
fn a_whole_command_line_without_shares() {
    insta::assert_snapshot!(shown(&spec()), @r#"
    --cpus 2
    --memory 1024
    --bootloader linux,kernel=/Users/ann/Library/Application Support/shed/vz/Image,initrd=/Users/ann/Library/Application Support/shed/vz/initrd.img,cmdline="console=hvc0 quiet panic=1 shed.link=vsock shed.launch=6b3c1a52-8a4e-4d3a-9f0e-0c1d2e3f4a5b systemd.show_status=false"
    --restful-uri unix:///Users/ann/.shed/vz/sockets/api-rest.sock
    --device virtio-serial,logFilePath=/Users/ann/Library/Application Support/shed/vz/instances/api/console.log
    --device virtio-rng
    --device virtio-net,nat,mac=8e:c7:16:d5:2e:ad
    --device virtio-blk,path=/Users/ann/Library/Application Support/shed/vz/instances/api/image.ext4,readonly,deviceId=shed-image
    --device virtio-blk,path=/Users/ann/Library/Application Support/shed/vz/instances/api/rootfs.ext4,deviceId=shed-upper
    --device virtio-vsock,port=1025,socketURL=/Users/ann/.shed/vz/sockets/api-words.sock,listen
    --device virtio-vsock,port=1024,socketURL=/Users/ann/.shed/vz/sockets/api-1024.sock,connect
    --device virtio-vsock,port=1025,socketURL=/Users/ann/.shed/vz/sockets/api-1025.sock,connect
    --device virtio-vsock,port=1026,socketURL=/Users/ann/.shed/vz/sockets/api-1026.sock,connect
    --device virtio-vsock,port=1027,socketURL=/Users/ann/.shed/vz/sockets/api-1027.sock,connect
    --device virtio-vsock,port=1028,socketURL=/Users/ann/.shed/vz/sockets/api-1028.sock,connect
    --device virtio-vsock,port=1029,socketURL=/Users/ann/.shed/vz/sockets/api-1029.sock,connect
    --device virtio-vsock,port=1030,socketURL=/Users/ann/.shed/vz/sockets/api-1030.sock,connect
    "#);
}

#[test]
fn each_share_is_a_device_more_and_nothing_else() {
    let shares = vec![share("workspace", "/Users/ann/my web"), share("cred-claude", "/Users/ann/.claude")];
    insta::assert_snapshot!(changed(&VmSpec { shares, ..spec() }), @r#"
    + --device virtio-fs,sharedDir=/Users/ann/my web,mountTag=workspace
    + --device virtio-fs,sharedDir=/Users/ann/.claude,mountTag=cred-claude
    "#);
}

#[test]
fn processors_and_memory_are_two_numbers() {
    let larger = VmSpec { cpus: 8.try_into().unwrap(), memory_mb: 16384.try_into().unwrap(), ..spec() };
    insta::assert_snapshot!(changed(&larger), @r#"
    - --cpus 2
    - --memory 1024
    + --cpus 8
    + --memory 16384
    "#);
}

#[test]
fn a_disk_is_read_only_when_the_machine_says_so() {
    let mut writable = spec();
    writable.disks[0].access = DiskAccess::ReadWrite;
    insta::assert_snapshot!(changed(&writable), @r#"
    - --device virtio-blk,path=/Users/ann/Library/Application Support/shed/vz/instances/api/image.ext4,readonly,deviceId=shed-image
    + --device virtio-blk,path=/Users/ann/Library/Application Support/shed/vz/instances/api/image.ext4,deviceId=shed-image
    "#);
}

#[test]
fn words_of_the_user_come_last_on_the_kernels_command_line() {
    let more = VmSpec { extra_cmdline: vec!["a=b,c".into(), "loglevel=7".into()], ..spec() };
    insta::assert_snapshot!(changed(&more), @r#"
    - --bootloader linux,kernel=/Users/ann/Library/Application Support/shed/vz/Image,initrd=/Users/ann/Library/Application Support/shed/vz/initrd.img,cmdline="console=hvc0 quiet panic=1 shed.link=vsock shed.launch=6b3c1a52-8a4e-4d3a-9f0e-0c1d2e3f4a5b systemd.show_status=false"
    + --bootloader linux,kernel=/Users/ann/Library/Application Support/shed/vz/Image,initrd=/Users/ann/Library/Application Support/shed/vz/initrd.img,cmdline="console=hvc0 quiet panic=1 shed.link=vsock shed.launch=6b3c1a52-8a4e-4d3a-9f0e-0c1d2e3f4a5b a=b,c loglevel=7"
    "#);
    let none = VmSpec { extra_cmdline: Vec::new(), ..spec() };
    assert!(shown(&none).contains("shed.launch=6b3c1a52-8a4e-4d3a-9f0e-0c1d2e3f4a5b\"\n"));
}

#[test]
fn there_is_no_rosetta_no_screen_and_no_second_network() {
    let text = shown(&spec());
    for device in ["rosetta", "virtio-gpu", "virtio-input", "nested", "--gui", "unixSocketPath"] {
        assert!(!text.contains(device), "{device}");
    }
    assert_eq!(text.matches("virtio-net").count(), 1);
}

#[test]
fn a_directory_that_is_only_to_be_read_is_refused_because_vfkit_cannot() {
    let mut read_only = share("workspace", "/Users/ann/web");
    read_only.access = DiskAccess::ReadOnly;
    let said = refusal(&VmSpec { shares: vec![read_only], ..spec() });
    assert!(said.contains("/Users/ann/web") && said.contains("reading and writing alone"), "{said}");
}

#[test]
fn a_comma_in_any_path_is_refused_with_path_and_reason() {
    type Change = fn(&mut VmSpec);
    let changes: [(&str, Change); 6] = [
        ("kernel", |spec| spec.kernel = "/a,b/Image".into()),
        ("initrd", |spec| spec.initrd = "/a,b/initrd".into()),
        ("console", |spec| spec.console_log = "/a,b/console.log".into()),
        ("image", |spec| spec.disks[0].path = "/a,b/image.ext4".into()),
        ("own disk", |spec| spec.disks[1].path = "/a,b/rootfs.ext4".into()),
        ("share", |spec| spec.shares = vec![share("workspace", "/a,b")]),
    ];
    for (what, change) in changes {
        let mut spec = spec();
        change(&mut spec);
        let said = refusal(&spec);
        assert!(said.contains("/a,b") && said.contains("comma"), "{what}: {said}");
    }
}

#[test]
fn what_else_would_be_read_otherwise_is_refused() {
    let refused = |change: fn(&mut VmSpec), reason: &str| {
        let mut spec = spec();
        change(&mut spec);
        let said = refusal(&spec);
        assert!(said.contains(reason), "{reason}: {said}");
    };
    refused(|spec| spec.kernel = "Image".into(), "not absolute");
    refused(|spec| spec.initrd = "/a\"b".into(), "quotation mark");
    refused(|spec| spec.disks[0].serial = "a,b", "letters, digits and hyphens");
    refused(|spec| spec.disks[0].serial = "", "1 to 20 characters");
    refused(|spec| spec.shares = vec![share("a=b", "/web")], "tag");
    refused(|spec| spec.extra_cmdline = vec!["a=\"b".into()], "quotation marks");
    refused(|spec| spec.extra_cmdline = vec!["a b".into()], "quotation marks");
}

#[test]
fn only_the_same_launch_of_the_same_shed_is_recognised() {
    let args = arguments(&spec(), &sockets()).unwrap();
    let id = spec().launch_id;
    for words in [as_words(&args), as_text_words(&args)] {
        assert!(is_launch(&words, &sockets(), id));
        assert!(!is_launch(&words, &sockets(), LaunchId::generate()));
        let dir = Utf8Path::new("/Users/ann/.shed/vz/sockets");
        assert!(!is_launch(&words, &SocketPaths::new(dir, &"ap".parse().unwrap()), id));
        let elsewhere = SocketPaths::new(Utf8Path::new("/tmp"), &"api".parse().unwrap());
        assert!(!is_launch(&words, &elsewhere, id), "another server's");
        assert!(!is_launch(&words[words.len() / 2..], &sockets(), id));
    }
    assert!(!is_launch(&[], &sockets(), id));
}

#[test]
fn a_launch_that_a_user_wrote_is_not_its_own() {
    let own = spec();
    let other = LaunchId::generate();
    let lying = VmSpec { extra_cmdline: vec![format!("x=shed.launch={other}")], ..own };
    let words = as_words(&arguments(&lying, &sockets()).unwrap());
    assert!(!is_launch(&words, &sockets(), other));
}

#[test]
fn a_network_card_has_the_same_local_address_at_each_boot() {
    let first = hardware_address(&sockets());
    assert_eq!(first, hardware_address(&sockets()));
    let other = SocketPaths::new(Utf8Path::new("/Users/ann/.shed/vz/sockets"), &"web".parse().unwrap());
    assert_ne!(first, hardware_address(&other));
    for address in [first, hardware_address(&other)] {
        let bytes: Vec<u8> = address.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        assert!(bytes.len() == 6 && bytes[0] & 0b11 == 0b10, "local, and of one card: {address}");
    }
}

proptest! {
    /// vfkit's own reading of a device: split at each comma.
    #[test]
    fn no_path_becomes_another_option(path in "/[ -~]{0,20}") {
        let mut spec = spec();
        spec.disks[1].path = path.clone().into();
        if let Ok(args) = arguments(&spec, &sockets()) {
            let blk = args.iter().rfind(|arg| arg.starts_with("virtio-blk")).unwrap();
            let options: Vec<&str> = blk.split(',').collect();
            prop_assert_eq!(options, ["virtio-blk", &format!("path={path}"), "deviceId=shed-upper"]);
        }
    }
}
