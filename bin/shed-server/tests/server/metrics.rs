//! `GET /metrics`, read with a parser that takes nothing but the text format, version 0.0.4.

use std::collections::{BTreeMap, BTreeSet};

use shed_protocol::{ExecRequest, Frame, FrameKind};
use shed_testkit::wait_for;

use crate::{
    api::Api,
    common::{PATIENCE, connect, send_with},
};

/// Labels of a sample, sorted.
type Labels = BTreeMap<String, String>;

/// Everything in one answer.
#[derive(Debug, Default)]
struct Exposition {
    types: BTreeMap<String, String>,
    help: BTreeSet<String>,
    samples: Vec<(String, Labels, f64)>,
}

impl Exposition {
    fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n') && !text.contains('\r'), "lines end with a line feed");
        let mut all = Self::default();
        // The family whose lines are being read; those of one stand together.
        let mut family = String::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, words) = rest.split_once(' ').unwrap();
                assert!(is_name(name) && !words.is_empty(), "{line}");
                assert!(all.help.insert(name.to_owned()), "told twice: {line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(is_name(name) && ["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert!(all.types.insert(name.to_owned(), kind.to_owned()).is_none(), "told twice: {line}");
                family = name.to_owned();
            } else {
                assert!(!line.starts_with('#'), "a comment that is neither HELP nor TYPE: {line}");
                let sample = parse_sample(line);
                let kind = all.types.get(&family).unwrap_or_else(|| panic!("no TYPE before {line}"));
                let ends: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                assert!(ends.iter().any(|end| sample.0 == format!("{family}{end}")), "{family}: {line}");
                all.samples.push(sample);
            }
        }
        let unique: BTreeSet<_> = all.samples.iter().map(|(name, labels, _)| (name, labels)).collect();
        assert_eq!(unique.len(), all.samples.len(), "a sample appears twice");
        all.check_histograms();
        all
    }

    /// Buckets must be cumulative, in order, and end with the count.
    fn check_histograms(&self) {
        for (name, _) in self.types.iter().filter(|(_, kind)| *kind == "histogram") {
            let mut series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
            for (_, labels, value) in
                self.samples.iter().filter(|sample| sample.0 == format!("{name}_bucket"))
            {
                let mut labels = labels.clone();
                let bound = labels.remove("le").expect("a bucket has a bound");
                let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
                series.entry(labels).or_default().push((bound, *value));
            }
            for (labels, buckets) in series {
                assert!(
                    buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1),
                    "{name} {labels:?}: {buckets:?}"
                );
                let (bound, last) = buckets.last().unwrap();
                assert!(bound.is_infinite(), "{name} {labels:?}");
                assert_eq!(
                    Some(*last),
                    self.value_of(&format!("{name}_count"), &labels),
                    "{name} {labels:?}"
                );
                assert!(self.value_of(&format!("{name}_sum"), &labels).unwrap() >= 0.0);
            }
        }
    }

    fn value_of(&self, name: &str, labels: &Labels) -> Option<f64> {
        self.samples.iter().find(|sample| sample.0 == name && sample.1 == *labels).map(|sample| sample.2)
    }

    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.value_of(name, &labels)
    }
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn parse_sample(line: &str) -> (String, Labels, f64) {
    let (name, mut rest) = line.split_at(line.find(['{', ' ']).unwrap());
    assert!(is_name(name), "{line}");
    let mut labels = Labels::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (key, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
            assert!(is_name(key), "{line}");
            let mut value = String::new();
            let mut characters = after.char_indices();
            let end = loop {
                match characters.next().unwrap_or_else(|| panic!("no end: {line}")) {
                    (at, '"') => break at + 1,
                    (_, '\\') => match characters.next().unwrap().1 {
                        'n' => value.push('\n'),
                        escaped @ ('\\' | '"') => value.push(escaped),
                        other => panic!("no escape: {other:?} in {line}"),
                    },
                    (_, plain) => value.push(plain),
                }
            };
            assert!(labels.insert(key.to_owned(), value).is_none(), "a label twice: {line}");
            rest = &after[end..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("no value: {line}"));
    (name.to_owned(), labels, value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
}

async fn metrics(api: &Api) -> Exposition {
    let reply = api.send("GET", "/metrics", "").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    Exposition::parse(&reply.body)
}

#[tokio::test]
async fn a_new_server_tells_every_metric_with_its_zeros() {
    let api = Api::new().await;
    let all = metrics(&api).await;
    let families = [
        "shed_http_connections",
        "shed_streams_open",
        "shed_sheds",
        "shed_phase_duration_seconds",
        "shed_operations_total",
        "shed_build_info",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_start_time_seconds",
    ];
    for name in families {
        assert!(all.types.contains_key(name) && all.help.contains(name), "{name}");
    }
    assert_eq!(all.value("shed_build_info", &[("version", "1.2.3")]), Some(1.0));
    for status in ["running", "stopped", "starting", "stopping", "error"] {
        assert_eq!(all.value("shed_sheds", &[("status", status)]), Some(0.0), "{status}");
    }
    for kind in ["exec", "connect", "events"] {
        assert_eq!(all.value("shed_streams_open", &[("kind", kind)]), Some(0.0), "{kind}");
    }
    for operation in ["create", "start", "stop", "delete"] {
        for result in ["ok", "refused", "failed", "cancelled"] {
            let labels = [("operation", operation), ("result", result)];
            assert_eq!(all.value("shed_operations_total", &labels), Some(0.0), "{labels:?}");
        }
    }
    assert_eq!(all.value("shed_http_connections", &[]), Some(1.0), "the one that asks");
    assert!(all.value("process_resident_memory_bytes", &[]).unwrap() > 1e6);
    assert!(all.value("process_open_fds", &[]).unwrap() > 3.0);
    assert!(all.value("process_start_time_seconds", &[]).unwrap() > 1.7e9);
}

#[tokio::test]
async fn what_happens_is_counted_and_no_client_chooses_a_label() {
    let api = Api::new().await;
    let name = api.create("api").await;
    api.client.stop(&name).await.unwrap();
    api.client.start(&name).await.unwrap();
    assert_eq!(api.send("POST", "/api/sheds/api/start", "").await.status, 409);
    assert_eq!(api.send("POST", "/api/sheds", r#"{"name":"api"}"#).await.status, 409);
    for (method, path) in [
        ("GET", "/api/sheds/api"),
        ("GET", "/api/sheds/none"),
        ("GET", "/no/such/path?secret=1"),
        ("BREW", "/api/info"),
        ("BREW2", "/api/info"),
        ("GET", "/api/sheds/a%22b%0ac"),
    ] {
        let _any = api.send(method, path, "").await;
    }
    let _refused = crate::common::raw(api.port, "NONSENSE\r\n\r\n").await;
    let all = metrics(&api).await;
    let requests = |method, route, status| {
        all.value("shed_http_requests_total", &[("method", method), ("route", route), ("status", status)])
    };
    assert_eq!(requests("POST", "/api/sheds", "201"), Some(1.0));
    assert_eq!(requests("POST", "/api/sheds", "409"), Some(1.0));
    assert_eq!(requests("GET", "/api/sheds/{name}", "200"), Some(1.0));
    assert_eq!(requests("GET", "/api/sheds/{name}", "404"), Some(1.0));
    assert_eq!(requests("GET", "/api/sheds/{name}", "400"), Some(1.0));
    assert_eq!(requests("GET", "unmatched", "404"), Some(1.0));
    assert_eq!(requests("other", "/api/info", "405"), Some(2.0));
    assert_eq!(requests("other", "unmatched", "400"), Some(1.0));
    let timed = [("method", "POST"), ("route", "/api/sheds")];
    assert_eq!(all.value("shed_http_request_duration_seconds_count", &timed), Some(2.0));
    let operations = |operation, result| {
        all.value("shed_operations_total", &[("operation", operation), ("result", result)])
    };
    assert_eq!((operations("create", "ok"), operations("create", "refused")), (Some(1.0), Some(1.0)));
    assert_eq!((operations("start", "ok"), operations("start", "refused")), (Some(1.0), Some(1.0)));
    assert_eq!((operations("stop", "ok"), operations("delete", "ok")), (Some(1.0), Some(0.0)));
    for phase in ["record", "disk", "vm", "boot", "identify", "commit"] {
        let count = |operation| {
            let labels = [("operation", operation), ("phase", phase)];
            all.value("shed_phase_duration_seconds_count", &labels)
        };
        assert_eq!(count("create"), Some(1.0), "{phase}");
        assert_eq!(count("start"), (phase != "disk").then_some(1.0), "{phase}");
    }
    assert_eq!(all.value("shed_sheds", &[("status", "running")]), Some(1.0));
    for (name, labels, _) in &all.samples {
        for value in labels.values() {
            assert!(!value.contains("secret") && value != "api" && value != "BREW", "{name} {labels:?}");
        }
    }
}

#[tokio::test]
async fn streams_and_connections_are_counted_while_they_are_open() {
    let api = Api::new().await;
    let name = api.create("api").await;
    let mut stream = api.client.exec(&name).await.unwrap();
    let cmd = vec!["cat".to_owned()];
    stream
        .send(Frame::json(FrameKind::ExecRequest, &ExecRequest { cmd, ..ExecRequest::default() }))
        .await
        .unwrap();
    let open = async |kind: &str| metrics(&api).await.value("shed_streams_open", &[("kind", kind)]).unwrap();
    assert_eq!(open("exec").await, 1.0);
    api.set_boot(&"slow".parse().unwrap(), shed_backend::fake::BootFault::Never);
    let request = shed_api::CreateShedRequest { name: "slow".into(), ..Default::default() };
    let events = api.client.create_streaming(&request).await.unwrap();
    assert_eq!(open("events").await, 1.0);
    let idle = [connect(api.port).await, connect(api.port).await];
    wait_for("the connections to be counted", PATIENCE, || async {
        // Those two, the events, and the one that asks; the exec has left HTTP.
        metrics(&api).await.value("shed_http_connections", &[]) == Some(4.0)
    })
    .await
    .unwrap();
    drop((stream, events, idle));
    wait_for("everything to be closed", PATIENCE, || async {
        open("exec").await + open("events").await == 0.0
            && metrics(&api).await.value("shed_http_connections", &[]) == Some(1.0)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_web_page_cannot_read_them() {
    let api = Api::new().await;
    let reply = send_with(api.port, "GET", "/metrics", "origin: http://evil.example\r\n", "").await;
    assert_eq!(reply.error(), (400, "INVALID_REQUEST".into()));
}
