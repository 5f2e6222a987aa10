//! `shed tunnels start`: what its process has, by /proc, and the many loopback addresses of Linux.

use std::{fs, net::TcpListener};

use crate::{
    tunnel_daemon::{stage, start_with_more_open},
    tunnel_server::{echo, free_ports},
};

#[test]
fn the_process_stands_in_the_root_and_has_its_log_and_nothing_that_was_handed_down() {
    let (_server, user) = stage();
    let [local] = free_ports();
    let held = user.0.home.path().join("held");
    start_with_more_open(&user, local, &held);
    assert_eq!(echo(local, b"x").unwrap(), b"x");
    let pid = user.list()[0]["pid"].as_u64().unwrap();
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
    let target = |fd: u8| fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap().display().to_string();
    assert_eq!(target(0), "/dev/null");
    assert!(target(1).ends_with("tunnels-web.log") && target(2).ends_with("tunnels-web.log"));
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let open: Vec<_> = fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok()).collect();
    assert!(!open.contains(&held), "{open:?}");
}

#[test]
fn a_port_is_free_on_the_machines_other_addresses() {
    let (_server, user) = stage();
    let [local] = free_ports();
    user.start(&["web", "-t", &local.to_string()]);
    TcpListener::bind(("127.0.0.1", local)).unwrap_err();
    TcpListener::bind(("127.0.0.2", local)).unwrap();
}
