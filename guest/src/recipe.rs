//! Reads recipes: what an image consists of, and which image it is layered on.
//!
//! A recipe is a directory below guest/recipes; guest/README.md says what each of its files is for.

use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use shed_types::ImageName;

/// Most recipes that stand on each other; more are a mistake.
const MAX_CHAIN: usize = 32;

/// A recipe, read.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    /// Its name and that of its image.
    pub(crate) name: ImageName,
    /// Where it is.
    pub(crate) dir: Utf8PathBuf,
    /// Debian packages, sorted.
    pub(crate) packages: Vec<String>,
    /// Programs that are put into /usr/local/bin where they are given, see `extensions.txt`.
    pub(crate) extensions: Vec<String>,
    /// The recipe whose image it adds to; nothing for one that begins with Debian.
    from: Option<ImageName>,
}

/// Returns the names of all recipes, sorted.
pub(crate) fn names(recipes: &Utf8Path) -> Result<Vec<ImageName>> {
    let mut names = Vec::new();
    for entry in recipes.read_dir_utf8().with_context(|| format!("cannot read {recipes}"))? {
        let entry = entry?;
        if entry.path().is_dir() {
            let name = entry.file_name().parse();
            names.push(name.with_context(|| format!("{} cannot be an image's name", entry.path()))?);
        }
    }
    names.sort();
    Ok(names)
}

/// Reads a recipe and those below it, the lowest first.
pub(crate) fn chain(recipes: &Utf8Path, name: &ImageName) -> Result<Vec<Recipe>> {
    let mut chain = vec![Recipe::read(recipes, name)?];
    while let Some(from) = chain.last().and_then(|recipe| recipe.from.clone()) {
        ensure!(
            chain.len() < MAX_CHAIN && chain.iter().all(|recipe| recipe.name != from),
            "the recipe {name} is layered on itself: see {recipes}/{from}/from.txt"
        );
        let below = Recipe::read(recipes, &from);
        chain.push(below.with_context(|| format!("cannot read what {name} is layered on"))?);
    }
    chain.reverse();
    Ok(chain)
}

impl Recipe {
    fn read(recipes: &Utf8Path, name: &ImageName) -> Result<Self> {
        let dir = recipes.join(name.as_str());
        if !dir.is_dir() {
            let known: Vec<String> = names(recipes)?.iter().map(ToString::to_string).collect();
            bail!("there is no recipe {name} in {recipes}; there are: {}", known.join(", "));
        }
        let from = words(&dir.join("from.txt"))?;
        ensure!(from.len() <= 1, "{dir}/from.txt names more than one recipe");
        let from = from.first().map(|from| from.parse::<ImageName>()).transpose();
        Ok(Self {
            name: name.clone(),
            packages: words(&dir.join("packages.txt"))?,
            extensions: words(&dir.join("extensions.txt"))?,
            from: from.with_context(|| format!("{dir}/from.txt names no recipe"))?,
            dir,
        })
    }
}

/// Reads a list of words, as many on a line as one likes; `#` begins a comment. A missing list is empty.
fn words(path: &Utf8Path) -> Result<Vec<String>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let mut words: Vec<String> = lines.flat_map(str::split_whitespace).map(str::to_owned).collect();
    words.sort();
    words.dedup();
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Recipes {
        _guard: tempfile::TempDir,
        dir: Utf8PathBuf,
    }

    impl Recipes {
        fn new(recipes: &[(&str, &str, &str)]) -> Self {
            let guard = tempfile::tempdir().unwrap();
            let dir = Utf8PathBuf::from_path_buf(guard.path().to_owned()).unwrap();
            for (name, file, content) in recipes {
                fs::create_dir_all(dir.join(name)).unwrap();
                fs::write(dir.join(name).join(file), content).unwrap();
            }
            Self { _guard: guard, dir }
        }

        fn chain(&self, name: &str) -> Result<Vec<String>> {
            let chain = chain(&self.dir, &name.parse().unwrap())?;
            Ok(chain.into_iter().map(|recipe| recipe.name.to_string()).collect())
        }
    }

    #[test]
    fn package_lists_have_comments_and_no_order() {
        let recipes = Recipes::new(&[("a", "packages.txt", "# tools\nzsh git # vcs\n\ngit\n")]);
        let chain = chain(&recipes.dir, &"a".parse().unwrap()).unwrap();
        assert_eq!(chain[0].packages, ["git", "zsh"]);
    }

    #[test]
    fn a_chain_begins_at_the_bottom() {
        let recipes = Recipes::new(&[
            ("a", "packages.txt", ""),
            ("b", "from.txt", "a # the base\n"),
            ("c", "from.txt", "b"),
        ]);
        assert_eq!(recipes.chain("c").unwrap(), ["a", "b", "c"]);
        assert_eq!(recipes.chain("a").unwrap(), ["a"]);
    }

    #[test]
    fn what_makes_no_chain_is_refused() {
        let recipes = Recipes::new(&[
            ("a", "from.txt", "b"),
            ("b", "from.txt", "a"),
            ("self", "from.txt", "self"),
            ("two", "from.txt", "a b"),
            ("odd", "from.txt", "../a"),
            ("lost", "from.txt", "nowhere"),
        ]);
        for name in ["a", "self", "two", "odd", "lost", "missing"] {
            assert!(recipes.chain(name).is_err(), "{name}");
        }
        let error = recipes.chain("missing").unwrap_err().to_string();
        assert!(error.ends_with("there are: a, b, lost, odd, self, two"), "{error}");
    }
}
