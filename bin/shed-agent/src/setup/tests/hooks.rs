//! Hooks: what they see, how they end, and who else goes on meanwhile.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

use shed_protocol::{SetupEvent, Step, StepEnd};

use super::host::*;
use crate::setup::*;

#[tokio::test]
async fn a_create_installs_and_starts_and_the_next_starts_only_start() {
    let guest = Guest::new();
    guest.hooks(
        &[
            ("install", "#!/bin/bash\necho installing; echo err >&2\n"),
            ("startup", "echo starting"),
            ("shutdown", "echo bye"),
        ],
        "",
    );
    let told = guest.occasion(Occasion::Create).await;
    assert_eq!(told.ends(), "provision:done install:done startup:done");
    assert_eq!(told.text(), "installing\nerr\nstarting\n");
    assert_eq!(guest.read("logs/install.log"), "installing\nerr\n");
    assert_eq!(guest.read("logs/startup.log"), "starting\n");
    let state = guest.read("logs/.provision_state");
    assert!(state.starts_with("install_ran=true\ninstall_sha256="), "{state}");
    for file in ["logs/install.log", "logs/.provision_state"] {
        let meta = fs::metadata(guest.path(file)).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o777), (guest.user().uid, 0o644), "{file}");
    }
    assert_eq!(guest.occasion(Occasion::Start).await.ends(), "provision:done startup:done");
    assert_eq!(guest.occasion(Occasion::Stop).await.ends(), "provision:done shutdown:done");
    assert_eq!(guest.read("logs/shutdown.log"), "bye\n");
    // A create that is asked for again, by a host that has lost its place.
    assert_eq!(guest.occasion(Occasion::Create).await.ends(), "provision:done install:skipped startup:done");

    let report = guest.state.setups.report().unwrap();
    assert_eq!((report.occasion, report.running, report.steps.len()), (Occasion::Create, None, 3));
    assert_eq!(crate::health::report(&guest.state).setup, Some(report));
}

#[tokio::test]
async fn a_hook_has_its_variables_whatever_a_profile_says() {
    let guest = Guest::new();
    let script = r#"echo "$SHED_CONTAINER $SHED_NAME $SHED_WORKSPACE $HOME $USER $A $B $C"; pwd; echo "[$PATH]"; echo "$#$(env | grep SHED_LATER)"
read line; echo "stdin ended: $?"; [ -t 1 ] || echo no terminal; shopt -q login_shell || echo script; umask; id -u; tty </dev/tty || true"#;
    guest.hooks(&[("startup", script)], "env: {B: file's, C: 'it''s $(id) \"x\"', PATH: /usr/bin:/bin:/mine, SHED_NAME: evil, HOME: /tmp/h}\n");
    let request = SetupRequest {
        env: ["A=request", "B=request", "SHED_NAME=evil", "odd-name=1", "SHED_WORKSPACE=/evil", "USER=evil"]
            .map(str::to_owned)
            .into(),
        ..request(Occasion::Start)
    };
    let told = guest.set_up(&request).await;
    assert_eq!(told.ends(), "provision:done startup:done");
    let workspace = guest.path("workspace").display().to_string();
    let home = guest.path("home").display().to_string();
    let text = told.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], format!("true demo {workspace} {home} shed request file's it's $(id) \"x\""));
    assert_eq!(lines[1..4], [workspace.as_str(), "[/usr/bin:/bin:/mine]", "0"]);
    assert_eq!(lines[4..8], ["stdin ended: 1", "no terminal", "script", "0022"]);
    assert_eq!(lines[8], guest.user().uid.to_string());
    assert!(told.warnings().contains("SHED_NAME and 1 more are not taken"), "{}", told.warnings());
}

#[tokio::test]
async fn any_script_runs_by_its_own_first_line_or_by_the_shell() {
    let guest = Guest::new();
    for (script, says) in [
        ("#!/usr/bin/env perl\nprint \"perl\\n\";", "perl\n"),
        ("echo ${BASH_VERSION:+bash}", "bash\n"),
        ("#!/bin/sh\necho \"$0\"", "/scripts/startup.sh\n"),
    ] {
        guest.hooks(&[("startup", script)], "");
        let told = guest.occasion(Occasion::Start).await;
        assert_eq!(told.ends(), "provision:done startup:done", "{told:?}");
        assert!(told.text().ends_with(says), "{}", told.text());
        let mode = fs::metadata(guest.path("workspace/scripts/startup.sh")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o755);
    }
    guest.hooks(&[("startup", "#!/no/such/interpreter\n")], "");
    let told = guest.occasion(Occasion::Start).await;
    assert!(matches!(told.failure().1.code, Some(126 | 127)), "{told:?}");
}

