//! Gets packages from Debian through mmdebstrap: a whole root file system, or one package file.
//!
//! mmdebstrap brings apt, the suite's keys and Debian's default mirror (or the proxy of this machine's apt), so neither
//! the host's release nor its package sources matter and no mirror is named here. apt checks signatures and digests.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};

use crate::{
    arch::Arch,
    tool::{output, quoted, system_tool},
};

/// The Debian release of every guest, whatever the host runs.
pub(crate) const SUITE: &str = "trixie";

/// The package a metapackage such as `linux-image-amd64` stands for, fetched into a directory.
#[derive(Debug)]
pub(crate) struct FetchedPackage {
    pub(crate) file: Utf8PathBuf,
}

/// Finds out what `metapackage` stands for and downloads that. `$1` of the hook, the root, is empty and stays so.
const FETCH_HOOK: &str = r#"#!/bin/sh
set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
cd "$SHED_FETCH_DIR"
package=$(apt-cache depends --important "$SHED_FETCH_METAPACKAGE" |
    awk '$1 == "Depends:" && index($2, ENVIRON["SHED_FETCH_PREFIX"]) == 1 { print $2; exit }')
if [ -z "$package" ]; then
    echo "$SHED_FETCH_METAPACKAGE depends on no package that begins with $SHED_FETCH_PREFIX" >&2
    exit 1
fi
apt-get -q -o APT::Sandbox::User=root download "$package"
"#;

/// Downloads, without installing anything, the package beginning with `prefix` that `metapackage` depends on.
///
/// Works for every user: nothing is unpacked into the root which mmdebstrap makes for it.
pub(crate) fn fetch(arch: Arch, metapackage: &str, prefix: &str, into: &Utf8Path) -> Result<FetchedPackage> {
    let hook = into.join("fetch-hook.sh");
    fs::write(&hook, FETCH_HOOK).with_context(|| format!("cannot write {hook}"))?;
    output(
        system_tool("mmdebstrap")
            .args(["--variant=custom", "--mode=chrootless", "--format=null", "--quiet"])
            .arg(format!("--architectures={}", arch.debian()))
            .args(["--aptopt=Acquire::Retries 3", "--aptopt=Acquire::Languages none"])
            .arg(format!("--customize-hook=sh {}", quoted(hook.as_str())))
            .args([SUITE, "-"])
            .env("SHED_FETCH_DIR", into)
            .env("SHED_FETCH_METAPACKAGE", metapackage)
            .env("SHED_FETCH_PREFIX", prefix),
    )
    .with_context(|| format!("cannot download {metapackage} of Debian {SUITE}"))?;
    let mut packages = Vec::new();
    for entry in into.read_dir_utf8().with_context(|| format!("cannot read {into}"))? {
        let path = entry?.into_path();
        if path.extension() == Some("deb") {
            packages.push(path);
        }
    }
    let file = packages.pop().with_context(|| format!("apt-get downloaded no package to {into}"))?;
    ensure!(packages.is_empty(), "apt-get downloaded more than one package to {into}");
    Ok(FetchedPackage { file })
}

/// mmdebstrap cleans up with an apt configuration in the root's /tmp. Without that file apt would clean up on the host.
const GUARD_HOOK: &str =
    r#"test -e "$MMDEBSTRAP_APT_CONFIG" || { echo "configure.sh must not empty /tmp" >&2; exit 1; }"#;

/// Installs packages into a root that is there already, as mmdebstrap itself does into a new one: apt of this machine,
/// dpkg of the root, and no TMPDIR that only one of them has.
const INSTALL_HOOK: &str = r#"APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get --yes -q -o Dir::Bin::dpkg=env -o DPkg::Options::=--unset=TMPDIR -o DPkg::Options::=dpkg -o DPkg::Chroot-Directory="$1" --no-install-recommends install"#;

/// What mmdebstrap puts into every new root; one that is there already has them as its own recipe left them, or not.
const PREPARED: [&str; 3] = ["/etc/fstab", "/etc/hostname", "/etc/resolv.conf"];

/// Where mmdebstrap unpacks roots: large, on a disk, and open to the ids of a user namespace, which a home is not.
const SCRATCH: &str = "/var/tmp";

/// What goes into a root file system.
#[derive(Debug)]
pub(crate) struct RootSpec<'a> {
    pub(crate) arch: Arch,
    /// A tar with the root to begin with; nothing to begin with Debian's smallest.
    pub(crate) below: Option<&'a Utf8Path>,
    pub(crate) packages: &'a [String],
    /// A tar that is unpacked over the installed packages.
    pub(crate) overlay: &'a Utf8Path,
    /// A script in the overlay that runs inside the finished root and is removed afterwards; absolute inside the root.
    pub(crate) configure: &'a str,
    /// Directory in the overlay that is there while the script runs, with a file `env` for its shell; absolute.
    pub(crate) settings: &'a str,
}

/// Makes a root file system and writes it to the tar `out`.
///
/// Root does it directly; anybody else needs user namespaces, as mmdebstrap's `unshare` mode does.
pub(crate) fn install(spec: &RootSpec<'_>, out: &Utf8Path) -> Result<()> {
    // Documentation and translations are a third of the size and nobody reads them in a shed. Licences stay.
    const LEFT_OUT: [&str; 6] = [
        "path-exclude=/usr/share/man/*",
        "path-exclude=/usr/share/info/*",
        "path-exclude=/usr/share/locale/*",
        "path-include=/usr/share/locale/locale.alias",
        "path-exclude=/usr/share/doc/*",
        "path-include=/usr/share/doc/*/copyright",
    ];
    let root = r#""$1""#;
    let mut command = system_tool("mmdebstrap");
    command
        .args(["--format=tar", "--quiet"])
        .arg(format!("--architectures={}", spec.arch.debian()))
        .args(["--aptopt=Acquire::Retries 3", "--aptopt=Acquire::Languages none"])
        .args(LEFT_OUT.map(|option| format!("--dpkgopt={option}")));
    if let Some(below) = spec.below {
        command.arg("--variant=custom");
        command.arg(format!("--setup-hook=rm -f{}", PREPARED.map(|file| format!(r#" "$1"{file}"#)).concat()));
        command.arg(format!("--setup-hook=tar-in {} /", quoted(below.as_str())));
        if spec.packages.is_empty() {
            command.arg("--skip=update");
        } else {
            let packages: Vec<String> = spec.packages.iter().map(|package| quoted(package)).collect();
            command.arg(format!("--customize-hook={INSTALL_HOOK} {}", packages.join(" ")));
        }
    } else {
        command.arg("--variant=minbase").arg(format!("--include={}", spec.packages.join(",")));
    }
    // Nothing of this machine's environment but what the settings have.
    let script = format!(". {}/env && exec sh {}", spec.settings, spec.configure);
    let clean = "env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8";
    command
        .arg(format!("--customize-hook=tar-in {} /", quoted(spec.overlay.as_str())))
        .arg(format!(
            "--customize-hook=chroot {root} {clean} DEBIAN_FRONTEND=noninteractive sh -c {}",
            quoted(&script)
        ))
        .arg(format!(
            "--customize-hook=rm -r {root}{} {root}{}",
            quoted(spec.configure),
            quoted(spec.settings)
        ))
        .arg(format!("--customize-hook={GUARD_HOOK}"))
        .args([SUITE, out.as_str()]);
    if std::env::var_os("TMPDIR").is_none() {
        command.env("TMPDIR", SCRATCH);
    }
    output(&mut command).context("mmdebstrap could not build the root file system")?;
    Ok(())
}
