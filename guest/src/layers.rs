//! Builds the layers of a recipe and of those below it, each from what the one below has become.
//!
//! A layer is built again when its recipe changes or the image below it does, and otherwise not. Roots are taken from the
//! layers in the store, so nothing but these is kept between two builds.

use std::{
    fs::{self, File},
    io::{self, BufWriter},
    os::unix::fs::PermissionsExt as _,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use flate2::read::GzDecoder;
use shed_image::BlobStore;
use shed_types::Digest;

use crate::{
    Common, Extensions, debian,
    inputs::{Inputs, Stamp, files_below},
    oci::{Image, store_layer},
    outdir::{OutDir, write_whole},
    recipe::Recipe,
    root::{Layer, Origin, Root},
    settings::{self, Settings},
    tool::output,
    ui::{self, Step},
};

/// Raised when the same recipe gives another layer.
const FORMAT: u32 = 1;

/// Where the recipe's script is while it runs; it is not part of the image.
const CONFIGURE: &str = "/.shed-configure";

/// Where the programs of `extensions.txt` go.
const PROGRAMS: &str = "usr/local/bin";

/// Label with the version of the extensions in an image.
const EXTENSIONS_LABEL: &str = "io.shed.extensions-version";

/// Builds layers, and remembers what it has seen to be current.
pub(crate) struct Builder<'a> {
    pub(crate) out: &'a OutDir,
    pub(crate) common: &'a Common,
    pub(crate) extensions: &'a Extensions,
    pub(crate) blobs: &'a BlobStore,
}

