//! Tellers: clients that pay money in, retry every command with its key until it is answered, and
//! write down what they were promised and what they saw.
//!
//! Each command's amount occurs once in a run, so that a history says by itself which commands took
//! effect and how often. Invariant: what stands in the books was received as a complete response.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::client;
use super::http::{Http, Request, Response};
use super::wait;

/// Amounts are `teller * AMOUNTS_PER_TELLER + n`.
pub(crate) const AMOUNTS_PER_TELLER: i64 = 10_000_000;

/// A command that a node said is stored.
#[derive(Debug, Clone)]
pub(crate) struct Promise {
    pub(crate) account: usize,
    pub(crate) amount: i64,
    pub(crate) key: String,
    pub(crate) sequence: u64,
    pub(crate) reply: Response,
}

/// A balance that a node showed, in a fresh read or in a rejection.
#[derive(Debug, Clone)]
pub(crate) struct Sighting {
    pub(crate) account: usize,
    /// The sequence number it was shown for; a rejection does not say.
    pub(crate) sequence: Option<u64>,
    /// The newest sequence number of the account that any teller had been told before this one asked.
    pub(crate) known: u64,
    pub(crate) balance: i64,
}

/// What one teller wrote down.
#[derive(Debug, Clone, Default)]
pub(crate) struct Books {
    pub(crate) teller: i64,
    /// How many commands were issued: amounts 1 to this.
    pub(crate) issued: i64,
    pub(crate) promises: Vec<Promise>,
    pub(crate) sightings: Vec<Sighting>,
    /// Attempts that got no answer or were told to come again.
    pub(crate) retries: u64,
    /// Answers that were marked as the stored reply of an earlier attempt.
    pub(crate) replays: u64,
}

/// The newest sequence number of each account that anybody was told; what is asked afterwards must
/// not be answered from an older state.
#[derive(Debug, Clone)]
pub(crate) struct Known(Arc<[AtomicU64]>);

impl Known {
    /// Nothing is known of so many accounts.
    pub(crate) fn new(accounts: usize) -> Self {
        Self((0..accounts).map(|_| AtomicU64::new(0)).collect())
    }

    /// The newest number of an account now.
    pub(crate) fn of(&self, account: usize) -> u64 {
        self.0[account].load(Ordering::SeqCst)
    }

    /// Notes what somebody was told.
    pub(crate) fn learn(&self, account: usize, sequence: u64) {
        self.0[account].fetch_max(sequence, Ordering::SeqCst);
    }
}

/// A client at work.
#[derive(Debug)]
pub(crate) struct Teller {
    /// Each attempt goes to one of these, whichever chance picks.
    nodes: Vec<Http>,
    rng: StdRng,
    accounts: Arc<[String]>,
    known: Known,
    patience: Duration,
    /// Between two requests.
    pace: Duration,
    /// Whether `internal` is an answer to be expected: the disk under the node fails.
    disk_fails: bool,
    /// How often the node's power was switched; it is off when this is odd.
    switched: Arc<AtomicU64>,
    /// How many commands of all tellers were answered.
    answered: Arc<AtomicU64>,
    /// Nobody will take the books any more.
    abandoned: Arc<AtomicBool>,
    books: Books,
}

impl Teller {
    /// A teller with a number from 1, which makes its amounts its own.
    pub(crate) fn new(
        number: i64,
        address: SocketAddr,
        accounts: Arc<[String]>,
        seed: u64,
    ) -> Self {
        assert!(number >= 1);
        Self {
            nodes: vec![Http::new(address)],
            rng: StdRng::seed_from_u64(seed),
            known: Known::new(accounts.len()),
            accounts,
            patience: Duration::from_secs(180),
            pace: Duration::ZERO,
            disk_fails: false,
            switched: Arc::default(),
            answered: Arc::default(),
            abandoned: Arc::default(),
            books: Books {
                teller: number,
                ..Books::default()
            },
        }
    }

    /// One that goes to whichever node of a cluster can serve it, with a pause between two requests.
    fn anywhere(
        number: i64,
        addresses: &[SocketAddr],
        accounts: &Arc<[String]>,
        pace: Duration,
        seed: u64,
    ) -> Self {
        Self {
            nodes: vec![Http::anywhere(addresses).patient_for(Duration::from_secs(5))],
            pace,
            ..Self::new(number, addresses[0], Arc::clone(accounts), seed)
        }
    }

