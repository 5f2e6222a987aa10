//! Keeps the monitor connection of one machine, and acts on what QEMU reports.
//!
//! It exists for as long as a server has the machine in its hands. It decides three things by itself: a guest that
//! resets before its agent has answered is not booting but looping, and is ended; a machine that KVM cannot run any
//! further is ended; a machine that stands still because the host's disk is full is continued when there is room.

use std::{io, io::Write, sync::Arc, time::Duration};

use camino::Utf8PathBuf;
use serde_json::Value;
use shed_types::ShedName;
use tokio::{
    net::UnixStream,
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    command_line::AGENT_DEVICE,
    link::{GuestLink, Reset},
    qmp::{Event, Events, QmpClient, QmpError},
};

/// First and longest pause before connecting again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Longest wait for the answer to a command that the monitor gives by itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a machine that waits for room on the host's disk is tried again.
const ROOM_RETRY: Duration = Duration::from_secs(5);

/// The monitor of one machine. Dropping it lets go of the socket.
#[derive(Debug)]
pub(super) struct Monitor {
    client: watch::Receiver<Option<QmpClient>>,
    task: AbortOnDropHandle<()>,
}

impl Monitor {
    /// Begins to connect to the socket at `path`. What the monitor decides is also noted in `vmm_log`.
    pub(super) fn start(
        shed: ShedName,
        path: Utf8PathBuf,
        vmm_log: Utf8PathBuf,
        link: Arc<GuestLink>,
    ) -> Self {
        Self::start_with(shed, path, vmm_log, link, ROOM_RETRY)
    }

    fn start_with(
        shed: ShedName,
        path: Utf8PathBuf,
        vmm_log: Utf8PathBuf,
        link: Arc<GuestLink>,
        room_retry: Duration,
    ) -> Self {
        let (sender, client) = watch::channel(None);
        let keeper = Keeper { shed, path, vmm_log, link, client: sender, room_retry };
        Self { client, task: AbortOnDropHandle::new(tokio::spawn(keeper.run())) }
    }

    /// Resolves when QEMU answers.
    pub(super) async fn ready(&self) {
        self.client().await;
    }

    /// Has QEMU run a command; waits for a connection, too.
    ///
    /// # Errors
    /// When QEMU refuses or does not answer within `patience`.
    pub(super) async fn execute(&self, name: &str, patience: Duration) -> Result<Value, QmpError> {
        let began = Instant::now();
        let client = timeout(patience, self.client())
            .await
            .map_err(|_| QmpError::Timeout { command: name.to_owned(), waited: patience })?;
        client.execute(name, Value::Null, patience.saturating_sub(began.elapsed())).await
    }

    /// Lets go of the socket for good.
    pub(super) fn stop(&self) {
        self.task.abort();
    }

    async fn client(&self) -> QmpClient {
        let mut client = self.client.clone();
        loop {
            match client.wait_for(Option::is_some).await.map(|client| client.clone()) {
                Ok(Some(client)) => return client,
                Ok(None) => {}
                // The monitor was stopped, as it is when the machine ends.
                Err(_) => return std::future::pending().await,
            }
        }
    }
}

/// Connects again and again, and handles events.
struct Keeper {
    shed: ShedName,
    path: Utf8PathBuf,
    vmm_log: Utf8PathBuf,
    link: Arc<GuestLink>,
    client: watch::Sender<Option<QmpClient>>,
    room_retry: Duration,
}

/// Why a machine's CPUs stand still, as far as that makes a difference here (QEMU, qapi/run-state.json, `RunState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RunState {
    Running,
    /// A disk gave an error that the machine waits out.
    DiskError,
    /// The accelerator cannot go on.
    AcceleratorFailed,
    /// Somebody has a reason.
    Other,
}

impl RunState {
    fn parse(answer: &Value) -> Self {
        match answer.get("status").and_then(Value::as_str) {
            Some("running") => Self::Running,
            Some("io-error") => Self::DiskError,
            Some("internal-error") => Self::AcceleratorFailed,
            Some(_) | None => Self::Other,
        }
    }
}

