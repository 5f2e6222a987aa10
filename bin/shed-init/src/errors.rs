//! Every way in which a boot can fail before the image's own init runs, each with its number.
//!
//! The number is for people and for the host, which looks for [`PREFIX`] in the console and puts the line into the
//! error it reports. Numbers are never given to another meaning.
//!
//! | number | meaning | remedy |
//! |---|---|---|
//! | E01 | a kernel file system (/proc, /sys, /dev) cannot be mounted | the kernel does not fit; rebuild kernel and initramfs together |
//! | E10 | the image's disk did not appear | check the VMM's disks and their serials |
//! | E11 | the image's disk holds no file system that is known | the image file is damaged or no root file system: pull or build it again |
//! | E12 | the image's file system cannot be mounted | the same |
//! | E20 | the shed's own disk cannot be mounted | its file system is damaged: run e2fsck on the shed's rootfs.ext4 while the shed is stopped |
//! | E21 | the shed's own disk did not appear | as E10 |
//! | E22 | the shed's own disk holds no ext4 | the file is damaged or was never formatted; it is not formatted here |
//! | E23 | the shed's own disk has recorded errors | as E20 |
//! | E24 | the shed's own disk cannot be written | as E20; or it is full |
//! | E30 | image and disk cannot be joined to one root | as E20 |
//! | E31 | the new root cannot be entered | report it |
//! | E32 | something cannot be mounted inside the new root | the image lacks a directory and none can be made |
//! | E40 | there is nothing to run: no systemd in the image, no agent in the initramfs | rebuild the initramfs |
//! | E41 | the image's init cannot be started | the image's init is damaged or for another processor |
//! | E90 | shed-init itself has failed | report it with the console |

use std::{io, path::PathBuf};

/// Begins the line of each error on the console.
pub(crate) const PREFIX: &str = "shed-init: error";

/// Which disk of the shed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskRole {
    /// The read-only image.
    Image,
    /// The shed's own.
    Own,
}

impl DiskRole {
    /// The serial number by which the disk is found, unless the kernel command line has another one.
    pub(crate) const fn serial(self) -> &'static str {
        match self {
            Self::Image => "shed-image",
            Self::Own => "shed-upper",
        }
    }
}

/// Says why the boot ends here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    #[error("cannot mount {fs} on {target}")]
    KernelFs {
        fs: &'static str,
        target: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("no disk with serial {serial:?} appeared within {waited_s} s; there are: {present}")]
    DiskMissing { role: DiskRole, serial: String, waited_s: u64, present: String },
    #[error("the image's disk {device} holds neither ext4 nor erofs", device = device.display())]
    ImageUnknown { device: PathBuf },
    #[error("the image's disk {device} cannot be mounted", device = device.display())]
    ImageMount {
        device: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the shed's own disk {device} cannot be mounted; its file system may be damaged", device = device.display())]
    OwnMount {
        device: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the shed's own disk {device} holds no ext4 file system", device = device.display())]
    OwnUnknown { device: PathBuf },
    #[error("the file system of the shed's own disk {device} has recorded errors", device = device.display())]
    OwnErrors { device: PathBuf },
    #[error("cannot make {path} on the shed's own disk", path = path.display())]
    OwnWrite {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot join image and disk to one root")]
    Overlay {
        #[source]
        source: io::Error,
    },
    #[error("cannot enter the new root: {step}")]
    SwitchRoot {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot mount {what} inside the new root")]
    InsideMount {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("the image has no systemd and the initramfs no agent: nothing to run")]
    NoInit,
    #[error("cannot start {init}", init = init.display())]
    Exec {
        init: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("shed-init failed: {message}")]
    Panic { message: String },
}

impl BootError {
    /// The error's number in the table above.
    pub(crate) const fn number(&self) -> u8 {
        match self {
            Self::KernelFs { .. } => 1,
            Self::DiskMissing { role: DiskRole::Image, .. } => 10,
            Self::ImageUnknown { .. } => 11,
            Self::ImageMount { .. } => 12,
            Self::OwnMount { .. } => 20,
            Self::DiskMissing { role: DiskRole::Own, .. } => 21,
            Self::OwnUnknown { .. } => 22,
            Self::OwnErrors { .. } => 23,
            Self::OwnWrite { .. } => 24,
            Self::Overlay { .. } => 30,
            Self::SwitchRoot { .. } => 31,
            Self::InsideMount { .. } => 32,
            Self::NoInit => 40,
            Self::Exec { .. } => 41,
            Self::Panic { .. } => 90,
        }
    }

    /// The one line for the console, without a line feed.
    pub(crate) fn line(&self) -> String {
        let mut text = format!("{PREFIX} E{:02}: {self}", self.number());
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text.push_str(&format!(": {error}"));
            source = error.source();
        }
        text.replace(['\n', '\r'], " ")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn one_of_each() -> Vec<BootError> {
        let device = || PathBuf::from("/dev/vda");
        let source = || io::Error::from_raw_os_error(5);
        let missing = |role: DiskRole| BootError::DiskMissing {
            role,
            serial: role.serial().to_owned(),
            waited_s: 1,
            present: "none".to_owned(),
        };
        vec![
            BootError::KernelFs { fs: "proc", target: "/proc", source: source() },
            missing(DiskRole::Image),
            missing(DiskRole::Own),
            BootError::ImageUnknown { device: device() },
            BootError::ImageMount { device: device(), source: source() },
            BootError::OwnMount { device: device(), source: source() },
            BootError::OwnUnknown { device: device() },
            BootError::OwnErrors { device: device() },
            BootError::OwnWrite { path: device(), source: source() },
            BootError::Overlay { source: source() },
            BootError::SwitchRoot { step: "x", source: source() },
            BootError::InsideMount { what: "x".to_owned(), source: source() },
            BootError::NoInit,
            BootError::Exec { init: device(), source: source() },
            BootError::Panic { message: "two\nlines".to_owned() },
        ]
    }

    #[test]
    fn numbers_are_unique_and_each_is_in_the_table() {
        let errors = one_of_each();
        let numbers: BTreeSet<u8> = errors.iter().map(BootError::number).collect();
        assert_eq!(numbers.len(), errors.len());
        let documented: BTreeSet<u8> = include_str!("errors.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! | E")?.split(' ').next()?.parse().ok())
            .collect();
        assert_eq!(numbers, documented);
    }

    #[test]
    fn an_error_is_one_line_with_its_cause() {
        for error in one_of_each() {
            let line = error.line();
            assert!(line.starts_with("shed-init: error E") && !line.contains('\n'), "{line:?}");
        }
        let line = BootError::Overlay { source: io::Error::from_raw_os_error(22) }.line();
        assert_eq!(
            line,
            "shed-init: error E30: cannot join image and disk to one root: Invalid argument (os error 22)"
        );
    }
}
