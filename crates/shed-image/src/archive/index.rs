//! Which of the images in an archive is meant, by its names and by the machine it is for.

use oci_spec::image::Descriptor;
use shed_types::{Digest, ImageReference};

use super::{CONTAINERD_NAME, Platform, REF_NAME};

/// Tells whether a name that an archive gives an image is the one that was asked for: the same text, the same reference
/// in another spelling, or its tag.
pub(super) fn is_named(wanted: &str, given: &str) -> bool {
    if wanted == given {
        return true;
    }
    let Ok(given) = given.parse::<ImageReference>() else { return false };
    if given.tag() == Some(wanted) {
        return true;
    }
    // What is no reference cannot be spelled in two ways.
    wanted.parse::<ImageReference>().is_ok_and(|wanted| wanted.to_string() == given.to_string())
}

/// Returns the names that an index gives an image.
pub(super) fn names(descriptor: &Descriptor) -> Vec<&str> {
    let annotation = |name| descriptor.annotations().as_ref().and_then(|all| all.get(name));
    [CONTAINERD_NAME, REF_NAME].into_iter().filter_map(annotation).map(String::as_str).collect()
}

/// Tells whether an image in an index can be for a machine: it says so, or says nothing. Attestations, which some
/// builders add, are for none.
pub(super) fn may_be_for(descriptor: &Descriptor, platform: &Platform) -> bool {
    descriptor.platform().as_ref().is_none_or(|found| {
        found.os().to_string() == platform.os
            && found.architecture().to_string() == platform.architecture
            && (platform.variant.is_empty()
                || found.variant().as_ref().is_none_or(|variant| *variant == platform.variant))
    })
}

/// Chooses among what an index names; `Err` has the names there are.
pub(super) fn choose(
    descriptors: &[Descriptor],
    wanted: Option<&str>,
    platform: &Platform,
) -> Result<Descriptor, Choice> {
    let named = |descriptor: &&Descriptor| match wanted {
        Some(wanted) => {
            names(descriptor).iter().any(|given| is_named(wanted, given))
                || descriptor.digest().to_string() == wanted
        }
        None => true,
    };
    let all: Vec<&Descriptor> = descriptors.iter().filter(named).collect();
    if all.is_empty() {
        return Err(Choice::NoSuch(describe(descriptors)));
    }
    let mut fitting: Vec<&Descriptor> =
        all.iter().copied().filter(|descriptor| may_be_for(descriptor, platform)).collect();
    // One image can have several names.
    fitting.dedup_by(|a, b| a.digest() == b.digest());
    match fitting.as_slice() {
        [] => Err(Choice::Platform(platforms(&all))),
        [one] => Ok((*one).clone()),
        [..] => Err(Choice::Several(describe(descriptors))),
    }
}

/// Why none was chosen.
#[derive(Debug)]
pub(super) enum Choice {
    NoSuch(String),
    Several(String),
    Platform(String),
}

/// Most names in an error.
const MAX_LISTED: usize = 20;

fn describe(descriptors: &[Descriptor]) -> String {
    list(descriptors.iter().map(|descriptor| match names(descriptor).first() {
        Some(name) => (*name).to_owned(),
        None => descriptor.digest().to_string(),
    }))
}

fn platforms(descriptors: &[&Descriptor]) -> String {
    list(
        descriptors
            .iter()
            .filter_map(|descriptor| descriptor.platform().as_ref())
            .map(|platform| format!("{}/{}", platform.os(), platform.architecture())),
    )
}

pub(super) fn list(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.map(|name| name.chars().take(300).collect()).collect();
    names.sort();
    names.dedup();
    let more = names.len().saturating_sub(MAX_LISTED);
    names.truncate(MAX_LISTED);
    let listed = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    if more > 0 { format!("{listed} and {more} more") } else { listed }
}

/// Where a layout keeps a blob.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}
