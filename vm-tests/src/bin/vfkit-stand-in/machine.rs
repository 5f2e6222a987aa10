//! A machine as vfkit's options describe it.
//!
//! Called by `main`. It turns words into types and opens no file.

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::{
    devices::{self, Device, Vsock},
    flags::Flags,
    log::Level,
    urls::{RestUri, rest_uri},
    words::{pairs, unquoted},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    pub(crate) initrd: String,
    pub(crate) cmdline: String,
    pub(crate) devices: Vec<Device>,
    /// Port of QEMU's guest agent, which vfkit tells the time when its host has slept. Hosts of tests do not sleep.
    pub(crate) timesync: Option<u32>,
    pub(crate) rest: RestUri,
    pub(crate) level: Level,
    pub(crate) pidfile: Option<String>,
}

impl Machine {
    /// Reads what the options mean.
    ///
    /// # Errors
    /// When vfkit or Apple's framework refuses it, or this program has no such thing.
    pub(crate) fn of(flags: Flags) -> anyhow::Result<Self> {
        let level = match flags.log_level.as_str() {
            "debug" => Level::Debug,
            "info" | "" => Level::Info,
            "error" => Level::Error,
            other => bail!("unknown log level: {other:?}"),
        };
        if flags.cpus == 0 || flags.memory_mib == 0 {
            bail!("a machine needs a CPU and memory: --cpus {}, --memory {}", flags.cpus, flags.memory_mib);
        }
        let (kernel, initrd, cmdline) = match (flags.kernel, flags.initrd, flags.kernel_cmdline) {
            (Some(kernel), Some(initrd), Some(cmdline)) => (kernel, initrd, cmdline),
            (_, _, _) => bootloader(&flags.bootloader.unwrap_or_default())?,
        };
        // Apple's framework is given both, and looks for both.
        if kernel.is_empty() || initrd.is_empty() {
            bail!("the bootloader needs both a kernel and an initrd");
        }
        let devices =
            flags.devices.iter().map(|device| devices::parse(device)).collect::<Result<Vec<_>, _>>()?;
        check_tags(&devices)?;
        let rest = rest_uri(&flags.restful_uri).context("--restful-uri")?;
        let timesync = flags.timesync.filter(|text| !text.is_empty()).as_deref().map(timesync).transpose()?;
        Ok(Self {
            cpus: flags.cpus,
            memory_mib: flags.memory_mib,
            kernel,
            initrd,
            cmdline,
            devices,
            timesync,
            rest,
            level,
            pidfile: flags.pidfile.filter(|path| !path.is_empty()),
        })
    }

    /// Its ports of the vsock device. There is one device, however many ports.
    pub(crate) fn vsocks(&self) -> impl Iterator<Item = &Vsock> {
        self.devices.iter().filter_map(|device| match device {
            Device::Vsock(vsock) => Some(vsock),
            Device::Disk(_)
            | Device::Net { .. }
            | Device::Serial(_)
            | Device::Rng
            | Device::Balloon
            | Device::Share { .. } => None,
        })
    }

    /// The machine as vfkit's `/vm/inspect` shows it.
    pub(crate) fn json(&self) -> Value {
        let devices: Vec<Value> = self.devices.iter().map(Device::json).collect();
        let mut value = json!({
            "vcpus": self.cpus,
            "memoryBytes": self.memory_mib << 20,
            "bootloader": {
                "kind": "linuxBootloader",
                "vmlinuzPath": self.kernel,
                "kernelCmdLine": self.cmdline,
                "initrdPath": self.initrd,
            },
            "devices": devices,
        });
        if let Some(port) = self.timesync {
            value["timesync"] = json!({ "vsockPort": port });
        }
        value
    }
}

/// Kernel, initrd and command line of the words of `--bootloader`.
fn bootloader(words: &[String]) -> anyhow::Result<(String, String, String)> {
    let mut words = words.iter().map(String::as_str);
    match words.next() {
        None => bail!("a machine needs --bootloader, or --kernel, --initrd and --kernel-cmdline"),
        Some("linux") => {}
        Some(kind @ ("efi" | "macos")) => bail!("vfkit has the bootloader {kind}; this stand-in has not"),
        Some(kind) => bail!("unknown bootloader type: {kind:?}"),
    }
    let (mut kernel, mut initrd, mut cmdline) = (String::new(), String::new(), String::new());
    for pair in pairs(words) {
        match pair.key.as_str() {
            "kernel" => kernel = pair.value,
            "initrd" => initrd = pair.value,
            "cmdline" => unquoted(&pair.value).clone_into(&mut cmdline),
            key => bail!("unknown option {key:?} of the bootloader linux"),
        }
    }
    Ok((kernel, initrd, cmdline))
}

