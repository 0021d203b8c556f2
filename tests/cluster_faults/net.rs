//! A network of the test's own: each node in a network namespace, all of them on one bridge, the
//! test's clients on it as well.
//!
//! ```text
//! test (198.18.k.1) --- phxK --- bridge in namespace phxK-hub --- phxK-1 (198.18.k.11)
//!                                                             --- phxK-2 (198.18.k.12)
//!                                                             --- phxK-3 (198.18.k.13)
//! ```
//!
//! Owns namespaces, links and the rules that harm them. Between nodes packets are dropped on the
//! bridge, all by one replacement of its rules, so a cut has one moment; the way between clients and
//! nodes stays whole. Refuses to touch any namespace, link or rule that it did not make, the rules of
//! the machine included. Invariant: no two networks have the same number, and the next owner of a
//! number removes what a killed owner left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::fault::{is_there, run};
use crate::support::{is_root, skipped};

/// Networks that may exist at the same time.
const NUMBERS: u8 = 200;
const HTTP_PORT: u16 = 8080;
const MEMBER_PORT: u16 = 7080;
pub(crate) const NODES: [u64; 3] = [1, 2, 3];

/// What is needed beside root, and where Debian has it.
const TOOLS: [(&str, &str); 4] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
];

/// What happens to packets on their way from one node to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    /// None arrives.
    Cut,
    /// So many of a thousand do not arrive, picked at random.
    Loss(u16),
    /// Each is answered with a TCP reset and does not arrive.
    Reset,
}

/// See the file's description.
#[derive(Debug)]
pub(crate) struct Net {
    number: u8,
    harms: BTreeMap<(u64, u64), Harm>,
    /// Nodes that do not reach a port beside the bridge, where the test's clients are.
    parted: BTreeSet<(u64, u16)>,
    /// The rules that each namespace has now.
    applied: BTreeMap<String, String>,
    rules_file: PathBuf,
    /// Locked as long as this process owns the number; the kernel unlocks it when the process dies.
    _claim: File,
}

impl Net {
    /// Makes a network; without one, says why this test is skipped.
    pub(crate) fn create(test: &str, directory: &Path) -> Option<Self> {
        if let Some(why) = missing() {
            skipped(test, &why);
            return None;
        }
        let (number, claim) = claim();
        let mut net = Self {
            number,
            harms: BTreeMap::new(),
            parted: BTreeSet::new(),
            applied: BTreeMap::new(),
            rules_file: directory.join("rules.nft"),
            _claim: claim,
        };
        // A container may have the tools and root but not the right, a kernel no bridge rules.
        match net.build().and_then(|()| net.apply()) {
            Ok(()) => Some(net),
            Err(why) => {
                skipped(test, &why);
                None
            }
        }
    }

    fn name(&self) -> String {
        format!("phx{}", self.number)
    }

