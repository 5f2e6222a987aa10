//! What /proc tells of the program.

use crate::world::begin;

#[tokio::test]
async fn no_secret_can_get_into_a_core_file() {
    let (world, _bus, _blob) = begin("").await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", world.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().rev().nth(2), Some("0"), "{core}");
}
