//! What the section of every backend has: directories, kernel, images, sizes, timeouts.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use serde_saphyr::Spanned;
use shed_image::{ImageOrigin, file_name};
use shed_types::{BackendKind, ImageName};

use super::{
    super::{
        LoadConfigError, Surroundings,
        check::Source,
        file::{CommonFile, Value},
        locate::User,
    },
    CommonSection,
};
use crate::system::RUN_DIR;

/// Returns the kernel that guests of a backend boot on this machine's architecture. On x86-64 QEMU enters the uncompressed
/// `vmlinux` through PVH and Firecracker knows nothing else, which spares the guest the unpacking; the price is that the kernel's
/// addresses are not randomised (KASLR is part of the unpacking). Apple's framework boots a bzImage there.
const fn kernel(backend: BackendKind) -> &'static str {
    if cfg!(target_arch = "aarch64") {
        return file_name::ARM64_IMAGE;
    }
    match backend {
        BackendKind::Qemu | BackendKind::Firecracker => file_name::VMLINUX,
        BackendKind::Vz => file_name::BZIMAGE,
    }
}

/// Checks what the section of this backend has in common with others. `memory_mb` is what a shed has that names none.
pub(super) fn common(
    raw: CommonFile,
    backend: BackendKind,
    memory_mb: i64,
    source: Source<'_>,
    surroundings: &Surroundings,
) -> Result<CommonSection, LoadConfigError> {
    let keys = Keys { backend, source, surroundings };
    let images_dir = match keys.path(&raw.images_dir, "images_dir")? {
        Some(dir) => dir,
        None => keys.images_dir()?,
    };
    let instance_dir = match keys.path(&raw.instance_dir, "instance_dir")? {
        Some(dir) => dir,
        None => keys.instance_dir(&images_dir)?,
    };
    let socket_dir = match keys.path(&raw.socket_dir, "socket_dir")? {
        Some(dir) => dir,
        None => keys.socket_dir()?,
    };
    let key = |key: &str| keys.name(key);
    Ok(CommonSection {
        kernel_path: keys
            .path(&raw.kernel_path, "kernel_path")?
            .unwrap_or_else(|| images_dir.join(kernel(backend))),
        initrd_path: keys
            .path(&raw.initrd_path, "initrd_path")?
            .unwrap_or_else(|| images_dir.join(file_name::INITRD)),
        base_rootfs: match &raw.base_rootfs {
            Some(value) => Some(source.image(value, &key("base_rootfs"), surroundings)?),
            None => None,
        },
        images: keys.images(&raw.images)?,
        default_cpus: source.size(raw.default_cpus.as_ref(), &key("default_cpus"), 2)?,
        default_memory_mb: source.size(
            raw.default_memory_mb.as_ref(),
            &key("default_memory_mb"),
            memory_mb,
        )?,
        default_disk_gb: source.size(raw.default_disk_gb.as_ref(), &key("default_disk_gb"), 20)?,
        start_timeout: source.timeout(raw.start_timeout.as_ref(), &key("start_timeout"))?,
        stop_timeout: source.timeout(raw.stop_timeout.as_ref(), &key("stop_timeout"))?,
        extra_cmdline: keys.extra_cmdline(raw.extra_cmdline)?,
        images_dir,
        instance_dir,
        socket_dir,
    })
}

/// Checks the ports of a guest link that are not the user's to choose any more: what can mean nothing is a mistake all the same.
pub(super) fn check_ports(ports: &[(&str, &Value<i64>)], source: Source<'_>) -> Result<(), LoadConfigError> {
    let mut seen: Vec<(&str, i64)> = Vec::new();
    for (key, value) in ports.iter().filter_map(|(key, value)| Some((*key, value.as_ref()?))) {
        let _port = source.port(Some(value), key, 0, 1)?;
        if let Some((other, _)) = seen.iter().find(|(_, port)| *port == value.value) {
            let problem = format!("must differ from {other}, and both are {}", value.value);
            return Err(source.bad(value, key, problem));
        }
        seen.push((key, value.value));
    }
    Ok(())
}

/// One backend's section, for reading its keys.
#[derive(Debug, Clone, Copy)]
struct Keys<'a> {
    backend: BackendKind,
    source: Source<'a>,
    surroundings: &'a Surroundings,
}

