//! Server-sent events of a create (spec A.4): `progress` any number of times, then `complete` or `error`.

use serde::{Deserialize, Serialize};

use crate::{ErrorDetail, Shed};

/// How far the image of a create is that has to be made first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageTransfer {
    /// What is done at this moment: `wait`, `resolve`, `download`, `unpack` or `write`.
    pub step: String,
    /// Bytes that are done.
    pub bytes_done: u64,
    /// Bytes in all; 0 while that is not known.
    pub bytes_total: u64,
    /// Layers that are done.
    pub layers_done: u32,
    /// Layers in all; 0 while that is not known.
    pub layers_total: u32,
}

/// Data of a `progress` event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProgressEvent {
    /// For people; empty beside `output`.
    pub message: String,
    /// The phase it is about, one of [`PhaseTime::phase`](crate::PhaseTime).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Milliseconds since the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elapsed_ms: Option<u64>,
    /// Something failed that does not fail the create.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub warning: bool,
    /// How far the image is, when the create waits for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageTransfer>,
    /// What a clone or a hook has written since: text with line feeds, tabs and carriage returns, and no other control
    /// character. Whoever reads slowly misses some, and is told how much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

impl ProgressEvent {
    /// An event that says something and nothing else.
    #[must_use]
    pub fn message(text: impl Into<String>) -> Self {
        Self {
            message: text.into(),
            phase: None,
            elapsed_ms: None,
            warning: false,
            image: None,
            output: None,
        }
    }
}

/// One event of a create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CreateEvent {
    /// The create goes on.
    Progress(ProgressEvent),
    /// The shed is there.
    Complete(Box<Shed>),
    /// There is no shed. On the wire the flat object; clients also accept it wrapped in `error`.
    Error(ErrorDetail),
}

impl CreateEvent {
    /// Returns the event's name on the wire.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Progress(_) => "progress",
            Self::Complete(_) => "complete",
            Self::Error(_) => "error",
        }
    }

    /// Returns the event's data on the wire: JSON on one line.
    ///
    /// # Panics
    /// Never: these types are plain JSON.
    #[must_use]
    pub fn data(&self) -> String {
        match self {
            Self::Progress(event) => serde_json::to_string(event),
            Self::Complete(shed) => serde_json::to_string(shed),
            Self::Error(detail) => serde_json::to_string(detail),
        }
        .expect("wire types serialise without error")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_progress_of_an_image_reads_and_writes_back() {
        crate::golden::check::<ProgressEvent>(include_str!("../fixtures/progress-image.json"));
    }

    #[test]
    fn output_reads_and_writes_back() {
        crate::golden::check::<ProgressEvent>(include_str!("../fixtures/progress-output.json"));
    }

    #[test]
    fn a_plain_progress_event_has_only_its_message() {
        let event = CreateEvent::Progress(ProgressEvent::message("Creating VM..."));
        assert_eq!((event.name(), event.data().as_str()), ("progress", r#"{"message":"Creating VM..."}"#));
    }
}
