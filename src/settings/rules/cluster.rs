//! The rules of `[cluster]`: names, addresses and members that can find each other and are not
//! taken for one another.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Violation, is_name};
use crate::settings::{ClusterSettings, Settings};

/// Adds every broken rule of the section.
pub(super) fn check(settings: &Settings, found: &mut Vec<Violation>) {
    let cluster = &settings.cluster;
    let name = &cluster.name;
    if !is_name(name, |letter| {
        letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-'
    }) {
        let rule = format!("`cluster.name` = {name:?} must be 1 to 64 characters of a-z 0-9 -");
        found.push(Violation::new(&["cluster.name"], rule));
    }
    listeners(settings.http.listen, cluster.listen, found);
    advertised(cluster, found);
    peers(settings, found);
}

/// Two listeners cannot share a port on one address; a wildcard covers every address.
fn listeners(http: SocketAddr, members: SocketAddr, found: &mut Vec<Violation>) {
    let same_address =
        http.ip() == members.ip() || http.ip().is_unspecified() || members.ip().is_unspecified();
    if http.port() != 0 && http.port() == members.port() && same_address {
        let rule = format!(
            "`cluster.listen` = {members} must not share its port with `http.listen` = {http}"
        );
        found.push(Violation::new(&["cluster.listen", "http.listen"], rule));
    }
}

fn advertised(cluster: &ClusterSettings, found: &mut Vec<Violation>) {
    let keys = ["cluster.advertise", "cluster.listen", "cluster.peers"];
    if !cluster.advertise.is_empty() && !is_host_port(&cluster.advertise) {
        let rule = format!(
            "`cluster.advertise` = {:?} must be empty or host:port that others can reach: an IPv6 \
             address in brackets, and no wildcard",
            cluster.advertise
        );
        found.push(Violation::new(&["cluster.advertise"], rule));
    }
    let reachable = !cluster.listen.ip().is_unspecified() && cluster.listen.port() != 0;
    if cluster.advertise.is_empty() && !cluster.peers.is_empty() && !reachable {
        let rule = format!(
            "`cluster.advertise` must name an address that peers can reach, \
             as `cluster.listen` = {} is none",
            cluster.listen
        );
        found.push(Violation::new(&keys, rule));
    }
}

fn peers(settings: &Settings, found: &mut Vec<Violation>) {
    let mut ids = HashMap::from([(settings.node.id, "node.id".to_owned())]);
    let own_key = if settings.cluster.advertise.is_empty() {
        "cluster.listen"
    } else {
        "cluster.advertise"
    };
    let mut addresses =
        HashMap::from([(settings.cluster.advertised_address(), own_key.to_owned())]);
    for (index, peer) in settings.cluster.peers.iter().enumerate() {
        let id_key = format!("cluster.peers[{index}].id");
        let address_key = format!("cluster.peers[{index}].address");
        if peer.id == 0 || i64::try_from(peer.id).is_err() {
            let rule = format!("`{id_key}` = {} must be from 1 to {}", peer.id, i64::MAX);
            found.push(Violation::new(&[&id_key], rule));
        }
        if !is_host_port(&peer.address) {
            let rule = format!(
                "`{address_key}` = {:?} must be host:port that others can reach: an IPv6 \
                 address in brackets, and no wildcard",
                peer.address
            );
            found.push(Violation::new(&[&address_key], rule));
        }
        unique(&mut ids, peer.id, id_key, found);
        unique(&mut addresses, peer.address.clone(), address_key, found);
    }
}

/// Members are told apart by id and by address, and this node is not its own peer.
fn unique<T: Eq + Hash + std::fmt::Debug>(
    seen: &mut HashMap<T, String>,
    value: T,
    key: String,
    found: &mut Vec<Violation>,
) {
    if let Some(other) = seen.get(&value) {
        let rule =
            format!("`{key}` = {value:?} must differ from `{other}`: list each other member once");
        found.push(Violation::new(&[&key, other], rule));
    } else {
        seen.insert(value, key);
    }
}

/// Whether a text is `host:port`, with an IPv6 address in brackets, a port from 1, and a host that leads
/// others to one machine: a wildcard leads each to itself.
pub(crate) fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host_fits = match bracketed {
        Some(address) => address
            .parse::<Ipv6Addr>()
            .is_ok_and(|address| !address.is_unspecified()),
        None => {
            // The longest name that DNS knows.
            (1..=253).contains(&host.len())
                && host
                    .chars()
                    .all(|letter| letter.is_ascii_alphanumeric() || "._-".contains(letter))
                && host.parse() != Ok(Ipv4Addr::UNSPECIFIED)
        }
    };
    // `u16::from_str` would also take a leading plus.
    host_fits
        && port.chars().all(|digit| digit.is_ascii_digit())
        && port.parse::<u16>().is_ok_and(|port| port > 0)
}
