//! Speaks to the agent of a machine through its VMM's socket, with no server in between.
//!
//! For trying out a guest by hand, and as the yardstick of the benchmark: what a command costs when nothing but the
//! link and the agent is involved. The VMM's socket takes one connection at a time, so no server may be using it.
//!
//! ```text
//! bare_agent SOCKET hello                      time to the agent's answer
//! bare_agent SOCKET identify NAME [ADDRESS/PREFIX GATEWAY DNS]
//!                                              make the machine this shed
//! bare_agent SOCKET tcp PORT                   standard input and output to a port of the guest
//! bare_agent SOCKET exec [-t] [-u USER] CMD…   run a command; exit with its code
//! bare_agent SOCKET setup create|start|stop [URL]
//!                                              clone into /workspace and run the hooks of what is there
//! bare_agent SOCKET bench COUNT CMD…           time of COUNT runs of a command, one connection
//! bare_agent SOCKET power-off
//! ```
#![expect(clippy::print_stdout, reason = "a program for the terminal")]

use std::{
    io::Write as _,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use shed_link::{MuxHandle, host_handshake, mux};
use shed_protocol::{
    CloneRequest, Envelope, EnvelopeKind, ExecRequest, ExitStatus, Frame, FrameCodec, FrameKind, GENERATION,
    HelloReply, HelloRequest, Identify, NetworkIdentity, Occasion, PowerOff, SYSTEM_HELLO, SYSTEM_IDENTIFY,
    SYSTEM_POWER_OFF, SetupEvent, SetupReply, SetupRequest,
};
use shed_types::GuestPort;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};
use tokio_util::codec::Framed;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [socket, action, rest @ ..] = &args[..] else { bail!("usage: bare_agent SOCKET ACTION …") };
    let begun = Instant::now();
    let pipe = UnixStream::connect(socket).await.with_context(|| format!("cannot connect to {socket}"))?;
    let (agent, driver) = mux::host(host_handshake(pipe).await?);
    tokio::spawn(driver);
    match (action.as_str(), rest) {
        ("hello", []) => {
            let hello =
                HelloRequest { generation: GENERATION, version: "bare".into(), features: Default::default() };
            let reply: HelloReply = ask(&agent, SYSTEM_HELLO, &hello).await?.parse()?;
            println!(
                "{:.1} ms  agent {} boot {}",
                milliseconds(begun.elapsed()),
                reply.version,
                reply.boot_id
            );
        }
        ("tcp", [port]) => tcp(&agent, port).await?,
        ("identify", [name, network @ ..]) => {
            let identity = Identify {
                name: name.clone(),
                hostname: name.clone(),
                now: jiff::Timestamp::now(),
                machine_id: None,
                random_seed: "00ff".repeat(16),
                network: match network {
                    [address, gateway, dns] => Some(NetworkIdentity {
                        address: address.clone(),
                        gateway: gateway.clone(),
                        dns: vec![dns.clone()],
                        mtu: None,
                    }),
                    _ => None,
                },
                image: None,
                mounts: Vec::new(),
            };
            println!("{}", ask(&agent, SYSTEM_IDENTIFY, &identity).await?.payload);
        }
        ("power-off", []) => {
            ask(&agent, SYSTEM_POWER_OFF, &PowerOff {}).await?;
            agent.closed().await;
        }
        ("exec", words) => return exec(&agent, words).await,
        ("setup", [occasion, url @ ..]) => setup(&agent, occasion, url.first()).await?,
        ("bench", [count, cmd @ ..]) => bench(&agent, count.parse()?, cmd).await?,
        _ => bail!("unknown action {action}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

async fn ask<T: serde::Serialize>(
    agent: &MuxHandle,
    namespace: &str,
    payload: &T,
) -> anyhow::Result<Envelope> {
    let mut frames = Framed::new(agent.open(GuestPort::Messages).await?, FrameCodec);
    let request = Envelope::request(namespace, payload);
    frames.send(Frame::json(FrameKind::Message, &request)).await?;
    while let Some(frame) = frames.next().await {
        let reply: Envelope = frame?.parse()?;
        if reply.kind == EnvelopeKind::Response && reply.in_reply_to == Some(request.id) {
            return Ok(reply);
        }
    }
    bail!("the agent closed the channel")
}

async fn exec(agent: &MuxHandle, words: &[String]) -> anyhow::Result<ExitCode> {
    let mut request = ExecRequest::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-t" => (request.tty, request.rows, request.cols) = (true, 40, 100),
            "-u" => request.user = words.next().context("-u needs a name")?.clone(),
            cmd => {
                request.cmd.push(cmd.to_owned());
                request.cmd.extend(words.by_ref().cloned());
            }
        }
    }
    let mut frames = Framed::new(agent.open(GuestPort::Exec).await?, FrameCodec);
    frames.send(Frame::json(FrameKind::ExecRequest, &request)).await?;
    let (mut sink, mut stream) = frames.split();
    let feeding = tokio::spawn(async move {
        let mut stdin = tokio::io::stdin();
        let mut buffer = vec![0; 256 * 1024];
        while let Ok(length @ 1..) = stdin.read(&mut buffer).await {
            sink.send(Frame::new(FrameKind::Data, Bytes::copy_from_slice(&buffer[..length]))).await?;
        }
        sink.send(Frame::empty(FrameKind::StdinEof)).await?;
        // Dropping the sink early would be no harm, but its other half closes the stream.
        anyhow::Ok(sink)
    });
    while let Some(frame) = stream.next().await {
        let frame = frame?;
        match frame.kind {
            FrameKind::Data => std::io::stdout().write_all(&frame.payload)?,
            FrameKind::Stderr => std::io::stderr().write_all(&frame.payload)?,
            FrameKind::ExitStatus => {
                let status: ExitStatus = frame.parse()?;
                if let Some(error) = &status.error {
                    std::io::stderr().write_all(format!("{error}\n").as_bytes())?;
                }
                std::io::stdout().flush()?;
                feeding.abort();
                return Ok(ExitCode::from(u8::try_from(status.code).unwrap_or(u8::MAX)));
            }
            _ => {}
        }
    }
    bail!("the stream ended before the command did")
}