    /// Works in a thread of its own until told to stop; its last command is answered before it
    /// ends.
    pub(crate) fn work(mut self, stop: Arc<AtomicBool>) -> JoinHandle<Books> {
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match self.rng.random_range(0..10) {
                    0 => self.read(),
                    1 => self.overdraw(),
                    _ => self.deposit(),
                }
                if !self.pace.is_zero() {
                    wait::let_pass(self.pace);
                }
            }
            self.books
        })
    }

    fn deposit(&mut self) {
        let account = self.rng.random_range(0..self.accounts.len());
        self.books.issued += 1;
        let amount = self.books.teller * AMOUNTS_PER_TELLER + self.books.issued;
        let key = format!("teller-{}-{}", self.books.teller, self.books.issued);
        let request = client::deposit(&self.accounts[account], amount).key(&key);
        let reply = self.until_answered(&request);
        if reply.header("Idempotent-Replay") == Some("true") {
            self.books.replays += 1;
        }
        let sequence = reply.json()["sequence_number"]
            .as_u64()
            .expect("a success has a sequence number");
        self.known.learn(account, sequence);
        self.books.promises.push(Promise {
            account,
            amount,
            key,
            sequence,
            reply,
        });
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends once. An answer that arrives while the power is off counts for nothing: the process
    /// outlives its simulated power cut for a moment, and a real one would not have said it.
    fn ask(&mut self, request: &Request) -> io::Result<Response> {
        let before = self.switched.load(Ordering::SeqCst);
        let node = self.rng.random_range(0..self.nodes.len());
        let response = self.nodes[node].try_send(request)?;
        let same_period = before == self.switched.load(Ordering::SeqCst);
        if !(same_period && before.is_multiple_of(2)) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(response)
    }

    fn until_answered(&mut self, request: &Request) -> Response {
        let deadline = Instant::now() + self.patience;
        loop {
            let answer = self.ask(request);
            match &answer {
                Ok(response) if matches!(response.status, 200 | 201) => return response.clone(),
                Ok(response) if self.may_refuse(response) => {}
                Ok(response) => panic!(
                    "{request:?} was answered {}: {}",
                    response.status,
                    response.text()
                ),
                Err(_) => {}
            }
            assert!(
                Instant::now() < deadline,
                "{request:?} had no answer in {:?}; the last attempt: {answer:?}",
                self.patience
            );
            // The nodes of another test may have these addresses by now.
            assert!(
                !self.abandoned.load(Ordering::Relaxed),
                "the test has failed"
            );
            self.books.retries += 1;
            wait::let_pass(Duration::from_millis(3));
        }
    }

    /// Whether a node may say this at any time.
    fn may_refuse(&self, response: &Response) -> bool {
        client::may_come_again(response) || self.disk_fails && response.code() == "internal"
    }

    fn read(&mut self) {
        let account = self.rng.random_range(0..self.accounts.len());
        let known = self.known.of(account);
        let Ok(response) = self.ask(&client::fresh(&self.accounts[account])) else {
            return;
        };
        if response.status == 200 {
            let body = response.json();
            let sequence = body["sequence_number"].as_u64();
            let balance = body["state"]["balance_cents"].as_i64();
            self.saw(account, known, sequence, balance);
        }
        assert!(
            response.status == 200 || self.may_refuse(&response),
            "a fresh read was answered {}: {}",
            response.status,
            response.text()
        );
    }

    fn overdraw(&mut self) {
        let account = self.rng.random_range(0..self.accounts.len());
        let known = self.known.of(account);
        let Ok(response) = self.ask(&client::overdraw(&self.accounts[account])) else {
            return;
        };
        match response.status {
            422 => {
                let balance = response.json()["balance_cents"].as_i64();
                self.saw(account, known, None, balance);
            }
            _ if self.may_refuse(&response) => {}
            status => panic!("an overdraft was answered {status}: {}", response.text()),
        }
    }

    fn saw(&mut self, account: usize, known: u64, sequence: Option<u64>, balance: Option<i64>) {
        let balance = balance.expect("the answer names the balance");
        if let Some(sequence) = sequence {
            self.known.learn(account, sequence);
        }
        self.books.sightings.push(Sighting {
            account,
            sequence,
            known,
            balance,
        });
    }
}

/// Several tellers at work on the same accounts.
#[derive(Debug)]
pub(crate) struct Tellers {
    stop: Arc<AtomicBool>,
    switched: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    abandoned: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Books>>,
}

impl Tellers {
    /// Starts this many.
    pub(crate) fn start(
        count: i64,
        address: SocketAddr,
        accounts: &Arc<[String]>,
        rng: &mut StdRng,
    ) -> Self {
        Self::start_each(count, rng, |number, seed| {
            Teller::new(number, address, Arc::clone(accounts), seed)
        })
    }

