//! An SSH server that plays one scene: it takes one login and one command, and then does what the test wants.
//!
//! It is made of the same library as the real server, and speaks the subsystem as `shed-ssh` describes it. For what a
//! real server and agent never or only by chance do: hang up half-way, refuse to read, send rubbish.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener},
    os::unix::net::UnixStream,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use russh::{
    Channel, ChannelId, Disconnect, SshId,
    keys::{PrivateKey, ssh_key::private::Ed25519Keypair},
    server::{Auth, ChannelOpenHandle, Config, Handle, Handler, Msg, Session},
};
use shed_protocol::{ExecRequest, ExitStatus, Frame, FrameKind};
use shed_ssh::{EXEC_SUBSYSTEM, Refusal, algorithms};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, mpsc},
};

/// The server.
pub(crate) struct SshPeer {
    pub(crate) port: u16,
    /// Public key, as known_hosts has it.
    pub(crate) key: String,
    thread: JoinHandle<()>,
}

/// The stream of the command and what was asked for.
pub(crate) struct Stage {
    pub(crate) stream: UnixStream,
    pub(crate) request: ExecRequest,
    /// The name that was logged in with.
    pub(crate) user: String,
    cut: Arc<Notify>,
}

type Scene = Box<dyn FnOnce(&mut Stage) + Send>;

/// What the server does.
enum Plot {
    /// Plays a scene with the command.
    Play(Scene),
    /// Refuses the command.
    Refuse(Refusal),
    /// Knows no such subsystem.
    Ignorant,
    /// Wants a password.
    Locked,
    /// Hangs up at the login, with these words.
    Farewell(&'static str),
}

impl SshPeer {
    /// Takes one login and plays `scene` with its command.
    pub(crate) fn play(scene: impl FnOnce(&mut Stage) + Send + 'static) -> Self {
        Self::start(1, Plot::Play(Box::new(scene)))
    }

    /// Refuses the command of one login.
    pub(crate) fn refuse(code: shed_api::ErrorCode, message: &str) -> Self {
        Self::start(1, Plot::Refuse(Refusal::new(code, message)))
    }

    /// An SSH server of another kind.
    pub(crate) fn ignorant() -> Self {
        Self::start(1, Plot::Ignorant)
    }

    /// An SSH server that wants credentials.
    pub(crate) fn locked() -> Self {
        Self::start(1, Plot::Locked)
    }

    /// A server that hangs up.
    pub(crate) fn farewell(words: &'static str) -> Self {
        Self::start(1, Plot::Farewell(words))
    }

    /// Like [`Self::play`], with another host key than all other peers have.
    pub(crate) fn with_other_key(scene: impl FnOnce(&mut Stage) + Send + 'static) -> Self {
        Self::start(2, Plot::Play(Box::new(scene)))
    }

    fn start(seed: u8, plot: Plot) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let private = PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]));
        let key = private.public_key().to_openssh().unwrap().trim().to_owned();
        let thread = thread::Builder::new()
            .name("ssh peer".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(1)
                    .enable_all()
                    .build()
                    .unwrap();
                let scene = Arc::new(Mutex::new(None));
                runtime.block_on(serve(listener, private, plot, Arc::clone(&scene)));
                // All sockets are closed with it.
                runtime.shutdown_background();
                let playing: Option<JoinHandle<()>> = scene.lock().unwrap().take();
                if let Some(Err(panic)) = playing.map(JoinHandle::join) {
                    std::panic::resume_unwind(panic);
                }
            })
            .unwrap();
        Self { port, key, thread }
    }

    /// Waits for the end of the scene and passes on its failure.
    #[track_caller]
    pub(crate) fn end(self) {
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

async fn serve(
    listener: TcpListener,
    key: PrivateKey,
    plot: Plot,
    scene: Arc<Mutex<Option<JoinHandle<()>>>>,
) {
    listener.set_nonblocking(true).unwrap();
    let (socket, _) = tokio::net::TcpListener::from_std(listener).unwrap().accept().await.unwrap();
    let config = Config {
        server_id: SshId::Standard("SSH-2.0-scene".into()),
        keys: vec![key],
        preferred: algorithms::preferred(),
        auth_rejection_time: std::time::Duration::ZERO,
        nodelay: true,
        ..Config::default()
    };
    let cut = Arc::new(Notify::new());
    let host = Host { plot: Some(plot), user: String::new(), input: None, scene, cut: Arc::clone(&cut) };
    // A client that does not like the key hangs up here.
    let Ok(session) = russh::server::run_stream(Arc::new(config), socket, host).await else { return };
    tokio::select! {
        _ended = session => {}
        () = cut.notified() => {}
    }
}

struct Host {
    plot: Option<Plot>,
    user: String,
    /// To the scene, without a limit: a scene that does not read must not keep the server from sending.
    input: Option<mpsc::UnboundedSender<Vec<u8>>>,
    scene: Arc<Mutex<Option<JoinHandle<()>>>>,
    cut: Arc<Notify>,
}

impl Handler for Host {
    type Error = russh::Error;

    async fn auth_none(&mut self, user: &str) -> Result<Auth, russh::Error> {
        self.user = user.to_owned();
        Ok(match self.plot {
            Some(Plot::Locked) => Auth::reject(),
            Some(Plot::Play(_) | Plot::Refuse(_) | Plot::Ignorant | Plot::Farewell(_)) | None => Auth::Accept,
        })
    }

    async fn channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        match self.plot {
            Some(Plot::Farewell(words)) => session.disconnect(Disconnect::ByApplication, words, "")?,
            Some(Plot::Play(_) | Plot::Refuse(_) | Plot::Ignorant | Plot::Locked) | None => {
                reply.accept().await;
            }
        }
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        assert_eq!(name, EXEC_SUBSYSTEM);
        match self.plot.take().expect("one command a connection") {
            Plot::Refuse(refusal) => {
                session.data(channel, encode(&refusal.to_frame()))?;
                session.channel_failure(channel)?;
                session.eof(channel)?;
                session.close(channel)?;
            }
            Plot::Ignorant => session.channel_failure(channel)?,
            Plot::Play(scene) => {
                session.channel_success(channel)?;
                self.begin(scene, channel, session.handle());
            }
            Plot::Locked | Plot::Farewell(_) => unreachable!("nobody comes this far"),
        }
        Ok(())
    }

    async fn data(&mut self, _: ChannelId, data: &[u8], _: &mut Session) -> Result<(), russh::Error> {
        if let Some(input) = &self.input {
            // The scene may be over.
            let _over = input.send(data.to_vec());
        }
        Ok(())
    }
}