#[tokio::test]
async fn a_failed_install_ends_the_create_and_keeps_startup_from_running() {
    let guest = Guest::new();
    guest.hooks(
        &[("install", "for n in 1 2 3 4 5 6; do echo line $n; done; exit 7"), ("startup", "echo started")],
        "",
    );
    let told = guest.occasion(Occasion::Create).await;
    assert_eq!(told.ends(), "provision:done install:failed");
    let (step, failure) = told.failure();
    assert_eq!((step, failure.code, failure.timed_out), (Step::Install, Some(7), false));
    assert_eq!(failure.message, "the install hook, scripts/install.sh, ended with exit code 7");
    assert_eq!(failure.last_lines, ["line 2", "line 3", "line 4", "line 5", "line 6"]);
    assert_eq!(failure.log.as_deref(), guest.path("logs/install.log").to_str());
    assert!(guest.read("logs/.provision_state").starts_with("error=the install hook"));

    let told = guest.occasion(Occasion::Start).await;
    assert_eq!(told.ends(), "provision:done startup:skipped");
    let warning = told.warnings();
    assert!(warning.contains("install hook has not succeeded"), "{warning}");
    // What it tells the user to do is done.
    let (_, by_hand) = warning.split_once("when it is done: ").unwrap();
    let done = std::process::Command::new("bash").args(["-c", by_hand]).status().unwrap();
    assert!(done.success());
    assert_eq!(guest.occasion(Occasion::Start).await.ends(), "provision:done startup:done");
}

#[tokio::test]
async fn without_hooks_nothing_runs_and_startup_waits_for_the_install() {
    let guest = Guest::new();
    guest.hooks(&[("install", "echo i"), ("startup", "echo s")], "");
    let told = guest.set_up(&SetupRequest { hooks: false, ..request(Occasion::Create) }).await;
    assert_eq!(
        (told.ends().as_str(), told.text().as_str()),
        ("provision:skipped install:skipped startup:skipped", "")
    );
    assert_eq!(guest.occasion(Occasion::Start).await.ends(), "provision:done startup:skipped");
    guest.hooks(&[("startup", "echo s")], "");
    assert_eq!(guest.occasion(Occasion::Start).await.ends(), "provision:done startup:done");

    let bare = Guest::new();
    let told = bare.occasion(Occasion::Create).await;
    assert_eq!(told.ends(), "provision:skipped install:skipped startup:skipped");
    bare.write("workspace/.shed/provision.yaml", "{}");
    assert_eq!(bare.occasion(Occasion::Stop).await.ends(), "provision:done shutdown:skipped");
}

#[tokio::test]
async fn a_file_that_makes_no_sense_or_leads_out_fails_and_runs_nothing() {
    let guest = Guest::new();
    for (yaml, says) in [
        ("hooks: [\n", "provision.yaml is not valid"),
        ("hooks: {startup: /bin/true}", "absolute path"),
        ("hooks: {startup: ../x}", "has .. in it"),
        ("timeout: never", "timeout"),
    ] {
        guest.write("workspace/.shed/provision.yaml", yaml);
        let told = guest.occasion(Occasion::Create).await;
        assert_eq!(told.ends(), "provision:failed");
        assert!(told.failure().1.message.contains(says), "{told:?}");
    }
    guest.write(
        "workspace/.shed/provision.yaml",
        "hooks: {startup: link, shutdown: gone, install: dir}\nvolumes: 1\n",
    );
    fs::create_dir(guest.path("workspace/dir")).unwrap();
    symlink("/bin/true", guest.path("workspace/link")).unwrap();
    let told = guest.occasion(Occasion::Stop).await;
    assert!(told.failure().1.message.ends_with("it is not there"), "{told:?}");
    assert!(told.warnings().contains("\"volumes\" means nothing"));
    let told = guest.occasion(Occasion::Create).await;
    assert!(told.failure().1.message.ends_with("it is no file"), "{told:?}");
    fs::write(guest.path("logs/.provision_state"), "install_ran=true\n").unwrap();
    let told = guest.occasion(Occasion::Start).await;
    assert!(told.failure().1.message.contains("a link leads out"), "{told:?}");
}

