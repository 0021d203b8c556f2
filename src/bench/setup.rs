//! Preparing the aggregates before the measurement.
//!
//! It owns the rule of when an aggregate is ready: its first command succeeded, or the domain says
//! that it was ready before. It retries what a starting or busy server refuses and gives up on
//! everything else, because a measurement of unprepared aggregates would mean nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::connection::{Connection, ExchangeError};
use super::plan::Plan;
use super::response::json_text;
use super::run::BenchError;
use super::stats::{Live, is_success};
use super::target::Target;
use super::template::Template;

const PAUSE_BEFORE_RETRY: Duration = Duration::from_millis(20);

/// The aggregates that still need preparing, shared by all clients.
#[derive(Debug)]
pub(super) struct Setup {
    plan: Arc<Plan>,
    live: Arc<Live>,
    next: AtomicU64,
}

/// How an attempt ended.
enum Attempt {
    /// The command took effect.
    Done,
    /// The domain refused: it had taken effect before.
    DoneBefore,
    /// Worth another try, and why.
    Again(String),
}

impl Setup {
    /// All aggregates of the plan.
    pub(super) fn new(plan: Arc<Plan>, live: Arc<Live>) -> Arc<Self> {
        Arc::new(Self {
            plan,
            live,
            next: AtomicU64::new(0),
        })
    }

    /// One client's share of the work: takes aggregates until none is left.
    pub(super) async fn work(self: Arc<Self>, client: usize) -> Result<(), BenchError> {
        let Some(target) = self.plan.target_of(client) else {
            return Ok(());
        };
        let mut templates = self.plan.setup(target);
        let mut connection = None;
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.plan.args.aggregates || templates.is_empty() {
                return Ok(());
            }
            for template in &mut templates {
                if !self
                    .until_done(target, template, number, &mut connection)
                    .await?
                {
                    break;
                }
            }
            self.live.prepared.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends one command until it has taken effect. False when it had done so before.
    async fn until_done(
        &self,
        target: &Target,
        template: &mut Template,
        number: u64,
        connection: &mut Option<Connection>,
    ) -> Result<bool, BenchError> {
        let give_up = Instant::now() + self.plan.args.timeout;
        loop {
            let reason = match self.attempt(target, template, number, connection).await? {
                Attempt::Done => return Ok(true),
                Attempt::DoneBefore => return Ok(false),
                Attempt::Again(reason) => reason,
            };
            if Instant::now() >= give_up {
                return Err(BenchError::Setup { number, reason });
            }
            sleep(PAUSE_BEFORE_RETRY).await;
        }
    }

    async fn attempt(
        &self,
        target: &Target,
        template: &mut Template,
        number: u64,
        slot: &mut Option<Connection>,
    ) -> Result<Attempt, BenchError> {
        let again = |error: &ExchangeError| Ok(Attempt::Again(error.to_string()));
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => match Connection::open(target, self.plan.args.timeout).await {
                Ok(connection) => connection,
                Err(error) => return again(&error),
            },
        };
        let head = match connection
            .exchange(template.patch(number, 100, 0), Instant::now())
            .await
        {
            Ok(head) => head,
            Err(error) => return again(&error),
        };
        let body = String::from_utf8_lossy(connection.body()).into_owned();
        if !head.close {
            *slot = Some(connection);
        }
        match head.status {
            status if is_success(status) => Ok(Attempt::Done),
            422 if json_text(body.as_bytes(), "code") == Some("command-rejected") => {
                Ok(Attempt::DoneBefore)
            }
            503 | 504 | 429 => Ok(Attempt::Again(format!("status {}: {body}", head.status))),
            status => Err(BenchError::Setup {
                number,
                reason: format!("status {status}: {body}"),
            }),
        }
    }
}
