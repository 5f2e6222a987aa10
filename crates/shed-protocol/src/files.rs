//! Payloads of the file service (port 1029): trees of files as tar streams, to the guest and from it.
//!
//! One stream, one transfer. The host begins with a [`FrameKind::FilesRequest`](crate::FrameKind). To put files it then
//! sends a plain tar archive in data frames, and the end of stdin behind it; to get files it waits for one in data frames.
//! The guest ends either with a [`FrameKind::FilesReply`](crate::FrameKind), which may come early: a put that has failed
//! takes no more data. A stream that ends without the frame that is due was cut off.

use serde::{Deserialize, Serialize};
use shed_types::GuestPath;

/// Asks for a transfer; the first frame of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum FilesRequest {
    /// Unpacks an archive in the guest.
    Put {
        /// The directory it is unpacked in; made when it is missing.
        target: GuestPath,
    },
    /// Packs files of the guest.
    Get {
        /// The directory whose content is sent.
        source: GuestPath,
        /// What is left out: shell globs, matched with paths relative to `source`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        excludes: Vec<String>,
        /// What is sent of it, as paths relative to `source`; empty means everything. One that is no file any more is left
        /// out.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        only: Vec<String>,
        /// Longest file that is sent, in bytes; a longer one is left out, with a warning. 0 means no limit.
        #[serde(default, skip_serializing_if = "is_zero")]
        max_file: u64,
        /// Most bytes of content that are sent in all; what is beyond is left out, with a warning. 0 means no limit.
        #[serde(default, skip_serializing_if = "is_zero")]
        max_total: u64,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// How a transfer ended; the last frame of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FilesReply {
    /// Files that were written or sent.
    #[serde(default)]
    pub files: u64,
    /// Directories that the archive names.
    #[serde(default)]
    pub directories: u64,
    /// Symbolic links.
    #[serde(default)]
    pub links: u64,
    /// Content of the files, in bytes.
    #[serde(default)]
    pub bytes: u64,
    /// What was left out, and why; a bounded list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Why the transfer failed, if it did. What was transferred before stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<FilesError>,
}

/// Why a transfer failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesError {
    /// What sort of failure it is.
    pub kind: FilesErrorKind,
    /// The guest's words.
    pub message: String,
}

/// What sort of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilesErrorKind {
    /// The archive is none, damaged, cut off, or has names that lead elsewhere.
    BadArchive,
    /// The path in the guest cannot be used: it is read-only, or something is in the way.
    BadPath,
    /// The guest's disk is full.
    NoSpace,
    /// Anything else, or of a newer protocol.
    #[serde(other)]
    Failed,
}

impl FilesReply {
    /// Makes the reply to a transfer that has failed.
    #[must_use]
    pub fn failed(kind: FilesErrorKind, message: impl Into<String>) -> Self {
        Self { error: Some(FilesError { kind, message: message.into() }), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Frame, FrameKind};

    fn request(json: &str) -> Result<FilesRequest, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn the_json_of_each_payload_stays_what_it_was() {
        let put = FilesRequest::Put { target: "~/.config".parse().unwrap() };
        assert_eq!(serde_json::to_string(&put).unwrap(), r#"{"op":"put","target":"~/.config"}"#);
        let get = FilesRequest::Get {
            source: "/etc".parse().unwrap(),
            excludes: vec!["*.o".into()],
            only: Vec::new(),
            max_file: 0,
            max_total: 0,
        };
        let text = r#"{"op":"get","source":"/etc","excludes":["*.o"]}"#;
        assert_eq!(serde_json::to_string(&get).unwrap(), text);
        assert_eq!(request(text).unwrap(), get);
        let some = r#"{"op":"get","source":"/etc","only":["a/b"],"max_file":10,"max_total":50}"#;
        assert_eq!(serde_json::to_string(&request(some).unwrap()).unwrap(), some);
        let done = FilesReply { files: 1, directories: 2, links: 3, bytes: 4, ..FilesReply::default() };
        let text = r#"{"files":1,"directories":2,"links":3,"bytes":4}"#;
        assert_eq!(serde_json::to_string(&done).unwrap(), text);
        let failed = FilesReply::failed(FilesErrorKind::NoSpace, "full");
        let text =
            r#"{"files":0,"directories":0,"links":0,"bytes":0,"error":{"kind":"no_space","message":"full"}}"#;
        assert_eq!(serde_json::to_string(&failed).unwrap(), text);
        assert_eq!(serde_json::from_str::<FilesReply>(text).unwrap(), failed);
    }

    #[test]
    fn what_newer_peers_add_is_ignored() {
        let put = request(r#"{"op":"put","target":"/x","owner":"root"}"#).unwrap();
        assert_eq!(put, FilesRequest::Put { target: "/x".parse().unwrap() });
        let reply: FilesReply =
            serde_json::from_str(r#"{"error":{"kind":"of_tomorrow","message":"m"},"x":1}"#).unwrap();
        assert_eq!(reply.error.unwrap().kind, FilesErrorKind::Failed);
    }

    #[test]
    fn requests_that_name_no_place_are_refused() {
        for json in [
            "{}",
            r#"{"op":"put"}"#,
            r#"{"op":"put","target":"x"}"#,
            r#"{"op":"put","target":"/a/../b"}"#,
            r#"{"op":"get","target":"/x"}"#,
            r#"{"op":"delete","target":"/x"}"#,
            r#"{"op":"put","target":"/\u0000"}"#,
            "[]",
            "null",
        ] {
            assert!(request(json).is_err(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn payloads_survive_their_frame(
            path in "(~|/[a-z]{1,9}){1}(/[ -~&&[^/.]]{1,9}){0,3}",
            numbers in any::<[u64; 4]>(),
            warnings in prop::collection::vec("\\PC{0,30}", 0..4),
        ) {
            let put = FilesRequest::Put { target: path.parse().unwrap() };
            prop_assert_eq!(Frame::json(FrameKind::FilesRequest, &put).parse::<FilesRequest>().unwrap(), put);
            let [files, directories, links, bytes] = numbers;
            let reply = FilesReply { files, directories, links, bytes, warnings, error: None };
            prop_assert_eq!(Frame::json(FrameKind::FilesReply, &reply).parse::<FilesReply>().unwrap(), reply);
        }

        #[test]
        fn fuzz_files_request(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let frame = Frame::new(FrameKind::FilesRequest, bytes.into());
            let _any = frame.parse::<FilesRequest>();
            let _any = frame.parse::<FilesReply>();
        }
    }
}