impl Builder<'_> {
    /// Returns the image of the last of these recipes, which stand on each other, and builds what is not current of them.
    /// The blobs are in the store then; `done` has what an earlier call has looked at.
    pub(crate) fn image(&self, chain: &[Recipe], done: &mut Vec<(Recipe, Image)>) -> Result<Image> {
        let (recipe, below) = chain.split_last().context("there is no recipe")?;
        if let Some((_, image)) = done.iter().find(|(known, _)| known.name == recipe.name) {
            return Ok(image.clone());
        }
        let below = if below.is_empty() { None } else { Some(self.image(below, done)?) };
        let image = self.layer(recipe, below.as_ref())?;
        done.push((recipe.clone(), image.clone()));
        Ok(image)
    }

    fn layer(&self, recipe: &Recipe, below: Option<&Image>) -> Result<Image> {
        let name = &recipe.name;
        let programs = self.programs(recipe)?;
        let digest = self.inputs(recipe, below, &programs)?;
        let stamp = Stamp::of(self.out, &format!("layer-{name}"));
        let record = self.out.cache().join(format!("layer-{name}.json"));
        if !self.common.refresh && stamp.is_current(&digest) {
            let text = fs::read(&record).with_context(|| format!("cannot read {record}"))?;
            let image: Image =
                serde_json::from_slice(&text).with_context(|| format!("{record} is damaged"))?;
            // A prune leaves the layers of images that are there, and of those below them nothing else.
            if image.is_whole(self.blobs) {
                let _manifest = image.write(self.blobs)?;
                ui::up_to_date(&format!("layer {name}"));
                return Ok(image);
            }
        }

        let work = self.out.work_dir()?;
        let root_below = match below {
            Some(below) => Some(self.root_of(below, work.path())?),
            None => None,
        };
        let tar = self.install(recipe, root_below.as_ref(), &programs, work.path())?;

        let step = Step::begin(format!("write the layer of {name}"));
        let root = Layer::read(&tar, Origin::Mmdebstrap)?.into_root()?;
        let empty = Root::default();
        let changes =
            root.changes_to(root_below.as_ref().unwrap_or(&empty)).context("cannot compare the roots")?;
        let packed = work.path().join("layer.tar.gz");
        let layer = store_layer(self.blobs, &packed, |out| root.write_layer(&changes, out))?;
        let settings = Settings::of_this_machine();
        let found = File::open(&packed).and_then(|file| settings.find_secret(GzDecoder::new(file)));
        ensure!(
            !found.with_context(|| format!("cannot read {packed}"))?,
            "the layer of {name} has a token or password of this machine's package managers in it; see what the \
             recipe's configure.sh writes"
        );
        let labels = self.labels(&programs);
        let image = Image::new(recipe, self.common.arch, &labels, &root.newest()?, &layer, below)?;
        let _manifest = image.write(self.blobs)?;
        stamp.withdraw()?;
        write_whole(&record, &serde_json::to_vec(&image)?)?;
        let in_out =
            |path: Utf8PathBuf| path.strip_prefix(self.out.path()).map(Utf8Path::to_owned).unwrap_or(path);
        stamp.write(digest, &[in_out(record), in_out(self.blobs.path(&layer.blob.digest))])?;
        step.done(&format!("{} changes, {} MB", changes.len(), layer.blob.size / 1_000_000));
        Ok(image)
    }

    fn inputs(&self, recipe: &Recipe, below: Option<&Image>, programs: &[Utf8PathBuf]) -> Result<String> {
        let mut inputs = Inputs::new("layer", FORMAT);
        inputs.text("arch", self.common.arch.debian());
        inputs.text("suite", debian::SUITE);
        inputs.text("version", env!("CARGO_PKG_VERSION"));
        inputs.tree("recipe", &recipe.dir)?;
        inputs.text("below", below.map(Image::digest).transpose()?.as_ref().map_or("", Digest::as_str));
        for program in programs {
            inputs.text("program", program.file_name().unwrap_or_default());
            inputs.file("content", program)?;
        }
        for (label, value) in self.labels(programs) {
            inputs.text(&label, &value);
        }
        Ok(inputs.digest())
    }

    /// Returns those programs of `extensions.txt` which are given.
    fn programs(&self, recipe: &Recipe) -> Result<Vec<Utf8PathBuf>> {
        let Some(dir) = &self.extensions.ext_dir else { return Ok(Vec::new()) };
        ensure!(dir.is_dir(), "there is no directory {dir} with programs of the extensions");
        Ok(recipe.extensions.iter().map(|name| dir.join(name)).filter(|path| path.is_file()).collect())
    }

    fn labels(&self, programs: &[Utf8PathBuf]) -> Vec<(String, String)> {
        let version = self.extensions.ext_version.iter().filter(|_| !programs.is_empty());
        version.map(|version| (EXTENSIONS_LABEL.to_owned(), version.clone())).collect()
    }

    /// Unpacks the layers of an image, which lie in `work` from then on, and puts them on each other.
    fn root_of(&self, image: &Image, work: &Utf8Path) -> Result<Root> {
        let mut root = Root::default();
        for (number, digest) in image.layers().enumerate() {
            let path = work.join(format!("below-{number}.tar"));
            let unpack = || -> io::Result<()> {
                let blob = self.blobs.open(digest).map_err(io::Error::other)?;
                let mut tar = BufWriter::with_capacity(1 << 20, File::create_new(&path)?);
                let _length = io::copy(&mut GzDecoder::new(blob), &mut tar)?;
                tar.into_inner()?.set_permissions(fs::Permissions::from_mode(0o600))
            };
            unpack().with_context(|| format!("cannot unpack the layer {digest}"))?;
            root.apply(Layer::read(&path, Origin::Layer)?);
        }
        Ok(root)
    }

    /// Makes the whole root of a recipe; returns its tar.
    fn install(
        &self,
        recipe: &Recipe,
        below: Option<&Root>,
        programs: &[Utf8PathBuf],
        work: &Utf8Path,
    ) -> Result<Utf8PathBuf> {
        for name in &recipe.extensions {
            if programs.iter().all(|program| program.file_name() != Some(name)) {
                ui::note(&format!(
                    "{}: left out, because --ext-dir has no such program: {name}",
                    recipe.name
                ));
            }
        }
        let count = recipe.packages.len();
        let step = Step::begin(match count {
            0 => format!("configure {}", recipe.name),
            _ => format!("install {}: {count} packages of Debian {}", recipe.name, debian::SUITE),
        });
        let overlay = stage_overlay(recipe, programs, work)?;
        let below_tar = match below {
            Some(below) => {
                let path = work.join("below.tar");
                let file = File::create_new(&path).with_context(|| format!("cannot create {path}"))?;
                below.without_devices().write(BufWriter::with_capacity(1 << 20, file))?;
                Some(path)
            }
            None => None,
        };
        let tar = work.join("root.tar");
        let spec = debian::RootSpec {
            arch: self.common.arch,
            below: below_tar.as_deref(),
            packages: &recipe.packages,
            overlay: &overlay,
            configure: CONFIGURE,
            settings: settings::DIRECTORY,
        };
        debian::install(&spec, &tar)?;
        let len = fs::metadata(&tar).with_context(|| format!("cannot read {tar}"))?.len();
        if let Some(path) = below_tar {
            fs::remove_file(&path).with_context(|| format!("cannot remove {path}"))?;
        }
        step.done(&format!("a root of {} MB", len / 1_000_000));
        Ok(tar)
    }
}

