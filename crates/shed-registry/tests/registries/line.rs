//! A line to a registry that can be watched, held and cut.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Forwards connections to one address.
pub(crate) struct Line {
    /// Host and port of this end.
    pub(crate) address: String,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

/// Which way bytes go.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// To the registry.
    Up,
    /// From the registry.
    Down,
}

struct State {
    target: String,
    plan: Plan,
    passed: [AtomicU64; 2],
    /// How many of the plan's marks are behind.
    marks_passed: AtomicU64,
    is_held: watch::Sender<bool>,
    is_released: watch::Sender<bool>,
}

/// What happens to connections.
#[derive(Default)]
pub(crate) struct Plan {
    /// After so many bytes in all downwards, the connection that carries them is cut.
    pub(crate) cut_down: Vec<u64>,
    /// The same upwards.
    pub(crate) cut_up: Vec<u64>,
    /// After so many bytes in this way nothing moves until the line is released.
    pub(crate) hold: Option<(Way, u64)>,
}

impl Line {
    pub(crate) async fn to(target: &str, plan: Plan) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State {
            target: target.to_owned(),
            plan,
            passed: Default::default(),
            marks_passed: AtomicU64::new(0),
            is_held: watch::Sender::new(false),
            is_released: watch::Sender::new(false),
        });
        let accepting = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let _connection = tokio::spawn(forward(Arc::clone(&accepting), near));
            }
        });
        Self { address, state, task }
    }

    /// Returns how many bytes passed.
    pub(crate) fn passed(&self, way: Way) -> u64 {
        self.state.passed[way as usize].load(Ordering::SeqCst)
    }

    /// Waits until the line is held.
    pub(crate) async fn held(&self) {
        let mut is_held = self.state.is_held.subscribe();
        let _held = is_held.wait_for(|held| *held).await.unwrap();
    }

    /// Cuts the connections that are held, and lets everything pass from now on.
    pub(crate) fn release(&self) {
        let _before = self.state.is_released.send_replace(true);
    }

    /// Returns how often it was cut.
    pub(crate) fn cuts(&self) -> u64 {
        self.state.marks_passed.load(Ordering::SeqCst)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(state: Arc<State>, near: TcpStream) {
    // A registry that is not there: this connection ends, too.
    let Ok(far) = TcpStream::connect(&state.target).await else { return };
    let (mut near_read, mut near_write) = near.into_split();
    let (mut far_read, mut far_write) = far.into_split();
    let up = pump(&state, Way::Up, &mut near_read, &mut far_write);
    let down = pump(&state, Way::Down, &mut far_read, &mut near_write);
    // The end of either is the end of both.
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

async fn pump(
    state: &State,
    way: Way,
    from: &mut tokio::net::tcp::OwnedReadHalf,
    to: &mut tokio::net::tcp::OwnedWriteHalf,
) {
    let mut buffer = vec![0; 16 << 10];
    let marks = match way {
        Way::Up => &state.plan.cut_up,
        Way::Down => &state.plan.cut_down,
    };
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        let before = state.passed[way as usize].fetch_add(count as u64, Ordering::SeqCst);
        let after = before + count as u64;
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        if marks.iter().any(|mark| (before..after).contains(mark)) {
            let _before = state.marks_passed.fetch_add(1, Ordering::SeqCst);
            return;
        }
        if let Some((hold, mark)) = state.plan.hold
            && hold as usize == way as usize
            && after > mark
        {
            let _before = state.is_held.send_replace(true);
            let mut is_released = state.is_released.subscribe();
            let waits = !*is_released.borrow();
            let _released = is_released.wait_for(|released| *released).await.unwrap();
            if waits {
                // What a dead registry had sent before stands in buffers and would still come.
                return;
            }
        }
    }
}
