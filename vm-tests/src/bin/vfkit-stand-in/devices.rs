//! The devices of a machine, as `--device` names them.
//!
//! Called by [`crate::machine`]; opens no file (see [`crate::files`]). Where vfkit takes what cannot work, this refuses:
//! a vsock port without its number or socket (vfkit leaves such a device out, or listens on port 0), a directory without
//! its path, and a deviceId or tag that Apple's framework would refuse a moment later.

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::words::{Pair, pairs};

/// Longest deviceId in bytes (Apple's `validateBlockDeviceIdentifier`; Linux, `VIRTIO_BLK_ID_BYTES`).
const ID_MAX: usize = 20;

/// Longest tag of a directory in bytes (virtio 1.2, 5.11.4; Apple's `validateTag`).
const TAG_MAX: usize = 36;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Device {
    Disk(Disk),
    /// NAT; the rest of vfkit's networks needs a daemon beside it.
    Net {
        mac: Option<String>,
    },
    Serial(Serial),
    Rng,
    Balloon,
    Share {
        dir: String,
        tag: String,
    },
    Vsock(Vsock),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) path: String,
    pub(crate) read_only: bool,
    pub(crate) id: Option<String>,
}

/// Where a console of the guest goes; the first one is its hvc0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Serial {
    Log(String),
    Stdio,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vsock {
    pub(crate) port: u32,
    pub(crate) socket_url: String,
    pub(crate) direction: Direction,
}

/// Who connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The host, to the guest (`connect`).
    ToGuest,
    /// The guest, to the host (`listen`, and vfkit's default).
    ToHost,
}

/// Reads the value of one `--device`.
///
/// # Errors
/// When vfkit refuses it, when it cannot work, or when this program has no such device.
pub(crate) fn parse(text: &str) -> anyhow::Result<Device> {
    // No quotes here: a path with a comma cannot be said.
    let mut words = text.split(',');
    let kind = words.next().unwrap_or_default();
    let options = pairs(words);
    let device = match kind {
        "virtio-blk" => disk(&options),
        "virtio-net" => net(&options),
        "virtio-serial" => serial(&options),
        "virtio-rng" => no_options(&options).map(|()| Device::Rng),
        "virtio-balloon" => no_options(&options).map(|()| Device::Balloon),
        "virtio-fs" => share(&options),
        "virtio-vsock" => vsock(&options),
        "rosetta" | "nvme" | "usb-mass-storage" | "virtio-input" | "virtio-gpu" | "nbd" => {
            bail!("vfkit has {kind}; this stand-in has not")
        }
        _ => bail!("unknown device type: {kind:?}"),
    };
    device.with_context(|| format!("--device {text}"))
}

fn unknown(pair: &Pair) -> anyhow::Error {
    anyhow::anyhow!("unknown option {:?}", pair.key)
}

fn no_options(options: &[Pair]) -> anyhow::Result<()> {
    options.first().map_or(Ok(()), |pair| Err(unknown(pair)))
}

fn disk(options: &[Pair]) -> anyhow::Result<Device> {
    let mut disk = Disk { path: String::new(), read_only: false, id: None };
    for pair in options {
        match pair.key.as_str() {
            "path" => disk.path.clone_from(&pair.value),
            "deviceId" => disk.id = Some(pair.value.clone()).filter(|id| !id.is_empty()),
            "readonly" => {
                pair.alone("virtio-blk")?;
                disk.read_only = true;
            }
            "type" => match pair.value.as_str() {
                "" | "image" => {}
                "dev" => bail!("vfkit has type=dev; this stand-in has not"),
                other => bail!("unknown type {other:?}"),
            },
            _ => return Err(unknown(pair)),
        }
    }
    if disk.path.is_empty() {
        bail!("`path` is missing");
    }
    if disk.id.as_ref().is_some_and(|id| id.len() > ID_MAX || !id.is_ascii()) {
        bail!("a deviceId has at most {ID_MAX} ASCII characters");
    }
    Ok(Device::Disk(disk))
}

fn net(options: &[Pair]) -> anyhow::Result<Device> {
    let mut nat = false;
    let mut mac = None;
    for pair in options {
        match pair.key.as_str() {
            "nat" => {
                pair.alone("virtio-net")?;
                nat = true;
            }
            "mac" => mac = Some(mac_address(&pair.value)?),
            "fd" | "unixSocketPath" | "type" | "path" | "vfkitMagic" | "offloading" => {
                bail!("vfkit has `{}`; this stand-in has only `nat`", pair.key)
            }
            _ => return Err(unknown(pair)),
        }
    }
    if !nat {
        bail!("one of `nat`, `fd` and `unixSocketPath` is needed");
    }
    Ok(Device::Net { mac })
}

