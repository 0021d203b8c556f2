//! Tables of requests and the answers they must get, and what holds for every problem.

use serde_json::Value;

use crate::support::http::{Request, Response};
use crate::support::node::{Node, NodeSetup};
use crate::support::temp_dir;

/// A node with its directory, for tests that need nothing special.
#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) node: Node,
    pub(crate) setup: NodeSetup,
    // Dropped last, after the process is gone.
    _directory: tempfile::TempDir,
}

impl Fixture {
    /// Starts a node with default limits.
    pub(crate) fn new() -> Self {
        Self::with(|setup| setup)
    }

    /// Starts a node with other settings.
    pub(crate) fn with(change: impl FnOnce(NodeSetup) -> NodeSetup) -> Self {
        let directory = temp_dir();
        let setup = change(NodeSetup::new(directory.path()));
        Self {
            node: setup.start(),
            setup,
            _directory: directory,
        }
    }

    /// Sends one request over a connection of its own.
    pub(crate) fn send(&self, request: &Request) -> Response {
        self.node.send(request)
    }

    /// Kills the node and starts it again on the same data.
    pub(crate) fn kill_and_restart(&mut self) {
        self.node.kill();
        self.node = self.setup.start();
    }

    /// Stops the node in the orderly way and starts it again on the same data.
    pub(crate) fn stop_and_restart(&mut self) {
        self.node.stop();
        self.node = self.setup.start();
    }
}

/// A request and the answer it must get.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) what: String,
    pub(crate) request: Request,
    pub(crate) status: u16,
    /// The code of the problem; empty for an answer that is no problem, `*` for a problem whose
    /// code the contract leaves open.
    pub(crate) code: &'static str,
}

/// Builds a case.
pub(crate) fn case(
    what: impl Into<String>,
    request: Request,
    status: u16,
    code: &'static str,
) -> Case {
    Case {
        what: what.into(),
        request,
        status,
        code,
    }
}

/// Sends all requests in their order, and says which were answered otherwise.
pub(crate) fn run(node: &Node, cases: &[Case]) {
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let response = match node.client().try_send(&case.request) {
                Ok(response) => response,
                Err(error) => return Some(format!("{}: no answer: {error}", case.what)),
            };
            let wrong = find_fault(&response, case.status, case.code)?;
            Some(format!(
                "{}: {wrong}\n    {} {}",
                case.what,
                response.status,
                response.text().chars().take(400).collect::<String>()
            ))
        })
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {} cases failed:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}

/// What is wrong with an answer; `None` when it is as expected.
fn find_fault(response: &Response, status: u16, code: &str) -> Option<String> {
    if response.status != status {
        return Some(format!("expected status {status}"));
    }
    if code.is_empty() {
        return None;
    }
    problem_fault(response, code)
}

/// What is wrong with a problem; `None` when it is as RFC 9457 and the contract say.
pub(crate) fn problem_fault(response: &Response, code: &str) -> Option<String> {
    if response.header("Content-Type") != Some("application/problem+json") {
        return Some(format!(
            "content type {:?}",
            response.header("Content-Type")
        ));
    }
    let body: Value = match serde_json::from_slice(&response.body) {
        Ok(body) => body,
        Err(error) => return Some(format!("no JSON: {error}")),
    };
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    let found = text("code");
    let complaints = [
        (code == "*" || found == code, "another code"),
        (
            text("type") == format!("/problems/{found}"),
            "type is no page of the code",
        ),
        (!text("title").is_empty(), "no title"),
        (
            body["status"] == response.status,
            "the status in the body differs",
        ),
        (!text("detail").is_empty(), "no detail"),
        (!text("instance").is_empty(), "no instance"),
        (body["retryable"].is_boolean(), "retryable is no boolean"),
        (
            ["not_applied", "applied", "unknown"].contains(&text("outcome").as_str()),
            "no outcome",
        ),
        (!text("trace_id").is_empty(), "no trace_id"),
        (
            !matches!(response.status, 429 | 503) || response.header("Retry-After").is_some(),
            "no Retry-After",
        ),
    ];
    complaints
        .into_iter()
        .find(|(holds, _)| !holds)
        .map(|(_, complaint)| format!("expected `{code}`: {complaint}"))
}

/// Fails unless this is the problem of this status and code.
pub(crate) fn assert_problem(response: &Response, status: u16, code: &str) {
    let fault = find_fault(response, status, code);
    assert_eq!(fault, None, "{} {}", response.status, response.text());
}
