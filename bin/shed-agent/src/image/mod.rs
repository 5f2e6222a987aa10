//! What the image says of how its programs are run, and what of that is kept in the machine.
//!
//! The host tells it with the identity; `exec` asks for it with every command. Whoever made the image chose the values:
//! they reach processes as data and shells in quotes, and what makes no sense is left out. Nothing here runs anything.

mod profile;

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
};

use shed_protocol::ImageConfig;

use crate::{
    exec::users::{self, User},
    log,
    state::State,
    whole_file,
};

/// Where it is kept for agents that start later in this boot.
const KEPT: &str = "/run/shed-image.json";

/// Where a shed's work lies when its image names no directory (spec D).
pub(crate) const WORKSPACE: &str = "/workspace";

/// Programs that are an init: the machine runs one already, and a second one makes no sense.
const INITS: [&str; 6] =
    ["init", "/init", "/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd"];

/// Says why the image's own program cannot be run.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoProgram {
    #[error("the image of this shed names no program of its own; say what is to run")]
    None,
    #[error("the program of this shed's image is its init, {0}, which is no command; say what is to run")]
    Init(String),
}

/// Returns the image's own program with its arguments: `args`, or the image's when there are none.
pub(crate) fn program(image: &ImageConfig, args: Vec<String>) -> Result<(String, Vec<String>), NoProgram> {
    let rest = if args.is_empty() { image.cmd.clone() } else { args };
    let mut words = image.entrypoint.iter().cloned().chain(rest);
    match words.next() {
        None => Err(NoProgram::None),
        Some(program) if program.is_empty() => Err(NoProgram::None),
        Some(program) if INITS.contains(&program.as_str()) => Err(NoProgram::Init(program)),
        Some(program) => Ok((program, words.collect())),
    }
}

/// Returns where commands start that are told nothing else.
pub(crate) fn directory(image: &ImageConfig) -> &str {
    match image.working_dir.as_str() {
        "/" => WORKSPACE,
        directory if directory.starts_with('/') && !directory.contains('\0') => directory,
        _ => WORKSPACE,
    }
}

/// Returns the image's variables, by the rules of environments: no NUL, a name before the first `=`.
pub(crate) fn variables(image: &ImageConfig) -> impl Iterator<Item = (String, String)> {
    let good = |entry: &&String| !entry.contains('\0') && !entry.starts_with('=');
    image.env.iter().filter(good).filter_map(|entry| entry.split_once('=')).map(|(n, v)| (n.into(), v.into()))
}

/// Returns what an agent that was here before in this boot was told.
pub(crate) fn kept() -> ImageConfig {
    fs::read(KEPT).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// Takes in what the host says. It may come again at any time; all is written only when it has changed.
///
/// A machine without any of this is still the shed it should be, so failures only leave a line in the log.
pub(crate) fn apply(told: Option<&ImageConfig>, state: &State) {
    let image = told.cloned().unwrap_or_default();
    let note = |what: &str, result: io::Result<()>| {
        if let Err(error) = result {
            log::info(&format!("{what}: {error}"));
        }
    };
    note("the image's config is not kept", keep(Path::new(KEPT), &image));
    note("the profile of login shells", profile::write(Path::new("/etc"), &image));
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let group = fs::read_to_string("/etc/group").unwrap_or_default();
    if let Err(error) = users::of_image(&passwd, &group, &image.user) {
        log::error(&format!("the user of the image is not used: {error}"));
    }
    let user = users::default(&passwd, &group, &image.user);
    note(WORKSPACE, hand_over(Path::new(WORKSPACE), &passwd, &user));
    note(directory(&image), make_directory(Path::new(directory(&image)), &user));
    state.set_image(image);
}

fn keep(file: &Path, image: &ImageConfig) -> io::Result<()> {
    whole_file::replace(file, &serde_json::to_vec(image)?, 0o600)
}

/// Makes the directory in which the image's programs start, for the user; what is there already is left alone.
fn make_directory(path: &Path, user: &User) -> io::Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    give(path, user)
}

