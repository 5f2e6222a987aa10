//! The command line: which of the programs is meant, by the name it was called by or by the first argument.

use std::path::PathBuf;

use crate::{bus::Bus, run_dir::RunDir};

/// Names of the programs, each also a subcommand of the last.
const PROGRAMS: [&str; 4] = ["shed-ssh-agent", "shed-aws-proxy", "docker-credential-shed", "shed-ext"];

/// Where the services keep their files and find the bus.
#[derive(Debug)]
pub(crate) struct Place {
    /// The bus.
    pub(crate) bus: Bus,
    /// Sockets and status files.
    pub(crate) run_dir: RunDir,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Command {
    /// Say this: help or version.
    Print(String),
    /// Be an SSH agent.
    SshAgent(Place),
    /// Give AWS credentials on this port of the loopback.
    AwsProxy { place: Place, port: u16 },
    /// Be a credential helper of Docker's.
    Docker { action: Action, bus: Bus },
    /// Say how the host's side is.
    Status { bus: Bus, json: bool },
    /// Say how the services of this shed are.
    Health { place: Place, json: bool },
}

/// What Docker asks its helper for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// The credentials for one registry.
    Get,
    /// All registries that there are credentials for.
    List,
    /// Keep credentials; refused.
    Store,
    /// Forget credentials; refused.
    Erase,
}

/// Says what is wrong with the command line.
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

/// Port of the AWS proxy on 127.0.0.1 (spec J.3).
pub(crate) const AWS_PORT: u16 = 499;

/// Reads the command line; returns the program's name, too.
pub(crate) fn parse(arguments: Vec<String>) -> (String, Result<Command, UsageError>) {
    let mut arguments = arguments.into_iter();
    let called = arguments.next().unwrap_or_default();
    let called = called.rsplit('/').next().unwrap_or_default();
    let mut name = PROGRAMS.into_iter().find(|name| *name == called).unwrap_or("shed-ext");
    let mut rest: Vec<String> = arguments.collect();
    if let Some(&program) = PROGRAMS[..3].iter().find(|&name| rest.first() == Some(&name.to_string()))
        && name == "shed-ext"
    {
        name = program;
        rest.remove(0);
    }
    (name.to_owned(), command(name, rest))
}

fn command(name: &str, mut rest: Vec<String>) -> Result<Command, UsageError> {
    if rest.iter().any(|argument| argument == "--help" || argument == "-h") {
        return Ok(Command::Print(help(name).to_owned()));
    }
    if rest.iter().any(|argument| argument == "--version") {
        return Ok(Command::Print(version(name)));
    }
    match name {
        "shed-ssh-agent" => {
            let options = Options::parse(rest, &["--run-dir", "--publish-url"])?;
            Ok(Command::SshAgent(options.place()?))
        }
        "shed-aws-proxy" => {
            let options = Options::parse(rest, &["--run-dir", "--publish-url", "--port"])?;
            let port = options.port.as_deref().map(str::parse).transpose();
            let port = port.map_err(|_| UsageError("--port takes a number up to 65535".to_owned()))?;
            Ok(Command::AwsProxy { place: options.place()?, port: port.unwrap_or(AWS_PORT) })
        }
        "docker-credential-shed" => {
            let action = match rest.first().map(String::as_str) {
                Some("get") => Action::Get,
                Some("list") => Action::List,
                Some("store") => Action::Store,
                Some("erase") => Action::Erase,
                Some("version") => return Ok(Command::Print(version(name))),
                Some(other) => return Err(UsageError(format!("{other:?} is no action"))),
                None => return Err(UsageError("an action is missing".to_owned())),
            };
            Ok(Command::Docker { action, bus: Options::parse(rest.split_off(1), &[])?.bus()? })
        }
        _ => match rest.first().map(String::as_str) {
            Some("status") => {
                let options = Options::parse(rest.split_off(1), &["--publish-url", "--json"])?;
                Ok(Command::Status { bus: options.bus()?, json: options.json })
            }
            Some("health") => {
                let options = Options::parse(rest.split_off(1), &["--run-dir", "--publish-url", "--json"])?;
                Ok(Command::Health { place: options.place()?, json: options.json })
            }
            Some(other) => Err(UsageError(format!("{other:?} is no command"))),
            None => Err(UsageError("a command is missing".to_owned())),
        },
    }
}

