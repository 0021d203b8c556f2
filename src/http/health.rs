//! `/livez`, `/readyz`, `/startupz` and `/metrics`.
//!
//! Live: this process answers. Ready: every check of the node passes. Started: it has been ready
//! once. A failing check is 503 `not-ready`; `?verbose` lists the checks.

use std::sync::atomic::Ordering;

use http::{StatusCode, request};
use serde_json::{Value, json};

use super::app::App;
use super::code::Code;
use super::problem::Problem;
use super::query;
use super::response::{Reply, json as json_reply, typed};
use super::service::Answered;

type Checks = Vec<(String, Result<(), String>)>;

/// Whether the process answers.
pub(crate) fn live(parts: &request::Parts) -> Answered {
    let verbose = verbose(parts)?;
    Ok(passed("live", verbose.then(Vec::new)))
}

/// Whether the node can take requests.
pub(crate) fn ready(app: &App, parts: &request::Parts) -> Answered {
    let verbose = verbose(parts)?;
    let checks = checks(app);
    if checks.iter().all(|(_, result)| result.is_ok()) {
        app.started.store(true, Ordering::Relaxed);
        return Ok(passed("ready", verbose.then_some(checks)));
    }
    Err(Box::new(failed("the node is not ready", verbose, checks)))
}

/// Whether the node has been ready once.
pub(crate) fn started(app: &App, parts: &request::Parts) -> Answered {
    let verbose = verbose(parts)?;
    let checks = checks(app);
    let ready = checks.iter().all(|(_, result)| result.is_ok());
    if ready {
        app.started.store(true, Ordering::Relaxed);
    }
    if ready || app.started.load(Ordering::Relaxed) {
        return Ok(passed("started", verbose.then_some(checks)));
    }
    Err(Box::new(failed(
        "the node is still starting",
        verbose,
        checks,
    )))
}

/// All metrics in Prometheus' text format.
pub(crate) fn metrics(app: &App) -> Reply {
    let media_type = "text/plain; version=0.0.4; charset=utf-8";
    typed(StatusCode::OK, media_type, app.prometheus.render())
}

fn checks(app: &App) -> Checks {
    let mut checks = app.router.readiness();
    checks.push(("membership".to_owned(), app.steward.belongs()));
    checks
}

fn verbose(parts: &request::Parts) -> Result<bool, Problem> {
    let [verbose] = query::parse(parts.uri.query(), ["verbose"])?;
    match verbose.as_deref() {
        None => Ok(false),
        Some("") => Ok(true),
        Some(value) => query::boolean("verbose", value),
    }
}

fn passed(status: &str, checks: Option<Checks>) -> Reply {
    let mut body = json!({ "status": status });
    if let Some(checks) = checks {
        body["checks"] = list(checks);
    }
    json_reply(body.to_string())
}

fn failed(detail: &'static str, verbose: bool, checks: Checks) -> Problem {
    let problem = Problem::new(Code::NotReady, detail);
    if verbose {
        problem.with("checks", list(checks))
    } else {
        problem
    }
}

fn list(checks: Checks) -> Value {
    let check = |(name, result): (String, Result<(), String>)| match result {
        Ok(()) => json!({ "check": name, "ok": true }),
        Err(reason) => json!({ "check": name, "ok": false, "reason": reason }),
    };
    checks.into_iter().map(check).collect()
}