/// Gives the workspace to a user of the image. shed-init has given it to `shed`, and it is left to anybody else; so is a
/// directory of the host that is mounted there.
fn hand_over(path: &Path, passwd: &str, user: &User) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    let parent = fs::metadata(path.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned))?;
    let was_sheds = meta.uid() == 0 || Some(meta.uid()) == users::uid_of(passwd, users::DEFAULT_USER);
    if meta.is_dir() && was_sheds && meta.uid() != user.uid && meta.dev() == parent.dev() {
        return give(path, user);
    }
    Ok(())
}

fn give(path: &Path, user: &User) -> io::Result<()> {
    // An agent that is not root (in its own tests) gives nothing away.
    if rustix::process::geteuid().is_root() { chown(path, Some(user.uid), Some(user.gid)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn the_program_is_entrypoint_and_command_and_arguments_replace_the_command() {
        let image = |entrypoint: &[&str], cmd: &[&str]| ImageConfig {
            entrypoint: words(entrypoint),
            cmd: words(cmd),
            ..ImageConfig::default()
        };
        let run = |image: &ImageConfig, args: &[&str]| {
            program(image, words(args)).map(|(program, args)| [vec![program], args].concat().join(" "))
        };
        let both = image(&["/e", "-x"], &["a", "b"]);
        assert_eq!(run(&both, &[]).unwrap(), "/e -x a b");
        assert_eq!(run(&both, &["c"]).unwrap(), "/e -x c");
        let cmd_only = image(&[], &["serve", "all"]);
        assert_eq!(run(&cmd_only, &[]).unwrap(), "serve all");
        assert_eq!(run(&cmd_only, &["id"]).unwrap(), "id");
        assert_eq!(run(&image(&[], &[]), &[]), Err(NoProgram::None));
        assert_eq!(run(&image(&[""], &["x"]), &[]), Err(NoProgram::None));
        for init in INITS {
            let refused = Err(NoProgram::Init(init.to_owned()));
            assert_eq!(run(&image(&[init], &[]), &["x"]), refused);
            assert_eq!(run(&image(&[], &[init]), &[]), refused);
        }
    }

    #[test]
    fn only_a_directory_below_the_root_is_one() {
        for (given, used) in
            [("/app", "/app"), ("", WORKSPACE), ("/", WORKSPACE), ("app", WORKSPACE), ("/a\0b", WORKSPACE)]
        {
            let image = ImageConfig { working_dir: given.into(), ..ImageConfig::default() };
            assert_eq!(directory(&image), used, "{given:?}");
        }
    }

    #[test]
    fn a_missing_directory_is_made_and_one_that_is_there_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let user = users::default("", "", "");
        let path = dir.path().join("srv/app");
        make_directory(&path, &user).unwrap();
        assert!(path.is_dir());
        fs::write(path.join("kept"), "").unwrap();
        make_directory(&path, &user).unwrap();
        assert!(path.join("kept").exists());
        assert!(make_directory(&path.join("kept/below"), &user).is_err());
    }

    #[test]
    fn what_is_kept_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("image.json");
        let image = ImageConfig { env: words(&["A=\"'\n$(id)"]), ..ImageConfig::default() };
        keep(&file, &image).unwrap();
        assert_eq!(serde_json::from_slice::<ImageConfig>(&fs::read(&file).unwrap()).unwrap(), image);
    }

    #[test]
    fn variables_without_a_name_or_with_a_nul_are_none() {
        let env = words(&["A=1", "=x", "B", "C=a\0b", "A=2=3", "D="]);
        let found: Vec<_> = variables(&ImageConfig { env, ..ImageConfig::default() }).collect();
        let expected = [("A", "1"), ("A", "2=3"), ("D", "")];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
