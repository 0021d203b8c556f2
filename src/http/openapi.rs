//! The document.
use phalanx_actors::types::TypeRegistry;
use serde_json::{Value, json};
/// The OpenAPI document of this node.
pub(crate) fn document(_registry: &TypeRegistry) -> Value {
    json!({"openapi": "3.1.0"})
}
