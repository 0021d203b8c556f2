//! The database of read models stands still, cannot be reached or is full, while commands go on.
//!
//! A *reader* stands at each node: it pays into an account of its own and reads the row, with the
//! position of that deposit and without. What it is shown must have the deposit, or say that it lacks
//! it, or be an honest refusal; and it must come in time.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::net::{NODES, Net};
use super::reading::{check_accounts, histories};
use super::sentries::Seen;
use super::site::{Load, Site, percentile};
use crate::support::client;
use crate::support::http::{Http, Request};
use crate::support::postgres::{self, Postgres};
use crate::support::scratch_disk::LoopDisk;
use crate::support::{measured, ports, skipped, temp_dir, wait};

#[path = "database_changes.rs"]
mod changes;

/// The database that a server makes first.
const DATABASE: &str = "test_0";
const DISK_BYTES: u64 = 256 * 1024 * 1024;
/// Past every time limit of a session but the one on a process that stands still for a minute.
const LASTS: Duration = Duration::from_secs(16);
const CALM: Duration = Duration::from_secs(4);
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// `http.request_timeout_ms` and room for a busy machine.
const ANSWERED_WITHIN: Duration = Duration::from_secs(18);
/// Commands are not to notice. The machine does, and may begin other work at any time; commands that
/// the database holds up would come to next to nothing.
const LEAST_RATE: f64 = 0.3;
/// Sentries do not retry, and a busy machine may elect a leader in between.
const LEAST_SHARE: f64 = 0.9;
/// The same of a machine that stood still for a while, and lost leaders by that.
const LEAST_OF_A_BUSY_MACHINE: (f64, f64) = (0.1, 0.5);

/// What a reader was told.
#[derive(Debug, Clone)]
struct Read {
    began: Instant,
    took: Duration,
    status: u16,
}

/// See the file's description.
struct Readers {
    log: Arc<Mutex<Vec<Read>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    fn start(site: &Site) -> Self {
        let (log, stop) = (
            Arc::<Mutex<Vec<Read>>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let threads = NODES.map(|node| {
            let address = site.cluster.address(node);
            let (log, stop) = (Arc::clone(&log), Arc::clone(&stop));
            std::thread::spawn(move || read(node, address, &log, &stop))
        });
        Self {
            log,
            stop,
            threads: threads.into(),
        }
    }

    fn since(&self, from: Instant) -> Vec<Read> {
        let log = self.log.lock().expect("no reader panics");
        log.iter()
            .filter(|read| read.began >= from)
            .cloned()
            .collect()
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no reader was told a lie");
        }
    }
}

fn read(node: u64, address: SocketAddr, log: &Mutex<Vec<Read>>, stop: &AtomicBool) {
    let mut http = Http::new(address).patient_for(ANSWERED_WITHIN + Duration::from_secs(5));
    let id = format!("reader-{node}");
    let mut stored = |request: &Request| {
        wait::until("a command is stored", BACK_WITHIN, || {
            let answer = http.try_send(request).ok()?;
            let position = answer.header("Phalanx-Position").map(str::to_owned);
            position.filter(|_| matches!(answer.status, 200 | 201))
        })
    };
    stored(&client::open(&id));
    let mut views = Http::new(address).patient_for(ANSWERED_WITHIN + Duration::from_secs(5));
    for balance in 1_i64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let position = stored(&client::deposit(&id, 1).key(&format!("d-{balance}")));
        for fresh in [format!("?after={position}&wait=500ms"), String::new()] {
            let target = format!("/v1/views/accounts/{id}{fresh}");
            let began = Instant::now();
            let answer = views.try_send(&Request::get(&target));
            let answer = answer.unwrap_or_else(|error| panic!("{target}: {error}"));
            let took = began.elapsed();
            assert!(took < ANSWERED_WITHIN, "{target}: {took:?}");
            match answer.status {
                200 => {
                    let row = answer.json();
                    let shown = row["balance_cents"].as_i64().expect("a balance");
                    // Nobody else pays in, so it has all of it or says that it lacks some.
                    let behind = row["lag"]["events"].as_u64().expect("a lag");
                    let honest = shown == balance || (fresh.is_empty() && behind > 0);
                    assert!(honest, "node {node}, {target}, {balance}: {row}");
                }
                503 => assert!(answer.header("Retry-After").is_some(), "{}", answer.text()),
                504 => assert_eq!(answer.code(), "view-behind", "{}", answer.text()),
                // The row is not there before its first event is taken in.
                404 if fresh.is_empty() && answer.code() == "row-not-found" => {}
                status => panic!("{target}: {status} {}", answer.text()),
            }
            let status = answer.status;
            let seen = Read {
                began,
                took,
                status,
            };
            log.lock().expect("no reader panics").push(seen);
        }
        wait::let_pass(Duration::from_millis(40));
    }
}

