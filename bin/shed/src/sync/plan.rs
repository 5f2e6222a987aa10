//! What a file of features means on this machine now: which of its sources are there, and what they hold.

use std::{fs, io, path::Path};

use shed_files::{Choice, Scan, scan_directory, scan_file};
use shed_types::GuestPath;

use super::file::{Feature, FeatureName, PathRule};
use crate::{
    command_error::{CommandError, Kind},
    ui::clean,
};

/// Features with what they hold, in the order in which they are done.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) features: Vec<FeaturePlan>,
}

/// One feature.
#[derive(Debug)]
pub(crate) struct FeaturePlan {
    pub(crate) name: FeatureName,
    pub(crate) description: String,
    pub(crate) paths: Vec<PathPlan>,
    pub(crate) post_sync: Vec<String>,
}

/// One path of a feature.
#[derive(Debug)]
pub(crate) struct PathPlan {
    /// The source as the user wrote it.
    pub(crate) written: String,
    /// Where it goes, as it is shown.
    pub(crate) target: GuestPath,
    pub(crate) source: Source,
}

/// What is at a source.
#[derive(Debug)]
pub(crate) enum Source {
    /// Nothing: it is skipped.
    Missing,
    /// Something that cannot be sent; the feature fails.
    Unusable(CommandError),
    /// This is unpacked in `directory`.
    Ready { directory: GuestPath, scan: Scan },
}

impl Plan {
    /// Returns the length of everything that would be sent, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.features.iter().flat_map(|feature| &feature.paths).map(|path| path.source.size().1).sum()
    }
}

impl Source {
    /// Returns how many files it holds, and their length in bytes.
    pub(crate) fn size(&self) -> (u64, u64) {
        match self {
            Self::Missing | Self::Unusable(_) => (0, 0),
            Self::Ready { scan, .. } => (scan.files(), scan.bytes()),
        }
    }
}

/// Looks at every source. It blocks.
pub(crate) fn plan(chosen: &[(&FeatureName, &Feature)]) -> Plan {
    let features = chosen.iter().map(|(name, feature)| FeaturePlan {
        name: (*name).clone(),
        description: feature.description.clone(),
        paths: feature.paths.iter().map(path_plan).collect(),
        post_sync: feature.post_sync.clone(),
    });
    Plan { features: features.collect() }
}

fn path_plan(rule: &PathRule) -> PathPlan {
    let mut target = rule.target.clone();
    let source = look(rule, &mut target).unwrap_or_else(Source::Unusable);
    PathPlan { written: rule.written.clone(), target, source }
}

fn look(rule: &PathRule, shown: &mut GuestPath) -> Result<Source, CommandError> {
    let failed = |error: &dyn std::error::Error| CommandError::from_error(Kind::Failed, error);
    // A link to nothing is nothing, too.
    let meta = match fs::metadata(&rule.source) {
        Ok(meta) => meta,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Source::Missing);
        }
        Err(error) => {
            let message = format!("could not look at {}", rule.source.display());
            return Err(CommandError::new(Kind::Failed, message).caused_by(error));
        }
    };
    if meta.is_dir() {
        let choose = |path: &Path| match &rule.include {
            None => Choice::Take,
            Some(include) => include.choice(path),
        };
        let scan = scan_directory(&rule.source, &choose).map_err(|error| failed(&error))?;
        return Ok(Source::Ready { directory: rule.target.clone(), scan });
    }
    if rule.include.is_some() {
        let message = format!("{} is a file, and `include` chooses from a directory", clean(&rule.written));
        return Err(CommandError::new(Kind::Usage, message));
    }
    let (directory, name) = match rule.target.split() {
        Some((directory, name)) if !rule.target_is_directory => (directory, name.to_owned()),
        Some(_) | None => {
            let name = rule.source.file_name().and_then(|name| name.to_str()).map(str::to_owned);
            let name = name.ok_or_else(|| {
                let message = format!("{} has a name that is no text", rule.source.display());
                CommandError::new(Kind::Failed, message).hinted("name the file in the target as well")
            })?;
            *shown = format!("{}/{name}", rule.target).parse().map_err(|error| failed(&error))?;
            (rule.target.clone(), name)
        }
    };
    let scan = scan_file(&rule.source, &name).map_err(|error| failed(&error))?;
    Ok(Source::Ready { directory, scan })
}