impl Keys<'_> {
    /// Returns a key as messages name it.
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.backend)
    }

    fn path(&self, value: &Value<String>, key: &str) -> Result<Option<Utf8PathBuf>, LoadConfigError> {
        self.source.path(value.as_ref(), &self.name(key), self.surroundings)
    }

    fn no_home(&self, key: &str) -> LoadConfigError {
        LoadConfigError::NoHome { key: self.name(key) }
    }

    /// Returns where images are kept by default. Those of vz are where macOS has such files, whatever XDG says, and by the
    /// spec there is no directory between (spec K.1).
    fn images_dir(&self) -> Result<Utf8PathBuf, LoadConfigError> {
        const KEY: &str = "images_dir";
        match (self.backend, self.surroundings.user) {
            (BackendKind::Vz, User::Ordinary) => {
                let home = self.surroundings.home.as_ref().ok_or_else(|| self.no_home(KEY))?;
                Ok(home.join("Library/Application Support/shed/vz"))
            }
            (BackendKind::Vz, User::Root) => self.data_dir(KEY),
            (BackendKind::Qemu | BackendKind::Firecracker, _) => Ok(self.data_dir(KEY)?.join("images")),
        }
    }

    /// Returns where sheds are kept by default.
    fn instance_dir(&self, images_dir: &Utf8Path) -> Result<Utf8PathBuf, LoadConfigError> {
        match self.backend {
            BackendKind::Vz => Ok(images_dir.join("instances")),
            BackendKind::Qemu | BackendKind::Firecracker => {
                Ok(self.data_dir("instance_dir")?.join("instances"))
            }
        }
    }

    /// Returns where sheds and images are kept by default.
    fn data_dir(&self, key: &str) -> Result<Utf8PathBuf, LoadConfigError> {
        let name = self.backend.as_str();
        if self.surroundings.user == User::Root {
            return Ok(Utf8Path::new("/var/lib/shed").join(name));
        }
        let data = self
            .surroundings
            .data_home
            .clone()
            .or_else(|| self.surroundings.home.as_ref().map(|home| home.join(".local/share")));
        data.map(|data| data.join("shed").join(name)).ok_or_else(|| self.no_home(key))
    }

    fn socket_dir(&self) -> Result<Utf8PathBuf, LoadConfigError> {
        let name = self.backend.as_str();
        match self.surroundings.user {
            User::Root => Ok(Utf8Path::new(RUN_DIR).join(name)),
            User::Ordinary => match &self.surroundings.home {
                Some(home) => Ok(home.join(".shed").join(name).join("sockets")),
                None => Err(self.no_home("socket_dir")),
            },
        }
    }

    fn images(
        &self,
        raw: &BTreeMap<String, Spanned<String>>,
    ) -> Result<BTreeMap<ImageName, ImageOrigin>, LoadConfigError> {
        let mut images = BTreeMap::new();
        for (name, value) in raw {
            let key = self.name(&format!("images.{name}"));
            let bad = |problem: String| self.source.bad(value, &key, problem);
            let image: ImageName = name.parse().map_err(|error| bad(format!("{error}")))?;
            if image.is_hidden() {
                let problem = "names that begin with an underscore are Shed's own; choose another";
                return Err(bad(problem.to_owned()));
            }
            let origin = self.source.image(value, &key, self.surroundings)?;
            if let ImageOrigin::Path(path) = &origin
                && !path.is_file()
            {
                return Err(bad(format!("there is no file {path}")));
            }
            images.insert(image, origin);
        }
        Ok(images)
    }

    fn extra_cmdline(&self, words: Vec<Spanned<String>>) -> Result<Vec<String>, LoadConfigError> {
        let bad = |word: &str| word.is_empty() || word.chars().any(|c| c.is_whitespace() || c.is_control());
        match words.iter().find(|word| bad(&word.value)) {
            Some(word) => Err(self.source.bad(
                word,
                &self.name("extra_cmdline"),
                format!(
                    "{:?} is not one word of a kernel command line; write each word as an item of the list",
                    word.value
                ),
            )),
            None => Ok(words.into_iter().map(|word| word.value).collect()),
        }
    }
}