    /// Starts this many clients of a node whose disk is going to fail.
    pub(crate) fn start_on_failing_disk(
        count: i64,
        address: SocketAddr,
        accounts: &Arc<[String]>,
        rng: &mut StdRng,
    ) -> Self {
        Self::start_each(count, rng, |number, seed| Teller {
            disk_fails: true,
            ..Teller::new(number, address, Arc::clone(accounts), seed)
        })
    }

    /// Starts this many clients of a cluster of which a node's files are going to be damaged, with a
    /// pause between two requests of each.
    pub(crate) fn start_on_damaged_files(
        count: i64,
        addresses: &[SocketAddr],
        accounts: &Arc<[String]>,
        pace: Duration,
        rng: &mut StdRng,
    ) -> Self {
        Self::start_each(count, rng, |number, seed| Teller {
            disk_fails: true,
            ..Teller::anywhere(number, addresses, accounts, pace, seed)
        })
    }

    /// Starts this many clients of a cluster: each goes to whichever node can serve it.
    pub(crate) fn start_anywhere(
        count: i64,
        addresses: &[SocketAddr],
        accounts: &Arc<[String]>,
        rng: &mut StdRng,
    ) -> Self {
        Self::start_paced(count, addresses, accounts, Duration::ZERO, rng)
    }

    /// The same, with a pause between two requests of each.
    pub(crate) fn start_paced(
        count: i64,
        addresses: &[SocketAddr],
        accounts: &Arc<[String]>,
        pace: Duration,
        rng: &mut StdRng,
    ) -> Self {
        Self::start_each(count, rng, |number, seed| {
            Teller::anywhere(number, addresses, accounts, pace, seed)
        })
    }

    /// Starts this many clients that use all of these nodes alike: each attempt, a retry as well, goes
    /// to any of them.
    pub(crate) fn start_everywhere(
        count: i64,
        addresses: &[SocketAddr],
        accounts: &Arc<[String]>,
        pace: Duration,
        rng: &mut StdRng,
    ) -> Self {
        Self::start_each(count, rng, |number, seed| {
            let patient = |address| Http::new(address).patient_for(Duration::from_secs(5));
            Teller {
                nodes: addresses.iter().copied().map(patient).collect(),
                pace,
                ..Teller::new(number, addresses[0], Arc::clone(accounts), seed)
            }
        })
    }

    fn start_each(count: i64, rng: &mut StdRng, teller: impl Fn(i64, u64) -> Teller) -> Self {
        let (stop, switched, answered) = (Arc::default(), Arc::default(), Arc::default());
        let abandoned = Arc::default();
        let mut known = None;
        let threads = (1..=count)
            .map(|number| {
                let mut teller = teller(number, rng.random());
                teller.switched = Arc::clone(&switched);
                teller.answered = Arc::clone(&answered);
                teller.abandoned = Arc::clone(&abandoned);
                teller.known = known.get_or_insert_with(|| teller.known.clone()).clone();
                teller.work(Arc::clone(&stop))
            })
            .collect();
        Self {
            stop,
            switched,
            answered,
            abandoned,
            threads,
        }
    }

    /// Waits until so many more commands are answered, so that harm meets a node at work, however
    /// slow the machine is.
    pub(crate) fn progress(&mut self, more: u64) {
        let goal = self.answered.load(Ordering::Relaxed) + more;
        wait::until("tellers are answered", Duration::from_secs(180), || {
            self.check();
            (self.answered.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }

    /// Says that the power is about to fail, or that it is back.
    pub(crate) fn switch_power(&self) {
        self.switched.fetch_add(1, Ordering::SeqCst);
    }

    /// Panics when one of them had to give up, so that a long run ends early.
    pub(crate) fn check(&mut self) {
        if let Some(at) = self.threads.iter().position(JoinHandle::is_finished) {
            drop(join(self.threads.swap_remove(at)));
            panic!("a teller stopped before its time");
        }
    }

    /// Stops them, each after its last command is answered, and takes their books.
    pub(crate) fn stop(mut self) -> Vec<Books> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).map(join).collect()
    }
}

impl Drop for Tellers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.abandoned.store(true, Ordering::Relaxed);
    }
}

fn join(thread: JoinHandle<Books>) -> Books {
    match thread.join() {
        Ok(books) => books,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Opens accounts named `a-0`, `a-1`, ...
pub(crate) fn open_accounts(address: SocketAddr, count: usize) -> Arc<[String]> {
    let mut http = Http::new(address);
    (0..count)
        .map(|n| {
            let id = format!("a-{n}");
            client::expect_success(&mut http, &client::open(&id));
            id
        })
        .collect()
}
