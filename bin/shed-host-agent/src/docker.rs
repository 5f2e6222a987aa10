//! The extension `docker-credentials`: what [`shed_host_docker`] answers, with the user's configuration.

use shed_extensions::{Failure, docker::NAMESPACE};
use shed_host_docker::{Docker, Options};

use crate::{
    answer::{Asked, Extension, Told, pass_on},
    config::DockerConfig,
    places::Surroundings,
};

/// Makes it.
///
/// # Errors
/// When no registry is allowed, or Docker's configuration is not there; the text is for a person.
pub async fn extension(
    config: &DockerConfig,
    surroundings: &Surroundings,
) -> Result<impl Extension + use<>, String> {
    let config_path = match (&config.config_path, &surroundings.home) {
        (Some(path), _) => path.as_std_path().to_owned(),
        (None, Some(home)) => Options::default_config_path(home.as_std_path()),
        (None, None) => {
            return Err("the home directory is unknown, so Docker's configuration cannot be found; set HOME or docker.config_path"
                .to_owned());
        }
    };
    let docker = Docker::new(Options {
        registries: config.registries.clone(),
        allow_all: config.allow_all,
        config_path,
        search_path: None,
    });
    docker.available().await.map_err(|unavailable| unavailable.to_string())?;
    Ok(Answers(docker))
}

struct Answers(Docker);

#[async_trait::async_trait]
impl Extension for Answers {
    fn namespace(&self) -> &'static str {
        NAMESPACE
    }

    async fn answer(&self, asked: &Asked, told: &mut Told) -> Result<serde_json::Value, Failure> {
        pass_on(self.0.answer(&asked.server, &asked.shed.name, &asked.payload).await, told)
    }
}