/// Packs the recipe's overlay, its script and what that needs into a tar that belongs to root, whoever has checked the
/// files out.
fn stage_overlay(recipe: &Recipe, programs: &[Utf8PathBuf], work: &Utf8Path) -> Result<Utf8PathBuf> {
    let staging = work.join("overlay");
    let source = recipe.dir.join("overlay");
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
    for program in programs {
        let dir = staging.join(PROGRAMS);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {dir}"))?;
        let target = dir.join(program.file_name().unwrap_or_default());
        fs::copy(program, &target).with_context(|| format!("cannot copy {program}"))?;
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
    }
    let script = staging.join(CONFIGURE.trim_start_matches('/'));
    fs::copy(recipe.dir.join("configure.sh"), &script)
        .with_context(|| format!("cannot copy {}/configure.sh", recipe.dir))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Settings::of_this_machine().stage(&staging)?;

    let tar = work.join("overlay.tar");
    let settings = format!(".{}", settings::DIRECTORY);
    let pack = |how: &[&str], what: &str| {
        output(
            Command::new("tar")
                .args(how)
                .args(["--owner=0", "--group=0", "--numeric-owner", "--sort=name"])
                .args(["--file", tar.as_str(), "-C", staging.as_str(), what]),
        )
    };
    // A checkout under a strict umask must not make files of the guest unreadable.
    let _packed = pack(&["--create", "--mode=u=rwX,go=rX", &format!("--exclude={settings}")], ".")?;
    // Tokens of registries and passwords of proxies lie there, in a root that others on this machine can look into.
    let _packed = pack(&["--append", "--mode=u=rwX,go="], &settings)?;
    Ok(tar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_belongs_to_root_and_can_be_read_by_all() {
        let guard = tempfile::tempdir().unwrap();
        let dir = Utf8PathBuf::from_path_buf(guard.path().to_owned()).unwrap();
        let recipe = dir.join("recipe");
        fs::create_dir_all(recipe.join("overlay/etc")).unwrap();
        fs::write(recipe.join("overlay/etc/secretive"), b"x").unwrap();
        fs::set_permissions(recipe.join("overlay/etc/secretive"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(recipe.join("configure.sh"), b"true\n").unwrap();
        fs::write(dir.join("shed-tool"), b"program").unwrap();
        let work = dir.join("work");
        fs::create_dir(&work).unwrap();

        let recipe = crate::recipe::chain(&dir, &"recipe".parse().unwrap()).unwrap().remove(0);
        let tar = stage_overlay(&recipe, &[dir.join("shed-tool")], &work).unwrap();
        let listing = output(Command::new("tar").args(["--numeric-owner", "-tvf"]).arg(&tar)).unwrap();
        assert!(listing.contains("-rw-r--r-- 0/0"), "{listing}");
        assert!(listing.contains("-rwxr-xr-x 0/0") && listing.contains("./.shed-configure"), "{listing}");
        assert!(listing.contains("./usr/local/bin/shed-tool"), "{listing}");
        let settings: Vec<_> = listing.lines().filter(|line| line.contains("./run/shed-build")).collect();
        assert!(settings.iter().any(|line| line.ends_with("/env")), "{listing}");
        assert!(settings.iter().all(|line| line.get(4..10) == Some("------")), "{listing}");
    }
}
