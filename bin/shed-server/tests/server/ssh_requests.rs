//! Requests of SSH clients one by one: what is answered, in which order, and what is refused.

use russh::{
    ChannelOpenFailure, MethodKind, Sig, client,
    client::AuthResult,
    keys::{Algorithm, PrivateKey, PrivateKeyWithHashAlg},
};
use shed_protocol::{ExecRequest, ExitStatus, Frame, FrameCodec, FrameKind};
use shed_testkit::wait_for;
use tokio_util::codec::{Decoder, Encoder};

use crate::{
    api::Api,
    common::PATIENCE,
    ssh_client::{Client, Said, answer, connect_with, exec, login, next, pty, session, to_the_end},
};

#[tokio::test]
async fn nobody_is_asked_for_a_password() {
    let api = Api::new().await;
    api.create("api").await;
    let mut client = connect_with(&api, client::Config::default()).await;
    let AuthResult::Failure { remaining_methods, .. } =
        client.authenticate_password("api", "secret").await.unwrap()
    else {
        panic!("a password was accepted");
    };
    assert!(!remaining_methods.contains(&MethodKind::Password), "{remaining_methods:?}");
    assert!(!remaining_methods.contains(&MethodKind::KeyboardInteractive), "{remaining_methods:?}");
    assert!(remaining_methods.contains(&MethodKind::PublicKey), "{remaining_methods:?}");
    // Any key will do.
    let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap();
    let key = PrivateKeyWithHashAlg::new(key.into(), None);
    assert!(client.authenticate_publickey("api", key).await.unwrap().success());
    assert_eq!(exec(&client, "echo in").await.stdout, b"in\n");
}

#[tokio::test]
async fn one_session_runs_one_program() {
    let api = Api::new().await;
    api.create("api").await;
    let client = login(&api, "api").await;
    let mut channel = session(&client).await;
    channel.request_shell(true).await.unwrap();
    assert!(answer(&mut channel).await);
    channel.request_shell(true).await.unwrap();
    assert!(!answer(&mut channel).await, "a second shell");
    channel.exec(true, "echo x").await.unwrap();
    assert!(!answer(&mut channel).await, "a command beside the shell");
    channel.request_subsystem(true, "sftp").await.unwrap();
    assert!(!answer(&mut channel).await, "a subsystem beside the shell");
    assert!(!pty(&mut channel).await, "a terminal for a shell that runs");
    channel.eof().await.unwrap();
    let said = to_the_end(&mut channel).await;
    assert_eq!(said, Said { code: Some(0), eof: true, ..Said::default() });
}

#[tokio::test]
async fn what_makes_no_sense_yet_does_no_harm() {
    let api = Api::new().await;
    api.create("api").await;
    let client = login(&api, "api").await;
    let mut channel = session(&client).await;
    channel.window_change(100, 50, 0, 0).await.unwrap();
    channel.signal(Sig::TERM).await.unwrap();
    channel.data_bytes(&b"early "[..]).await.unwrap();
    assert!(pty(&mut channel).await);
    assert!(!pty(&mut channel).await, "a second terminal");
    channel.window_change(100, 50, 0, 0).await.unwrap();
    channel.data_bytes(&b"input"[..]).await.unwrap();
    channel.eof().await.unwrap();
    channel.exec(true, "cat").await.unwrap();
    assert!(answer(&mut channel).await);
    assert_eq!(to_the_end(&mut channel).await.stdout, b"early input");
}

#[tokio::test]
async fn a_size_that_came_before_the_shell_is_its_size() {
    let api = Api::new().await;
    api.create("api").await;
    let client = login(&api, "api").await;
    let mut channel = session(&client).await;
    assert!(pty(&mut channel).await);
    channel.window_change(100_000, 50, 0, 0).await.unwrap();
    channel.exec(true, "request").await.unwrap();
    let said = to_the_end(&mut channel).await;
    let request: ExecRequest = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!((request.rows, request.cols), (50, 65535));
}

