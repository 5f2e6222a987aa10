//! The user's own credentials, from which roles are assumed: their profile, or the environment.
//!
//! Only what the user named is a source. The SDK's own search, which goes on to metadata services of the network, is not used;
//! a profile that wants those says so (`credential_source`).

use std::{io, path::Path, sync::Arc};

use aws_config::{
    BehaviorVersion, Region, SdkConfig,
    environment::EnvironmentVariableCredentialsProvider,
    identity::IdentityCache,
    profile::{ProfileFileCredentialsProvider, ProfileSet},
    provider_config::ProviderConfig,
    retry::RetryConfig,
};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_types::os_shim_internal::{Env, Fs};
use shed_extensions::clean;
use shed_types::error_chain;
use tokio::{io::AsyncReadExt, sync::Mutex};

use crate::Options;

/// Most of a profile file that is read, in bytes; those of large organisations have some hundred kilobytes.
const PROFILE_FILE: u64 = 4 << 20;

/// The region whose STS is asked when neither the environment nor the profile names one. It answers for all regions of AWS's
/// main partition; the others need their own in the profile.
const REGION: &str = "us-east-1";

/// The profile that the environment may stand in for.
const DEFAULT_PROFILE: &str = "default";

/// Why there are no credentials to start from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// A file is there and cannot be read.
    #[error("{path} could not be read")]
    Unreadable { path: String, source: io::Error },
    /// A file is no list of profiles. The SDK's words name the line and show nothing of it.
    #[error("the AWS profiles cannot be understood: {0}")]
    Malformed(String),
    /// It is in neither file.
    #[error(
        "there is no AWS profile `{profile}` in {config} or {credentials}; run `aws configure --profile {profile}`, or set aws.source_profile"
    )]
    NoProfile { profile: String, config: String, credentials: String },
}

/// What the files held when they were read, and what was made of it.
struct Loaded {
    files: [Vec<u8>; 2],
    config: Arc<SdkConfig>,
}

/// The source of an agent. It is made anew when a profile file has changed, and after [`Source::forget`].
pub(crate) struct Source {
    loaded: Mutex<Option<Loaded>>,
}

impl Source {
    pub(crate) fn new() -> Self {
        Self { loaded: Mutex::new(None) }
    }

    /// Returns what a client needs. Credentials themselves are fetched when it first signs, and kept by it while they last.
    pub(crate) async fn config(&self, options: &Options) -> Result<Arc<SdkConfig>, SourceError> {
        let mut loaded = self.loaded.lock().await;
        let files = read_files(options).await?;
        if let Some(loaded) = loaded.as_ref().filter(|loaded| loaded.files == files) {
            return Ok(Arc::clone(&loaded.config));
        }
        let config = Arc::new(load(options, &files).await?);
        *loaded = Some(Loaded { files, config: Arc::clone(&config) });
        Ok(config)
    }

    /// Has the next one begin anew: these credentials did not work, and a login may have made others.
    pub(crate) async fn forget(&self) {
        *self.loaded.lock().await = None;
    }
}

/// Says whether there is a source, without using it.
pub(crate) async fn check(options: &Options) -> Result<(), SourceError> {
    let (profiles, _files) = profiles(options, &read_files(options).await?).await?;
    has_source(options, &profiles)
}

fn has_source(options: &Options, profiles: &ProfileSet) -> Result<(), SourceError> {
    if profiles.get_profile(&options.source_profile).is_some() || from_environment(options, profiles) {
        return Ok(());
    }
    Err(SourceError::NoProfile {
        profile: clean(&options.source_profile, 64),
        config: options.files.config.display().to_string(),
        credentials: options.files.credentials.display().to_string(),
    })
}

/// Whether keys in the environment are the source: they are where nobody made or named a profile.
fn from_environment(options: &Options, profiles: &ProfileSet) -> bool {
    let set = |name| Env::real().get(name).is_ok_and(|value| !value.is_empty());
    options.source_profile == DEFAULT_PROFILE
        && profiles.get_profile(DEFAULT_PROFILE).is_none()
        && set("AWS_ACCESS_KEY_ID")
        && set("AWS_SECRET_ACCESS_KEY")
}

async fn load(options: &Options, contents: &[Vec<u8>; 2]) -> Result<SdkConfig, SourceError> {
    let (profiles, files) = profiles(options, contents).await?;
    has_source(options, &profiles)?;
    let region = region(options, &profiles);
    let loader = aws_config::defaults(BehaviorVersion::latest())
        .profile_files(files.clone())
        .profile_name(&options.source_profile)
        .region(region.clone())
        .retry_config(RetryConfig::standard())
        .identity_cache(IdentityCache::lazy().build());
    let loader = if from_environment(options, &profiles) {
        loader.credentials_provider(EnvironmentVariableCredentialsProvider::new())
    } else {
        let provider = ProfileFileCredentialsProvider::builder()
            .configure(&ProviderConfig::without_region().with_region(Some(region)))
            .profile_files(files)
            .profile_name(&options.source_profile)
            .build();
        loader.credentials_provider(provider)
    };
    Ok(loader.load().await)
}

fn region(options: &Options, profiles: &ProfileSet) -> Region {
    let env = Env::real();
    let named = |name| env.get(name).ok().filter(|value| !value.is_empty());
    let profile = || profiles.get_profile(&options.source_profile)?.get("region").map(str::to_owned);
    let region = named("AWS_REGION").or_else(|| named("AWS_DEFAULT_REGION")).or_else(profile);
    Region::new(region.unwrap_or_else(|| REGION.to_owned()))
}

async fn profiles(
    options: &Options,
    [config, credentials]: &[Vec<u8>; 2],
) -> Result<(ProfileSet, EnvConfigFiles), SourceError> {
    let text = |contents: &[u8], path: &Path| {
        String::from_utf8(contents.to_vec())
            .map_err(|_not_text| SourceError::Malformed(format!("{} is no text", path.display())))
    };
    let files = EnvConfigFiles::builder()
        .with_contents(EnvConfigFileKind::Config, text(config, &options.files.config)?)
        .with_contents(EnvConfigFileKind::Credentials, text(credentials, &options.files.credentials)?)
        .build();
    let profile = options.source_profile.clone();
    let profiles = aws_config::profile::load(&Fs::real(), &Env::real(), &files, Some(profile.into()))
        .await
        .map_err(|error| SourceError::Malformed(clean(&error_chain(&error), 200)))?;
    Ok((profiles, files))
}

async fn read_files(options: &Options) -> Result<[Vec<u8>; 2], SourceError> {
    Ok([read(&options.files.config).await?, read(&options.files.credentials).await?])
}

/// Reads a file; one that is not there is empty.
async fn read(path: &Path) -> Result<Vec<u8>, SourceError> {
    let unreadable = |source| SourceError::Unreadable { path: path.display().to_string(), source };
    let file = match tokio::fs::File::open(path).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut contents = Vec::new();
    let read = file.take(PROFILE_FILE + 1).read_to_end(&mut contents).await.map_err(unreadable)?;
    if read as u64 > PROFILE_FILE {
        let error =
            io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {PROFILE_FILE} bytes"));
        return Err(unreadable(error));
    }
    Ok(contents)
}
