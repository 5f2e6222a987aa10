//! Shared by the tests of the lifecycle: a directory with everything that a shed is made of.

#[allow(dead_code, unreachable_pub, reason = "not every test file pulls")]
pub(crate) mod registry;

use std::{collections::BTreeMap, fs, time::Duration};

use camino::Utf8PathBuf;
use shed_image::{ImageLimits, file_name};
use shed_lifecycle::{Phase, Settings};
use shed_registry::RegistrySettings;
use shed_types::DiskGb;
use tempfile::TempDir;

/// The phases of a create whose image is there, and that has nothing to clone.
#[allow(dead_code, reason = "not every test file looks at phases")]
pub(crate) const CREATE: [Phase; 7] =
    [Phase::Record, Phase::Disk, Phase::Vm, Phase::Boot, Phase::Identify, Phase::Commit, Phase::Provision];

/// Longer than anything in these tests takes; one that reaches it has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Makes kernel, initramfs, the image `base` and an empty disk, and returns settings that name them.
pub(crate) fn settings() -> (TempDir, Settings) {
    let guard = tempfile::tempdir().unwrap();
    let dir = Utf8PathBuf::from_path_buf(guard.path().to_owned()).unwrap();
    let images_dir = dir.join("images");
    let settings = Settings {
        instance_dir: dir.join("instances"),
        kernel: images_dir.join("bzImage"),
        initrd: images_dir.join("initrd.img"),
        images_dir: images_dir.clone(),
        base_rootfs: None,
        images: BTreeMap::new(),
        registries: RegistrySettings::default(),
        image_limits: ImageLimits::default(),
        home: None,
        default_cpus: 2.try_into().unwrap(),
        default_memory_mb: 512.try_into().unwrap(),
        default_disk_gb: DiskGb::try_from(1).unwrap(),
        start_timeout: DEADLINE,
        stop_timeout: DEADLINE,
        extra_cmdline: Vec::new(),

        credentials: Default::default(),
        env_file: None,
        kept_from_guests: Vec::new(),
        extra_known_hosts: Vec::new(),
        bus: Default::default(),
    };
    // Stands for what mke2fs would make, which is no part of these tests.
    let cache = images_dir.join(file_name::CACHE);
    fs::create_dir_all(&cache).unwrap();
    let template = cache.join(file_name::upper_template(settings.default_disk_gb));
    for file in
        [settings.kernel.clone(), settings.initrd.clone(), images_dir.join("base-rootfs.ext4"), template]
    {
        fs::write(file, b"content").unwrap();
    }
    (guard, settings)
}

/// Waits for a condition.
#[allow(dead_code, reason = "not every test file waits for one")]
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    let reached = tokio::time::timeout(LONG, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    reached.await.expect("the condition never came true");
}

/// Longest wait for a condition; hosts may be slow.
const LONG: Duration = Duration::from_secs(60);
