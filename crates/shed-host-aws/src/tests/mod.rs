//! The whole of the room against a service that speaks STS's query protocol.

mod answers;
mod environment;
mod fake_sts;
