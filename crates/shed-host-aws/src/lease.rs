//! Credentials of a role, and how long they are handed out.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use shed_extensions::{Secret, aws::Credentials};

/// What AssumeRole gave for a shed.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    pub(crate) role: String,
    pub(crate) credentials: Credentials,
}

impl Lease {
    pub(crate) fn new(role: &str, key: String, secret: String, token: String, expiration: Timestamp) -> Self {
        let credentials = Credentials {
            access_key_id: key,
            secret_access_key: Secret::new(secret),
            session_token: Secret::new(token),
            expiration,
        };
        Self { role: role.to_owned(), credentials }
    }

    /// Until when they are handed out again instead of new ones.
    pub(crate) fn kept_until(&self, refresh_before: Duration) -> Timestamp {
        let before = SignedDuration::try_from(refresh_before).unwrap_or(SignedDuration::MAX);
        self.credentials.expiration.saturating_sub(before).unwrap_or(Timestamp::MIN)
    }

    /// For the audit log: the end and the role.
    pub(crate) fn detail(&self) -> String {
        format!("expires {}, role {}", self.credentials.expiration, shed_extensions::clean(&self.role, 300))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_kept_until_a_while_before_its_end() {
        let end: Timestamp = "2026-01-20T10:30:00Z".parse().unwrap();
        let lease = Lease::new("arn:aws:iam::1:role/dev", "ASIA".into(), "hunter2".into(), "tok".into(), end);
        assert_eq!(lease.kept_until(Duration::from_mins(5)).to_string(), "2026-01-20T10:25:00Z");
        assert!(lease.kept_until(Duration::MAX) < end);
        assert_eq!(lease.detail(), "expires 2026-01-20T10:30:00Z, role arn:aws:iam::1:role/dev");
        assert!(!format!("{lease:?}").contains("hunter2"));
    }
}
