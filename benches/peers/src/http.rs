//! The URLs of the account's commands and of its fresh read, over any store.
//!
//! It owns shapes and statuses and refuses everything that a peer does not need: retry keys,
//! conditions, justifications (they are accepted and ignored).

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_TYPE, ETAG};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;

use crate::account::{Account, Command, Outcome, Refusal};

/// What a peer has to do.
pub(crate) trait Store: Send + Sync + 'static {
    /// Carries out a command; returns when its event is as safe as the peer makes it.
    fn execute(
        &self,
        id: String,
        command: Command,
    ) -> impl Future<Output = Result<Outcome, Refusal>> + Send;

    /// The account's present state.
    fn read(&self, id: &str) -> impl Future<Output = Result<Option<Account>, Refusal>> + Send;
}

/// Serves a store that is made without the runtime.
pub(crate) fn serve(
    listen: SocketAddr,
    store: impl Store,
) -> Result<(), Box<dyn std::error::Error>> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(serve_in_runtime(listen, store))
}

/// Serves a store until the process is told to end.
pub(crate) async fn serve_in_runtime<S: Store>(
    listen: SocketAddr,
    store: S,
) -> Result<(), Box<dyn std::error::Error>> {
    let router = Router::new()
        .route(
            "/v1/aggregates/account/{id}/commands/{command}",
            post(command::<S>),
        )
        .route("/v1/aggregates/account/{id}", get(read::<S>))
        .with_state(Arc::new(store));
    let listener = tokio::net::TcpListener::bind(listen)
        .await?
        .tap_io(|socket| {
            if let Err(error) = socket.set_nodelay(true) {
                eprintln!("phalanx-peers: failed to set TCP_NODELAY: {error}");
            }
        });
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let server = axum::serve(listener, router);
    tokio::select! {
        result = server => Ok(result?),
        _ = terminate.recv() => Ok(()),
    }
}

async fn command<S: Store>(
    State(store): State<Arc<S>>,
    Path((id, name)): Path<(String, String)>,
    body: Bytes,
) -> Response {
    let outcome = match Command::parse(&name, &body) {
        Ok(command) => store.execute(id.clone(), command).await,
        Err(refusal) => Err(refusal),
    };
    match outcome {
        Ok(outcome) => committed(&id, &outcome),
        Err(refusal) => refused(&refusal),
    }
}

async fn read<S: Store>(State(store): State<Arc<S>>, Path(id): Path<String>) -> Response {
    let account = match store.read(&id).await {
        Ok(Some(account)) => account,
        Ok(None) => return problem(StatusCode::NOT_FOUND, "aggregate-not-found", ""),
        Err(refusal) => return refused(&refusal),
    };
    let state = match serde_json::to_string(&account) {
        Ok(state) => state,
        Err(error) => return refused(&Refusal::Store(error.to_string())),
    };
    let number = account.sequence_number;
    let body = format!(
        r#"{{"aggregate_type":"account","aggregate_id":"{id}","sequence_number":{number},"state":{state}}}"#
    );
    (
        [
            (CONTENT_TYPE, "application/json"),
            (ETAG, &format!("\"{number}\"")),
        ],
        body,
    )
        .into_response()
}

fn committed(id: &str, outcome: &Outcome) -> Response {
    let number = outcome.sequence_number;
    let status = if number == 1 {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let position = format!("0:{}", outcome.position);
    let body = format!(
        r#"{{"aggregate_type":"account","aggregate_id":"{id}","sequence_number":{number},"position":"{position}","events":[{{"type":"{}","sequence_number":{number}}}]}}"#,
        outcome.event_type
    );
    let headers = [
        (CONTENT_TYPE, "application/json".to_owned()),
        (ETAG, format!("\"{number}\"")),
        (HeaderName::from_static("phalanx-position"), position),
    ];
    (status, headers, body).into_response()
}

fn refused(refusal: &Refusal) -> Response {
    match refusal {
        Refusal::Malformed => problem(StatusCode::BAD_REQUEST, "malformed-body", ""),
        Refusal::Rejected(code) => {
            problem(StatusCode::UNPROCESSABLE_ENTITY, "command-rejected", code)
        }
        Refusal::Store(reason) => {
            eprintln!("phalanx-peers: the store failed: {reason}");
            problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", "")
        }
    }
}

fn problem(status: StatusCode, code: &str, rejection: &str) -> Response {
    let body = format!(r#"{{"code":"{code}","rejection":"{rejection}"}}"#);
    (status, [(CONTENT_TYPE, "application/problem+json")], body).into_response()
}