#[tokio::test]
async fn what_takes_too_long_is_ended_with_its_children() {
    let guest = Guest::new();
    let script = "trap 'echo terminated' TERM; sh -c 'trap \"\" TERM; sleep 1000 & wait' >/dev/null 2>&1 & echo $! $$; set -m; sleep 1001 & echo $!; wait; sleep 1000";
    guest.hooks(&[("install", script)], "timeout: 3s\n");
    let told = guest.occasion(Occasion::Create).await;
    let (_, failure) = told.failure();
    assert!(failure.timed_out && failure.code.is_none(), "{failure:?}");
    assert_eq!(failure.message, "the install hook, scripts/install.sh, took longer than 3s and was ended");
    assert!(told.text().contains("terminated"), "it was asked first: {}", told.text());
    for pid in told.text().lines().take(2).flat_map(str::split_whitespace) {
        assert!(!is_alive(pid), "{pid} has ended");
    }

    // The host's limit counts as well.
    guest.hooks(&[("startup", "sleep 1000")], "");
    let told = guest.set_up(&SetupRequest { limit_ms: Some(300), ..request(Occasion::Start) }).await;
    assert!(told.failure().1.timed_out);
    let told = guest.set_up(&SetupRequest { limit_ms: Some(0), ..request(Occasion::Start) }).await;
    assert!(told.failure().1.message.contains("no time was left"), "{told:?}");
    let told = guest.set_up(&SetupRequest { limit_ms: Some(u64::MAX), ..request(Occasion::Stop) }).await;
    assert_eq!(told.ends(), "provision:done shutdown:skipped");
}

#[tokio::test]
async fn a_daemon_lives_on_and_holds_nobody() {
    let guest = Guest::new();
    let script =
        "nohup sh -c 'while [ ! -e go ]; do sleep 0.05; done; echo later; exec sleep 1000' & echo $!";
    guest.hooks(&[("startup", script)], "");
    let told = guest.occasion(Occasion::Start).await;
    assert_eq!(told.ends(), "provision:done startup:done");
    let pid = told.text();
    assert!(is_alive(&pid));
    // What it prints later does not hurt it, and the log has it.
    guest.write("workspace/go", "");
    until(|| guest.read("logs/startup.log").contains("later").then_some(())).await;
    assert!(is_alive(&pid));
    kill(&pid);
}

#[tokio::test]
async fn a_host_that_goes_away_or_does_not_read_holds_nothing_up() {
    let guest = Guest::new();
    let script = "echo begun; head -c 50000000 /dev/zero | tr '\\0' x; echo; echo done";
    guest.hooks(&[("install", script), ("startup", "echo started")], "");
    let whole = |guest: &Guest| {
        let log = guest.read("logs/install.log");
        assert_eq!(log.len(), "begun\n\ndone\n".len() + 50_000_000);
        assert!(log.ends_with("xxx\ndone\n"));
    };

    // It goes in the middle.
    let mut host = guest.ask(&request(Occasion::Create), 64 << 10).await;
    host.until_output("begun").await;
    drop(host);
    assert_eq!(guest.until_over().await.steps.len(), 3);
    whole(&guest);

    // It is there and does not read, and then it does.
    fs::remove_file(guest.path("logs/.provision_state")).unwrap();
    let host = guest.ask(&request(Occasion::Create), 4 << 10).await;
    until(|| {
        guest.state.setups.report().filter(|report| report.running.is_some() || report.steps.is_empty())
    })
    .await;
    assert_eq!(guest.until_over().await.steps.len(), 3);
    whole(&guest);
    let told = host.told().await;
    assert_eq!(told.ends(), "provision:done install:done startup:done");
    assert!(told.text().contains("bytes not shown here"), "{}", told.output.len());
    // A host that is behind stays behind until it has read.
    assert!(told.output.len() < 4 << 20 && guest.read("logs/startup.log") == "started\n");

    // It reads.
    fs::remove_file(guest.path("logs/.provision_state")).unwrap();
    let told = guest.occasion(Occasion::Create).await;
    assert_eq!(told.output.len(), "begun\n\ndone\nstarted\n".len() + 50_000_000);
}

