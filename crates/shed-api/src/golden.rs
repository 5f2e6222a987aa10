//! Holds a type against the example of its shape: what is read must be written back with the same keys and values.

use serde::{Serialize, de::DeserializeOwned};

pub(crate) fn check<T: Serialize + DeserializeOwned>(example: &str) {
    let value: T = serde_json::from_str(example).unwrap();
    let back = serde_json::to_value(&value).unwrap();
    assert_eq!(back, serde_json::from_str::<serde_json::Value>(example).unwrap());
}
