//! The description of the API: what is served is what the handlers say, and what the repository holds.

use crate::{api::Api, common::send};

/// The copy in the repository. `UPDATE_OPENAPI=1 cargo nextest run -p shed-server openapi` writes it anew.
const COPY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");

#[tokio::test]
async fn the_document_in_the_repository_is_the_one_that_is_served() {
    let mut api = Api::new().await;
    let reply = send(api.port, "GET", "/api/openapi.json", "").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers["content-type"], "application/json");
    assert_eq!(reply.json()["openapi"], "3.1.0");
    assert_eq!(reply.body, shed_server::http::document());
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(COPY, &reply.body).unwrap();
    }
    let copy = std::fs::read_to_string(COPY).unwrap_or_default();
    assert!(
        copy == reply.body,
        "docs/openapi.json differs from what the handlers say; see the top of this file"
    );
    api.end().await;
}

#[test]
fn every_operation_says_how_it_fails() {
    let document: serde_json::Value = serde_json::from_str(&shed_server::http::document()).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let responses = operation["responses"].as_object().unwrap();
            for status in ["400", "403", "500"] {
                let body = &responses[status]["content"]["application/json"]["schema"]["$ref"];
                assert_eq!(body, "#/components/schemas/ErrorBody", "{method} {path} {status}");
            }
            assert!(!operation["summary"].as_str().unwrap_or_default().is_empty(), "{method} {path}");
            assert!(!operation["tags"].as_array().unwrap().is_empty(), "{method} {path}");
        }
    }
}
