//! Packs initrd.img: shed-init, shed-agent, shed-ext, their units and manifests, and the modules that the guest may need.
//!
//! Its layout is what shed-init expects:
//!
//! ```text
//! /init                      shed-init, PID 1
//! /shed/bin/shed-agent       bound into the running system by shed-init, as are the rest of /shed
//! /shed/bin/shed-ext         what tools in the guest ask for keys and credentials
//! /shed/extensions.d/*       manifests of Shed's own extensions, which the agent reads
//! /shed/units/*              systemd units of both programs
//! /shed/modules.load         modules to load at boot, absolute paths, one a line, in this order
//! /lib/modules/<release>/    those, uncompressed, and the modules for modprobe as Debian ships them (.ko.xz), with
//!                            depmod's indexes; the guest keeps them in memory, so small is better than fast
//! /dev /proc /sys /run /newroot, /dev/console, /dev/null
//! ```
//!
//! Kernel and initramfs are put in place together, because modules fit one kernel only.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use shed_image::{Initramfs, ModuleTree, file_name};

use crate::{
    Common, Programs,
    arch::Arch,
    inputs::{Inputs, Stamp, files_below},
    kernel::KernelCache,
    module_list::ModuleList,
    outdir::OutDir,
    tool::{output, system_tool},
    ui::{self, Step},
};

/// Raised when the same inputs give another initramfs.
const FORMAT: u32 = 3;

/// The stamp of kernel files and initramfs together.
const BOOT_STAMP: &str = "boot";

/// Builds initrd.img from the cached kernel's modules and the three programs, and puts it in place with the kernel.
pub(crate) fn build(out: &OutDir, common: &Common, programs: &Programs) -> Result<()> {
    let cache = KernelCache::of(out, common.arch);
    let list_path = common.guest_dir.join("modules.txt");
    let units = common.guest_dir.join("units");
    let manifests = common.guest_dir.join("extensions.d");

    let stamp = Stamp::of(out, BOOT_STAMP);
    let mut inputs = Inputs::new("initramfs", FORMAT);
    inputs.text("arch", common.arch.debian());
    inputs.text("kernel", &cache.package()?);
    inputs.file("modules", &list_path)?;
    inputs.file("init", &programs.init)?;
    inputs.file("agent", &programs.agent)?;
    inputs.file("ext", &programs.ext)?;
    inputs.tree("units", &units)?;
    inputs.tree("manifests", &manifests)?;
    let digest = inputs.digest();
    if stamp.is_current(&digest) {
        ui::up_to_date("initramfs");
        return Ok(());
    }

    let step = Step::begin("pack the initramfs");
    let release = cache.release()?;
    let list = fs::read_to_string(&list_path).with_context(|| format!("cannot read {list_path}"))?;
    let list = ModuleList::parse(&list, common.arch)?;

    let work = out.work_dir()?;
    let modules = prune_modules(&cache, &release, &list, work.path())?;
    let mut initramfs = Initramfs::new();
    initramfs.add_file("/init", 0o755, &programs.init)?;
    initramfs.add_file("/shed/bin/shed-agent", 0o755, &programs.agent)?;
    initramfs.add_file("/shed/bin/shed-ext", 0o755, &programs.ext)?;
    for (from, to) in [(&units, "/shed/units"), (&manifests, "/shed/extensions.d")] {
        for file in files_below(from)? {
            initramfs.add_file(Utf8Path::new(to).join(&file), 0o644, from.join(&file))?;
        }
    }
    for file in files_below(&modules.dir)? {
        initramfs.add_file(modules.guest_dir.join(&file), 0o644, modules.dir.join(&file))?;
    }
    initramfs.add_bytes("/shed/modules.load", 0o644, modules.load)?;
    for dir in ["/dev", "/proc", "/sys", "/run", "/newroot"] {
        initramfs.add_directory(dir, 0o755)?;
    }
    // Numbers of kernel doc admin-guide/devices.txt. The kernel opens /dev/console for init before devtmpfs is mounted.
    initramfs.add_character_device("/dev/console", 0o600, 5, 1)?;
    initramfs.add_character_device("/dev/null", 0o666, 1, 3)?;

    let new = work.path().join(file_name::INITRD);
    let file = fs::File::create(&new).with_context(|| format!("cannot create {new}"))?;
    let len = initramfs.write(std::io::BufWriter::with_capacity(1 << 20, file))?;

    copy_kernel(common, &cache, work.path())?;
    let names: Vec<&str> = common.arch.kernel_files().iter().copied().chain([file_name::INITRD]).collect();
    // Without a stamp they are made again: whoever dies between two of them leaves work for the next builder.
    stamp.withdraw()?;
    out.place(work.path(), &names)?;
    stamp.write(digest, &names.into_iter().map(Utf8PathBuf::from).collect::<Vec<_>>())?;
    step.done(&format!("{}, {:.1} MB, {} modules", file_name::INITRD, mb(len), modules.count));
    Ok(())
}

