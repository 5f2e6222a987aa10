//! Looks at the files of a machine before it is started, as vfkit and Apple's framework do.
//!
//! Called by `main`. It reads a few bytes and changes nothing.
//!
//! The kernel of an ARM guest must be an uncompressed `Image`: vfkit refuses anything else there, and so does this
//! program, by the same four bytes of its header (`ARM\x64` at 0x38). On Intel macs vfkit looks at nothing, and the
//! framework boots a bzImage; so what is no bzImage (`HdrS` at 0x202) is refused here, which there would not boot.

use std::{
    fs::{self, File},
    io::{IsTerminal, Read},
};

use anyhow::{Context, bail};

use crate::{
    devices::{Device, Disk, Serial},
    machine::Machine,
};

/// Checks what the machine names.
///
/// # Errors
/// With the first file that is missing or of the wrong kind.
pub(crate) fn check(machine: &Machine) -> anyhow::Result<()> {
    check_kernel(&machine.kernel, cfg!(target_arch = "aarch64"))?;
    fs::metadata(&machine.initrd).with_context(|| format!("the initrd {}", machine.initrd))?;
    for device in &machine.devices {
        match device {
            Device::Disk(disk) => check_disk(disk)?,
            Device::Share { dir, .. } => {
                let meta = fs::metadata(dir).with_context(|| format!("the directory {dir}"))?;
                if !meta.is_dir() {
                    bail!("{dir} is not a directory and cannot be shared");
                }
            }
            // vfkit makes the terminal of its standard input raw, and gives up without one.
            Device::Serial(Serial::Stdio) if !std::io::stdin().is_terminal() => {
                bail!("virtio-serial,stdio needs a terminal as standard input");
            }
            Device::Serial(_) | Device::Net { .. } | Device::Rng | Device::Balloon | Device::Vsock(_) => {}
        }
    }
    Ok(())
}

fn check_kernel(path: &str, arm: bool) -> anyhow::Result<()> {
    let mut start = Vec::new();
    let file = File::open(path).with_context(|| format!("the kernel {path}"))?;
    file.take(2048).read_to_end(&mut start).with_context(|| format!("the kernel {path}"))?;
    let has = |offset: usize, magic: &[u8]| start.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    match arm {
        true if !has(0x38, b"ARM\x64") => bail!("the kernel {path} is not an uncompressed arm64 Image"),
        false if !has(0x202, b"HdrS") => bail!("the kernel {path} is not a bzImage"),
        true | false => Ok(()),
    }
}

fn check_disk(Disk { path, .. }: &Disk) -> anyhow::Result<()> {
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.with_context(|| format!("the disk {path}"))?;
    if &magic == b"QFI\xfb" {
        bail!("the disk {path} is a qcow2 image; only raw ones are supported");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use camino::{Utf8Path, Utf8PathBuf};

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn with(&self, name: &str, offset: usize, bytes: &[u8]) -> Utf8PathBuf {
            let mut content = vec![0; offset];
            content.extend_from_slice(bytes);
            let path = Utf8Path::from_path(self.0.path()).unwrap().join(name);
            fs::write(&path, content).unwrap();
            path
        }
    }

    #[test]
    fn a_kernel_is_what_its_processor_boots() {
        let files = Files::new();
        let image = files.with("Image", 0x38, b"ARM\x64 and more");
        let bz_image = files.with("bzImage", 0x202, b"HdrS and more");
        let gzip = files.with("Image.gz", 0, b"\x1f\x8b\x08");
        let elf = files.with("vmlinux", 0, b"\x7fELF");
        assert!(check_kernel(image.as_str(), true).is_ok());
        assert!(check_kernel(bz_image.as_str(), false).is_ok());
        for (path, arm) in [(&bz_image, true), (&gzip, true), (&elf, true), (&image, false), (&elf, false)] {
            let error = check_kernel(path.as_str(), arm).unwrap_err().to_string();
            assert!(error.contains(path.as_str()), "{error}");
        }
        assert!(
            check_kernel("/nonexistent/vmlinuz", false).unwrap_err().to_string().contains("/nonexistent")
        );
    }

    #[test]
    fn a_disk_is_there_and_raw() {
        let files = Files::new();
        let check = |path: &Utf8Path| {
            check_disk(&Disk { path: path.to_string(), read_only: false, id: None })
                .map_err(|error| format!("{error:#}"))
        };
        assert_eq!(check(&files.with("raw", 512, b"")), Ok(()));
        assert!(check(&files.with("q", 0, b"QFI\xfb....")).unwrap_err().contains("qcow2"));
        assert!(check(&files.with("empty", 0, b"")).is_err());
        assert!(check(Utf8Path::new("/nonexistent/disk")).unwrap_err().contains("No such file"));
    }
}
