//! The API in this process, on a port of its own, over a fake host.

use std::{sync::Arc, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use shed_api::ServerInfo;
use shed_backend::fake::{BootFault, FakeWorld, Faults};
use shed_client::{Client, Timeouts};
use shed_image::{ImageLimits, ImageStore, ImageWatch, file_name};
use shed_lifecycle::{FetchFailed, FetchImage, Settings, Sheds};
use shed_registry::RegistrySettings;
use shed_server::{host_key::HostKey, serve::Server, ssh::term::Terms};
use shed_testkit::wait_for;
use shed_types::{DiskGb, ImageName, ImageReference, ShedName};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::common::{PATIENCE, RawReply, send};

pub(crate) struct Api {
    pub(crate) world: FakeWorld,
    pub(crate) port: u16,
    pub(crate) ssh_port: u16,
    pub(crate) client: Client,
    pub(crate) host_key: String,
    dir: TempDir,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Api {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// Starts the API on a new state directory; `prepare` may change it first.
    pub(crate) async fn with(prepare: impl FnOnce(&mut Settings)) -> Self {
        Self::over(Some(Arc::new(NoRegistry)), prepare).await
    }

    /// Starts the API over real registries.
    pub(crate) async fn with_registries(prepare: impl FnOnce(&mut Settings)) -> Self {
        Self::over(None, prepare).await
    }

    async fn over(images: Option<Arc<dyn FetchImage>>, prepare: impl FnOnce(&mut Settings)) -> Self {
        let dir = TempDir::new().unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap();
        let mut settings = settings(root);
        write(&settings.kernel);
        write(&settings.initrd);
        write(&settings.images_dir.join("base-rootfs.ext4"));
        // Stands for what mke2fs would make, which is no part of these tests.
        let template = file_name::upper_template(settings.default_disk_gb);
        write(&settings.images_dir.join(file_name::CACHE).join(template));
        prepare(&mut settings);
        let world = FakeWorld::new();
        let backend = Arc::new(world.backend());
        let sheds = match images {
            Some(images) => Sheds::open_with(settings, backend, images).await.unwrap(),
            None => Sheds::open(settings, backend).await.unwrap(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let ssh = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ssh_port = ssh.local_addr().unwrap().port();
        let info = ServerInfo {
            name: "test".into(),
            version: "1.2.3".into(),
            ssh_port: 2222,
            http_port: port,
            backend: "qemu".into(),
            images_dir: None,
        };
        let host_key = HostKey::generate().unwrap();
        let server = Server::new(sheds, info, &host_key, Terms::default());
        let host_key = host_key.public();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let serving = tokio::spawn(async move {
            server.answer(&listener, &ssh, stopped.cancelled()).await;
            drop((listener, ssh));
            server.end().await;
        });
        // How long a call takes is not what these tests are about, and the host may be busy with others.
        let timeouts = Timeouts { connect: PATIENCE, reply: PATIENCE, ..Timeouts::default() };
        let client = Client::new(format!("127.0.0.1:{port}").parse().unwrap(), timeouts);
        Self { world, port, ssh_port, client, host_key: host_key.host_key, dir, stop, serving }
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: impl AsRef<[u8]>) -> RawReply {
        send(self.port, method, path, body).await
    }

    /// Creates a shed that must come up.
    pub(crate) async fn create(&self, name: &str) -> ShedName {
        let reply = self.send("POST", "/api/sheds", json!({ "name": name }).to_string()).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        name.parse().unwrap()
    }

    /// Returns a file that pins the host key.
    pub(crate) fn known_hosts(&self) -> Utf8PathBuf {
        let path = Utf8Path::from_path(self.dir.path()).unwrap().join("known_hosts");
        std::fs::write(&path, format!("[127.0.0.1]:{} {}\n", self.ssh_port, self.host_key)).unwrap();
        path
    }

    /// Makes boots of this shed hang, or take a while.
    pub(crate) fn set_boot(&self, shed: &ShedName, boot: BootFault) {
        self.world.set_faults(shed, Faults { boot, ..Faults::default() });
    }

    pub(crate) async fn wait_for_status(&self, name: &ShedName, wanted: &str) {
        wait_for(wanted, PATIENCE, || async {
            matches!(self.client.get(name).await, Ok(shed) if shed.status.as_str() == wanted)
        })
        .await
        .unwrap();
    }

    /// Waits until nothing is left of any shed: no machine, no socket, no directory.
    pub(crate) async fn wait_until_clean(&self) {
        wait_for("everything to be gone", PATIENCE, || std::future::ready(self.leftovers().is_empty()))
            .await
            .unwrap_or_else(|error| panic!("{error}: {:?}", self.leftovers()));
    }

    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.leftovers(), Vec::<String>::new());
    }

    fn leftovers(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.instance_dir()).unwrap().flatten();
        let files =
            entries.map(|entry| entry.file_name().into_string().unwrap()).filter(|name| name != ".lock");
        let machines = self.world.running().into_iter().map(|shed| format!("machine of {shed}"));
        let sockets = self.world.sockets().into_iter().map(|shed| format!("sockets of {shed}"));
        files.chain(machines).chain(sockets).collect()
    }

    pub(crate) fn instance_dir(&self) -> Utf8PathBuf {
        settings(Utf8Path::from_path(self.dir.path()).unwrap()).instance_dir
    }

    /// Asks the server to end, and returns when it has.
    pub(crate) async fn end(&mut self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, &mut self.serving).await.expect("the server ends").unwrap();
    }
}