/// Puts the kernel into the output directory when no initramfs is there that would no longer fit it.
pub(crate) fn publish_kernel_alone(out: &OutDir, common: &Common) -> Result<()> {
    let names = common.arch.kernel_files();
    if out.path().join(file_name::INITRD).exists() {
        ui::note("the output directory has an initramfs: `shed-guest initramfs` replaces both together");
        return Ok(());
    }
    if names.iter().all(|name| out.path().join(name).exists()) {
        return Ok(());
    }
    let work = out.work_dir()?;
    copy_kernel(common, &KernelCache::of(out, common.arch), work.path())?;
    out.place(work.path(), names)
}

/// Copies the kernel files to `work`; the cache keeps its own.
fn copy_kernel(common: &Common, cache: &KernelCache, work: &Utf8Path) -> Result<()> {
    for name in common.arch.kernel_files() {
        fs::copy(cache.file(name), work.join(name))
            .with_context(|| format!("cannot copy {}", cache.file(name)))?;
    }
    Ok(())
}

/// The modules for the guest, staged.
struct StagedModules {
    /// The release's module directory on this machine…
    dir: Utf8PathBuf,
    /// …and in the guest.
    guest_dir: Utf8PathBuf,
    /// Content of `/shed/modules.load`.
    load: String,
    count: usize,
}

/// Copies the listed modules and what they need, and writes indexes for exactly those. Those for shed-init are
/// uncompressed: the loading of every boot is not the place to unpack.
fn prune_modules(
    cache: &KernelCache,
    release: &str,
    list: &ModuleList,
    work: &Utf8Path,
) -> Result<StagedModules> {
    let from = cache.modules(release);
    let read = |name: &str| {
        let path = from.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    };
    let tree = ModuleTree::parse(&read("modules.dep")?, &read("modules.builtin")?)?;
    let boot = tree.resolve(list.boot.iter().map(String::as_str)).context("modules.txt, [boot]")?;
    let wanted = list.boot.iter().chain(&list.available).map(String::as_str);
    let all = tree.resolve(wanted).context("modules.txt, [available]")?;

    let base = work.join("modules");
    let dir = base.join("lib/modules").join(release);
    let mut compressed = Vec::new();
    for module in &all {
        let target = dir.join(module);
        let parent = target.parent().with_context(|| format!("{target} has no directory"))?;
        fs::create_dir_all(parent).with_context(|| format!("cannot create {parent}"))?;
        fs::copy(from.join(module), &target).with_context(|| format!("cannot copy {}", from.join(module)))?;
        match target.extension() {
            Some("ko") => {}
            Some("xz") if boot.contains(module) => compressed.push(target),
            Some("xz") => {}
            Some(_) | None => bail!("{target}: only .ko and .ko.xz are supported"),
        }
    }
    if !compressed.is_empty() {
        output(Command::new("xz").args(["--decompress", "--threads=0"]).args(&compressed))?;
    }
    for index in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        fs::copy(from.join(index), dir.join(index)).with_context(|| format!("cannot copy {index}"))?;
    }
    output(system_tool("depmod").arg("--basedir").arg(&base).arg(release))?;
    // The list of all modules in the order of the kernel's build, which only depmod reads.
    fs::remove_file(dir.join("modules.order")).context("cannot remove modules.order")?;

    let guest_dir = Utf8PathBuf::from(format!("/lib/modules/{release}"));
    let load = boot.iter().map(|path| format!("{}\n", guest_dir.join(uncompressed(path)))).collect();
    Ok(StagedModules { dir, guest_dir, load, count: all.len() })
}

