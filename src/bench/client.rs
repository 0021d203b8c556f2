//! One client: a connection and a loop.
//!
//! It owns when a request begins and what its latency is counted from: in a closed loop the moment
//! it is sent, in an open loop the moment it should have been sent. It refuses to retry: a request
//! is sent once, and a broken connection is counted and replaced.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until};

use super::connection::{Connection, ExchangeError};
use super::pacer::Schedule;
use super::plan::Plan;
use super::response::Head;
use super::route::Directory;
use super::stats::{Live, Stats, is_success};
use super::workload::{Kind, Next, Workload};

/// A pause after a failure to connect, so that a server that is gone is not hammered.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(20);

/// When things happen in a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// No request begins before.
    pub(super) start: Instant,
    /// From here on requests are recorded; before is warm-up.
    pub(super) measure_from: Instant,
    /// No request begins from here on.
    pub(super) end: Instant,
}

/// One client's state.
#[derive(Debug)]
pub(super) struct Client {
    plan: Arc<Plan>,
    live: Arc<Live>,
    /// Shared by the clients of one thread, hence never contended.
    stats: Arc<Mutex<Stats>>,
    window: Window,
    workload: Workload,
    /// One for each target, made when it is needed.
    connections: Vec<Option<Connection>>,
}

impl Client {
    /// A client that is not connected yet.
    pub(super) fn new(
        plan: Arc<Plan>,
        directory: Option<Arc<Directory>>,
        live: Arc<Live>,
        stats: Arc<Mutex<Stats>>,
        window: Window,
        number: usize,
    ) -> Self {
        let workload = Workload::new(Arc::clone(&plan), directory, number);
        let connections = plan.targets.iter().map(|_| None).collect();
        Self {
            plan,
            live,
            stats,
            window,
            workload,
            connections,
        }
    }

    /// Sends the next request when the last one is answered, within the window.
    pub(super) async fn run_closed(mut self) {
        sleep_until(self.window.start).await;
        let mut now = Instant::now();
        while now < self.window.end {
            now = self.request(now, now).await;
        }
    }

    /// Sends requests as the schedule releases them, until it closes.
    pub(super) async fn run_open(mut self, schedule: Arc<Schedule>) {
        while let Some(intended) = schedule.next().await {
            let now = Instant::now();
            if intended >= self.window.measure_from {
                self.stats
                    .lock()
                    .late(now.saturating_duration_since(intended));
            }
            self.request(intended, now).await;
        }
    }

    /// One request, counted from `intended`. Returns the time at its end.
    async fn request(&mut self, intended: Instant, begun: Instant) -> Instant {
        let account = Account {
            live: &self.live,
            stats: &self.stats,
            intended,
            measured: intended >= self.window.measure_from,
        };
        let patience = self.plan.args.timeout;
        let Some(next) = self.workload.next() else {
            return self.window.end;
        };
        let (Some(slot), Some(target)) = (
            self.connections.get_mut(next.target),
            self.plan.targets.get(next.target),
        ) else {
            return self.window.end;
        };
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => match Connection::open(target, patience).await {
                Ok(connection) => connection,
                Err(error) => {
                    account.did_not_connect(&error);
                    sleep(PAUSE_AFTER_FAILURE).await;
                    return Instant::now();
                }
            },
        };
        account.sent(&next);
        match connection.exchange(next.bytes, begun).await {
            Ok(head) => {
                let now = Instant::now();
                account.answered(next.kind, head, connection.body(), now);
                if !head.close {
                    *slot = Some(connection);
                }
                now
            }
            Err(error) => {
                account.broke(&error);
                Instant::now()
            }
        }
    }
}

/// Where one request is entered, at its begin and at its end.
struct Account<'a> {
    live: &'a Live,
    stats: &'a Mutex<Stats>,
    intended: Instant,
    measured: bool,
}

impl Account<'_> {
    fn sent(&self, next: &Next<'_>) {
        self.stats.lock().sent(next.target, self.measured);
    }

    fn answered(&self, kind: Kind, head: Head, body: &[u8], now: Instant) {
        if is_success(head.status) {
            self.live.count(kind);
        } else {
            self.live.count_other();
        }
        if self.measured {
            let latency = now.saturating_duration_since(self.intended);
            let mut stats = self.stats.lock();
            stats.reply(kind, head.status, body, latency, now);
        }
    }

    fn did_not_connect(&self, error: &ExchangeError) {
        self.live.count_other();
        if self.measured {
            let mut stats = self.stats.lock();
            stats.did_not_connect(error.name(), Instant::now());
        }
    }

    fn broke(&self, error: &ExchangeError) {
        self.live.count_other();
        if self.measured {
            self.stats.lock().broke(error.name(), Instant::now());
        }
    }
}