/// Refuses every image, so that no test leaves this machine by a slip.
#[derive(Debug)]
struct NoRegistry;

impl FetchImage for NoRegistry {
    fn fetch<'a>(
        &'a self,
        reference: &'a ImageReference,
        _store: &'a ImageStore,
        _name: &'a ImageName,
        _limits: ImageLimits,
        _watch: Arc<dyn ImageWatch>,
    ) -> BoxFuture<'a, Result<bool, FetchFailed>> {
        Box::pin(async move { Err(format!("no registry has {reference} in this test").into()) })
    }
}

fn settings(root: &Utf8Path) -> Settings {
    Settings {
        instance_dir: root.join("instances"),
        images_dir: root.join("images"),
        kernel: root.join("images/kernel"),
        initrd: root.join("images/initrd"),
        base_rootfs: None,
        images: [].into(),
        // Whatever a test makes up as a reference: nothing leaves this host.
        registries: RegistrySettings {
            allow: Some(["127.0.0.1".to_owned()].into()),
            ..RegistrySettings::default()
        },
        image_limits: ImageLimits::default(),
        home: None,
        default_cpus: 2.try_into().unwrap(),
        default_memory_mb: 512.try_into().unwrap(),
        default_disk_gb: DiskGb::try_from(1).unwrap(),
        start_timeout: PATIENCE,
        stop_timeout: Duration::from_secs(5),
        extra_cmdline: Vec::new(),
        bus: Default::default(),

        credentials: Default::default(),
        env_file: None,
        kept_from_guests: Vec::new(),
        extra_known_hosts: Vec::new(),
    }
}

fn write(path: &Utf8Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, "x").unwrap();
}

/// Replaces what differs from run to run, where it is there.
pub(crate) fn redact(mut value: Value) -> Value {
    fn walk(value: &mut Value) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    match key.as_str() {
                        "created_at" | "last_healthy" | "started_at" => {
                            let time = value.as_str().unwrap();
                            assert!(
                                time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(),
                                "{key}: {time}"
                            );
                            *value = json!("[time]");
                        }
                        "start_ms" | "ms" | "elapsed_ms" | "pid" | "http_port" => {
                            assert!(value.is_u64(), "{key}: {value}");
                            *value = json!("[number]");
                        }
                        "rootfs_path" => {
                            assert!(value.as_str().unwrap().ends_with("/rootfs.ext4"));
                            *value = json!("[path]");
                        }
                        _ => walk(value),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(walk),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    walk(&mut value);
    value
}