fn uncompressed(path: &Utf8Path) -> &Utf8Path {
    Utf8Path::new(path.as_str().strip_suffix(".xz").unwrap_or(path.as_str()))
}

/// Refuses programs that could not run in a guest, before anything is downloaded for them.
pub(crate) fn check_programs(programs: &Programs, arch: Arch) -> Result<()> {
    check_program(&programs.init, arch)?;
    check_program(&programs.agent, arch)?;
    check_program(&programs.ext, arch)
}

/// Refuses a program that could not run in a guest: in the initramfs there is no dynamic linker.
fn check_program(path: &Utf8Path, arch: Arch) -> Result<()> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {path}"))?;
    ensure!(bytes.starts_with(b"\x7fELF"), "{path} is no ELF program");
    let machine = bytes.get(18..20).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    ensure!(machine == Some(arch.elf_machine()), "{path} is not a program for {}", arch.debian());
    ensure!(
        !needs_interpreter(&bytes),
        "{path} is linked dynamically; build it with -C target-feature=+crt-static"
    );
    Ok(())
}

/// Tells whether a 64-bit little-endian ELF file has a PT_INTERP segment (elf(5)).
fn needs_interpreter(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let u16_at = |at: usize| elf.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes));
    let u64_at = |at: usize| elf.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let headers = || {
        let (start, size, count) = (u64_at(32)?, u16_at(54)?, u16_at(56)?);
        let start = usize::try_from(start).ok()?;
        Some((0..usize::from(count)).map(move |i| start.saturating_add(i * usize::from(size))))
    };
    headers().into_iter().flatten().any(|at| {
        elf.get(at..).and_then(<[u8]>::first_chunk).is_some_and(|kind| u32::from_le_bytes(*kind) == PT_INTERP)
    })
}

#[expect(clippy::cast_precision_loss, reason = "a size for people, with one decimal")]
fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_told_from_a_static_one() {
        let mut elf = vec![0; 256];
        elf[..4].copy_from_slice(b"\x7fELF");
        elf[32..40].copy_from_slice(&64u64.to_le_bytes());
        elf[54..56].copy_from_slice(&56u16.to_le_bytes());
        elf[56..58].copy_from_slice(&2u16.to_le_bytes());
        elf[64..68].copy_from_slice(&1u32.to_le_bytes());
        assert!(!needs_interpreter(&elf));
        elf[120..124].copy_from_slice(&3u32.to_le_bytes());
        assert!(needs_interpreter(&elf));
        assert!(!needs_interpreter(b"\x7fELF"));
    }

    #[test]
    fn a_dynamic_test_program_is_refused_as_init() {
        // This test's own program is linked dynamically on every supported host.
        let own = Utf8PathBuf::from_path_buf(std::env::current_exe().unwrap()).unwrap();
        let error = check_program(&own, Arch::host()).unwrap_err();
        assert!(error.to_string().contains("linked dynamically"), "{error}");
        let other = if Arch::host() == Arch::Amd64 { Arch::Arm64 } else { Arch::Amd64 };
        let error = check_program(&own, other).unwrap_err();
        assert!(error.to_string().contains("is not a program for"), "{error}");
    }
}
