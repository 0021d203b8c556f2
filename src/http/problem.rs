//! Problem details (RFC 9457): how every error leaves the node.
//!
//! A problem is built where the error is found and rendered once, when the request's address and
//! trace are at hand. It never repeats header values or bodies.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde_json::{Map, Value};

use super::code::{Code, Outcome};
use super::response::Reply;

/// The media type of problems.
pub(crate) const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// An error on its way to the client.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    code: Code,
    detail: Cow<'static, str>,
    retryable: bool,
    outcome: Outcome,
    retry_after: Option<Duration>,
    /// What would have been taken, in the header field that is for it.
    takes: Option<(HeaderName, &'static str)>,
    members: Map<String, Value>,
}

impl Problem {
    /// A problem of this code. `detail` is for the person who reads the client's log.
    pub(crate) fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        let described = code.describe();
        let waits = matches!(
            described.status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        );
        Self {
            code,
            detail: detail.into(),
            retryable: described.retryable,
            outcome: described.outcome,
            retry_after: waits.then_some(Duration::from_secs(1)),
            takes: None,
            members: Map::new(),
        }
    }

    /// A query parameter is wrong.
    pub(crate) fn query(parameter: &str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InvalidQuery, detail).with("parameter", parameter)
    }

    /// A request header is wrong.
    pub(crate) fn header(name: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InvalidHeader, detail).with("header", name)
    }

    /// The path exists, the method does not.
    pub(crate) fn method(allow: &'static str) -> Self {
        let mut problem = Self::new(
            Code::MethodNotAllowed,
            format!("this route answers {allow}"),
        );
        problem.takes = Some((ALLOW, allow));
        problem
    }

    /// The body is of another kind than the route takes; the field and its value say what it takes.
    pub(crate) fn media(field: HeaderName, taken: &'static str, detail: &'static str) -> Self {
        let mut problem = Self::new(Code::UnsupportedMediaType, detail);
        problem.takes = Some((field, taken));
        problem
    }

    /// Adds a member of its own to the problem. The members that every problem has win over it.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// Sets when to come back.
    #[must_use]
    pub(crate) fn retry_after(mut self, after: Option<Duration>) -> Self {
        self.retry_after = after.or(self.retry_after);
        self
    }

    /// Says that nothing was done, where a code leaves that open.
    #[must_use]
    pub(crate) fn not_applied(mut self) -> Self {
        self.outcome = Outcome::NotApplied;
        self
    }

    /// Says whether the same request may succeed later, where that differs within one code.
    #[must_use]
    pub(crate) fn retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }

    /// What kind of problem it is.
    pub(crate) fn code(&self) -> Code {
        self.code
    }

    /// What it says to the person who reads the client's log.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// Whether the same request may succeed later.
    pub(crate) fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// Renders the problem for a request to `instance`.
    pub(crate) fn into_reply(self, instance: &str, trace_id: &str) -> Reply {
        let (head, body) = self.render(instance, trace_id);
        head.map(|()| body)
    }

    /// Renders head and body apart.
    pub(crate) fn render(self, instance: &str, trace_id: &str) -> (Response<()>, Bytes) {
        let described = self.code.describe();
        let mut object = Map::new();
        let mut set = |name: &str, value: Value| object.insert(name.to_owned(), value);
        set("type", format!("/problems/{}", described.name).into());
        set("title", described.title.into());
        set("status", described.status.as_u16().into());
        set("detail", self.detail.into());
        set("instance", instance.into());
        set("code", described.name.into());
        set("retryable", self.retryable.into());
        set("outcome", self.outcome.as_str().into());
        set("trace_id", trace_id.into());
        for (name, value) in self.members {
            object.entry(name).or_insert(value);
        }
        let body = Value::Object(object).to_string();
        let mut response = Response::new(());
        *response.status_mut() = described.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, PROBLEM_JSON);
        if let Some(after) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(after)));
        }
        if described.status == StatusCode::UNAUTHORIZED {
            // The field must be there; the proxy meets the challenge, and no client can.
            let challenge = HeaderValue::from_static("Phalanx-Principal");
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        if let Some((field, taken)) = self.takes {
            headers.insert(field, HeaderValue::from_static(taken));
        }
        (response, body.into())
    }
}

/// `Retry-After` counts whole seconds: rounded up, at least one.
fn whole_seconds(after: Duration) -> u64 {
    after
        .as_secs()
        .saturating_add(u64::from(after.subsec_nanos() > 0))
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_rounded_up_to_at_least_a_second() {
        for (millis, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (5_500, 6)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds);
        }
    }

    #[test]
    fn unavailable_always_says_when_to_come_back() {
        for code in Code::ALL {
            let response = Problem::new(*code, "because").into_reply("/x", "t");
            let waits = matches!(response.status().as_u16(), 429 | 503);
            assert_eq!(response.headers().contains_key(RETRY_AFTER), waits);
            assert_eq!(response.status(), code.describe().status);
        }
    }

    #[test]
    fn members_of_a_domain_cannot_forge_those_of_the_problem() {
        let problem = Problem::new(Code::CommandRejected, "no").with("status", 200);
        let response = problem.into_reply("/x", "t");
        let body = response.body();
        let json: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(json["status"], 422);
    }
}