fn timesync(text: &str) -> anyhow::Result<u32> {
    let mut port = 0;
    for pair in pairs(text.split(',')) {
        match pair.key.as_str() {
            "vsockPort" => port = pair.value.parse().with_context(|| format!("--timesync {text}"))?,
            key => bail!("unknown option {key:?} of --timesync"),
        }
    }
    if port == 0 {
        bail!("--timesync {text}: `vsockPort` is missing");
    }
    Ok(port)
}

/// Two directories of one tag would be one to the guest.
fn check_tags(devices: &[Device]) -> anyhow::Result<()> {
    let mut seen = Vec::new();
    for device in devices {
        if let Device::Share { tag, .. } = device {
            if seen.contains(&tag) {
                bail!("two directories have the mountTag {tag:?}");
            }
            seen.push(tag);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Asked, parse};

    fn read(args: &[&str]) -> anyhow::Result<Machine> {
        match parse(args.iter().map(|&arg| arg.to_owned()))? {
            Asked::Run(flags) => Machine::of(*flags),
            Asked::Version | Asked::Help => bail!("no machine"),
        }
    }

    #[test]
    fn both_forms_of_the_bootloader_mean_the_same() {
        let old = read(&["--kernel=/k", "--initrd=/i", "--kernel-cmdline=console=hvc0 a,b"]).unwrap();
        let new = read(&["--bootloader", r#"linux,kernel=/k,initrd=/i,cmdline="console=hvc0 a,b""#]).unwrap();
        assert_eq!(old, new);
        assert_eq!((new.kernel.as_str(), new.initrd.as_str()), ("/k", "/i"));
        assert_eq!(new.cmdline, "console=hvc0 a,b");
        assert_eq!((new.cpus, new.memory_mib, new.level), (1, 512, Level::Info));
        assert_eq!(new.rest, RestUri::None);
        // Without quotes the comma ends the command line.
        assert!(read(&["--bootloader", "linux,kernel=/k,initrd=/i,cmdline=console=hvc0 a,b"]).is_err());
    }

    #[test]
    fn what_is_inspected() {
        let args =
            ["-c2", "-m512", "-b", "linux,kernel=/k,initrd=/i", "-d", "virtio-rng", "-t", "vsockPort=7"];
        let seen = read(&args).unwrap().json();
        assert_eq!(seen["vcpus"], 2);
        assert_eq!(seen["memoryBytes"], 512 << 20);
        assert_eq!(seen["bootloader"]["vmlinuzPath"], "/k");
        assert_eq!(seen["devices"], json!([{ "kind": "virtiorng" }]));
        assert_eq!(seen["timesync"]["vsockPort"], 7);
    }

    #[test]
    fn machines_that_cannot_be_are_refused() {
        let boot = "linux,kernel=/k,initrd=/i";
        for (args, reason) in [
            (&[][..], "needs --bootloader"),
            (&["--bootloader="], "needs --bootloader"),
            (&["--bootloader", "grub"], "unknown bootloader"),
            (&["--bootloader", "efi,variable-store=/v"], "stand-in has not"),
            (&["--bootloader", "linux,image=/k"], "unknown option"),
            (&["--bootloader", "linux,kernel=/k"], "needs both"),
            (&["--bootloader", "linux,initrd=/i"], "needs both"),
            (&["--bootloader", boot, "--cpus", "0"], "needs a CPU"),
            (&["--bootloader", boot, "--memory", "0"], "needs a CPU"),
            (&["--bootloader", boot, "--log-level", "trace"], "unknown log level"),
            (&["--bootloader", boot, "--restful-uri", "ftp://x"], "--restful-uri"),
            (&["--bootloader", boot, "--timesync", "port=1"], "unknown option"),
            (&["--bootloader", boot, "--timesync", "vsockPort=0"], "is missing"),
            (&["--bootloader", boot, "--device", "virtio-vsock"], "`port` is missing"),
            (
                &[
                    "-b",
                    boot,
                    "-d",
                    "virtio-fs,sharedDir=/a,mountTag=w",
                    "-d",
                    "virtio-fs,sharedDir=/b,mountTag=w",
                ],
                "two directories",
            ),
        ] {
            let error = format!("{:#}", read(args).unwrap_err());
            assert!(error.contains(reason), "{args:?}: {error}");
        }
    }
}
