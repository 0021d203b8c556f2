//! A whole run: prepare, warm up, measure, add up.
//!
//! It owns the threads and the clock of a run. Each thread has a runtime of its own and its share
//! of the clients, and shares nothing with the others but counters, so that one thread never waits
//! for another. Invariant: a run ends at the latest two timeouts after its window.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use parking_lot::Mutex;
use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::args::Args;
use super::client::{Client, Window};
use super::pacer::Schedule;
use super::plan::Plan;
use super::progress;
use super::report::{Measured, Report};
use super::route::Directory;
use super::setup::Setup;
use super::stats::{Live, Stats};

/// Time for all threads to start before the schedule does.
const HEAD_START: Duration = Duration::from_millis(20);

/// Why a run could not be made.
#[derive(Debug, Error)]
pub enum BenchError {
    /// The arguments contradict each other or are out of range.
    #[error("{0}")]
    Arguments(String),
    /// The URL is not one that can be measured.
    #[error("cannot measure `{url}`: {reason}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It is not known which node leads what.
    #[error("failed to find the leaders: {0}")]
    Route(String),
    /// An aggregate could not be prepared.
    #[error("failed to prepare aggregate number {number}: {reason}")]
    Setup {
        /// The aggregate's number, from 0.
        number: u64,
        /// The last answer or error.
        reason: String,
    },
    /// A thread or its runtime could not be made, or it ended by a panic.
    #[error("failed to run a thread of the generator: {0}")]
    Thread(String),
    /// A histogram could not be made or added.
    #[error("failed to keep the latencies: {0}")]
    Histogram(String),
}

/// Measures a server.
///
/// # Errors
/// When the arguments make no sense, the aggregates cannot be prepared or the machine gives no
/// threads. Errors of the measured server are part of the report instead.
pub fn measure(args: Args) -> Result<Report, BenchError> {
    measure_plan(Plan::new(args)?)
}

/// Carries out a checked plan.
pub(super) fn measure_plan(plan: Plan) -> Result<Report, BenchError> {
    let plan = Arc::new(plan);
    let live = Arc::new(Live::default());
    if !plan.args.skip_setup {
        prepare(&plan, &live)?;
    }
    let directory = Directory::ask(&plan.args)?.map(Arc::new);
    let start = Instant::now() + HEAD_START;
    let window = Window {
        start,
        measure_from: start + plan.args.warmup,
        end: start + plan.run_time(),
    };
    let schedule = plan
        .rate_per_second()
        .map(|rate| Schedule::new(start, window.end, rate));
    let pacer = schedule
        .clone()
        .map(|schedule| spawn(move || schedule.keep_time()))
        .transpose()?;

    let (plan_of_threads, live_of_threads) = (Arc::clone(&plan), Arc::clone(&live));
    let schedule_of_threads = schedule.clone();
    let directory_of_threads = directory.clone();
    let outcomes = on_threads(
        &plan,
        |done| progress::show_run(&plan, &live, done),
        move |clients| {
            let job = Job {
                plan: Arc::clone(&plan_of_threads),
                live: Arc::clone(&live_of_threads),
                directory: directory_of_threads.clone(),
                schedule: schedule_of_threads.clone(),
                window,
            };
            drive(job, clients)
        },
    )?;
    if let Some(pacer) = pacer {
        pacer
            .join()
            .map_err(|_| BenchError::Thread("the pacer panicked".to_owned()))?;
    }
    let mut stats = Stats::new(plan.targets.len())?;
    let mut cpu_time = Some(Duration::ZERO);
    for outcome in outcomes {
        let (part, cpu) = outcome?;
        stats.merge(part)?;
        cpu_time = cpu_time.zip(cpu).map(|(sum, more)| sum + more);
    }
    let unsent = schedule.map_or(0, |schedule| schedule.unsent());
    let requests = live.total();
    let leaders_moved = directory
        .map(|directory| directory.moved(&plan.args))
        .transpose()?;
    Ok(Report::new(
        &plan,
        &Measured {
            stats,
            window,
            unsent,
            requests,
            leaders_moved,
            cpu_time,
        },
    ))
}

