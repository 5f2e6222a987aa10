//! The extension `aws-credentials`: what [`shed_host_aws`] answers, with the user's configuration.

use shed_extensions::{Failure, aws::NAMESPACE};
use shed_host_aws::{Aws, Options, ProfileFiles};

use crate::{
    answer::{Asked, Extension, Told, pass_on},
    config::AwsConfig,
    places::Surroundings,
};

/// Makes it.
///
/// # Errors
/// When no shed has a role, or there is no profile to assume it from; the text is for a person.
pub async fn extension(
    config: &AwsConfig,
    surroundings: &Surroundings,
) -> Result<impl Extension + use<>, String> {
    let Some(home) = &surroundings.home else {
        return Err("the home directory is unknown, so there are no AWS profiles; set HOME".to_owned());
    };
    let roles = config.sheds.iter().map(|(name, shed)| (name.clone(), shed.role.clone())).collect();
    let aws = Aws::new(Options {
        source_profile: config.source_profile.clone(),
        default_role: config.default_role.clone(),
        roles,
        session_duration: config.session_duration,
        refresh_before: config.cache_refresh_before,
        files: ProfileFiles::of_environment(home.as_std_path()),
    });
    aws.available().await.map_err(|unavailable| unavailable.to_string())?;
    Ok(Answers(aws))
}

struct Answers(Aws);

#[async_trait::async_trait]
impl Extension for Answers {
    fn namespace(&self) -> &'static str {
        NAMESPACE
    }

    async fn answer(&self, asked: &Asked, told: &mut Told) -> Result<serde_json::Value, Failure> {
        pass_on(self.0.answer(&asked.server, &asked.shed.name, &asked.payload).await, told)
    }
}
