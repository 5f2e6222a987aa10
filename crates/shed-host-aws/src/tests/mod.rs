//! The whole of the room against a service that speaks STS's query protocol.

mod answers;
mod fake_sts;
