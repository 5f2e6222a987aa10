//! The local ports of tunnels: all of them are opened, or none.

use std::{io, net::Ipv4Addr, net::TcpListener};

use super::mapping::Mapping;

/// Connections that may wait until they are taken. The usual 128 are few for a page that opens its own hundred.
const BACKLOG: i32 = 1024;

/// A port that listens, and where it leads.
#[derive(Debug)]
pub(crate) struct Door {
    /// Where it leads.
    pub(crate) mapping: Mapping,
    /// Listens on 127.0.0.1.
    pub(crate) listener: TcpListener,
}

/// A port that cannot be had.
#[derive(Debug)]
pub(crate) struct Blocked {
    /// What it was wanted for.
    pub(crate) mapping: Mapping,
    /// Why not.
    pub(crate) error: io::Error,
}

impl Blocked {
    /// Returns whether another program has the port.
    pub(crate) fn is_in_use(&self) -> bool {
        self.error.kind() == io::ErrorKind::AddrInUse
    }
}

/// Opens all ports that can be had, and returns the others with the reasons. Nobody is answered yet.
pub(crate) fn open(mappings: &[Mapping]) -> (Vec<Door>, Vec<Blocked>) {
    let (mut doors, mut blocked) = (Vec::new(), Vec::new());
    for mapping in mappings {
        match listen(*mapping) {
            Ok(listener) => doors.push(Door { mapping: *mapping, listener }),
            Err(error) => blocked.push(Blocked { mapping: *mapping, error }),
        }
    }
    (doors, blocked)
}

fn listen(mapping: Mapping) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, mapping.local.get()))?;
    rustix::net::listen(&listener, BACKLOG)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use shed_types::TcpPort;

    use super::*;

    #[test]
    fn a_port_that_is_taken_is_told_from_those_that_are_free() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let [taken_port, free_port] =
            [&taken, &free].map(|socket| TcpPort::new(socket.local_addr().unwrap().port()).unwrap());
        drop(free);
        let (doors, blocked) = open(&[Mapping::same(taken_port), Mapping::same(free_port)]);
        assert_eq!((doors.len(), doors[0].mapping.local), (1, free_port));
        assert!(blocked[0].is_in_use() && blocked[0].mapping.local == taken_port);
    }
}
