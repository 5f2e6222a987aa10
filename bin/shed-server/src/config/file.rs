//! The shape of server.yaml before its values are checked: every key is optional and keeps its place in the file.

use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};
use serde_saphyr::Spanned;

/// A value with its line and column.
pub(super) type Value<T> = Option<Spanned<T>>;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServerFile {
    pub(super) name: Value<String>,
    pub(super) listen: Value<String>,
    pub(super) http_port: Value<i64>,
    pub(super) ssh_port: Value<i64>,
    pub(super) ssh_host_key: Value<String>,
    pub(super) default_backend: Value<String>,
    pub(super) log_level: Value<String>,
    pub(super) terminal: Option<TerminalFile>,
    pub(super) qemu: Option<QemuFile>,
    pub(super) firecracker: Option<FirecrackerFile>,
    pub(super) vz: Option<VzFile>,
    pub(super) registries: Option<RegistriesFile>,
    pub(super) image_limits: Option<ImageLimitsFile>,
    pub(super) credentials: Option<BTreeMap<String, Spanned<CredentialFile>>>,
    pub(super) env_file: Value<String>,
    pub(super) git: Option<GitFile>,
    pub(super) extensions: Option<ExtensionsFile>,

    // Keys of the format (spec K.1) that this build does not act on. They may stand in a file that serves several
    // machines or versions, so they are accepted, and named in the log.
    pub(super) default_image: Value<IgnoredAny>,
}

/// Keys of earlier versions that are gone. They are looked for first, and each is refused with a hint of its own.
#[derive(Debug, Default, Deserialize)]
pub(super) struct RemovedKeys {
    pub(super) enabled_backends: Value<IgnoredAny>,
    pub(super) docker: Value<IgnoredAny>,
}

/// The `terminal:` section.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TerminalFile {
    pub(super) fallback_term: Value<String>,
    pub(super) term_mappings: Option<BTreeMap<String, Spanned<String>>>,
}

/// The `registries:` section.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RegistriesFile {
    pub(super) allow: Option<Vec<Spanned<String>>>,
    pub(super) insecure: Option<Vec<Spanned<String>>>,
    pub(super) docker_config: Value<String>,
}

/// The `image_limits:` section.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImageLimitsFile {
    pub(super) max_size: Value<String>,
    pub(super) max_files: Value<i64>,
}

/// The `git:` section.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GitFile {
    pub(super) extra_known_hosts: Option<Vec<Spanned<String>>>,
}

/// The `extensions:` section.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExtensionsFile {
    pub(super) bus: Option<bool>,
    pub(super) enabled: Option<Vec<Spanned<String>>>,
}

/// An entry of the `credentials:` section.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CredentialFile {
    pub(super) source: Value<String>,
    pub(super) target: Value<String>,
    pub(super) readonly: Option<bool>,
    pub(super) exclude: Option<Vec<Spanned<String>>>,
}

/// Declares the shape of a backend's section: keys of its own, and those that every backend has.
macro_rules! backend_section {
    ($(#[$doc:meta])* $name:ident { $($own:ident: $shape:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $name {
            $(pub(super) $own: $shape,)*
            images_dir: Value<String>,
            instance_dir: Value<String>,
            socket_dir: Value<String>,
            kernel_path: Value<String>,
            initrd_path: Value<String>,
            base_rootfs: Value<String>,
            images: Option<BTreeMap<String, Spanned<String>>>,
            default_cpus: Value<i64>,
            default_memory_mb: Value<i64>,
            default_disk_gb: Value<i64>,
            start_timeout: Value<String>,
            stop_timeout: Value<String>,
            extra_cmdline: Option<Vec<Spanned<String>>>,
        }

        impl $name {
            /// Takes out what every backend has.
            pub(super) fn take_common(&mut self) -> CommonFile {
                CommonFile {
                    images_dir: self.images_dir.take(),
                    instance_dir: self.instance_dir.take(),
                    socket_dir: self.socket_dir.take(),
                    kernel_path: self.kernel_path.take(),
                    initrd_path: self.initrd_path.take(),
                    base_rootfs: self.base_rootfs.take(),
                    images: self.images.take().unwrap_or_default(),
                    default_cpus: self.default_cpus.take(),
                    default_memory_mb: self.default_memory_mb.take(),
                    default_disk_gb: self.default_disk_gb.take(),
                    start_timeout: self.start_timeout.take(),
                    stop_timeout: self.stop_timeout.take(),
                    extra_cmdline: self.extra_cmdline.take().unwrap_or_default(),
                }
            }
        }
    };
}

/// What the section of every backend may have.
#[derive(Debug)]
pub(super) struct CommonFile {
    pub(super) images_dir: Value<String>,
    pub(super) instance_dir: Value<String>,
    pub(super) socket_dir: Value<String>,
    pub(super) kernel_path: Value<String>,
    pub(super) initrd_path: Value<String>,
    pub(super) base_rootfs: Value<String>,
    pub(super) images: BTreeMap<String, Spanned<String>>,
    pub(super) default_cpus: Value<i64>,
    pub(super) default_memory_mb: Value<i64>,
    pub(super) default_disk_gb: Value<i64>,
    pub(super) start_timeout: Value<String>,
    pub(super) stop_timeout: Value<String>,
    pub(super) extra_cmdline: Vec<Spanned<String>>,
}

backend_section! {
    /// The `qemu:` section.
    QemuFile {
        accel: Value<String>,
        binary: Value<String>,
        virtiofsd: Value<String>,
        share_cache: Value<String>,
    }
}

backend_section! {
    /// The `firecracker:` section.
    FirecrackerFile {
        binary: Value<String>,
        seccomp: Value<String>,
        jailer: Value<String>,
        jailer_path: Value<String>,
        jail_dir: Value<String>,
        jail_uid_base: Value<i64>,
        vsock_base_cid: Value<i64>,
        bridge_name: Value<String>,
        bridge_cidr: Value<String>,
        tap_prefix: Value<String>,
        dns: Option<Vec<Spanned<String>>>,
        // The ports of the guest link are Shed's own now.
        console_port: Value<i64>,
        health_port: Value<i64>,
        notify_port: Value<i64>,
    }
}

backend_section! {
    /// The `vz:` section.
    VzFile {
        vfkit_path: Value<String>,
        // The ports of the guest link are Shed's own now.
        console_port: Value<i64>,
        health_port: Value<i64>,
        notify_port: Value<i64>,
        tcp_proxy_port: Value<i64>,
    }
}
