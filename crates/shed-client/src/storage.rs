//! The calls about images, disk usage and clean-up (spec A.6, A.7).

use form_urlencoded::Serializer;
use hyper::Method;
use shed_api::{Image, ImageList, ImagePruneReport, PruneReport, PruneScope, SystemUsage};
use shed_types::ImageName;

use crate::{Client, ClientError, connection::Call};

/// Path of a prune.
const PRUNE: &str = "/api/system/prune";

/// What a prune is told. [`PruneQuery::default`] prunes what servers prune by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PruneQuery {
    /// What to look at; nothing here means [`PruneScope::DEFAULT`].
    pub scopes: Vec<PruneScope>,
    /// Whether to say only what would be done.
    pub dry_run: bool,
    /// Age from which stopped sheds are deleted, as Go writes durations; the server's default is `72h`.
    pub until: Option<String>,
    /// Bytes of a console log that are kept; 0 is the server's default, and above 64 MiB it keeps 64 MiB.
    pub log_tail_bytes: Option<u64>,
}

impl PruneQuery {
    /// Returns path and query. What is not given is left out, since a server refuses an empty value.
    fn target(&self) -> String {
        let mut query = Serializer::new(String::new());
        for scope in &self.scopes {
            query.append_pair("scope", scope.as_str());
        }
        if self.dry_run {
            query.append_pair("dry_run", "true");
        }
        if let Some(until) = &self.until {
            query.append_pair("until", until);
        }
        if let Some(bytes) = self.log_tail_bytes {
            query.append_pair("log_tail_bytes", &bytes.to_string());
        }
        let query = query.finish();
        if query.is_empty() { PRUNE.to_owned() } else { format!("{PRUNE}?{query}") }
    }
}

impl Client {
    /// Lists the images, sorted by name.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn images(&self) -> Result<Vec<Image>, ClientError> {
        let list: ImageList = self.ask(Call::new(Method::GET, "/api/images")).await?;
        Ok(list.images)
    }

    /// Deletes the file of a cached image.
    ///
    /// # Errors
    /// `IMAGE_NOT_FOUND`, `IMAGE_IN_USE`, and see [`ClientError`].
    pub async fn delete_image(&self, image: &ImageName) -> Result<(), ClientError> {
        self.delete_at(format!("/api/images/{image}")).await
    }

    /// Deletes the cached images that neither the configuration nor a shed uses, or says which that would be.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn prune_images(&self, dry_run: bool) -> Result<ImagePruneReport, ClientError> {
        let call = Call::new(Method::POST, format!("/api/images/prune?dry_run={dry_run}"));
        if dry_run { self.ask(call).await } else { self.work(call).await }
    }

    /// Asks what takes how much of the server's disk.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn system_usage(&self) -> Result<SystemUsage, ClientError> {
        self.ask(Call::new(Method::GET, "/api/system/df")).await
    }

    /// Cleans up the server's disk, or says what that would do.
    ///
    /// # Errors
    /// `INVALID_REQUEST`, `BACKEND_ERROR` (with status 501 from a backend that cannot prune), and see
    /// [`ClientError`].
    ///
    /// # Cancel safety
    /// A prune that has begun may go on on the server.
    pub async fn system_prune(&self, query: &PruneQuery) -> Result<PruneReport, ClientError> {
        let call = Call::new(Method::POST, query.target());
        // A look changes nothing, and one server that hangs must not hold the others up for long.
        if query.dry_run { self.ask(call).await } else { self.work(call).await }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_not_given_is_left_out() {
        assert_eq!(PruneQuery::default().target(), "/api/system/prune");
        let query = PruneQuery {
            scopes: vec![PruneScope::Logs, PruneScope::Images],
            dry_run: true,
            until: Some("0s".to_owned()),
            log_tail_bytes: Some(0),
        };
        assert_eq!(
            query.target(),
            "/api/system/prune?scope=logs&scope=images&dry_run=true&until=0s&log_tail_bytes=0"
        );
    }

    proptest! {
        #[test]
        fn whatever_is_given_arrives_and_nothing_else(until in "\\PC{1,30}", bytes in any::<Option<u64>>()) {
            let query = PruneQuery { until: Some(until.clone()), log_tail_bytes: bytes, ..PruneQuery::default() };
            let target = query.target();
            prop_assert!(target.parse::<hyper::Uri>().is_ok(), "{}", target);
            let (_, text) = target.split_once('?').unwrap();
            let read: Vec<(String, String)> = form_urlencoded::parse(text.as_bytes()).into_owned().collect();
            let mut sent = vec![("until".to_owned(), until)];
            sent.extend(bytes.map(|bytes| ("log_tail_bytes".to_owned(), bytes.to_string())));
            prop_assert_eq!(read, sent);
        }
    }
}