#[tokio::test]
async fn sizes_and_signals_reach_the_program() {
    let api = Api::new().await;
    api.create("api").await;
    let client = login(&api, "api").await;
    let mut channel = session(&client).await;
    assert!(pty(&mut channel).await);
    channel.exec(true, "sizes").await.unwrap();
    assert!(answer(&mut channel).await);
    channel.window_change(132, 43, 0, 0).await.unwrap();
    let said = loop {
        match next(&mut channel).await.unwrap() {
            russh::ChannelMsg::Data { data } => break data,
            russh::ChannelMsg::WindowAdjusted { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(said, "43x132\n");
    channel.signal(Sig::Custom("NONSENSE".into())).await.unwrap();
    channel.signal(Sig::INT).await.unwrap();
    let said = to_the_end(&mut channel).await;
    assert_eq!((said.signal.as_deref(), said.code, said.eof), (Some("INT"), None, true));
}

#[tokio::test]
async fn a_signal_without_a_name_in_the_rfc_is_told_as_ours() {
    let api = Api::new().await;
    api.create("api").await;
    let client = login(&api, "api").await;
    let mut channel = session(&client).await;
    channel.exec(true, "sleep 600").await.unwrap();
    assert!(answer(&mut channel).await);
    channel.signal(Sig::Custom("WINCH".into())).await.unwrap();
    let said = to_the_end(&mut channel).await;
    assert_eq!(said.signal.as_deref(), Some("Custom(\"WINCH@shed\")"));
}

#[tokio::test]
async fn thousands_of_variables_are_taken_and_forgotten() {
    let api = Api::new().await;
    api.create("api").await;
    let client = login(&api, "api").await;
    let mut channel = session(&client).await;
    let large = "x".repeat(100_000);
    for number in 0..3000 {
        let value = if number % 100 == 0 { large.as_str() } else { "value" };
        channel.set_env(false, format!("NAME{number}"), value).await.unwrap();
    }
    channel.set_env(true, "LANG", "de_DE.UTF-8").await.unwrap();
    assert!(answer(&mut channel).await);
    channel.exec(true, "request").await.unwrap();
    let said = to_the_end(&mut channel).await;
    let request: ExecRequest = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(request.env, Vec::<String>::new());
}

#[tokio::test]
async fn commands_that_no_system_takes_are_answered() {
    let api = Api::new().await;
    api.create("api").await;
    let client = login(&api, "api").await;
    for (command, words) in [(vec![b'x'; 200_000], "200000 bytes"), (b"echo \0".to_vec(), "NUL byte")] {
        let said = exec(&client, command).await;
        assert_eq!((said.code, said.eof), (Some(1), true), "{}", said.stderr);
        assert!(said.stderr.starts_with("Error: ") && said.stderr.contains(words), "{}", said.stderr);
    }
    assert_eq!(exec(&client, "echo still").await.stdout, b"still\n");
}

#[tokio::test]
async fn what_is_not_served_is_refused_and_the_connection_goes_on() {
    let api = Api::new().await;
    api.create("api").await;
    let client = login(&api, "api").await;
    let reason = |error: russh::Error| match error {
        russh::Error::ChannelOpenFailure(reason) => reason,
        other => panic!("{other:?}"),
    };
    let x11 = reason(client.channel_open_x11("localhost", 6000).await.unwrap_err());
    assert_eq!(x11, ChannelOpenFailure::AdministrativelyProhibited);
    let socket = reason(client.channel_open_direct_streamlocal("/run/docker.sock").await.unwrap_err());
    assert_eq!(socket, ChannelOpenFailure::AdministrativelyProhibited);
    for (host, port) in [("example.com", 80), ("10.0.2.2", 22), ("localhost", 0), ("localhost", 70_000)] {
        let tunnel = client.channel_open_direct_tcpip(host, port, "", 0).await.unwrap_err();
        assert_eq!(reason(tunnel), ChannelOpenFailure::AdministrativelyProhibited, "{host}:{port}");
    }
    assert!(client.tcpip_forward("", 8080).await.is_err());
    assert!(client.streamlocal_forward("/tmp/x").await.is_err());
    let mut channel = session(&client).await;
    channel.agent_forward(true).await.unwrap();
    assert!(!answer(&mut channel).await);
    channel.request_x11(true, true, "MIT-MAGIC-COOKIE-1", "00", 0).await.unwrap();
    assert!(!answer(&mut channel).await);
    for subsystem in ["", "netconf", "shell", "sftp ", &"x".repeat(100_000)] {
        channel.request_subsystem(true, subsystem).await.unwrap();
        assert!(!answer(&mut channel).await);
    }
    channel.request_shell(true).await.unwrap();
    assert!(answer(&mut channel).await, "none of this has used the session up");
}

#[tokio::test]
async fn a_connection_has_a_thousand_channels_and_no_more() {
    let api = Api::new().await;
    api.create("api").await;
    let client = login(&api, "api").await;
    let mut open = Vec::new();
    for _ in 0..1024 {
        open.push(session(&client).await);
    }
    let error = client.channel_open_session().await.unwrap_err();
    assert!(
        matches!(error, russh::Error::ChannelOpenFailure(ChannelOpenFailure::ResourceShortage)),
        "{error:?}"
    );
    open.remove(0).close().await.unwrap();
    assert_eq!(exec(&client, "echo room").await.stdout, b"room\n");
    drop(open);
}

/// Runs a command as `shed` does, and returns the frames that came back.
async fn frames(client: &Client, first: Frame, more: &[Frame]) -> Vec<Frame> {
    let mut channel = session(client).await;
    channel.request_subsystem(true, shed_ssh::EXEC_SUBSYSTEM).await.unwrap();
    assert!(answer(&mut channel).await);
    let mut bytes = bytes::BytesMut::new();
    for frame in std::iter::once(&first).chain(more) {
        FrameCodec.encode(frame.clone(), &mut bytes).unwrap();
    }
    channel.data_bytes(bytes.freeze()).await.unwrap();
    let said = to_the_end(&mut channel).await;
    assert!(said.eof && said.stderr.is_empty() && said.code.is_none(), "{said:?}");
    let mut bytes = bytes::BytesMut::from(&said.stdout[..]);
    std::iter::from_fn(|| FrameCodec.decode(&mut bytes).unwrap()).collect()
}

fn request(json: &'static str) -> Frame {
    Frame::new(FrameKind::ExecRequest, json.into())
}

#[tokio::test]
async fn the_frames_of_shed_are_passed_on() {
    let api = Api::new().await;
    api.create("api").await;
    let client = login(&api, "api").await;
    let input = [Frame::new(FrameKind::Data, "in".into()), Frame::empty(FrameKind::StdinEof)];
    let said = frames(&client, request(r#"{"cmd":["cat"]}"#), &input).await;
    assert_eq!(said[0], input[0]);
    assert_eq!(said[1].parse::<ExitStatus>().unwrap(), ExitStatus::exited(0));
    let said = frames(&client, request(r#"{"cmd":["request"],"tty":true,"env":["TERM=foot"]}"#), &[]).await;
    assert_eq!(said[0].parse::<ExecRequest>().unwrap().env, ["TERM=xterm-256color"]);
}

#[tokio::test]
async fn what_goes_wrong_before_the_agent_is_said_in_frames() {
    let api = Api::new().await;
    api.create("api").await;
    let failure = |said: &[Frame]| said.last().unwrap().parse::<ExitStatus>().unwrap().error.unwrap();
    // An unknown shed is told before the answer, so that a client can take its input elsewhere.
    let client = login(&api, "nobody").await;
    let mut channel = session(&client).await;
    channel.request_subsystem(true, shed_ssh::EXEC_SUBSYSTEM).await.unwrap();
    let mut bytes = bytes::BytesMut::new();
    loop {
        match next(&mut channel).await.unwrap() {
            russh::ChannelMsg::Data { data } => bytes.extend_from_slice(&data),
            russh::ChannelMsg::Failure => break,
            russh::ChannelMsg::WindowAdjusted { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    let refusal = shed_ssh::Refusal::from_frame(&FrameCodec.decode(&mut bytes).unwrap().unwrap()).unwrap();
    assert_eq!(refusal.code, Some(shed_api::ErrorCode::ShedNotFound));
    assert!(refusal.message.contains("shed 'nobody' not found"), "{refusal:?}");
    assert!(to_the_end(&mut channel).await.eof);
    let client = login(&api, "api").await;
    let said = frames(&client, request("{"), &[]).await;
    assert!(failure(&said).contains("cannot be read"), "{said:?}");
    let said = frames(&client, Frame::empty(FrameKind::Data), &[]).await;
    assert!(failure(&said).contains("no request"), "{said:?}");
    let mut channel = session(&client).await;
    channel.request_subsystem(false, shed_ssh::EXEC_SUBSYSTEM).await.unwrap();
    channel.data_bytes(&[0x01, 0xff, 0xff, 0xff, 0xff][..]).await.unwrap();
    let said = to_the_end(&mut channel).await;
    assert!(String::from_utf8_lossy(&said.stdout).contains("4294967295 bytes"), "{said:?}");

    api.client.stop(&"api".parse().unwrap()).await.unwrap();
    let said = frames(&client, request(r#"{"cmd":["echo","up"]}"#), &[]).await;
    assert_eq!(said[0], Frame::new(FrameKind::Stderr, "Shed 'api' is stopped; starting it...\n".into()));
    assert_eq!(said[1], Frame::empty(FrameKind::Data), "from here on what is typed is for the command");
    assert_eq!(said[2].payload, "up\n");
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_commands() {
    let api = Api::new().await;
    let name = api.create("api").await;
    let client = login(&api, "api").await;
    let mut channels = Vec::new();
    for command in ["sleep 600", "sleep 600", "yes 1000000000"] {
        let mut channel = session(&client).await;
        channel.exec(true, command).await.unwrap();
        assert!(answer(&mut channel).await);
        channels.push(channel);
    }
    wait_for("the commands to run", PATIENCE, || std::future::ready(api.world.commands(&name) == 3))
        .await
        .unwrap();
    channels[1].close().await.unwrap();
    wait_for("the closed one to end", PATIENCE, || std::future::ready(api.world.commands(&name) == 2))
        .await
        .unwrap();
    drop((channels, client));
    wait_for("the others to end", PATIENCE, || std::future::ready(api.world.commands(&name) == 0))
        .await
        .unwrap();
}

/// A page behind a forwarded port asks again every second; a shed that was stopped must stay so.
#[tokio::test]
async fn the_first_tunnel_of_a_client_starts_the_shed_and_later_ones_do_not() {
    let api = Api::new().await;
    let name = api.create("api").await;
    let service = shed_types::TcpPort::new(80).unwrap();
    let serve = || api.world.set_service(&name, service, shed_backend::fake::FakeService::Echo);
    serve();
    api.client.stop(&name).await.unwrap();
    let client = login(&api, "api").await;
    let tunnel = client.channel_open_direct_tcpip("localhost", 80, "", 0).await.unwrap();
    drop(tunnel);
    api.client.stop(&name).await.unwrap();
    for _ in 0..3 {
        let refused = client.channel_open_direct_tcpip("localhost", 80, "", 0).await.unwrap_err();
        assert!(format!("{refused:?}").contains("ConnectFailed"), "{refused:?}");
    }
    assert_eq!(api.client.get(&name).await.unwrap().status, shed_api::ShedStatus::Stopped);
    // A session is somebody who wants to work.
    assert_eq!(exec(&client, "echo on").await.stdout, b"on\n");
}
