//! Takes the kernel and all its modules out of Debian's package, into the cache.
//!
//! The cache keeps the whole module tree, so that a change of modules.txt downloads nothing. Kernel files reach the output
//! directory together with their initramfs (see initramfs.rs): one without the other does not boot.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use shed_image::{KernelImage, file_name, identify_kernel, vmlinux_from_bzimage};

use crate::{
    Common,
    arch::Arch,
    debian,
    inputs::{Inputs, Stamp},
    outdir::{OutDir, write_whole},
    tool::{output, system_tool},
    ui::{self, Step},
};

/// Raised when the content of the cache changes its form.
const FORMAT: u32 = 1;

/// The unpacked kernel package in the cache.
#[derive(Debug)]
pub(crate) struct KernelCache {
    dir: Utf8PathBuf,
}

impl KernelCache {
    /// Returns the cache of one architecture, whether it is filled or not.
    pub(crate) fn of(out: &OutDir, arch: Arch) -> Self {
        Self { dir: out.cache().join(format!("kernel-{}", arch.debian())) }
    }

    /// Returns a kernel file by its name in the output directory.
    pub(crate) fn file(&self, name: &str) -> Utf8PathBuf {
        self.dir.join(name)
    }

    /// Reads the kernel's release, as `uname -r` prints it.
    pub(crate) fn release(&self) -> Result<String> {
        let path = self.dir.join("release");
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }

    /// Reads what tells this kernel from every other: the name of its package, with version and architecture.
    pub(crate) fn package(&self) -> Result<String> {
        let path = self.dir.join("package");
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }

    /// Returns the module directory of the release.
    pub(crate) fn modules(&self, release: &str) -> Utf8PathBuf {
        self.dir.join("lib/modules").join(release)
    }
}

/// Fills the cache, unless it is filled.
pub(crate) fn build(out: &OutDir, common: &Common) -> Result<()> {
    let arch = common.arch;
    let name = format!("kernel-{}", arch.debian());
    let stamp = Stamp::of(out, &name);
    let mut inputs = Inputs::new("kernel", FORMAT);
    inputs.text("suite", debian::SUITE);
    inputs.text("package", arch.kernel_package());
    let digest = inputs.digest();
    if !common.refresh && stamp.is_current(&digest) {
        ui::up_to_date("kernel");
        return Ok(());
    }

    let work = out.work_dir()?;
    let step = Step::begin(format!("download {} of Debian {}", arch.kernel_package(), debian::SUITE));
    let package = debian::fetch(arch, arch.kernel_package(), "linux-image-", work.path())?;
    let package_name = package.file.file_stem().context("the package has no name")?.to_owned();
    step.done(&package_name);
    let cache = KernelCache::of(out, arch);
    if stamp.is_current(&digest) && cache.package().is_ok_and(|present| present == package_name) {
        ui::up_to_date("kernel");
        return Ok(());
    }

    let step = Step::begin("unpack the kernel and index its modules");
    let unpacked = work.path().join("unpacked");
    output(Command::new("dpkg-deb").arg("--extract").args([&package.file, &unpacked]))?;
    let new = work.path().join("new");
    let release = assemble(arch, &unpacked, &new)?;
    write_whole(&new.join("release"), release.as_bytes())?;
    write_whole(&new.join("package"), package_name.as_bytes())?;

    stamp.withdraw()?;
    if cache.dir.exists() {
        fs::rename(&cache.dir, work.path().join("old")).context("cannot set the old kernel aside")?;
    }
    fs::rename(&new, &cache.dir).with_context(|| format!("cannot put {} in place", cache.dir))?;
    let outputs: Vec<Utf8PathBuf> = arch
        .kernel_files()
        .iter()
        .copied()
        .chain(["release", "package"])
        .map(|file| Utf8Path::new(file_name::CACHE).join(&name).join(file))
        .collect();
    stamp.write(digest, &outputs)?;
    step.done(&release);
    Ok(())
}

/// Puts kernel files and modules of an unpacked package into `new`; returns the kernel's release.
fn assemble(arch: Arch, unpacked: &Utf8Path, new: &Utf8Path) -> Result<String> {
    let boot = unpacked.join("boot");
    let mut releases = Vec::new();
    for entry in boot.read_dir_utf8().with_context(|| format!("the package has no {boot}"))? {
        if let Some(release) = entry?.file_name().strip_prefix("vmlinuz-") {
            releases.push(release.to_owned());
        }
    }
    let [release] = releases.as_slice() else {
        bail!("the package has {} kernels; one was expected", releases.len());
    };

    fs::create_dir_all(new.join("lib/modules")).with_context(|| format!("cannot create {new}"))?;
    let kernel = boot.join(format!("vmlinuz-{release}"));
    let bytes = fs::read(&kernel).with_context(|| format!("cannot read {kernel}"))?;
    let kind = identify_kernel(&bytes);
    match arch {
        Arch::Amd64 => {
            ensure!(kind == Some(KernelImage::BzImage), "{kernel} is no bzImage");
            let vmlinux = vmlinux_from_bzimage(&bytes).with_context(|| format!("cannot unpack {kernel}"))?;
            write_whole(&new.join(file_name::VMLINUX), &vmlinux)?;
            write_whole(&new.join(file_name::BZIMAGE), &bytes)?;
        }
        Arch::Arm64 => {
            ensure!(kind == Some(KernelImage::Arm64Image), "{kernel} is no arm64 Image");
            write_whole(&new.join(file_name::ARM64_IMAGE), &bytes)?;
        }
    }

    // Packages of a merged-usr release have them below /usr.
    let modules = [unpacked.join("usr/lib/modules"), unpacked.join("lib/modules")]
        .into_iter()
        .map(|dir| dir.join(release))
        .find(|dir| dir.is_dir())
        .with_context(|| format!("the package has no modules for {release}"))?;
    fs::rename(&modules, new.join("lib/modules").join(release)).context("cannot move the modules")?;
    output(system_tool("depmod").arg("--basedir").arg(new).arg(release))?;
    Ok(release.clone())
}
