//! What a node that has not every role does not answer.
//!
//! Health, metrics, and whatever operates the node or the cluster are answered by every node.

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
    let lacks = |role: Role| !app.roles.contains(&role);
    if !(views || aggregates || types) || !lacks(Role::Gateway) {
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