async fn setup(agent: &MuxHandle, occasion: &str, url: Option<&String>) -> anyhow::Result<()> {
    let occasion = match occasion {
        "create" => Occasion::Create,
        "start" => Occasion::Start,
        "stop" => Occasion::Stop,
        other => bail!("there is no setup at {other:?}"),
    };
    let clone = url.map(|url| CloneRequest { url: url.clone(), known_hosts: Vec::new() });
    let request = SetupRequest { occasion, clone, hooks: true, env: Vec::new(), limit_ms: None };
    let mut frames = Framed::new(agent.open(GuestPort::Setup).await?, FrameCodec);
    frames.send(Frame::json(FrameKind::SetupRequest, &request)).await?;
    while let Some(frame) = frames.next().await {
        let frame = frame?;
        match frame.kind {
            FrameKind::Data => std::io::stdout().write_all(&frame.payload)?,
            FrameKind::SetupEvent => println!("{:?}", frame.parse::<SetupEvent>()?),
            FrameKind::SetupReply => {
                println!("{:?}", frame.parse::<SetupReply>()?);
                return Ok(());
            }
            _ => {}
        }
    }
    bail!("the stream ended before the setup did")
}

async fn tcp(agent: &MuxHandle, port: &str) -> anyhow::Result<()> {
    let mut stream = agent.open(GuestPort::Tcp).await?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    let mut local = tokio::io::join(tokio::io::stdin(), tokio::io::stdout());
    // The guest's answer comes first on standard output.
    tokio::io::copy_bidirectional(&mut local, &mut stream).await?;
    Ok(())
}

async fn bench(agent: &MuxHandle, count: usize, cmd: &[String]) -> anyhow::Result<()> {
    ensure!(count > 0, "a benchmark needs at least one run");
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = Instant::now();
        let mut frames = Framed::new(agent.open(GuestPort::Exec).await?, FrameCodec);
        let request = ExecRequest { cmd: cmd.to_vec(), ..Default::default() };
        frames.send(Frame::json(FrameKind::ExecRequest, &request)).await?;
        frames.send(Frame::empty(FrameKind::StdinEof)).await?;
        loop {
            let frame = frames.next().await.context("the stream ended before the command did")??;
            if frame.kind == FrameKind::ExitStatus {
                break;
            }
        }
        times.push(begun.elapsed());
    }
    times.sort();
    let at = |share: usize| milliseconds(times[(count - 1) * share / 100]);
    println!("{count} runs: p50 {:.2} ms, p95 {:.2} ms, best {:.2} ms", at(50), at(95), at(0));
    Ok(())
}
