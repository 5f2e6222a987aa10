//! OpenSSH and what stands on it (scp, sftp, rsync, git) against real sheds: what people have in their fingers works as
//! it does on any other host, and what Shed does not do is refused in words.

use vm_tests::{Cli, OpenSsh, Promises, Server, Stage};

mod commands;
mod copies;
mod doors;
mod forwards;
mod shared;
mod trees;

/// The shed that most promises of a test are proved on.
const SHED: &str = "reached";

/// One server with one shed, and OpenSSH set up for it.
struct World {
    stage: Stage,
    server: Server,
    cli: Cli,
    ssh: OpenSsh,
}

fn with_a_shed(prove: impl FnOnce(&World, &mut Promises)) {
    let Some(stage) = Stage::new() else { return };
    let server = stage.serve();
    let cli = stage.cli();
    cli.create(SHED, &[]);
    // The last two are names of no shed.
    let ssh = OpenSsh::new(&stage, &server, &[SHED, "none", "_api"]);
    let world = World { stage, server, cli, ssh };
    let mut promises = Promises::new();
    prove(&world, &mut promises);
    promises.keep("the server has survived it all, and nobody had to panic", || {
        assert!(world.server.answers());
        world.ssh.exec(SHED, "true").ok();
        let log = std::fs::read_to_string(world.stage.server_log()).expect("the server's log");
        assert!(!log.contains("panicked"), "the server panicked; see its log");
    });
    world.cli.delete(SHED);
    promises.keep("nothing is left", || world.stage.assert_only(&[]));
    promises.finish();
}

/// Shells and commands: terminals, codes, streams, signals, many at once over one connection, and forwarded ports; then
/// who is let in, and what is refused.
#[test]
fn openssh_runs_commands_and_forwards_ports() {
    with_a_shed(|world, promises| {
        commands::prove(world, promises);
        shared::prove(world, promises);
        forwards::prove(world, promises);
        doors::prove(world, promises);
    });
}

/// Files: scp in both its ways, sftp, rsync of ten thousand files, and git.
#[test]
fn files_are_copied_synchronised_and_pushed() {
    with_a_shed(copies::prove);
}