impl Keeper {
    async fn run(self) {
        let mut pause = PAUSES.0;
        loop {
            match connect(&self.path).await {
                Ok((client, events)) => {
                    pause = PAUSES.0;
                    self.client.send_replace(Some(client.clone()));
                    self.attend(&client, events).await;
                    self.client.send_replace(None);
                    tracing::debug!(shed = %self.shed, "the monitor connection is down");
                }
                Err(error) => tracing::debug!(shed = %self.shed, %error, "the monitor does not answer"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Handles events until the connection ends.
    async fn attend(&self, client: &QmpClient, mut events: Events) {
        // What happened while nobody listened shows in the state.
        let mut retry_at = self.look_why_stopped(client).await;
        let mut told_of_disk = false;
        loop {
            let retry = async {
                match retry_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = events.recv() => match event {
                    Some(Event::GuestReset) => self.guest_reset(client).await,
                    Some(Event::Port { device, open: false }) if device == AGENT_DEVICE => self.link.reconnect(),
                    // The handshake waits in the pipe already.
                    Some(Event::Port { .. }) => {}
                    Some(Event::Stopped) => retry_at = self.look_why_stopped(client).await,
                    Some(Event::Resumed) => {
                        retry_at = None;
                        told_of_disk = false;
                    }
                    Some(Event::BlockError { reason }) if !told_of_disk => {
                        told_of_disk = true;
                        tracing::warn!(shed = %self.shed, reason, "a disk of the machine gave an error");
                    }
                    Some(Event::BlockError { .. }) => {}
                    None => return,
                },
                () = retry => {
                    // The next error stops the machine again, and so comes back as an event.
                    let result = client.execute("cont", Value::Null, PATIENCE).await;
                    retry_at = match result {
                        Ok(_) => None,
                        Err(_) => Some(Instant::now() + self.room_retry),
                    };
                }
            }
        }
    }

    async fn guest_reset(&self, client: &QmpClient) {
        match self.link.guest_reset() {
            Reset::Reboot => tracing::info!(shed = %self.shed, "the guest reboots"),
            Reset::BootFails => {
                self.end(client, "the guest reset itself before its agent had answered").await;
            }
        }
    }

    /// Asks why the machine stands still, if it does; returns when to continue it.
    async fn look_why_stopped(&self, client: &QmpClient) -> Option<Instant> {
        let state = match client.execute("query-status", Value::Null, PATIENCE).await {
            Ok(answer) => RunState::parse(&answer),
            Err(error) => {
                tracing::warn!(shed = %self.shed, %error, "the machine's state cannot be asked for");
                return None;
            }
        };
        match state {
            RunState::Running | RunState::Other => None,
            RunState::DiskError => {
                tracing::warn!(shed = %self.shed, "the machine waits: a disk gave an error, maybe the host's is full");
                Some(Instant::now() + self.room_retry)
            }
            RunState::AcceleratorFailed => {
                self.end(client, "the accelerator could not run the guest any further").await;
                None
            }
        }
    }

    async fn end(&self, client: &QmpClient, reason: &str) {
        tracing::warn!(shed = %self.shed, reason, "the machine is ended");
        let note = format!("shed-server: {reason}; the machine is ended\n");
        let noted = std::fs::OpenOptions::new()
            .append(true)
            .open(&self.vmm_log)
            .and_then(|mut log| log.write_all(note.as_bytes()));
        if let Err(error) = noted {
            tracing::debug!(shed = %self.shed, %error, "the reason could not be noted in the log of the VMM");
        }
        // QEMU may be gone before it has answered.
        match client.execute("quit", Value::Null, PATIENCE).await {
            Ok(_) | Err(QmpError::Closed) => {}
            Err(error) => tracing::warn!(shed = %self.shed, %error, "the machine could not be ended"),
        }
    }
}

async fn connect(path: &Utf8PathBuf) -> Result<(QmpClient, Events), io::Error> {
    Ok(QmpClient::handshake(UnixStream::connect(path).await?).await?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::{
        io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
        net::UnixListener,
    };

    use super::{super::link::Age, *};

    const SOON: Duration = Duration::from_secs(20);

    struct Setup {
        monitor: Monitor,
        link: Arc<GuestLink>,
        listener: UnixListener,
        log: Utf8PathBuf,
        _dir: tempfile::TempDir,
    }

    fn setup(age: Age) -> Setup {
        let dir = tempfile::tempdir().unwrap();
        let base = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        let (path, log) = (base.join("api.qmp"), base.join("vmm.log"));
        std::fs::write(&log, "").unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let shed: ShedName = "api".parse().unwrap();
        let link = Arc::new(GuestLink::start(shed.clone(), base.join("api.link"), age));
        let retry = Duration::from_millis(20);
        let monitor = Monitor::start_with(shed, path, log.clone(), Arc::clone(&link), retry);
        Setup { monitor, link, listener, log, _dir: dir }
    }

    /// QEMU's end of the monitor, with the machine in the given state.
    struct Qemu {
        socket: BufReader<UnixStream>,
    }

    impl Qemu {
        async fn accept(listener: &UnixListener, status: &str) -> Self {
            let (socket, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
            let mut qemu = Self { socket: BufReader::new(socket) };
            qemu.say(&json!({"QMP": {}})).await;
            qemu.answer("qmp_capabilities", json!({})).await;
            qemu.answer("query-status", json!({ "status": status })).await;
            qemu
        }

        async fn say(&mut self, line: &Value) {
            self.socket.get_mut().write_all(format!("{line}\n").as_bytes()).await.unwrap();
        }

        async fn event(&mut self, name: &str, data: Value) {
            self.say(&json!({"event": name, "data": data, "timestamp": {}})).await;
        }

        /// Waits for this command and no other, and answers it.
        async fn answer(&mut self, command: &str, answer: Value) {
            let mut line = String::new();
            timeout(SOON, self.socket.read_line(&mut line)).await.unwrap().unwrap();
            let asked: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(asked["execute"], command);
            self.say(&json!({"return": answer, "id": asked["id"]})).await;
        }

        async fn guest_resets(&mut self) {
            self.event("RESET", json!({"guest": true, "reason": "guest-reset"})).await;
        }
    }

    #[tokio::test]
    async fn commands_reach_qemu_also_after_the_connection_was_lost() {
        let Setup { monitor, listener, link: _link, log: _log, _dir } = setup(Age::Fresh);
        for _ in 0..2 {
            let mut qemu = Qemu::accept(&listener, "running").await;
            let (result, ()) = tokio::join!(
                monitor.execute("system_powerdown", SOON),
                qemu.answer("system_powerdown", json!({}))
            );
            result.unwrap();
            drop(qemu);
            // Only then is the next connection sure to be the one that commands use.
            monitor.client.clone().wait_for(Option::is_none).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_guest_that_resets_before_its_agent_answered_is_ended_and_the_log_says_why() {
        let Setup { monitor, listener, log, link: _link, _dir } = setup(Age::Fresh);
        let mut qemu = Qemu::accept(&listener, "running").await;
        qemu.guest_resets().await;
        qemu.answer("quit", json!({})).await;
        let text = std::fs::read_to_string(&log).unwrap();
        assert!(text.contains("before its agent had answered"), "{text}");
        drop(monitor);
    }

    #[tokio::test]
    async fn a_reboot_is_let_pass_and_a_loop_is_ended() {
        let Setup { monitor, listener, link, log: _log, _dir } = setup(Age::Adopted);
        let mut qemu = Qemu::accept(&listener, "running").await;
        // One reboot.
        qemu.guest_resets().await;
        qemu.guest_resets().await;
        // A command of ours comes through as the next one: no `quit` was sent.
        tokio::join!(
            async { monitor.execute("query-name", SOON).await.unwrap() },
            qemu.answer("query-name", json!({}))
        );
        qemu.guest_resets().await;
        qemu.answer("quit", json!({})).await;
        drop(link);
    }

    #[tokio::test]
    async fn a_machine_that_kvm_cannot_run_is_ended_also_when_that_happened_unheard() {
        let Setup { monitor, listener, log, link: _link, _dir } = setup(Age::Adopted);
        let mut qemu = Qemu::accept(&listener, "internal-error").await;
        qemu.answer("quit", json!({})).await;
        assert!(std::fs::read_to_string(&log).unwrap().contains("accelerator"));
        drop(monitor);
    }

    #[tokio::test]
    async fn a_machine_that_waits_for_room_is_continued() {
        let Setup { monitor, listener, link: _link, log: _log, _dir } = setup(Age::Adopted);
        let mut qemu = Qemu::accept(&listener, "running").await;
        qemu.event("BLOCK_IO_ERROR", json!({"reason": "No space left on device"})).await;
        qemu.event("STOP", json!({})).await;
        qemu.answer("query-status", json!({"status": "io-error"})).await;
        qemu.answer("cont", json!({})).await;
        // Still full.
        qemu.event("RESUME", json!({})).await;
        qemu.event("STOP", json!({})).await;
        qemu.answer("query-status", json!({"status": "io-error"})).await;
        qemu.answer("cont", json!({})).await;
        drop(monitor);
    }

    #[tokio::test]
    async fn a_machine_that_somebody_paused_stays_paused() {
        let Setup { monitor, listener, link: _link, log: _log, _dir } = setup(Age::Adopted);
        let mut qemu = Qemu::accept(&listener, "paused").await;
        tokio::join!(
            async { monitor.execute("query-name", SOON).await.unwrap() },
            qemu.answer("query-name", json!({}))
        );
    }
}
