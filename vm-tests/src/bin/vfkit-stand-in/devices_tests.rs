//! Each device with each of its options, and each refusal.

use serde_json::json;

use crate::devices::{Device, Direction, Disk, Serial, Vsock, parse};

fn read(text: &str) -> Device {
    parse(text).unwrap_or_else(|error| panic!("{error:#}"))
}

#[test]
fn a_disk_has_a_path_and_perhaps_a_name() {
    let disk = |path: &str, read_only, id: Option<&str>| {
        Device::Disk(Disk { path: path.into(), read_only, id: id.map(str::to_owned) })
    };
    assert_eq!(read("virtio-blk,path=/a=b.img"), disk("/a=b.img", false, None));
    assert_eq!(
        read("virtio-blk,path=/d,deviceId=shed-root,readonly,type=image"),
        disk("/d", true, Some("shed-root"))
    );
    assert_eq!(read("virtio-blk,path=/a,,path=/b"), disk("/b", false, None));
}

#[test]
fn the_other_devices() {
    assert_eq!(read("virtio-net,nat"), Device::Net { mac: None });
    let mac = Some("52:54:00:70:2b:7f".to_owned());
    assert_eq!(read("virtio-net,nat,mac=52-54-00-70-2B-7F"), Device::Net { mac });
    assert_eq!(read("virtio-serial,logFilePath=/c.log"), Device::Serial(Serial::Log("/c.log".into())));
    assert_eq!(read("virtio-serial,stdio"), Device::Serial(Serial::Stdio));
    assert_eq!(read("virtio-rng"), Device::Rng);
    assert_eq!(read("virtio-balloon"), Device::Balloon);
    let share = |dir: &str, tag: &str| Device::Share { dir: dir.into(), tag: tag.into() };
    assert_eq!(
        read("virtio-fs,sharedDir=/home/ann/web,mountTag=workspace"),
        share("/home/ann/web", "workspace")
    );
    assert_eq!(read("virtio-fs,sharedDir=/home/ann/web/"), share("/home/ann/web/", "web"));
}

#[test]
fn a_vsock_port_leads_one_way() {
    let vsock = |direction| Device::Vsock(Vsock { port: 1024, socket_url: "/s".into(), direction });
    assert_eq!(read("virtio-vsock,port=1024,socketURL=/s,connect"), vsock(Direction::ToGuest));
    assert_eq!(read("virtio-vsock,port=1024,socketURL=/s,listen"), vsock(Direction::ToHost));
    assert_eq!(read("virtio-vsock,port=1024,socketURL=/s"), vsock(Direction::ToHost));
}

#[test]
fn what_cannot_be_is_refused_with_its_reason() {
    let long_id = format!("virtio-blk,path=/d,deviceId={}", "x".repeat(21));
    let long_tag = format!("virtio-fs,sharedDir=/d,mountTag={}", "x".repeat(37));
    for (text, reason) in [
        ("", "unknown device type"),
        ("virtio-disk,path=/d", "unknown device type"),
        ("Virtio-rng", "unknown device type"),
        ("virtio-blk", "`path` is missing"),
        ("virtio-blk,path=", "`path` is missing"),
        ("virtio-blk,/d", "unknown option \"/d\""),
        // The comma of a path ends it.
        ("virtio-blk,path=/a,b.img", "unknown option \"b.img\""),
        ("virtio-blk,path=\"/a,b.img\"", "unknown option"),
        ("virtio-blk,path=/d,readonly=on", "takes no value"),
        ("virtio-blk,path=/d,type=qcow2", "unknown type"),
        ("virtio-blk,path=/d,type=dev", "stand-in has not"),
        (&long_id, "at most 20"),
        ("virtio-blk,path=/d,deviceId=ü", "ASCII"),
        ("virtio-net", "`nat`"),
        ("virtio-net,mac=52:54:00:70:2b:71", "`nat`"),
        ("virtio-net,nat=yes", "takes no value"),
        ("virtio-net,nat,mac=52:54:00:70:2b", "MAC address"),
        ("virtio-net,nat,mac=52:54:00:70:2b:7g", "MAC address"),
        ("virtio-net,nat,mac=52:54-00:70:2b:71", "MAC address"),
        ("virtio-net,nat,bridge=en0", "unknown option"),
        ("virtio-net,unixSocketPath=/n", "only `nat`"),
        ("virtio-serial", "is needed"),
        ("virtio-serial,logFilePath=", "is needed"),
        ("virtio-serial,logFilePath=/c,stdio", "not two"),
        ("virtio-serial,stdio=1", "takes no value"),
        ("virtio-serial,pty", "stand-in has not"),
        ("virtio-serial,append", "unknown option"),
        ("virtio-rng,rate=1", "unknown option"),
        ("virtio-balloon,x", "unknown option"),
        ("virtio-fs,mountTag=w", "`sharedDir` is missing"),
        ("virtio-fs,sharedDir=/", "`mountTag` is missing"),
        ("virtio-fs,sharedDir=/d,readonly", "unknown option"),
        (&long_tag, "at most 36"),
        ("virtio-vsock", "`port` is missing"),
        ("virtio-vsock,socketURL=/s,connect", "`port` is missing"),
        ("virtio-vsock,port=0,socketURL=/s", "`port` is missing"),
        ("virtio-vsock,port=4294967295,socketURL=/s", "`port` is missing"),
        ("virtio-vsock,port=4294967296,socketURL=/s", "no port"),
        ("virtio-vsock,port=-1,socketURL=/s", "no port"),
        ("virtio-vsock,port=1024,connect", "`socketURL` is missing"),
        ("virtio-vsock,port=1024,socketURL=/s,accept", "unknown option"),
        ("rosetta,mountTag=r", "stand-in has not"),
        ("nvme,path=/d", "stand-in has not"),
        ("virtio-gpu", "stand-in has not"),
    ] {
        let error = format!("{:#}", parse(text).unwrap_err());
        assert!(error.contains(reason), "{text}: {error}");
    }
}

#[test]
fn inspect_shows_what_was_given_and_no_more() {
    assert_eq!(
        read("virtio-blk,path=/d").json(),
        json!({ "kind": "virtioblk", "devName": "virtio-blk", "imagePath": "/d" })
    );
    assert_eq!(
        read("virtio-vsock,port=5,socketURL=/s,connect").json(),
        json!({ "kind": "virtiosock", "port": 5, "socketURL": "/s" })
    );
    assert_eq!(read("virtio-net,nat").json(), json!({ "kind": "virtionet", "nat": true }));
}
