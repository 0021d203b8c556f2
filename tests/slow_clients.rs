//! A thousand clients that send half a header, nothing at all, or a body that never comes: the
//! others are served as before, and the slow ones lose their connections.
//!
//! The slow ones come back as soon as they are thrown out, spread evenly over time, so about a thousand
//! are connected as long as the others are measured; the node's own count says so. The others are
//! measured alone and beside them, in turns. What is asserted is that each of their requests succeeds
//! and none has to wait for a slow client's time limit. The ratio of their latencies is printed and
//! held against no limit: a machine that begins other work in the wrong seconds breaks any that would
//! mean something.

#![expect(clippy::panic, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use support::client;
use support::http::{Http, command_target};
use support::node::{Node, NodeSetup};
use support::{measured, temp_dir, wait};

const SLOW: usize = 1_000;
/// What the node must count at most looks; a slow client that was thrown out needs a moment to come back.
const LEAST_CONNECTED: f64 = 900.0;
const NORMAL: usize = 4;
const PAIRS: usize = 3;
const LASTS: Duration = Duration::from_secs(3);
/// What a slow client is given, for its header as for its body.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at who was thrown out.
const LOOK: Duration = Duration::from_millis(10);
/// Until then each slow client must have been thrown out, on a busy machine as well.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection that stops in the middle of its request.
struct Slow {
    socket: TcpStream,
    came: Instant,
}

impl Slow {
    fn come(address: SocketAddr, n: usize) -> Self {
        let came = Instant::now();
        let mut socket = TcpStream::connect(address).expect("a slow client is let in");
        let target = command_target("account", "slow", "OpenAccount");
        let half_header = format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Le");
        let slow_body = format!(
            "POST {target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
             Content-Length: 100\r\n\r\n{{\"owner\":"
        );
        let bytes = match n % 3 {
            0 => half_header,
            1 => slow_body,
            _ => String::new(),
        };
        socket.write_all(bytes.as_bytes()).expect("a few bytes fit");
        socket.set_nonblocking(true).expect("a socket can be");
        Self { socket, came }
    }

    /// Whether it may have been thrown out by now.
    fn is_due(&self) -> bool {
        self.came.elapsed() > TIMEOUT * 9 / 10
    }

    /// Whether the node has told it to go, or closed.
    fn is_thrown_out(&mut self) -> bool {
        let waits = |error: &std::io::Error| error.kind() == ErrorKind::WouldBlock;
        let out = !self.socket.read(&mut [0; 4096]).as_ref().is_err_and(waits);
        assert!(
            out || self.came.elapsed() < PATIENCE,
            "a slow client is still connected after {:?}",
            self.came.elapsed()
        );
        out
    }
}

/// Slow clients that come back until they are called off.
struct Crowd {
    stop: Arc<AtomicBool>,
    came: Arc<AtomicUsize>,
    thread: JoinHandle<VecDeque<Slow>>,
}

impl Crowd {
    /// Starts them one after the other within the time that each is given, and waits for the last.
    fn gather(address: SocketAddr) -> Self {
        let (stop, came) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&came));
        let thread = std::thread::spawn(move || come_and_go(address, &stopped, &count));
        let crowd = Self { stop, came, thread };
        wait::until("all slow clients have come", PATIENCE, || {
            let all = crowd.came() >= SLOW || crowd.thread.is_finished();
            all.then_some(())
        });
        crowd
    }

    /// How often one came.
    fn came(&self) -> usize {
        self.came.load(Ordering::Relaxed)
    }

    /// Nobody comes back from now on; gives those who are connected.
    fn call_off(self) -> VecDeque<Slow> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no slow client is kept for ever")
    }
}

fn come_and_go(address: SocketAddr, stop: &AtomicBool, came: &AtomicUsize) -> VecDeque<Slow> {
    let began = Instant::now();
    let pause = TIMEOUT / u32::try_from(SLOW).expect("fits");
    // Whoever came first is thrown out first, or almost.
    let mut connected = VecDeque::new();
    let come = |connected: &mut VecDeque<Slow>| {
        let n = came.fetch_add(1, Ordering::Relaxed);
        connected.push_back(Slow::come(address, n));
    };
    while !stop.load(Ordering::Relaxed) {
        while connected.len() < SLOW
            && began.elapsed() > pause * came.load(Ordering::Relaxed) as u32
        {
            come(&mut connected);
        }
        let mut at = 0;
        while connected.get(at).is_some_and(Slow::is_due) {
            if connected[at].is_thrown_out() {
                connected.remove(at);
                come(&mut connected);
            } else {
                at += 1;
            }
        }
        wait::let_pass(LOOK);
    }
    connected
}