impl Host {
    fn begin(&mut self, scene: Scene, channel: ChannelId, handle: Handle) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (cut, user) = (Arc::clone(&self.cut), self.user.clone());
        let playing = thread::spawn(move || {
            let mut stage = Stage { stream: theirs, request: ExecRequest::default(), user, cut };
            let first = stage.next().expect("an exec request comes first");
            assert_eq!(first.kind, FrameKind::ExecRequest);
            stage.request = first.parse().unwrap();
            scene(&mut stage);
            // The end is told, and the client hangs up first.
            let _gone = stage.stream.shutdown(Shutdown::Write);
            let _reset = std::io::copy(&mut stage.stream, &mut std::io::sink());
        });
        *self.scene.lock().unwrap() = Some(playing);
        ours.set_nonblocking(true).unwrap();
        let (mut output, mut to_scene) = tokio::net::UnixStream::from_std(ours).unwrap().into_split();
        let (sender, mut receiver) = mpsc::unbounded_channel::<Vec<u8>>();
        self.input = Some(sender);
        tokio::spawn(async move {
            while let Some(data) = receiver.recv().await {
                if to_scene.write_all(&data).await.is_err() {
                    return;
                }
            }
        });
        tokio::spawn(async move {
            let mut buffer = vec![0; 32 << 10];
            while let Ok(count @ 1..) = output.read(&mut buffer).await {
                if handle.data(channel, buffer[..count].to_vec()).await.is_err() {
                    return;
                }
            }
            let _gone = (handle.eof(channel).await, handle.close(channel).await);
        });
    }
}

impl Stage {
    /// Returns the next frame; none at the end of the stream.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let mut header = [0; 5];
        self.stream.read_exact(&mut header).ok()?;
        let length = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize;
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).ok()?;
        let kind = FrameKind::from_byte(header[0]).expect("the client sends known frames");
        Some(Frame::new(kind, payload.into()))
    }

    /// Returns the next frame that is not about stdin.
    pub(crate) fn next_control(&mut self) -> Option<Frame> {
        loop {
            let frame = self.next()?;
            if !matches!(frame.kind, FrameKind::Data | FrameKind::StdinEof) {
                return Some(frame);
            }
        }
    }

    pub(crate) fn send(&mut self, kind: FrameKind, payload: &[u8]) {
        self.stream.write_all(&encode(&Frame::new(kind, payload.to_vec().into()))).unwrap();
    }

    pub(crate) fn exit(&mut self, status: &ExitStatus) {
        self.send(FrameKind::ExitStatus, &serde_json::to_vec(status).unwrap());
    }

    /// Breaks the connection as a host does that loses its power, but for the kernel's last word.
    pub(crate) fn cut(&self) {
        self.cut.notify_one();
    }
}

fn encode(frame: &Frame) -> Vec<u8> {
    let mut bytes = vec![frame.kind.byte()];
    bytes.extend(u32::try_from(frame.payload.len()).unwrap().to_be_bytes());
    bytes.extend(&frame.payload);
    bytes
}