/// A cluster whose read models are in a database of its own, with the port of that.
fn started(name: &str, data: Option<&Path>) -> Option<(Site, Postgres, u16)> {
    let port = ports::free_address().port();
    let site = Site::start_with(name, |_, setup| {
        let address = Net::outside_of(setup.address, port);
        setup.set("PROJECTIONS__STORE", postgres::url(address, DATABASE))
    })?;
    let address = Net::outside_of(site.cluster.address(1), port);
    let server = match Postgres::start_at(data, Some(address)) {
        Ok(server) => server,
        Err(why) => {
            skipped(name, &why);
            return None;
        }
    };
    assert_eq!(server.database(), DATABASE);
    Some((site, server, port))
}

/// Who writes, as itself says.
fn writer_of(site: &Site) -> u64 {
    wait::until("somebody writes", BACK_WITHIN, || {
        NODES.into_iter().find_map(|node| {
            let mut http = Http::new(site.cluster.address(node));
            let told = http.try_send(&Request::get("/v1/projections")).ok()?.json();
            let standing = &told["store"]["standing"];
            (standing["state"] == "writing").then_some(node)
        })
    })
}

/// A cluster on a database of its own.
struct Base {
    name: &'static str,
    site: Site,
    load: Load,
    readers: Readers,
    server: Postgres,
    port: u16,
}

impl Base {
    fn start(name: &'static str, data: Option<&Path>) -> Option<Self> {
        let (mut site, server, port) = started(name, data)?;
        let load = site.load();
        let readers = Readers::start(&site);
        let base = Self {
            name,
            site,
            load,
            readers,
            server,
            port,
        };
        base.wait_back("at first");
        Some(base)
    }

    /// Who writes, as a node that can look says.
    fn writer(&self) -> u64 {
        writer_of(&self.site)
    }

    /// Who writes now, as another node than this one says.
    fn writer_but(&self, node: u64) -> Option<u64> {
        let other = *Site::others(node).first()?;
        let mut http = Http::new(self.site.cluster.address(other));
        let told = http.try_send(&Request::get("/v1/projections")).ok()?.json();
        told["store"]["standing"]["writer"].as_str()?.parse().ok()
    }

    /// How many events the accounts are behind at a node.
    fn lag(&self) -> Option<u64> {
        let mut http = Http::new(self.site.cluster.address(1));
        let told = http
            .try_send(&Request::get("/v1/projections/accounts"))
            .ok()?
            .json();
        told["lag"]["events"].as_u64()
    }

    /// Deposits of sentries that were acknowledged in a second, and the share of those that were asked
    /// for.
    fn writes(&self, from: Instant, to: Instant) -> (f64, f64) {
        let seen = self.load.sentries.since(from);
        let asked: Vec<&Seen> = seen
            .iter()
            .filter(|s| s.is_write() && s.began < to)
            .collect();
        let done = asked.iter().filter(|s| s.is_done()).count() as f64;
        (
            done / (to - from).as_secs_f64(),
            done / (asked.len().max(1)) as f64,
        )
    }

    /// Harms the database for a while, holds what commands and queries did meanwhile against the time
    /// before, and waits until all is back.
    fn harmed<H>(&mut self, what: &str, harm: impl FnOnce(&mut Self) -> H) {
        let before = Instant::now();
        wait::let_pass(CALM);
        let began = Instant::now();
        let harm = harm(self);
        let left = LASTS.saturating_sub(began.elapsed());
        wait::let_pass(left);
        let ended = Instant::now();
        let (calm, _) = self.writes(before, began);
        let (rate, share) = self.writes(began, ended);
        drop(harm);
        self.site.net.mend();
        if !self.server.answers() {
            // It has ended itself, as one does that has no space for its log; somebody starts it.
            self.server.down();
            self.server.up();
        }
        let back = self.wait_back(what);
        let mut reads: Vec<Read> = self.readers.since(began);
        reads.retain(|read| read.began < ended);
        let mut times: Vec<Duration> = reads.iter().map(|read| read.took).collect();
        times.sort_unstable();
        let told = |status| reads.iter().filter(|read| read.status == status).count();
        measured(
            &format!("{}, {what}", self.name),
            format!(
                "{rate:.0} deposits/s after {calm:.0}, {:.1} % of those asked for; reads: {} answered, {} \
                 behind, {} refused, p99 {:?}; views back after {back:?}",
                share * 100.0,
                told(200),
                told(504),
                told(503),
                percentile(&times, 99),
            ),
        );
        let (least_rate, least_share) = match self.site.calm.held(before, ended) {
            true => (LEAST_RATE, LEAST_SHARE),
            false => LEAST_OF_A_BUSY_MACHINE,
        };
        assert!(
            rate >= least_rate * calm,
            "{what}: {rate:.0}/s after {calm:.0}/s"
        );
        assert!(
            share > least_share,
            "{what}: {share} of the deposits were acknowledged"
        );
        assert!(told(503) + told(504) > 0, "{what}: nobody noticed");
        self.load.check();
    }

