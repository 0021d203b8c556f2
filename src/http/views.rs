//! `GET /v1/views/{view}` and `GET /v1/views/{view}/{key}`: rows of a read model.
//!
//! Translates a request into what the read side understands, and its errors into problems. Which
//! columns there are and what a value may be is decided there.

use std::borrow::Cow;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, request};
use phalanx_actors::names::Position;
use serde_json::json;

use super::app::App;
use super::code::Code;
use super::elsewhere::HandedOn;
use super::headers::{PREFER, PREFERENCE_APPLIED};
use super::problem::Problem;
use super::query;
use super::response::{Reply, typed};
use super::service::{Answered, decode};
use crate::projection::{Freshness, Lag, ViewError, Views};

/// How long a view may take to reach `after` when the query does not say.
const DEFAULT_WAIT: Duration = Duration::from_secs(1);

/// Answers with a page of rows.
pub(crate) async fn list(app: &App, parts: &request::Parts, view: &str) -> Answered {
    let (views, view) = find(app, view)?;
    let (fresh, rest, applied) = freshness(app, parts)?;
    let limit = app.limits.request_timeout();
    let listed = tokio::time::timeout(limit, views.list(&view, &rest, &fresh)).await;
    let page = listed.map_err(|_| super::answers::timed_out(false, limit))??;
    let mut body = Vec::with_capacity(page.rows.len() + 128);
    body.extend_from_slice(b"{\"rows\":");
    body.extend_from_slice(&page.rows);
    let tail = json!({"next_cursor": page.next_cursor, "lag": page.lag}).to_string();
    body.push(b',');
    // The members of the tail follow those before them.
    body.extend_from_slice(tail.as_bytes().get(1..).unwrap_or_default());
    Ok(rendered(body, applied))
}

/// Answers with one row.
pub(crate) async fn row(app: &App, parts: &request::Parts, view: &str, key: &str) -> Answered {
    let (views, view) = find(app, view)?;
    let (fresh, rest, applied) = freshness(app, parts)?;
    if let Some((name, _)) = rest.first() {
        let detail = format!("unknown query parameter `{name}`");
        return Err(Box::new(Problem::query(name, detail)));
    }
    let no_text = || Problem::new(Code::RowNotFound, "the key is not UTF-8");
    let key = decode(key).ok_or_else(no_text)?;
    let limit = app.limits.request_timeout();
    let found = tokio::time::timeout(limit, views.row(&view, &key, &fresh)).await;
    let found = found.map_err(|_| super::answers::timed_out(false, limit))??;
    let mut body = Vec::with_capacity(found.members.len() + 64);
    body.push(b'{');
    body.extend_from_slice(&found.members);
    body.extend_from_slice(b",\"lag\":");
    body.extend_from_slice(json!(found.lag).to_string().as_bytes());
    body.push(b'}');
    Ok(rendered(body, applied))
}

/// The read side, if there is one, and the name of the view.
pub(crate) fn find<'a, 'v>(
    app: &'a App,
    view: &'v str,
) -> Result<(&'a Views, Cow<'v, str>), Problem> {
    let unknown = || Problem::from(ViewError::Unknown);
    let views = app.views.as_ref().ok_or_else(unknown)?;
    Ok((views, decode(view).ok_or_else(unknown)?))
}

/// What must be in the rows, what else the query says, and how long a preference let it wait.
type Asked<'a> = (Freshness, Vec<(Cow<'a, str>, Cow<'a, str>)>, Option<u64>);

fn freshness<'a>(app: &App, parts: &'a request::Parts) -> Result<Asked<'a>, Problem> {
    let mut rest = query::pairs(parts.uri.query())?;
    let mut take = |name: &str| -> Result<Option<Cow<'a, str>>, Problem> {
        let Some(at) = rest.iter().position(|(found, _)| found == name) else {
            return Ok(None);
        };
        let (_, value) = rest.remove(at);
        if rest.iter().any(|(found, _)| found == name) {
            let detail = format!("query parameter `{name}` appears twice");
            return Err(Problem::query(name, detail));
        }
        Ok(Some(value))
    };
    let after = take("after")?.map(|after| positions(&after)).transpose()?;
    let wait = take("wait")?.map(|wait| duration(&wait)).transpose()?;
    let preferred = preferred_wait(&parts.headers);
    let applied = preferred.filter(|_| wait.is_none() && after.is_some());
    let wait = wait.or(preferred.map(Duration::from_secs));
    let most = app.max_wait.min(app.limits.answer_within());
    let wait = wait.unwrap_or(DEFAULT_WAIT).min(most);
    let handed_on = parts.extensions.get::<HandedOn>();
    let fresh = Freshness {
        after: after.unwrap_or_default(),
        wait: handed_on.map_or(wait, |handed_on| handed_on.left_of(wait)),
    };
    Ok((fresh, rest, applied))
}

