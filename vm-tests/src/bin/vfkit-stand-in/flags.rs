//! vfkit's options, as its library for command lines (pflag) reads them: `--name value`, `--name=value`, `-n value`,
//! `-nvalue`, `-n=value`, switches with or without `=true`.
//!
//! Called by `main`. It says what was given; what the values mean is read by [`crate::machine`].
//! Stricter than vfkit in two things: a word that belongs to no option is refused (vfkit ignores it, and with it what the
//! caller meant), and numbers are decimal.

use anyhow::{Context, bail};

use crate::words::split_quoted;

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Run(Box<Flags>),
    Version,
    Help,
}

/// The options of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: Option<String>,
    pub(crate) initrd: Option<String>,
    pub(crate) kernel_cmdline: Option<String>,
    /// Words of all `--bootloader` together, as vfkit adds them up.
    pub(crate) bootloader: Option<Vec<String>>,
    pub(crate) devices: Vec<String>,
    pub(crate) timesync: Option<String>,
    pub(crate) restful_uri: String,
    pub(crate) log_level: String,
    pub(crate) pidfile: Option<String>,
}

impl Default for Flags {
    /// vfkit's own defaults: one CPU, 512 MiB, no REST.
    fn default() -> Self {
        Self {
            cpus: 1,
            memory_mib: 512,
            kernel: None,
            initrd: None,
            kernel_cmdline: None,
            bootloader: None,
            devices: Vec::new(),
            timesync: None,
            restful_uri: "none://".to_owned(),
            log_level: String::new(),
            pidfile: None,
        }
    }
}

/// Long and short names, and whether a value follows.
const OPTIONS: [(&str, Option<char>, Takes); 17] = [
    ("kernel", Some('k'), Takes::Value),
    ("kernel-cmdline", Some('C'), Takes::Value),
    ("initrd", Some('i'), Takes::Value),
    ("bootloader", Some('b'), Takes::Value),
    ("cpus", Some('c'), Takes::Value),
    ("memory", Some('m'), Takes::Value),
    ("timesync", Some('t'), Takes::Value),
    ("device", Some('d'), Takes::Value),
    ("log-level", None, Takes::Value),
    ("restful-uri", None, Takes::Value),
    ("ignition", None, Takes::Value),
    ("cloud-init", None, Takes::Value),
    ("pidfile", None, Takes::Value),
    ("gui", None, Takes::Nothing),
    ("nested", Some('n'), Takes::Nothing),
    ("version", Some('v'), Takes::Nothing),
    ("help", Some('h'), Takes::Nothing),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Value,
    Nothing,
}

/// Reads a command line without the program's name.
///
/// # Errors
/// As vfkit refuses: an unknown option, one without its value, a number that is none, options that exclude each other.
/// Also an option that vfkit has and this program has not.
pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> anyhow::Result<Asked> {
    let mut flags = Flags::default();
    let mut asked = None;
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let (name, takes, value) = option(&arg)?;
        match (takes, value) {
            (Takes::Nothing, value) => {
                if !switch(name, value.as_deref())? {
                    continue;
                }
                match name {
                    "version" => asked = asked.or(Some(Asked::Version)),
                    "help" => asked = Some(Asked::Help),
                    _ => bail!("vfkit has --{name}; this stand-in has not"),
                }
            }
            (Takes::Value, Some(value)) => flags.set(name, value)?,
            (Takes::Value, None) => {
                flags.set(name, args.next().with_context(|| format!("--{name} needs a value"))?)?;
            }
        }
    }
    if let Some(asked) = asked {
        return Ok(asked);
    }
    flags.check_together()?;
    Ok(Asked::Run(Box::new(flags)))
}

/// Takes an option apart: its long name, what it takes, and the value that comes in the same word.
fn option(arg: &str) -> anyhow::Result<(&'static str, Takes, Option<String>)> {
    if let Some(long) = arg.strip_prefix("--") {
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (long, None),
        };
        let known = OPTIONS.iter().find(|(known, ..)| *known == name);
        let (name, _, takes) = known.with_context(|| format!("unknown option: {arg}"))?;
        return Ok((name, *takes, value));
    }
    let short = arg.strip_prefix('-').and_then(|short| short.chars().next());
    let short =
        short.with_context(|| format!("{arg:?} belongs to no option; values with spaces need quotes"))?;
    let known = OPTIONS.iter().find(|(_, known, _)| *known == Some(short));
    let (name, _, takes) = known.with_context(|| format!("unknown option: {arg}"))?;
    let rest = &arg[1 + short.len_utf8()..];
    let value = (!rest.is_empty()).then(|| rest.strip_prefix('=').unwrap_or(rest).to_owned());
    Ok((name, *takes, value))
}

/// Whether a switch is on, as Go reads a bool.
fn switch(name: &str, value: Option<&str>) -> anyhow::Result<bool> {
    match value {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => bail!("--{name} is on or off, not {other:?}"),
    }
}

