//! The document.
use phalanx_actors::model::TypeRegistry;
use serde_json::{json, Value};
/// The OpenAPI document of this node.
pub(crate) fn document(_registry: &TypeRegistry) -> Value { json!({"openapi": "3.1.0"}) }
