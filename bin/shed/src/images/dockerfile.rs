//! Which Dockerfile a build uses, and which of Shed's own images it extends.
//!
//! Only as much of the language is known here as is needed to offer those images to the tool that builds; what is right
//! or wrong in a Dockerfile is for that tool to say.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use shed_types::ImageName;

/// Names of a Dockerfile in a context, the best first (spec I.4).
const NAMES: [&str; 2] = ["Dockerfile.shed", "Dockerfile"];

/// How a Dockerfile names the images of the images directory.
const OURS: [&str; 2] = ["shed/", "localhost/shed/"];

/// Says why there is nothing to build.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoDockerfile {
    #[error("{0} is no directory; the context of a build is one")]
    Context(Utf8PathBuf),
    #[error("there is neither a Dockerfile.shed nor a Dockerfile in {0}")]
    Neither(Utf8PathBuf),
    #[error("there is no file {0}")]
    Missing(Utf8PathBuf),
}

/// Finds the Dockerfile of a build.
///
/// # Errors
/// When the context is none, or there is no such file.
pub(crate) fn find(context: &Utf8Path, named: Option<&Utf8Path>) -> Result<Utf8PathBuf, NoDockerfile> {
    if !context.is_dir() {
        return Err(NoDockerfile::Context(context.to_owned()));
    }
    match named {
        Some(path) if path.is_file() => Ok(path.to_owned()),
        Some(path) => Err(NoDockerfile::Missing(path.to_owned())),
        None => NAMES
            .iter()
            .map(|name| context.join(name))
            .find(|path| path.is_file())
            .ok_or_else(|| NoDockerfile::Neither(context.to_owned())),
    }
}

/// Returns the images of the images directory that a Dockerfile begins stages from: `FROM shed/NAME`. Arguments that come
/// before the first stage are filled in, with the values that the build is given for them.
pub(crate) fn extends(text: &str, build_args: &[String]) -> Vec<ImageName> {
    let given: BTreeMap<&str, &str> = build_args.iter().filter_map(|arg| arg.split_once('=')).collect();
    let mut args = BTreeMap::new();
    let mut in_stage = false;
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let instruction = words.next().unwrap_or_default().to_ascii_uppercase();
        match instruction.as_str() {
            "ARG" if !in_stage => {
                for (name, default) in words.map(|word| word.split_once('=').unwrap_or((word, ""))) {
                    let value = given.get(name).copied().unwrap_or_else(|| unquoted(default));
                    args.insert(name.to_owned(), value.to_owned());
                }
            }
            "FROM" => {
                in_stage = true;
                let image = words.find(|word| !word.starts_with("--")).unwrap_or_default();
                found.extend(ours(&filled_in(unquoted(image), &args)));
            }
            _ => {}
        }
    }
    found.sort();
    found.dedup();
    found
}

fn ours(image: &str) -> Option<ImageName> {
    let rest = OURS.iter().find_map(|prefix| image.strip_prefix(prefix))?;
    rest.strip_suffix(":latest").unwrap_or(rest).parse().ok()
}

fn unquoted(text: &str) -> &str {
    ['"', '\''].iter().find_map(|&q| text.strip_prefix(q)?.strip_suffix(q)).unwrap_or(text)
}

/// Replaces `$NAME`, `${NAME}` and `${NAME:-default}`.
fn filled_in(text: &str, args: &BTreeMap<String, String>) -> String {
    let value = |name: &str| args.get(name).filter(|value| !value.is_empty()).cloned();
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some((inside, behind)) = after.strip_prefix('{').and_then(|after| after.split_once('}')) {
            let (name, default) = inside.split_once(":-").unwrap_or((inside, ""));
            out.push_str(&value(name).unwrap_or_else(|| default.to_owned()));
            rest = behind;
        } else {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            out.push_str(&value(&after[..end]).unwrap_or_default());
            rest = &after[end..];
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(text: &str, build_args: &[&str]) -> Vec<String> {
        let build_args: Vec<String> = build_args.iter().map(|arg| (*arg).to_owned()).collect();
        extends(text, &build_args).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_dockerfile_of_a_context_may_be_sheds_own() {
        let dir = tempfile::tempdir().unwrap();
        let context = Utf8Path::from_path(dir.path()).unwrap();
        let missing = context.join("none");
        assert_eq!(find(&missing, None), Err(NoDockerfile::Context(missing.clone())));
        assert_eq!(find(context, None), Err(NoDockerfile::Neither(context.to_owned())));
        for name in ["Dockerfile", "Dockerfile.shed"] {
            std::fs::write(context.join(name), "").unwrap();
            assert_eq!(find(context, None), Ok(context.join(name)));
        }
        assert_eq!(find(context, Some(&context.join("Dockerfile"))), Ok(context.join("Dockerfile")));
        assert_eq!(find(context, Some(&missing)), Err(NoDockerfile::Missing(missing)));
    }

    #[test]
    fn only_sheds_own_images_are_found() {
        let text = "# FROM shed/comment\nfrom --platform=linux/amd64 shed/base:latest AS one\nRUN echo FROM shed/no\n\
                    FROM localhost/shed/tools\nFROM debian:13\nFROM shed/base\nFROM shed/a/b\nFROM shed/x:v1\nFROM\n";
        assert_eq!(names(text, &[]), ["base", "tools"]);
    }

    #[test]
    fn arguments_before_the_first_stage_are_filled_in() {
        let text = "ARG BASE=shed/base\nARG NAME\nFROM ${BASE}\nARG BASE=shed/no\nFROM shed/$NAME\nFROM ${NONE:-shed/other}\nFROM $NONE\n";
        assert_eq!(names(text, &["NAME=tools"]), ["base", "other", "tools"]);
        assert_eq!(names(text, &["BASE=debian", "NAME=x"]), ["other", "x"]);
        assert_eq!(names("ARG A=\"shed/q\"\nFROM $A", &[]), ["q"]);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "([A-Z$\\{\\}:/a-z =\"\n-]|ARG |FROM |shed/|é){0,60}") {
            let _names = names(&text, &["A=b", "C"]);
        }
    }
}