    fn namespace(&self, node: u64) -> String {
        format!("{}-{node}", self.name())
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name())
    }

    fn host(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.number, last)
    }

    fn host_of(&self, node: u64) -> Ipv4Addr {
        self.host(10 + u8::try_from(node).expect("three nodes"))
    }

    /// Where a node's clients connect.
    pub(crate) fn http_address(&self, node: u64) -> SocketAddr {
        (self.host_of(node), HTTP_PORT).into()
    }

    /// Where the other nodes connect.
    pub(crate) fn member_address(&self, node: u64) -> SocketAddr {
        (self.host_of(node), MEMBER_PORT).into()
    }

    /// What starts a process in a node's namespace and becomes it. The process dies with the thread
    /// that starts it, so nothing runs on when a test is killed. (`ip netns exec` would give it mounts
    /// of its own, which keep the file systems of other tests busy.)
    pub(crate) fn wrapper(&self, node: u64) -> Vec<String> {
        let namespace = format!("--net=/run/netns/{}", self.namespace(node));
        ["setpriv", "--pdeathsig", "KILL", "nsenter", &namespace]
            .map(str::to_owned)
            .to_vec()
    }

    fn build(&self) -> Result<(), String> {
        let (name, hub) = (self.name(), self.hub());
        ip(&format!("netns add {hub}"))?;
        ip(&format!("-n {hub} link add name bridge type bridge"))?;
        ip(&format!("-n {hub} link set dev bridge up"))?;
        ip(&format!(
            "link add name {name} type veth peer name clients netns {hub}"
        ))?;
        ip(&format!("-n {hub} link set dev clients master bridge up"))?;
        ip(&format!("addr add {}/24 dev {name}", self.host(1)))?;
        ip(&format!("link set dev {name} up"))?;
        for node in NODES {
            let (inside, address) = (self.namespace(node), self.host_of(node));
            ip(&format!("netns add {inside}"))?;
            ip(&format!(
                "-n {hub} link add name node{node} type veth peer name eth0 netns {inside}"
            ))?;
            ip(&format!(
                "-n {hub} link set dev node{node} master bridge up"
            ))?;
            ip(&format!("-n {inside} link set dev lo up"))?;
            ip(&format!("-n {inside} addr add {address}/24 dev eth0"))?;
            ip(&format!("-n {inside} link set dev eth0 up"))?;
        }
        Ok(())
    }

    /// Harms several ways at the same moment.
    pub(crate) fn harm(&mut self, ways: &[(u64, u64)], harm: Harm) {
        for (from, to) in ways {
            assert_ne!(from, to);
            self.harms.insert((*from, *to), harm);
        }
        self.apply().expect("rules can be set");
    }

    /// Cuts nodes off from a server of the test, in both directions.
    pub(crate) fn part(&mut self, nodes: &[u64], port: u16) {
        self.parted.extend(nodes.iter().map(|node| (*node, port)));
        self.apply().expect("rules can be set");
    }

    /// Where a server of the test listens.
    pub(crate) fn outside_of(node: SocketAddr, port: u16) -> SocketAddrV4 {
        let SocketAddr::V4(node) = node else {
            panic!("{node} is none of these networks");
        };
        let [a, b, number, _] = node.ip().octets();
        SocketAddrV4::new(Ipv4Addr::new(a, b, number, 1), port)
    }

    /// Heals everything at the same moment.
    pub(crate) fn mend(&mut self) {
        self.parted.clear();
        self.harms.clear();
        self.apply().expect("rules can be set");
    }

    /// Makes the rules what `harms` says.
    fn apply(&mut self) -> Result<(), String> {
        let mut drops = String::new();
        let mut resets: BTreeMap<u64, String> = BTreeMap::new();
        for ((from, to), harm) in &self.harms {
            let way = format!("iifname \"node{from}\" oifname \"node{to}\"");
            let line = match harm {
                Harm::Cut => writeln!(drops, "{way} drop"),
                Harm::Loss(permille) => writeln!(
                    drops,
                    "{way} ether type ip numgen random mod 1000 < {permille} drop"
                ),
                // A bridge cannot answer, so the receiver does.
                Harm::Reset => writeln!(
                    resets.entry(*to).or_default(),
                    "ip saddr {} meta l4proto tcp reject with tcp reset",
                    self.host_of(*from)
                ),
            };
            line.map_err(|error| error.to_string())?;
        }
        for (node, port) in &self.parted {
            let there = format!("iifname \"node{node}\" oifname \"clients\"");
            let back = format!("iifname \"clients\" oifname \"node{node}\"");
            writeln!(drops, "{there} meta l4proto tcp tcp dport {port} drop")
                .and_then(|()| writeln!(drops, "{back} meta l4proto tcp tcp sport {port} drop"))
                .map_err(|error| error.to_string())?;
        }
        self.replace_rules(&self.hub(), "bridge", "forward", &drops)?;
        for node in NODES {
            let rules = resets.remove(&node).unwrap_or_default();
            self.replace_rules(&self.namespace(node), "inet", "input", &rules)?;
        }
        Ok(())
    }

    /// Replaces a namespace's only table in one step.
    fn replace_rules(
        &mut self,
        namespace: &str,
        family: &str,
        hook: &str,
        rules: &str,
    ) -> Result<(), String> {
        if self.applied.get(namespace).is_some_and(|now| now == rules) {
            return Ok(());
        }
        let text = format!(
            "table {family} faults\ndelete table {family} faults\ntable {family} faults {{\n\
             chain harm {{\ntype filter hook {hook} priority 0; policy accept;\n{rules}}}\n}}\n"
        );
        std::fs::write(&self.rules_file, text).map_err(|error| error.to_string())?;
        let inside = format!("--net=/run/netns/{namespace}");
        let file = self.rules_file.to_string_lossy();
        run("nsenter", &[&inside, "nft", "-f", &file])?;
        self.applied.insert(namespace.to_owned(), rules.to_owned());
        Ok(())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        remove(&self.name());
    }
}

fn ip(words: &str) -> Result<(), String> {
    let words: Vec<&str> = words.split(' ').collect();
    run("ip", &words).map(drop)
}

/// Why there can be no network here.
fn missing() -> Option<String> {
    if !is_root() {
        return Some("only root may make network namespaces".to_owned());
    }
    let (tool, package) = TOOLS.iter().find(|(tool, _)| !is_there(tool))?;
    Some(format!(
        "`{tool}` is missing; on Debian: apt-get install {package}"
    ))
}

/// Takes the lowest number that nobody has, and removes what its owner before left behind.
fn claim() -> (u8, File) {
    for number in 0..NUMBERS {
        let file = File::create(format!("/run/phalanx-test-net-{number}"))
            .expect("root can write to /run");
        if file.try_lock().is_err() {
            continue;
        }
        remove(&format!("phx{number}"));
        let subnet = format!("198.18.{number}.0/24");
        let used = run("ip", &["-o", "addr", "show", "to", &subnet]);
        if used.is_ok_and(|used| used.is_empty()) {
            return (number, file);
        }
    }
    panic!("all {NUMBERS} test networks are taken");
}

/// Removes a network with whatever still runs in it.
fn remove(name: &str) {
    // The link goes first: namespaces take a moment to be gone with theirs.
    if Path::new("/sys/class/net").join(name).exists() {
        drop(ip(&format!("link del dev {name}")));
    }
    for part in ["1", "2", "3", "hub"] {
        let namespace = format!("{name}-{part}");
        if !Path::new("/run/netns").join(&namespace).exists() {
            continue;
        }
        let left = run("ip", &["netns", "pids", &namespace]).unwrap_or_default();
        for process in left.lines().filter_map(|line| line.trim().parse().ok()) {
            if let Some(process) = Pid::from_raw(process) {
                let _gone = kill_process(process, Signal::KILL);
            }
        }
        drop(ip(&format!("netns del {namespace}")));
    }
}
