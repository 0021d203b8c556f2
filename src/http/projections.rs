//! `/v1/projections`: how the projections of a node are doing, and operating them. Every answer names
//! the node that gave it.

use http::request;
use serde::Serialize;
use serde_json::json;

use super::app::App;
use super::code::Code;
use super::problem::Problem;
use super::query;
use super::response::json as json_reply;
use super::service::{Answered, decode};
use crate::projection::{OperationError, Views};

/// What can be done to a projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Pause,
    Resume,
    Rebuild,
}

/// Answers with all projections.
pub(crate) fn all(app: &App, parts: &request::Parts) -> Answered {
    let [] = query::parse(parts.uri.query(), [])?;
    let statuses = app.views.as_ref().map(Views::statuses).unwrap_or_default();
    let store = app.views.as_ref().map(|views| {
        let kind = if views.is_shared() {
            "postgres"
        } else {
            "sqlite"
        };
        json!({ "kind": kind, "standing": views.standing() })
    });
    rendered(&json!({ "node": app.node_id, "store": store, "projections": statuses }))
}

/// Answers with one projection.
pub(crate) fn one(app: &App, parts: &request::Parts, name: &str) -> Answered {
    let [] = query::parse(parts.uri.query(), [])?;
    show(app, find(app)?, &decoded(name)?)
}

/// Does something to a projection, and answers with it.
pub(crate) async fn act(app: &App, parts: &request::Parts, name: &str, action: Action) -> Answered {
    let [] = query::parse(parts.uri.query(), [])?;
    let views = find(app)?;
    let name = decoded(name)?;
    match action {
        Action::Pause => views.set_paused(&name, true).await?,
        Action::Resume => views.set_paused(&name, false).await?,
        Action::Rebuild => views.rebuild(&name).await?,
    }
    show(app, views, &name)
}

/// Answers with what was set aside.
pub(crate) async fn dead_letters(app: &App, parts: &request::Parts, name: &str) -> Answered {
    let [limit, after] = query::parse(parts.uri.query(), ["limit", "after"])?;
    let limit = limit.map(|limit| query::number("limit", &limit, 1..=1000));
    let limit = u32::try_from(limit.transpose()?.unwrap_or(100)).unwrap_or(100);
    let most = i64::MAX.unsigned_abs();
    let after = after.map(|after| query::number("after", &after, 0..=most));
    let after = i64::try_from(after.transpose()?.unwrap_or(0)).unwrap_or(i64::MAX);
    let views = find(app)?;
    let letters = views.dead_letters(&decoded(name)?, after, limit).await?;
    rendered(&json!({ "node": app.node_id, "dead_letters": letters }))
}

/// Attempts a dead letter, with or without the event that failed.
pub(crate) async fn retry(
    app: &App,
    parts: &request::Parts,
    name: &str,
    letter: &str,
    skip: bool,
) -> Answered {
    let [] = query::parse(parts.uri.query(), [])?;
    let views = find(app)?;
    let letter = decode(letter).and_then(|letter| letter.parse().ok());
    let letter: i64 = letter.ok_or(OperationError::NoLetter)?;
    let retried = views.retry(&decoded(name)?, letter, skip).await?;
    rendered(&OfNode::new(app, retried))
}

fn find(app: &App) -> Result<&Views, Box<Problem>> {
    app.views
        .as_ref()
        .ok_or_else(|| OperationError::Unknown.into())
}

fn decoded(name: &str) -> Result<std::borrow::Cow<'_, str>, Box<Problem>> {
    decode(name).ok_or_else(|| OperationError::Unknown.into())
}

fn show(app: &App, views: &Views, name: &str) -> Answered {
    let status = views.status(name).ok_or(OperationError::Unknown)?;
    rendered(&OfNode::new(app, status))
}

/// What a node says, and which one.
#[derive(Serialize)]
struct OfNode<T> {
    node: u64,
    #[serde(flatten)]
    what: T,
}

impl<T> OfNode<T> {
    fn new(app: &App, what: T) -> Self {
        let node = app.node_id;
        Self { node, what }
    }
}

fn rendered(value: &impl Serialize) -> Answered {
    match serde_json::to_string(value) {
        Ok(body) => Ok(json_reply(body)),
        Err(error) => Err(Box::new(Problem::new(Code::Internal, error.to_string()))),
    }
}

impl From<OperationError> for Box<Problem> {
    fn from(error: OperationError) -> Self {
        let code = match error {
            // A projection has the name of its view.
            OperationError::Unknown => Code::UnknownView,
            OperationError::NoLetter => Code::NotFound,
            OperationError::Rebuilding => Code::RebuildRunning,
            OperationError::Away { .. } => Code::NotReady,
            OperationError::Store(ref error) if error.is_full() => Code::StorageFull,
            OperationError::Store(_) => Code::Internal,
        };
        Self::new(Problem::new(code, error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Connection as _;

    use super::*;
    use crate::projection::StoreError;

    #[tokio::test]
    async fn a_full_disk_is_said_to_be_one() {
        let mut database = sqlx::SqliteConnection::connect("sqlite::memory:")
            .await
            .unwrap();
        let text = "PRAGMA max_page_count = 1; CREATE TABLE t (x)";
        let full = sqlx::raw_sql(text).execute(&mut database).await;
        let broken = sqlx::raw_sql("SELECT y").execute(&mut database).await;
        for (error, code) in [
            (full.unwrap_err(), Code::StorageFull),
            (broken.unwrap_err(), Code::Internal),
        ] {
            let problem: Box<Problem> = OperationError::Store(StoreError::Sql(error)).into();
            assert_eq!(problem.code(), code, "{}", problem.detail());
        }
    }
}