/// Latencies of normal clients for a while, sorted; every request is answered rightly.
fn serve_normal_clients(address: SocketAddr) -> Vec<Duration> {
    let mut all: Vec<Duration> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..NORMAL)
            .map(|number| scope.spawn(move || deposits(address, number)))
            .collect();
        clients
            .into_iter()
            .flat_map(|client| client.join().expect("a normal client finishes"))
            .collect()
    });
    all.sort_unstable();
    all
}

fn deposits(address: SocketAddr, number: usize) -> Vec<Duration> {
    let mut http = Http::new(address);
    let id = format!("normal-{number}");
    client::expect_success(&mut http, &client::open(&id));
    let began = Instant::now();
    let mut times = Vec::new();
    while began.elapsed() < LASTS {
        let started = Instant::now();
        client::expect_success(&mut http, &client::deposit(&id, 1));
        times.push(started.elapsed());
    }
    times
}

/// The same while the node is asked again and again how many are connected; gives that, sorted, too.
fn serve_beside(node: &Node) -> (Vec<Duration>, Vec<f64>) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut seen = Vec::new();
            while !done.load(Ordering::Relaxed) {
                seen.extend(node.metric("phalanx_http_connections"));
                wait::let_pass(LASTS / 20);
            }
            seen
        });
        // Set even when a request fails, as the scope waits for who looks.
        let times = scope.spawn(|| serve_normal_clients(node.address)).join();
        done.store(true, Ordering::Relaxed);
        let mut seen = looks.join().expect("whoever looks finishes");
        seen.sort_by(f64::total_cmp);
        let times = times.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (times, seen)
    })
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}

#[test]
fn a_thousand_slow_clients_do_not_keep_others_from_being_served_and_are_thrown_out() {
    let directory = temp_dir();
    let node = NodeSetup::new(directory.path())
        .set("HTTP__HEADER_TIMEOUT_MS", TIMEOUT.as_millis())
        .set("HTTP__BODY_TIMEOUT_MS", TIMEOUT.as_millis())
        .start();
    serve_normal_clients(node.address);
    let mut last = VecDeque::new();
    for pair in 1..=PAIRS {
        let alone = serve_normal_clients(node.address);
        let crowd = Crowd::gather(node.address);
        let came = crowd.came();
        let (beside, connected) = serve_beside(&node);
        let back = crowd.came() - came;
        last = crowd.call_off();
        let (least, median) = (connected[0], connected[connected.len() / 2]);
        measured(
            &format!("slow clients, pair {pair}"),
            format!("{least} to {median} (median) connected, {back} came back meanwhile"),
        );
        assert!(median >= LEAST_CONNECTED, "{connected:?}");
        assert!(back > 0, "nobody was thrown out and came back");
        for percent in [50, 99] {
            let (before, with) = (percentile(&alone, percent), percentile(&beside, percent));
            let ratio = with.as_secs_f64() / before.as_secs_f64();
            measured(
                &format!("p{percent} with {SLOW} slow clients, pair {pair}"),
                format!("{with:?} against {before:?} alone, ratio {ratio:.2}"),
            );
        }
        // One of each client may have met a machine that stood still.
        let longest = beside[beside.len() - 1 - NORMAL.min(beside.len() / 2)];
        assert!(longest < TIMEOUT, "normal clients waited {longest:?}");
        if pair < PAIRS {
            last.clear();
            wait::until("the slow clients are gone", PATIENCE, || {
                let connected = node.metric("phalanx_http_connections")?;
                (connected < 10.0).then_some(())
            });
        }
    }
    assert_eq!(last.len(), SLOW);
    for slow in &mut last {
        wait::until("a slow client is thrown out", PATIENCE, || {
            slow.is_thrown_out().then_some(())
        });
    }
    let response = node.send(&client::fresh("slow"));
    assert_eq!(response.status, 404, "half a request has no effect");
    client::expect_success(&mut node.client(), &client::open("slow"));
}