impl Flags {
    fn set(&mut self, name: &str, value: String) -> anyhow::Result<()> {
        let number = || format!("--{name}={value} is not a number in its range");
        match name {
            "cpus" => self.cpus = value.parse().with_context(number)?,
            "memory" => self.memory_mib = value.parse().with_context(number)?,
            "kernel" => self.kernel = Some(value),
            "initrd" => self.initrd = Some(value),
            "kernel-cmdline" => self.kernel_cmdline = Some(value),
            "bootloader" => self.bootloader.get_or_insert_default().extend(split_quoted(&value)?),
            "device" => self.devices.push(value),
            "timesync" => self.timesync = Some(value),
            "restful-uri" => self.restful_uri = value,
            "log-level" => self.log_level = value,
            "pidfile" => self.pidfile = Some(value),
            _ => bail!("vfkit has --{name}; this stand-in has not"),
        }
        Ok(())
    }

    fn check_together(&self) -> anyhow::Result<()> {
        let old = [&self.kernel, &self.initrd, &self.kernel_cmdline];
        let given = old.iter().filter(|value| value.is_some()).count();
        if given != 0 && self.bootloader.is_some() {
            bail!("--bootloader excludes --kernel, --initrd and --kernel-cmdline");
        }
        if given != 0 && given != old.len() {
            bail!("--kernel, --initrd and --kernel-cmdline are given together or not at all");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> anyhow::Result<Asked> {
        parse(args.iter().map(|&arg| arg.to_owned()))
    }

    fn flags(args: &[&str]) -> Flags {
        match read(args).unwrap() {
            Asked::Run(flags) => *flags,
            other @ (Asked::Version | Asked::Help) => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_option_is_taken_in_each_of_its_forms() {
        let long = [
            "--cpus",
            "4",
            "--memory=2048",
            "--bootloader",
            "linux,kernel=/k",
            "--bootloader=initrd=/i",
            "--device",
            "virtio-rng",
            "--device=virtio-net,nat",
            "--restful-uri",
            "unix:///r",
            "--log-level",
            "debug",
            "--pidfile",
            "/p",
            "--timesync",
            "vsockPort=9",
            "--gui=false",
        ];
        let expected = Flags {
            cpus: 4,
            memory_mib: 2048,
            bootloader: Some(["linux", "kernel=/k", "initrd=/i"].map(str::to_owned).into()),
            devices: ["virtio-rng", "virtio-net,nat"].map(str::to_owned).into(),
            restful_uri: "unix:///r".into(),
            log_level: "debug".into(),
            pidfile: Some("/p".into()),
            timesync: Some("vsockPort=9".into()),
            ..Flags::default()
        };
        assert_eq!(flags(&long), expected);
        let short = flags(&["-c4", "-m=64", "-k", "/k", "-i/i", "-C", "console=hvc0 -x", "-d", "virtio-rng"]);
        assert_eq!((short.cpus, short.memory_mib), (4, 64));
        assert_eq!(short.kernel.as_deref(), Some("/k"));
        assert_eq!(short.initrd.as_deref(), Some("/i"));
        assert_eq!(short.kernel_cmdline.as_deref(), Some("console=hvc0 -x"));
        assert_eq!(flags(&[]), Flags::default());
    }

    #[test]
    fn version_and_help_come_before_anything_else() {
        assert_eq!(read(&["--version"]).unwrap(), Asked::Version);
        assert_eq!(read(&["-v", "--kernel", "/k"]).unwrap(), Asked::Version);
        assert_eq!(read(&["--version", "--help"]).unwrap(), Asked::Help);
    }

    #[test]
    fn what_vfkit_refuses_is_refused() {
        for (args, reason) in [
            (&["--cpu", "1"][..], "unknown option"),
            (&["--"], "unknown option"),
            (&["-x"], "unknown option"),
            (&["--cpus"], "needs a value"),
            (&["--cpus", "-1"], "not a number"),
            (&["--cpus", "two"], "not a number"),
            (&["--memory", "1G"], "not a number"),
            (&["--kernel", "/k"], "together"),
            (&["--kernel", "/k", "--initrd", "/i"], "together"),
            (&["--bootloader", "linux", "--kernel-cmdline", "x"], "excludes"),
            (&["--bootloader", "linux,cmdline=\"x"], "not closed"),
            (&["--gui=perhaps"], "on or off"),
            (&["console=hvc0"], "belongs to no option"),
            (&["-"], "belongs to no option"),
        ] {
            let error = format!("{:#}", read(args).unwrap_err());
            assert!(error.contains(reason), "{args:?}: {error}");
        }
    }

    #[test]
    fn what_the_stand_in_lacks_is_refused_by_name() {
        for arg in ["--gui", "--nested", "--ignition=/x", "--cloud-init=/user-data"] {
            let error = read(&[arg]).unwrap_err().to_string();
            assert!(error.contains("stand-in has not"), "{error}");
        }
    }
}
