//! A real registry on loopback, Debian's `docker-registry`, with a gate before it that lets only so many bytes through.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::json;
use shed_image::DigestHasher;
use shed_testkit::wait_for;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use crate::common::PATIENCE;

/// Ended with the test.
pub(crate) struct Registry {
    child: Child,
    /// Lines of its log of requests.
    requests: Arc<Mutex<Vec<String>>>,
    port: u16,
    gate: watch::Sender<u64>,
    gate_port: u16,
    gate_task: JoinHandle<()>,
    dir: TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.gate_task.abort();
        self.end();
    }
}

impl Registry {
    pub(crate) async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap();
        let config = json!({
            "version": 0.1,
            "log": {"accesslog": {"disabled": false}},
            "storage": {"filesystem": {"rootdirectory": root.join("data")}},
            "http": {"addr": "127.0.0.1:0"},
        });
        let file = root.join("config.yml");
        std::fs::write(&file, config.to_string()).unwrap();
        let mut command = Command::new("docker-registry");
        command.args(["serve", file.as_str()]).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().expect("these tests need docker-registry: apt-get install docker-registry");
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (found, mut listens) = tokio::sync::mpsc::unbounded_channel();
        let _log = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once("listening on 127.0.0.1:") {
                    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                    let _test_is_over = found.send(digits.parse::<u16>().unwrap());
                }
            }
        });
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let lines = Arc::clone(&requests);
        let _log = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        let port =
            tokio::time::timeout(PATIENCE * 2, listens.recv()).await.expect("the registry starts").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gate_port = listener.local_addr().unwrap().port();
        let gate = watch::Sender::new(u64::MAX);
        let gate_task = tokio::spawn(pass(listener, port, gate.clone()));
        Self { child, requests, port, gate, gate_port, gate_task, dir }
    }

    /// Kills it; nobody listens at its port then. The gate stays, and closes each connection.
    pub(crate) fn end(&mut self) {
        let _dead = self.child.kill();
        let _status = self.child.wait();
    }

    /// Returns the reference of an image in it, through the gate.
    pub(crate) fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.gate_port)
    }

    /// Lets so many bytes of answers through from now on.
    pub(crate) fn allow(&self, bytes: u64) {
        self.gate.send_replace(bytes);
    }

    /// Returns how many bytes have come through since all were allowed.
    pub(crate) fn passed(&self) -> u64 {
        u64::MAX - *self.gate.borrow()
    }

    /// Waits until the gate holds bytes back.
    pub(crate) async fn exhausted(&self) {
        wait_for("the gate to close", PATIENCE * 2, || std::future::ready(*self.gate.borrow() == 0))
            .await
            .unwrap();
    }

    /// Returns the blobs that were sent, one a request.
    pub(crate) fn blob_requests(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        let blobs = requests.iter().filter(|line| line.contains("\"GET /v2/") && line.contains("/blobs/"));
        blobs.map(|line| line.split_whitespace().nth(6).unwrap_or_default().to_owned()).collect()
    }

    /// Puts an image of one file of so many bytes into the registry, with the tool of others.
    pub(crate) fn push(&self, name: &str, bytes: usize) {
        let layout = Utf8PathBuf::from_path_buf(self.dir.path().join(name.replace([':', '/'], "-"))).unwrap();
        write_layout(&layout, name, bytes);
        let to = format!("docker://127.0.0.1:{}/{name}", self.port);
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--dest-tls-verify=false", &format!("oci:{layout}:x"), &to])
            .output()
            .expect("these tests need skopeo: apt-get install skopeo");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.requests.lock().unwrap().clear();
    }
}

/// Passes connections on, and of the answers as many bytes as are allowed.
async fn pass(listener: TcpListener, port: u16, gate: watch::Sender<u64>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let gate = gate.clone();
        connections.spawn(async move {
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.into_split(), server.into_split());
            let asks = async {
                let _end = tokio::io::copy(&mut from_client, &mut to_server).await;
            };
            let answers = async {
                let mut allowed = gate.subscribe();
                let mut buffer = vec![0; 4096];
                while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
                    // Bytes that may not go wait here.
                    if allowed.wait_for(|left| *left > 0).await.is_err() {
                        return;
                    }
                    gate.send_modify(|left| *left = left.saturating_sub(count as u64));
                    if to_client.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = asks => {}
                () = answers => {}
            }
        });
    }
}

fn write_layout(layout: &Utf8Path, name: &str, bytes: usize) {
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |content: &[u8]| {
        let digest = DigestHasher::sha256_of(content);
        std::fs::write(blobs.join(digest.hex()), content).unwrap();
        (digest.to_string(), content.len())
    };
    // Of a kind that no compression makes small, and that differs from image to image.
    let mut state = name.bytes().fold(1_u64, |state, byte| state.wrapping_mul(31).wrapping_add(byte.into()));
    let mut noise = Vec::with_capacity(bytes);
    noise.resize_with(bytes, || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    });
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(bytes as u64);
    tar.append_data(&mut header, "noise", &noise[..]).unwrap();
    let layer = tar.into_inner().unwrap();
    let (layer, layer_size) = put(&layer);
    let architecture = shed_image::Platform::of_host().architecture;
    let config = json!({
        "os": "linux", "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": [layer]},
        "config": {"Env": ["A=b"]},
    });
    let (config, config_size) = put(config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config":
            {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size},
        "layers":
            [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": layer_size}],
    });
    let (manifest, size) = put(manifest.to_string().as_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest, "size": size,
        "annotations": {"org.opencontainers.image.ref.name": "x"},
    }]});
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}