#[derive(Debug, Default)]
struct Options {
    run_dir: Option<String>,
    publish_url: Option<String>,
    port: Option<String>,
    json: bool,
}

impl Options {
    /// Reads `--name value` and `--name=value` of those allowed.
    fn parse(arguments: Vec<String>, allowed: &[&str]) -> Result<Self, UsageError> {
        let mut options = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (argument.as_str(), None),
            };
            if !allowed.contains(&name) {
                return Err(UsageError(format!("{argument:?} is no option here")));
            }
            if name == "--json" {
                options.json = true;
                continue;
            }
            let value = value.or_else(|| arguments.next());
            let value = value.ok_or_else(|| UsageError(format!("{name} needs a value")))?;
            match name {
                "--run-dir" => options.run_dir = Some(value),
                "--port" => options.port = Some(value),
                _ => options.publish_url = Some(value),
            }
        }
        Ok(options)
    }

    fn bus(&self) -> Result<Bus, UsageError> {
        let bus = match &self.publish_url {
            Some(url) => Bus::at(url),
            None => Bus::of_environment(),
        };
        bus.map_err(|error| UsageError(error.to_string()))
    }

    fn place(&self) -> Result<Place, UsageError> {
        let run_dir =
            self.run_dir.as_ref().map_or_else(RunDir::default, |dir| RunDir::at(PathBuf::from(dir)));
        Ok(Place { bus: self.bus()?, run_dir })
    }
}

fn version(name: &str) -> String {
    match name {
        // As Docker's own helpers say it: name, package, version.
        "docker-credential-shed" => format!("{name} (shed) {}", env!("CARGO_PKG_VERSION")),
        _ => format!("{name} {}", env!("CARGO_PKG_VERSION")),
    }
}

fn help(name: &str) -> &'static str {
    match name {
        "shed-ssh-agent" => include_str!("help/shed-ssh-agent.txt"),
        "shed-aws-proxy" => include_str!("help/shed-aws-proxy.txt"),
        "docker-credential-shed" => include_str!("help/docker-credential-shed.txt"),
        _ => include_str!("help/shed-ext.txt"),
    }
    .trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> (String, Result<Command, UsageError>) {
        parse(line.split(' ').map(str::to_owned).collect())
    }

    #[test]
    fn a_program_is_named_by_its_path_or_by_its_first_argument() {
        for line in ["/usr/local/bin/shed-aws-proxy --port=7", "shed-ext shed-aws-proxy --port 7"] {
            let (name, command) = parsed(line);
            assert_eq!(name, "shed-aws-proxy");
            assert!(matches!(command, Ok(Command::AwsProxy { port: 7, .. })), "{command:?}");
        }
        assert!(matches!(parsed("/x/renamed status --json").1, Ok(Command::Status { json: true, .. })));
        let get = parsed("docker-credential-shed get").1;
        assert!(matches!(get, Ok(Command::Docker { action: Action::Get, .. })));
    }

    #[test]
    fn each_program_has_help_and_a_version() {
        for name in PROGRAMS {
            for option in ["--help", "--version"] {
                let Ok(Command::Print(text)) = parsed(&format!("{name} {option}")).1 else {
                    panic!("{name}")
                };
                assert!(text.contains(name), "{text}");
            }
        }
    }

    #[test]
    fn what_is_not_understood_is_a_usage_error() {
        for line in [
            "shed-ext",
            "shed-ext what",
            "shed-ext status --port 7",
            "shed-ext status --publish-url",
            "shed-ext status --publish-url https://127.0.0.1/",
            "shed-ext status --publish-url http://example.org/",
            "shed-aws-proxy --port x",
            "docker-credential-shed",
            "docker-credential-shed get more",
            "docker-credential-shed shed-ext",
        ] {
            assert!(parsed(line).1.is_err(), "{line}");
        }
    }
}
