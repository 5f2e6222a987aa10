//! Decides which cached images nobody needs (spec I.6). Pure: what is cached and who needs what is found out by the
//! caller.

use std::collections::BTreeSet;

use shed_types::ImageName;

/// What must not be removed. `F` tells which file a name leads to; two names of one file have the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Needs<F> {
    /// Images that the config or a shed names.
    pub names: BTreeSet<ImageName>,
    /// Files that the config names, whatever they are called in the images directory.
    pub files: BTreeSet<F>,
}

/// Returns the cached images that may go, in the order in which they come.
///
/// Another name of a needed file stays as well: it may be the one through which a symbolic link leads, and where it is a
/// hard link its removal frees nothing.
pub(crate) fn unneeded<F: Ord + Copy>(cached: &[(ImageName, F)], needs: &Needs<F>) -> Vec<ImageName> {
    let is_needed = |name: &ImageName| needs.names.contains(name);
    let files: BTreeSet<F> = cached
        .iter()
        .filter(|(name, _)| is_needed(name))
        .map(|(_, file)| *file)
        .chain(needs.files.iter().copied())
        .collect();
    cached
        .iter()
        .filter(|(name, file)| !is_needed(name) && !files.contains(file))
        .map(|(name, _)| name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> ImageName {
        text.parse().unwrap()
    }

    #[test]
    fn only_what_neither_a_name_nor_a_file_holds_goes() {
        let cached = [("_base", 1), ("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 2)];
        let cached = cached.map(|(text, file)| (name(text), file));
        let needs = Needs { names: [name("b"), name("gone")].into(), files: [1, 9].into() };
        assert_eq!(unneeded(&cached, &needs), [name("c"), name("d")]);
    }

    proptest! {
        #[test]
        fn nothing_needed_goes_and_nothing_else_stays(
            cached in proptest::collection::btree_map("[a-f]", 0_u8..6, 0..6),
            names in proptest::collection::btree_set("[a-f]", 0..4),
            files in proptest::collection::btree_set(0_u8..6, 0..3),
        ) {
            let cached: Vec<_> = cached.iter().map(|(text, file)| (name(text), *file)).collect();
            let needs = Needs { names: names.iter().map(|text| name(text)).collect(), files };
            let gone = unneeded(&cached, &needs);
            let left: Vec<_> = cached.iter().filter(|(name, _)| !gone.contains(name)).collect();
            for (name, file) in &cached {
                let shared = |other: &(ImageName, u8)| needs.names.contains(&other.0) && other.1 == *file;
                let needed = needs.names.contains(name)
                    || needs.files.contains(file)
                    || cached.iter().any(shared);
                prop_assert_eq!(left.iter().any(|(kept, _)| kept == name), needed, "{}", name);
            }
            prop_assert_eq!(unneeded(&left.into_iter().cloned().collect::<Vec<_>>(), &needs), vec![]);
        }
    }
}