/// Prepares the aggregates from all clients at once.
fn prepare(plan: &Arc<Plan>, live: &Arc<Live>) -> Result<(), BenchError> {
    let setup = Setup::new(Arc::clone(plan), Arc::clone(live));
    let results = on_threads(
        plan,
        |done| progress::show_setup(plan, live, done),
        move |clients| {
            let setup = Arc::clone(&setup);
            in_runtime(async move {
                let mut tasks = JoinSet::new();
                for client in clients {
                    tasks.spawn(Arc::clone(&setup).work(client));
                }
                while let Some(result) = tasks.join_next().await {
                    result.map_err(|error| BenchError::Thread(error.to_string()))??;
                }
                Ok(())
            })?
        },
    )?;
    results.into_iter().collect()
}

/// What every thread needs to know of a run.
struct Job {
    plan: Arc<Plan>,
    live: Arc<Live>,
    directory: Option<Arc<Directory>>,
    schedule: Option<Arc<Schedule>>,
    window: Window,
}

/// One thread's clients, from the first request to the last reply.
fn drive(
    job: Job,
    clients: std::ops::Range<usize>,
) -> Result<(Stats, Option<Duration>), BenchError> {
    let targets = job.plan.targets.len();
    let stats = Arc::new(Mutex::new(Stats::new(targets)?));
    let stats_of_clients = Arc::clone(&stats);
    let deadline = job.window.end + job.plan.args.timeout * 2;
    in_runtime(async move {
        let mut tasks = JoinSet::new();
        for number in clients {
            let client = Client::new(
                Arc::clone(&job.plan),
                job.directory.clone(),
                Arc::clone(&job.live),
                Arc::clone(&stats_of_clients),
                job.window,
                number,
            );
            match &job.schedule {
                Some(schedule) => tasks.spawn(client.run_open(Arc::clone(schedule))),
                None => tasks.spawn(client.run_closed()),
            };
        }
        loop {
            match timeout_at(deadline, tasks.join_next()).await {
                Ok(None) => return Ok(()),
                Ok(Some(Ok(()))) => {}
                Ok(Some(Err(error))) => return Err(BenchError::Thread(error.to_string())),
                Err(_) => {
                    stats_of_clients.lock().give_up(deadline);
                    return Ok(());
                }
            }
        }
    })??;
    let stats = std::mem::replace(&mut *stats.lock(), Stats::new(targets)?);
    Ok((stats, thread_cpu_time()))
}

/// Runs `work` on every thread with its share of the clients, and `watch` beside them.
fn on_threads<T: Send + 'static>(
    plan: &Plan,
    watch: impl FnOnce(&mpsc::Receiver<()>),
    work: impl Fn(std::ops::Range<usize>) -> T + Clone + Send + 'static,
) -> Result<Vec<T>, BenchError> {
    let (clients, threads) = (plan.args.clients, plan.args.threads);
    let (sender, receiver) = mpsc::channel();
    let mut handles = Vec::with_capacity(threads);
    for thread in 0..threads {
        let share = clients * thread / threads..clients * (thread + 1) / threads;
        let (work, sender) = (work.clone(), sender.clone());
        handles.push(spawn(move || {
            let result = work(share);
            drop(sender);
            result
        })?);
    }
    drop(sender);
    watch(&receiver);
    let panicked = |_| BenchError::Thread("it panicked".to_owned());
    handles
        .into_iter()
        .map(|handle| handle.join().map_err(panicked))
        .collect()
}

fn spawn<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<std::thread::JoinHandle<T>, BenchError> {
    std::thread::Builder::new()
        .name("bench".to_owned())
        .spawn(work)
        .map_err(|error| BenchError::Thread(error.to_string()))
}

fn in_runtime<T>(work: impl Future<Output = T>) -> Result<T, BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| BenchError::Thread(error.to_string()))?;
    Ok(runtime.block_on(work))
}

/// How long this thread has been on a core, where the system says so.
fn thread_cpu_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace()
        .next()?
        .parse()
        .ok()
        .map(Duration::from_nanos)
}
