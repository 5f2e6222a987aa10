//! Files on the wire: what became of an archive that was sent into a shed.

use serde::{Deserialize, Serialize};

/// Media type of the body of `PUT /api/sheds/{name}/files`: a tar archive, not compressed.
pub const TAR: &str = "application/x-tar";

/// Reply to `PUT /api/sheds/{name}/files`: what was written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FilesReport {
    /// Files.
    pub files: u64,
    /// Directories that the archive names.
    pub directories: u64,
    /// Symbolic links.
    pub links: u64,
    /// Content of the files, in bytes.
    pub bytes: u64,
    /// Entries that were left out, each with the reason. Of many some are listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_keeps_its_shape() {
        let report = FilesReport { files: 2, directories: 1, links: 0, bytes: 5, warnings: vec!["x".into()] };
        let text = r#"{"files":2,"directories":1,"links":0,"bytes":5,"warnings":["x"]}"#;
        assert_eq!(serde_json::to_string(&report).unwrap(), text);
        crate::golden::check::<FilesReport>(text);
    }
}
