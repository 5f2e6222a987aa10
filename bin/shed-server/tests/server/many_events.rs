//! Many creates as server-sent events at once, and what of them stays open, by /proc.

use shed_api::CreateShedRequest;
use shed_backend::fake::BootFault;

use crate::{api::Api, common::PATIENCE};

/// How many creates wait for their guests at a time.
const STREAMS: usize = 1000;

/// Server and clients are both in this process, so nothing that either forgets goes unnoticed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_event_streams_keep_nobody_out_and_leave_nothing() {
    let api = Api::new().await;
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    // Whatever is opened once is open now.
    drop(api.client.list().await.unwrap());
    let before = open();
    let names: Vec<shed_types::ShedName> =
        (0..STREAMS).map(|number| format!("s{number}").parse().unwrap()).collect();
    for name in &names {
        api.set_boot(name, BootFault::Never);
    }
    let asked = names.iter().map(|name| async {
        let request = CreateShedRequest { name: name.to_string(), ..CreateShedRequest::default() };
        let mut stream = api.client.create_streaming(&request).await.unwrap();
        // The first event: from here on the stream is idle, until the guest answers.
        let _progress = stream.next().await.unwrap().unwrap();
        stream
    });
    let streams = futures::future::join_all(asked).await;
    assert!(open() + 8 >= before + 2 * STREAMS, "both ends of each stream are in this process");
    let listed = api.client.list().await.unwrap();
    assert_eq!(listed.len(), STREAMS);

    drop(streams);
    shed_testkit::wait_for("the creates to be undone", PATIENCE, || {
        std::future::ready(api.world.running().is_empty())
    })
    .await
    .unwrap();
    api.wait_until_clean().await;
    shed_testkit::wait_for("the descriptors to be closed", PATIENCE, || {
        std::future::ready(open() <= before + 8)
    })
    .await
    .unwrap_or_else(|error| panic!("{error}: {before} were open before, and now {:?}", open_files()));
}

/// What this process has open: how many of each kind.
fn open_files() -> std::collections::BTreeMap<String, usize> {
    let mut kinds = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        // `socket:[123]` and `anon_inode:[eventpoll]` are kinds, and so is a file's name.
        let kind =
            target.to_string_lossy().trim_end_matches(|c: char| c.is_ascii_digit() || c == ']').to_owned();
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}
