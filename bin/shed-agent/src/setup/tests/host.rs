//! What the tests share: a workspace of their own, and the host's end of the stream.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::PathBuf,
};

use shed_protocol::{Failure, SetupEvent, Step, StepEnd};
use tokio::{
    io::{DuplexStream, duplex},
    time::timeout,
};
use tokio_util::codec::Framed;

use super::super::*;

/// Longer than anything here takes.
pub(super) const SOON: Duration = Duration::from_secs(120);

/// A guest's places in a temporary directory, whose user is nobody in particular where the tests are root's.
pub(super) struct Guest {
    pub(super) state: Arc<State>,
    pub(super) dir: tempfile::TempDir,
}

impl Guest {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (uid, gid) = if rustix::process::geteuid().is_root() {
            (65534, 65534)
        } else {
            (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
        };
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for place in ["workspace", "logs", "etc/profile.d", "home", "run"] {
            fs::create_dir_all(dir.path().join(place)).unwrap();
        }
        for place in ["workspace", "logs", "home"] {
            chown(dir.path().join(place), Some(uid), Some(gid)).unwrap();
        }
        let home = dir.path().join("home").display().to_string();
        let user = User { name: "shed".into(), uid, gid, groups: vec![gid], home };
        let ground = Ground {
            workspace: dir.path().join("workspace"),
            logs: dir.path().join("logs"),
            etc: dir.path().join("etc"),
            kept: dir.path().join("run/setup.json"),
            user: Some(user),
        };
        let state = State::on(ground);
        state.set_name("demo");
        Self { state: Arc::new(state), dir }
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub(super) fn user(&self) -> User {
        self.state.setups.ground.user.clone().unwrap()
    }

    /// Writes a file of the user's.
    pub(super) fn write(&self, path: &str, content: &str) {
        let file = self.path(path);
        let user = self.user();
        let mut made = file.parent().unwrap().to_owned();
        fs::create_dir_all(&made).unwrap();
        while made.starts_with(self.path("workspace")) {
            chown(&made, Some(user.uid), Some(user.gid)).unwrap();
            made = made.parent().unwrap().to_owned();
        }
        fs::write(&file, content).unwrap();
        chown(&file, Some(user.uid), Some(user.gid)).unwrap();
    }

    /// Makes a repository with these hooks, each a script.
    pub(super) fn hooks(&self, hooks: &[(&str, &str)], rest: &str) {
        let mut yaml = "hooks:\n".to_owned();
        for (name, script) in hooks {
            yaml += &format!("  {name}: scripts/{name}.sh\n");
            self.write(&format!("workspace/scripts/{name}.sh"), script);
        }
        self.write("workspace/.shed/provision.yaml", &(yaml + rest));
    }

    pub(super) fn read(&self, path: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}")))
            .into_owned()
    }

    /// Sends a request; the stream holds `buffer` bytes for a host that does not read.
    pub(super) async fn ask(&self, request: &SetupRequest, buffer: usize) -> Host {
        let (ours, theirs) = duplex(buffer);
        let state = Arc::clone(&self.state);
        tokio::spawn(async move { serve(theirs, &state).await });
        let mut host = Framed::new(ours, FrameCodec);
        host.send(Frame::json(FrameKind::SetupRequest, request)).await.unwrap();
        Host(host)
    }

    pub(super) async fn set_up(&self, request: &SetupRequest) -> Told {
        self.ask(request, 1 << 20).await.told().await
    }

    pub(super) async fn occasion(&self, occasion: Occasion) -> Told {
        self.set_up(&request(occasion)).await
    }

    /// Waits until the report says that nothing runs.
    pub(super) async fn until_over(&self) -> SetupReport {
        until(|| self.state.setups.report().filter(|report| report.running.is_none())).await
    }
}

/// Waits for something that no event tells of.
pub(super) async fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "it came to be in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(super) fn request(occasion: Occasion) -> SetupRequest {
    SetupRequest { occasion, clone: None, hooks: true, env: Vec::new(), limit_ms: None }
}

/// The host's end.
pub(super) struct Host(Framed<DuplexStream, FrameCodec>);

impl Host {
    pub(super) async fn next(&mut self) -> Option<Frame> {
        timeout(SOON, self.0.next()).await.expect("the agent says something in time").map(Result::unwrap)
    }

    /// Reads output until it holds `text`.
    pub(super) async fn until_output(&mut self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            let frame = self.next().await.unwrap_or_else(|| panic!("{text} before the end, not {seen}"));
            if frame.kind == FrameKind::Data {
                seen += &String::from_utf8_lossy(&frame.payload);
            }
        }
        seen
    }

    /// Reads to the end.
    pub(super) async fn told(mut self) -> Told {
        let mut told = Told::default();
        while let Some(frame) = self.next().await {
            assert!(told.reply.is_none(), "nothing comes behind the reply");
            match frame.kind {
                FrameKind::Data => told.output.extend_from_slice(&frame.payload),
                FrameKind::SetupEvent => told.events.push(frame.parse().unwrap()),
                FrameKind::SetupReply => told.reply = Some(frame.parse().unwrap()),
                other => panic!("unexpected {other:?}"),
            }
        }
        told
    }
}

/// All that the host was told.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) output: Vec<u8>,
    pub(super) events: Vec<SetupEvent>,
    pub(super) reply: Option<SetupReply>,
}

impl Told {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    /// How each step ended, as `step:done` and its like.
    pub(super) fn ends(&self) -> String {
        assert_eq!(self.reply, Some(SetupReply::default()), "{self:?}");
        let ends = self.events.iter().filter_map(|event| match event {
            SetupEvent::Ended { step, end } => Some((*step, end)),
            SetupEvent::Began { .. } | SetupEvent::Warning { .. } => None,
        });
        ends.map(|(step, end)| {
            let end = match end {
                StepEnd::Done => "done",
                StepEnd::Skipped => "skipped",
                StepEnd::Failed(_) => "failed",
            };
            format!("{}:{end}", step.as_str())
        })
        .collect::<Vec<_>>()
        .join(" ")
    }

    pub(super) fn failure(&self) -> (Step, &Failure) {
        let failed = self.events.iter().find_map(|event| match event {
            SetupEvent::Ended { step, end: StepEnd::Failed(failure) } => Some((*step, failure)),
            SetupEvent::Ended { .. } | SetupEvent::Began { .. } | SetupEvent::Warning { .. } => None,
        });
        failed.unwrap_or_else(|| panic!("nothing failed: {self:?}"))
    }

    pub(super) fn warnings(&self) -> String {
        let warnings = self.events.iter().filter_map(|event| match event {
            SetupEvent::Warning { message, .. } => Some(message.as_str()),
            SetupEvent::Ended { .. } | SetupEvent::Began { .. } => None,
        });
        warnings.collect::<Vec<_>>().join("\n")
    }
}

pub(super) fn is_alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Ends a process of a test's own.
pub(super) fn kill(pid: &str) {
    let _gone = std::process::Command::new("kill").args(["-9", pid.trim()]).status().unwrap();
}
