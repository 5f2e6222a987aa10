//! A way to a server on loopback that a test can close in the middle of an answer, hold, and open again.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
};

use crate::{SHORT, wait_for};

/// How much is passed on at once, in bytes.
const PIECE: usize = 16 << 10;

/// A gate between clients and one server. Answers pass until a budget is used up; then they wait.
#[derive(Debug)]
pub struct Gate {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes of answers that may pass; nothing means any number.
    budget: Option<u64>,
    passed: u64,
    waiting: usize,
    /// Counts up when all connections shall break.
    cuts: u64,
}

impl Gate {
    /// Opens a gate to a port of this machine, through which `budget` bytes of answers pass.
    ///
    /// # Panics
    /// When there is no port for it.
    #[must_use]
    pub fn to(target: u16, budget: u64) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let state = State { budget: Some(budget), ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let of_clients = Arc::clone(&shared);
        // Ends with the test's process: it waits for clients for ever.
        let _thread = std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&of_clients);
                let _thread = std::thread::spawn(move || pass(&client, target, &shared));
            }
        });
        Self { port, shared }
    }

    /// Returns the port for clients.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Waits until the budget is used up and an answer waits.
    ///
    /// # Panics
    /// When that does not come.
    #[track_caller]
    pub fn wait_until_shut(&self) {
        wait_for("an answer to wait at the gate", SHORT * 4, || (self.lock().waiting > 0).then_some(()));
    }

    /// Breaks all connections there are and lets later ones pass without end.
    pub fn cut_and_open(&self) {
        let mut state = self.lock();
        state.cuts += 1;
        state.budget = None;
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Lets everything pass that waits, and all that comes.
    pub fn open(&self) {
        self.lock().budget = None;
        self.shared.changed.notify_all();
    }

    /// Returns how many bytes of answers have passed.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.lock().passed
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.state.lock().expect("nobody panics with it")
    }
}

/// Passes one connection on until either end closes it or it is cut.
fn pass(client: &TcpStream, target: u16, shared: &Shared) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, target));
    let Ok(server) = TcpStream::connect(address) else { return };
    std::thread::scope(|scope| {
        let _requests = scope.spawn(|| {
            let (mut from, mut to) = (client, &server);
            let _ended = std::io::copy(&mut from, &mut to);
            let _closed = server.shutdown(Shutdown::Write);
        });
        let _ended = answers(&server, client, shared);
        let _closed = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
    });
}

fn answers(mut from: &TcpStream, mut to: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    let cuts = shared.state.lock().expect("nobody panics with it").cuts;
    let mut buffer = vec![0; PIECE];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let mut state = shared.state.lock().expect("nobody panics with it");
        state.waiting += 1;
        while state.cuts == cuts && state.budget.is_some_and(|budget| budget < count as u64) {
            state = shared.changed.wait(state).expect("nobody panics with it");
        }
        state.waiting -= 1;
        if state.cuts != cuts {
            return Ok(());
        }
        state.budget = state.budget.map(|budget| budget - count as u64);
        state.passed += count as u64;
        drop(state);
        to.write_all(&buffer[..count])?;
    }
}
