//! Builds an image from a recipe: Debian packages, an overlay of files and a script, as one ext4 file.
//!
//! A recipe is a directory below guest/recipes with `packages.txt`, `overlay/` and `configure.sh`; guest/README.md says
//! what each is for.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use anyhow::{Context as _, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use shed_image::{DiskOptions, ImageStore, Mke2fs, file_name, recipe_source, rootfs_from_tar};
use shed_types::ImageName;

use crate::{
    Common, debian,
    inputs::{Inputs, Stamp, files_below},
    outdir::{OutDir, write_whole},
    tool::output,
    ui::{self, Step},
};

/// Raised when the same recipe gives another image.
const FORMAT: u32 = 1;

/// Where the recipe's script is while it runs; it is not part of the image.
const CONFIGURE: &str = "/.shed-configure";

/// Builds the image `name` from the recipe of that name.
pub(crate) fn build(out: &OutDir, common: &Common, name: &ImageName) -> Result<()> {
    let recipe = common.guest_dir.join("recipes").join(name.as_str());
    ensure!(recipe.is_dir(), "there is no recipe {name} in {}", common.guest_dir.join("recipes"));

    let stamp = Stamp::of(out, &format!("image-{name}"));
    let mut inputs = Inputs::new("image", FORMAT);
    inputs.text("arch", common.arch.debian());
    inputs.text("suite", debian::SUITE);
    inputs.tree("recipe", &recipe)?;
    let digest = inputs.digest();
    if !common.refresh && stamp.is_current(&digest) {
        ui::up_to_date(&format!("image {name}"));
        return Ok(());
    }

    let work = out.work_dir()?;
    let packages_path = recipe.join("packages.txt");
    let packages =
        fs::read_to_string(&packages_path).with_context(|| format!("cannot read {packages_path}"))?;
    let packages = package_names(&packages);
    let step = Step::begin(format!("install {} packages of Debian {}", packages.len(), debian::SUITE));
    let overlay = stage_overlay(&recipe, work.path())?;
    let tar = work.path().join("rootfs.tar");
    let spec =
        debian::RootSpec { arch: common.arch, packages: &packages, overlay: &overlay, configure: CONFIGURE };
    debian::install(&spec, &tar)?;
    let len = fs::metadata(&tar).with_context(|| format!("cannot read {tar}"))?.len();
    step.done(&format!("{} MB", len / 1_000_000));

    let step = Step::begin(format!("make {}", file_name::rootfs(name)));
    let image = work.path().join("rootfs.ext4");
    let options = DiskOptions { label: Some(format!("shed-{name}")), uuid: None };
    rootfs_from_tar(&Mke2fs::find()?, &tar, &image, &options)?;

    let store = ImageStore::new(out.path());
    let lock = store.lock(name).with_context(|| format!("cannot lock image {name}"))?;
    stamp.withdraw()?;
    out.place(&image, &file_name::rootfs(name))?;
    write_whole(&store.source(name), format!("{}\n", recipe_source(name)).as_bytes())?;
    drop(lock);
    stamp.write(digest, &[file_name::rootfs(name).into(), file_name::source(name).into()])?;
    step.done("in place");
    Ok(())
}

/// Reads packages.txt: names, as many on a line as one likes; `#` begins a comment.
fn package_names(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let mut names: Vec<String> = lines.flat_map(str::split_whitespace).map(str::to_owned).collect();
    names.sort();
    names.dedup();
    names
}

/// Packs the recipe's overlay and script into a tar that belongs to root, whoever has checked the files out.
fn stage_overlay(recipe: &Utf8Path, work: &Utf8Path) -> Result<Utf8PathBuf> {
    let staging = work.join("overlay");
    let source = recipe.join("overlay");
    for file in files_below(&source)? {
        let target = staging.join(&file);
        let parent = target.parent().with_context(|| format!("{target} has no directory"))?;
        fs::create_dir_all(parent).with_context(|| format!("cannot create {parent}"))?;
        let from = source.join(&file);
        if from.is_symlink() {
            std::os::unix::fs::symlink(from.read_link_utf8()?, &target)
                .with_context(|| format!("cannot create {target}"))?;
        } else {
            fs::copy(&from, &target).with_context(|| format!("cannot copy {from}"))?;
        }
    }
    fs::create_dir_all(&staging).with_context(|| format!("cannot create {staging}"))?;
    let script = staging.join(CONFIGURE.trim_start_matches('/'));
    fs::copy(recipe.join("configure.sh"), &script)
        .with_context(|| format!("cannot copy {recipe}/configure.sh"))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;

    let tar = work.join("overlay.tar");
    // A checkout under a strict umask must not make files of the guest unreadable.
    let ownership = ["--owner=0", "--group=0", "--numeric-owner", "--mode=u=rwX,go=rX", "--sort=name"];
    output(
        Command::new("tar")
            .arg("--create")
            .args(ownership)
            .arg("--file")
            .arg(&tar)
            .arg("-C")
            .args([&staging, Utf8Path::new(".")]),
    )?;
    Ok(tar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_lists_have_comments_and_no_order() {
        assert_eq!(package_names("# tools\nzsh git # vcs\n\ngit\n"), ["git", "zsh"]);
    }

    #[test]
    fn an_overlay_belongs_to_root_and_can_be_read_by_all() {
        let guard = tempfile::tempdir().unwrap();
        let dir = Utf8PathBuf::from_path_buf(guard.path().to_owned()).unwrap();
        let recipe = dir.join("recipe");
        fs::create_dir_all(recipe.join("overlay/etc")).unwrap();
        fs::write(recipe.join("overlay/etc/secretive"), b"x").unwrap();
        fs::set_permissions(recipe.join("overlay/etc/secretive"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(recipe.join("configure.sh"), b"true\n").unwrap();
        let work = dir.join("work");
        fs::create_dir(&work).unwrap();

        let tar = stage_overlay(&recipe, &work).unwrap();
        let listing = output(Command::new("tar").args(["--numeric-owner", "-tvf"]).arg(&tar)).unwrap();
        assert!(listing.contains("-rw-r--r-- 0/0"), "{listing}");
        assert!(listing.contains("-rwxr-xr-x 0/0") && listing.contains("./.shed-configure"), "{listing}");
    }
}
