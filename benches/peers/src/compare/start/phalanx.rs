//! One node of Phalanx, or three.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::compare::process::{Process, free_addresses};
use crate::compare::running::Running;
use crate::compare::{Args, CompareError};

/// Starts one node with the shipped settings.
pub(super) fn start_one(
    args: &Args,
    path: &Path,
    address: SocketAddr,
) -> Result<Process, CompareError> {
    let [cluster] = free_addresses()?;
    let mut command = Command::new(&args.phalanx);
    command
        .arg("serve")
        .arg("--config")
        .arg(&args.config)
        .env("PHALANX__NODE__DATA_DIR", path.join("data"))
        .env("PHALANX__HTTP__LISTEN", address.to_string())
        .env("PHALANX__CLUSTER__LISTEN", cluster.to_string());
    Process::start("phalanx", &mut command, path, Signal::TERM)
}

/// Starts three nodes. Their settings differ from the defaults in what must differ.
pub(super) fn start_three(
    args: &Args,
    path: &Path,
    running: &mut Running,
) -> Result<(), CompareError> {
    let clients: [SocketAddr; 3] = free_addresses()?;
    let members: [SocketAddr; 3] = free_addresses()?;
    for (at, client) in clients.iter().enumerate() {
        let name = format!("phalanx-{}", at + 1);
        let file = path.join(format!("{name}.toml"));
        let settings = settings(at, path, *client, &members);
        std::fs::write(&file, settings).map_err(CompareError::system("write settings"))?;
        let mut command = Command::new(&args.phalanx);
        command.arg("serve").arg("--config").arg(&file);
        let process = Process::start(&name, &mut command, path, Signal::TERM)?;
        running.processes.push(process);
    }
    running.addresses.extend(clients);
    Ok(())
}

/// The settings of one node; the defaults stand for the rest.
fn settings(at: usize, path: &Path, client: SocketAddr, members: &[SocketAddr; 3]) -> String {
    let data_dir = path.join(format!("data-{}", at + 1));
    let mut text = format!("[node]\nid = {}\ndata_dir = {:?}\n", at + 1, data_dir);
    text += &format!("[http]\nlisten = \"{client}\"\n[cluster]\n");
    for (place, member) in members.iter().enumerate() {
        if place == at {
            text += &format!("listen = \"{member}\"\n");
        }
    }
    for (place, member) in members.iter().enumerate() {
        if place != at {
            let id = place + 1;
            text += &format!("[[cluster.peers]]\nid = {id}\naddress = \"{member}\"\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_knows_itself_and_the_two_others() {
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let members = [address(11), address(12), address(13)];
        let text = settings(1, Path::new("/x"), address(8), &members);
        let expected = "[node]\nid = 2\ndata_dir = \"/x/data-2\"\n\
             [http]\nlisten = \"127.0.0.1:8\"\n\
             [cluster]\nlisten = \"127.0.0.1:12\"\n\
             [[cluster.peers]]\nid = 1\naddress = \"127.0.0.1:11\"\n\
             [[cluster.peers]]\nid = 3\naddress = \"127.0.0.1:13\"\n";
        assert_eq!(text, expected);
    }
}