/// One position, or several with commas between, each of another shard.
fn positions(text: &str) -> Result<Vec<Position>, Problem> {
    let read = |text: &str| {
        let position: Position = text.parse().ok()?;
        Some((position.shard, position))
    };
    let places = query::by_shard(text, read).ok_or_else(|| {
        Problem::query(
            "after",
            "a position has the form shard:number, as in 12:90817; several have commas between, and \
             each is of another shard",
        )
    })?;
    Ok(places.into_values().collect())
}

/// `2s` or `250ms`; no time at all needs no unit.
fn duration(text: &str) -> Result<Duration, Problem> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let number = |digits: &str| -> Option<u64> {
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse().ok().filter(|_| plain)
    };
    let parsed = match text.strip_suffix("ms") {
        Some(millis) => number(millis).map(Duration::from_millis),
        None => text
            .strip_suffix('s')
            .and_then(number)
            .map(Duration::from_secs),
    };
    parsed.ok_or_else(|| Problem::query("wait", "`wait` is a time such as 2s or 250ms"))
}

/// `Prefer: wait=2`, in seconds. What is not understood is passed over, as RFC 7240 says.
fn preferred_wait(headers: &HeaderMap) -> Option<u64> {
    let values = headers.get_all(PREFER).iter();
    let mut items = values
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','));
    items.find_map(|item| {
        let (name, value) = item.split(';').next()?.split_once('=')?;
        let value = value.trim().trim_matches('"');
        let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
        (name.trim().eq_ignore_ascii_case("wait") && digits)
            .then(|| value.parse().ok())
            .flatten()
    })
}

fn rendered(body: Vec<u8>, applied: Option<u64>) -> Reply {
    let mut reply = typed(StatusCode::OK, "application/json", body);
    let applied = applied.map(|seconds| HeaderValue::try_from(format!("wait={seconds}")));
    if let Some(Ok(applied)) = applied {
        reply.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
    reply
}

impl From<ViewError> for Problem {
    fn from(error: ViewError) -> Self {
        let detail = error.to_string();
        let with_lag = |code, lag: Lag| Self::new(code, detail.clone()).with("lag", json!(lag));
        match error {
            ViewError::Unknown => Self::new(Code::UnknownView, detail),
            ViewError::Query { parameter, .. } => Self::query(&parameter, detail),
            ViewError::Behind { position, lag } => {
                with_lag(Code::ViewBehind, lag).with("position", position.to_string())
            }
            ViewError::NoRow { lag } => with_lag(Code::RowNotFound, lag),
            ViewError::Incomplete { .. } | ViewError::Away { .. } | ViewError::Elsewhere { .. } => {
                Self::new(Code::NotReady, detail)
            }
            ViewError::Busy => Self::new(Code::Overloaded, detail),
            ViewError::Store(_) => Self::new(Code::Internal, detail),
        }
    }
}

impl From<ViewError> for Box<Problem> {
    fn from(error: ViewError) -> Self {
        Self::new(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(duration("2s").unwrap(), Duration::from_secs(2));
        assert_eq!(duration("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(duration("0s").unwrap(), Duration::ZERO);
        assert_eq!(duration("0").unwrap(), Duration::ZERO);
        for bad in [
            "",
            "2",
            "s",
            "ms",
            "-1s",
            "1.5s",
            "2m",
            "+2s",
            "99999999999999999999s",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn preferences_that_are_understood_count() {
        let wait = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.append(PREFER, HeaderValue::from_static(value));
            preferred_wait(&headers)
        };
        assert_eq!(wait("wait=2"), Some(2));
        assert_eq!(wait("return=minimal, Wait=\"3\"; x"), Some(3));
        assert_eq!(wait("wait=soon"), None);
        assert_eq!(wait("respond-async"), None);
    }

    #[test]
    fn several_positions_are_understood() {
        assert_eq!(positions("1:2,0:7").unwrap().len(), 2);
        for bad in ["", "1", "1:2,", "1:2;3:4", "0:5,0:1", "0:5,1:1,0:5"] {
            assert!(positions(bad).is_err(), "{bad}");
        }
    }
}