#[tokio::test]
async fn a_second_setup_is_refused_and_a_stop_ends_the_first() {
    let guest = Guest::new();
    guest.hooks(
        &[
            ("install", "trap 'echo ending; exit 3' TERM; echo up; while :; do sleep 0.05; done"),
            ("startup", "echo s"),
            ("shutdown", "echo down"),
        ],
        "",
    );
    let mut first = guest.ask(&request(Occasion::Create), 1 << 20).await;
    first.until_output("up").await;
    let running = guest.state.setups.report().unwrap();
    assert_eq!((running.running, running.steps.len()), (Some(Step::Install), 1));
    for occasion in [Occasion::Create, Occasion::Start] {
        let told = guest.occasion(occasion).await;
        assert!(told.reply.unwrap().error.unwrap().contains("a setup runs already"));
        assert!(told.events.is_empty());
    }
    let told = guest.occasion(Occasion::Stop).await;
    assert_eq!(told.ends(), "provision:done shutdown:done");
    let told = first.told().await;
    assert_eq!(told.ends(), "install:failed");
    assert!(told.failure().1.message.contains("the shed is being stopped"), "{told:?}");
    assert!(told.text().contains("ending"));
    assert!(guest.read("logs/.provision_state").starts_with("error="));
    assert_eq!(guest.occasion(Occasion::Stop).await.ends(), "provision:done shutdown:done");
}

#[tokio::test]
async fn while_a_stop_waits_nothing_else_begins() {
    let guest = Guest::new();
    guest.hooks(
        &[("install", "trap '' TERM; echo up; while :; do sleep 0.05; done"), ("shutdown", "echo down")],
        "",
    );
    let mut first = guest.ask(&request(Occasion::Create), 1 << 20).await;
    first.until_output("up").await;
    let stop = guest.ask(&request(Occasion::Stop), 1 << 20).await;
    until(|| guest.state.setups.current.lock().unwrap().stopping.then_some(())).await;
    for occasion in [Occasion::Create, Occasion::Start, Occasion::Stop] {
        let told = guest.occasion(occasion).await;
        assert_eq!(told.reply.unwrap().error.unwrap(), "the shed is being stopped");
    }
    assert_eq!(stop.told().await.ends(), "provision:done shutdown:done");
    assert_eq!(first.told().await.failure().0, Step::Install);
}

#[tokio::test]
async fn logs_that_cannot_be_kept_cost_nothing_but_the_logs() {
    let guest = Guest::new();
    guest.hooks(&[("startup", "echo s; exit 1")], "");
    fs::create_dir(guest.path("logs/startup.log")).unwrap();
    let told = guest.occasion(Occasion::Start).await;
    assert!(told.warnings().contains("startup.log is not kept"), "{told:?}");
    assert_eq!((told.text().as_str(), told.failure().1.log.as_deref()), ("s\n", None));

    fs::remove_dir_all(guest.path("logs")).unwrap();
    fs::write(guest.path("logs"), "").unwrap();
    let told = guest.occasion(Occasion::Start).await;
    assert!(told.warnings().contains("logs are not kept"), "{told:?}");
    assert_eq!(told.failure().1.code, Some(1));

    fs::remove_file(guest.path("logs")).unwrap();
    guest.occasion(Occasion::Start).await;
    let meta = fs::metadata(guest.path("logs")).unwrap();
    assert_eq!((meta.uid(), meta.permissions().mode() & 0o777), (guest.user().uid, 0o755));
}

#[tokio::test]
async fn tools_that_an_interactive_shell_finds_are_found_by_logins_as_well() {
    let guest = Guest::new();
    let script = "mkdir -p \"$HOME/it's tools\" ~/.local/share/mise/shims; echo 'echo banner; export PATH=\"$PATH:$HOME/it'\"'\"'s tools:/no/such\"; read x' > ~/.bashrc; echo '. ~/.bashrc' > ~/.bash_profile.not";
    guest.hooks(&[("install", script)], "");
    guest.write("home/.bash_profile", "case $- in *i*) . ~/.bashrc;; esac\n");
    let told = guest.occasion(Occasion::Create).await;
    assert_eq!(told.ends(), "provision:done install:done startup:skipped", "{told:?}");
    let profile = guest.read("etc/profile.d/shed-installed-tools.sh");
    let seen = std::process::Command::new("sh")
        .args(["-c", &format!("{profile}\nprintf %s \"$PATH\"")])
        .output()
        .unwrap();
    let seen = String::from_utf8(seen.stdout).unwrap();
    let home = guest.user().home;
    assert!(seen.starts_with(&format!("{home}/.local/share/mise/shims:")), "{seen}");
    assert!(seen.ends_with(&format!(":{home}/it's tools")), "{seen}");

    let plain = Guest::new();
    plain.hooks(&[("install", "true")], "");
    plain.occasion(Occasion::Create).await;
    assert!(!plain.path("etc/profile.d/shed-installed-tools.sh").exists());
}

