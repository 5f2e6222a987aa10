//! What a process was started with, by /proc.

use std::os::unix::net::UnixStream;

use rustix::io::{FdFlags, fcntl_setfd};

use super::{dead, run, setup};

#[tokio::test]
async fn the_process_is_detached_and_inherits_nothing_but_the_sockets() {
    let setup = setup();
    let other = UnixStream::pair().unwrap();
    fcntl_setfd(&other.0, FdFlags::empty()).unwrap();
    let script = "cd /proc/self/fd; echo $(ls -l /proc/$$/fd | grep -c socket) $(pwd -P >/dev/null; env | \
                  grep -c '^[A-Z]*=') ; ps -o sid= -p $$ | tr -d ' '; echo $$";
    let launched = run(&setup, script);
    dead(&launched.process).await;
    let tail = launched.output.tail();
    let mut lines = tail.lines();
    let first: Vec<&str> = lines.next().unwrap().split(' ').collect();
    assert_eq!(first[0], "2", "two sockets and no more: {tail}");
    // PATH, and PWD and OLDPWD, which the shell itself sets.
    assert!(first[1].parse::<u32>().unwrap() <= 3, "{tail}");
    assert_eq!(lines.next(), lines.next(), "it leads its own session: {tail}");
}