    /// Waits until every node's views have taken in what is stored now.
    fn wait_back(&self, what: &str) -> Duration {
        let began = Instant::now();
        for node in NODES {
            let mut http = Http::new(self.site.cluster.address(node));
            let back = wait::poll(BACK_WITHIN, || {
                let told = http.try_send(&Request::get("/v1/projections")).ok()?.json();
                let all = told["projections"].as_array()?;
                let near = |p: &serde_json::Value| p["lag"]["seconds"].as_f64() < Some(1.0);
                let runs = |p: &serde_json::Value| p["state"] == "running";
                let read = http
                    .try_send(&Request::get("/v1/views/account_totals"))
                    .ok()?;
                (read.status == 200 && all.iter().all(|p| runs(p) && near(p))).then_some(())
            });
            assert!(
                back.is_some(),
                "{what}: views of node {node} are not back\n{}",
                self.site.logs()
            );
        }
        began.elapsed()
    }

    /// Stops everybody; the views of every node are what the histories give, to the cent.
    fn finish(self) {
        self.readers.stop();
        let pens = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted";
        assert_eq!(
            self.server.sql(DATABASE, pens),
            "1",
            "one node holds the pen"
        );
        self.site.finish_and(self.load, |site| {
            let addresses = site.cluster.addresses();
            let page = Http::new(addresses[0])
                .send_until_answered(&Request::get("/v1/views/accounts?limit=1000"))
                .json();
            let rows = page["rows"].as_array().expect("rows");
            let id = |row: &serde_json::Value| row["id"].as_str().expect("an id").to_owned();
            let ids: Vec<String> = rows.iter().map(id).collect();
            assert!(ids.iter().any(|id| *id == "reader-3"), "{ids:?}");
            let expected = histories(&mut site.cluster.anywhere(), &ids);
            for address in addresses {
                check_accounts(&mut Http::new(address), &expected);
            }
        });
    }
}

#[test]
fn a_database_that_stands_still_holds_up_no_command_and_is_caught_up_with() {
    let Some(mut base) = Base::start("database that stands still", None) else {
        return;
    };
    base.harmed("all of it", |base| base.server.freeze());
    // The session of whoever writes, with its lock: nobody else can write meanwhile.
    let session = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted";
    let session = base.server.sql(DATABASE, session);
    let session = session.parse().expect("one holds the pen");
    base.harmed("the session that writes", |_| {
        Postgres::freeze_session(session)
    });
    base.finish();
}

#[test]
fn a_node_without_a_way_to_the_database_hands_writing_over_and_comes_back() {
    let Some(mut base) = Base::start("database that cannot be reached", None) else {
        return;
    };
    let writer = base.writer();
    base.harmed("by the node that writes", |base| {
        base.site.net.part(&[writer], base.port);
        let next = wait::until("another node writes", BACK_WITHIN, || {
            let writer_now = base.writer_but(writer)?;
            (writer_now != writer).then_some(writer_now)
        });
        measured(
            "database that cannot be reached, writer before and after",
            format!("{writer} {next}"),
        );
    });
    base.harmed("by anybody", |base| base.site.net.part(&NODES, base.port));
    base.finish();
}

#[test]
fn a_full_disk_under_the_database_holds_up_no_command_and_is_caught_up_with() {
    let name = "full disk under the database";
    let directory = temp_dir();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).expect("it can be opened");
    let disk = match LoopDisk::create(directory.path(), DISK_BYTES) {
        Ok(disk) => disk,
        Err(why) => return skipped(name, &why),
    };
    let data = disk.path().join("data");
    std::fs::create_dir(&data).expect("a directory can be made");
    let Some(mut base) = Base::start(name, Some(&data)) else {
        return;
    };
    let ballast = disk.path().join("ballast");
    base.harmed("to the last byte", |base| Ballast::fill(&ballast, base));
    base.finish();
}

/// What takes all space of a disk, until it is dropped.
struct Ballast(std::path::PathBuf);

impl Ballast {
    fn fill(path: &Path, base: &Base) -> Self {
        let ballast = Self(path.to_owned());
        let mut file = File::create(path).expect("a file can be made");
        let zeros = vec![0; 64 * 1024];
        let full = wait::poll(BACK_WITHIN, || file.write_all(&zeros).err());
        assert!(full.is_some(), "the disk does not fill up");
        // What was free within its files is used up by and by.
        let lags = wait::poll(LASTS, || base.lag().filter(|lag| *lag > 100));
        measured(
            "full disk under the database, events behind",
            format!("{lags:?}"),
        );
        ballast
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).expect("it is there");
    }
}