#[tokio::test]
async fn nonsense_is_refused_and_runs_nothing() {
    let guest = Guest::new();
    guest.hooks(&[("startup", "echo s")], "");
    let good = serde_json::to_value(request(Occasion::Start)).unwrap();
    let with = |key: &str, value: serde_json::Value| {
        let mut request = good.clone();
        request[key] = value;
        request
    };
    for request in [
        serde_json::json!({}),
        with("occasion", "later".into()),
        with("env", serde_json::json!(["A"])),
        with("env", serde_json::json!(["=b"])),
        with("env", serde_json::json!(["A=b\0"])),
        with("clone", serde_json::json!({ "url": "--upload-pack=x" })),
        with("clone", serde_json::json!({ "url": "ext::sh -c id" })),
        with("clone", serde_json::json!({ "url": "file:///etc" })),
        with("clone", serde_json::json!({ "url": "git@host:x", "known_hosts": ["a\nb"] })),
        with("limit_ms", serde_json::json!(-1)),
    ] {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let state = Arc::clone(&guest.state);
        tokio::spawn(async move { serve(theirs, &state).await });
        let mut host = tokio_util::codec::Framed::new(ours, FrameCodec);
        host.send(Frame::new(FrameKind::SetupRequest, request.to_string().into())).await.unwrap();
        let frame = host.next().await.unwrap().unwrap();
        let reply: SetupReply = frame.parse().unwrap();
        assert!(reply.error.is_some(), "{request}");
        assert!(host.next().await.is_none());
    }
    assert_eq!(guest.state.setups.report(), None);
}

#[tokio::test]
async fn each_step_that_ends_is_told_in_order() {
    let guest = Guest::new();
    guest.hooks(&[("install", "echo i"), ("startup", "exit 1")], "");
    let told = guest.occasion(Occasion::Create).await;
    let steps: Vec<String> = told
        .events
        .iter()
        .map(|event| match event {
            SetupEvent::Began { step } => format!("began {}", step.as_str()),
            SetupEvent::Warning { message, .. } => message.clone(),
            SetupEvent::Ended { step, .. } => format!("ended {}", step.as_str()),
        })
        .collect();
    assert_eq!(
        steps,
        [
            "began provision",
            "ended provision",
            "began install",
            "ended install",
            "began startup",
            "ended startup"
        ]
    );
    let report = guest.state.setups.report().unwrap();
    let (_, failure) = told.failure();
    assert_eq!(report.steps[2].end, StepEnd::Failed(failure.clone()));
}

#[test]
fn fuzz_setup_request() {
    use proptest::prelude::*;
    // Names and values that no shell and no process may take for anything else than data.
    let entry = "[A-Z_a-z0-9 \\-$`';\"\\\\\n]{0,8}=?[ -~\n\u{e9}\0]{0,12}";
    let input =
        (proptest::collection::vec(entry, 0..4), "[ -~\0\n]{0,30}", proptest::option::of(0_u64..2000));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let guest = Guest::new();
    guest.hooks(&[("startup", "#!/bin/sh\necho started")], "");
    shed_testkit::fuzz("a setup's request", &input.prop_map(|input| input), |(env, url, limit_ms)| {
        // A clone would go to whatever host the text names.
        let clone =
            (!clone::is_url(&url)).then(|| shed_protocol::CloneRequest { url, known_hosts: Vec::new() });
        let refused = clone.is_some();
        let request = SetupRequest { clone, env, limit_ms, ..request(Occasion::Start) };
        let told = runtime.block_on(guest.set_up(&request));
        let reply = told.reply.expect("there is always a reply");
        assert!(!refused || reply.error.is_some());
    });
}