fn mac_address(text: &str) -> anyhow::Result<String> {
    let bytes: Vec<&str> = text.split([':', '-']).collect();
    let fits = |byte: &&str| byte.len() == 2 && byte.bytes().all(|digit| digit.is_ascii_hexdigit());
    let mixed = text.contains(':') && text.contains('-');
    if bytes.len() != 6 || mixed || !bytes.iter().all(fits) {
        bail!("{text:?} is not a MAC address of six bytes");
    }
    Ok(bytes.join(":").to_ascii_lowercase())
}

fn serial(options: &[Pair]) -> anyhow::Result<Device> {
    let mut places = Vec::new();
    for pair in options {
        match pair.key.as_str() {
            "logFilePath" if pair.value.is_empty() => {}
            "logFilePath" => places.push(Serial::Log(pair.value.clone())),
            "stdio" => {
                pair.alone("virtio-serial")?;
                places.push(Serial::Stdio);
            }
            "pty" => bail!("vfkit has `pty`; this stand-in has not"),
            _ => return Err(unknown(pair)),
        }
    }
    match <[Serial; 1]>::try_from(places) {
        Ok([place]) => Ok(Device::Serial(place)),
        Err(_) => bail!("one of `logFilePath`, `stdio` and `pty` is needed, and not two"),
    }
}

fn share(options: &[Pair]) -> anyhow::Result<Device> {
    let (mut dir, mut tag) = (String::new(), String::new());
    for pair in options {
        match pair.key.as_str() {
            "sharedDir" => dir.clone_from(&pair.value),
            "mountTag" => tag.clone_from(&pair.value),
            _ => return Err(unknown(pair)),
        }
    }
    if dir.is_empty() {
        bail!("`sharedDir` is missing");
    }
    if tag.is_empty() {
        // As vfkit: the last part of the path.
        let last = camino::Utf8Path::new(&dir).file_name().context("`mountTag` is missing")?;
        last.clone_into(&mut tag);
    }
    if tag.len() > TAG_MAX {
        bail!("a mountTag has at most {TAG_MAX} bytes");
    }
    Ok(Device::Share { dir, tag })
}

fn vsock(options: &[Pair]) -> anyhow::Result<Device> {
    let (mut port, mut socket_url, mut direction) = (0, String::new(), Direction::ToHost);
    for pair in options {
        match pair.key.as_str() {
            "port" => port = pair.value.parse().with_context(|| format!("{:?} is no port", pair.value))?,
            "socketURL" => socket_url.clone_from(&pair.value),
            "listen" => direction = Direction::ToHost,
            "connect" => direction = Direction::ToGuest,
            _ => return Err(unknown(pair)),
        }
    }
    if port == 0 || port == u32::MAX {
        bail!("`port` is missing, or not one that a guest can listen on");
    }
    if socket_url.is_empty() {
        bail!("`socketURL` is missing");
    }
    Ok(Device::Vsock(Vsock { port, socket_url, direction }))
}

impl Device {
    /// The device as vfkit's `/vm/inspect` shows it.
    pub(crate) fn json(&self) -> Value {
        let mut value = match self {
            Self::Disk(disk) => json!({
                "kind": "virtioblk", "devName": "virtio-blk", "imagePath": disk.path,
                "readOnly": disk.read_only, "deviceIdentifier": disk.id,
            }),
            Self::Net { mac } => json!({ "kind": "virtionet", "nat": true, "macAddress": mac }),
            Self::Serial(Serial::Log(path)) => json!({ "kind": "virtioserial", "logFile": path }),
            Self::Serial(Serial::Stdio) => json!({ "kind": "virtioserial", "usesStdio": true }),
            Self::Rng => json!({ "kind": "virtiorng" }),
            Self::Balloon => json!({ "kind": "virtioballoon" }),
            Self::Share { dir, tag } => json!({ "kind": "virtiofs", "mountTag": tag, "sharedDir": dir }),
            Self::Vsock(vsock) => json!({
                "kind": "virtiosock", "port": vsock.port, "socketURL": vsock.socket_url,
                "listen": vsock.direction == Direction::ToHost,
            }),
        };
        // Fields without a value are left out.
        let fields = value.as_object_mut();
        fields
            .into_iter()
            .for_each(|fields| fields.retain(|_, value| !value.is_null() && *value != json!(false)));
        value
    }
}
