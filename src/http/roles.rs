//! What a node that has not every role does not answer.
//!
//! Health, metrics, and whatever operates the node or the cluster are answered by every node; views and
//! the events that they are made of also by one that keeps the views and takes no other requests.

use super::app::App;
use super::code::Code;
use super::problem::Problem;
use super::routes::Route;
use crate::cluster::roles::Role;

/// Refuses a request to a route that needs a role which this node has not.
///
/// # Errors
/// 503 `not-ready` with the role.
pub(crate) fn check(app: &App, route: Route) -> Result<(), Box<Problem>> {
    let views = matches!(
        route,
        Route::View | Route::ViewRow | Route::ViewChanges | Route::Events
    );
    let aggregates = matches!(
        route,
        Route::Command | Route::State | Route::History | Route::Watch | Route::Diff | Route::WhatIf
    );
    let types = matches!(route, Route::Types | Route::Type | Route::EventSchema);
    let has = |role: Role| app.roles.contains(&role);
    let needs_none = !(views || aggregates || types);
    if needs_none || has(Role::Gateway) || views && has(Role::Query) {
        return Ok(());
    }
    let name = Role::Gateway.name();
    let detail = format!(
        "this node does not have the role `{name}` (node.roles); ask a member that has it, \
         GET /v1/cluster shows which"
    );
    Err(Box::new(
        Problem::new(Code::NotReady, detail).with("role", name),
    ))
}
