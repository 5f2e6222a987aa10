//! TCP services inside a shed, written in the Perl that every Debian has, and tunnels to them through the API.

use std::{
    io::{self, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
};

use crate::{BOOT, Cli, Http, Reply, wait_for};

/// What each service begins with: `listen_on(ADDRESS, PORT)` returns a socket that listens, `take(SOCKET)` the next
/// connection, `read_all(CONNECTION)` all that comes, `say(CONNECTION, BYTES)` sends, `hold_all(SOCKET)` says an `x` on
/// each connection and keeps it until its peer ends it.
const PRELUDE: &str = r"
use strict; use warnings; use Socket qw(:all);
$SIG{PIPE} = 'IGNORE';
sub listen_on {
    my ($address, $port) = @_;
    my $six = $address =~ /:/;
    socket(my $socket, $six ? AF_INET6 : AF_INET, SOCK_STREAM, 0) or die qq(socket: $!);
    setsockopt($socket, SOL_SOCKET, SO_REUSEADDR, 1);
    my $where = $six ? pack_sockaddr_in6($port, inet_pton(AF_INET6, $address))
                     : pack_sockaddr_in($port, inet_aton($address));
    bind($socket, $where) or die qq(bind: $!);
    listen($socket, 4096) or die qq(listen: $!);
    return $socket;
}
sub take { accept(my $connection, $_[0]) or die qq(accept: $!); return $connection; }
sub read_all {
    my $all = '';
    while (1) { my $n = sysread($_[0], $all, 1 << 20, length $all); last unless $n; }
    return $all;
}
sub say {
    my $done = 0;
    while ($done < length $_[1]) {
        my $n = syswrite($_[0], $_[1], length($_[1]) - $done, $done);
        return 0 unless defined $n;
        $done += $n;
    }
    return 1;
}
sub hold_all {
    my ($socket) = @_; my @held; ready();
    while (1) {
        my $bits = ''; vec($bits, fileno $socket, 1) = 1;
        if (select($bits, undef, undef, 0.5)) { my $c = take($socket); say($c, 'x'); push @held, $c; next; }
        @held = grep { my $got = recv($_, my $byte, 1, MSG_DONTWAIT | MSG_PEEK); !(defined $got && $byte eq '') } @held;
    }
}
sub ready { open(my $file, '>', qq($0.ready)) or die; }
";

impl Cli {
    /// Starts a service in a shed: `script` goes behind the prelude, and calls `ready()` when it listens.
    ///
    /// # Panics
    /// When it does not come to that; the message has what it printed.
    #[track_caller]
    pub fn start_service(&self, shed: &str, name: &str, script: &str) {
        let file = format!("/tmp/{name}.pl");
        let code = format!("{PRELUDE}\n{script}\n");
        self.exec_with(shed, &["sh", "-c", &format!("cat >{file}")], code.as_bytes()).ok();
        self.sh(shed, &format!("setsid perl {file} >{file}.log 2>&1 </dev/null & true"));
        wait_for(&format!("the service {name} in {shed}"), BOOT, || {
            let seen = self.sh(shed, &format!("test -e {file}.ready && echo ready; cat {file}.log"));
            assert!(seen.is_empty() || seen == "ready", "the service {name} failed: {seen}");
            (seen == "ready").then_some(())
        });
    }
}

impl Http {
    /// Opens a tunnel to a port in a shed.
    ///
    /// # Errors
    /// With the server's refusal.
    ///
    /// # Panics
    /// When the server does not answer.
    #[track_caller]
    pub fn tunnel(&self, shed: &str, port: u16) -> Result<Tunnel, Reply> {
        let upgrade = "Connection: Upgrade\r\nUpgrade: shed-tcp\r\n";
        let response = self.try_open("GET", &format!("/api/sheds/{shed}/connect/{port}"), upgrade, None);
        match response.unwrap_or_else(|error| panic!("no answer to a connect: {error}")).into_upgraded() {
            Ok(reader) => Ok(Tunnel { reader }),
            Err(reply) => Err(reply),
        }
    }
}

/// A connection to a service in a shed.
#[derive(Debug)]
pub struct Tunnel {
    reader: BufReader<TcpStream>,
}

impl Tunnel {
    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn shut(&self) -> io::Result<()> {
        self.reader.get_ref().shutdown(Shutdown::Write)
    }

    /// Returns another handle on the connection, for writing beside a reader.
    ///
    /// # Errors
    /// When the system has no descriptors left.
    pub fn writer(&self) -> io::Result<TcpStream> {
        self.reader.get_ref().try_clone()
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// When the connection breaks, or nothing comes for a long time.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.reader.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl Read for Tunnel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

impl Write for Tunnel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.reader.get_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.reader.get_mut().flush()
    }
}
