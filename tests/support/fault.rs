//! Means of harm that need a tool of the operating system.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The longest that a tool may take, in seconds.
const TOOL_SECONDS: &str = "60";

/// Runs a command to its end; one that takes too long is killed.
///
/// # Errors
/// With what it wrote to standard error, when it cannot be started, fails or takes too long.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output: Output = Command::new("timeout")
        .args(["--signal=KILL", TOOL_SECONDS, program])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program} cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(format!(
        "{program} {arguments:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}

/// Whether a tool can be started.
pub(crate) fn is_there(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

/// Cuts the power of ext4 file systems, of all of them at the same moment: what was synced stays,
/// everything else is gone after the next mount, and until then every access fails.
///
/// This is `EXT4_IOC_SHUTDOWN` (`_IOR('X', 125, u32)`) with the flag `NOLOGFLUSH`, called from Perl,
/// which every Debian has, because an ioctl from Rust would be unsafe code.
pub(crate) fn cut_power(mount_points: &[&Path]) -> Result<(), String> {
    let script = r#"
        my @dirs = map { open(my $dir, "<", $_) or die "open: $!\n"; $dir } @ARGV;
        for my $dir (@dirs) {
            my $flags = pack("L", 2);
            ioctl($dir, 0x8004587D, $flags) or die "ioctl: $!\n";
        }
    "#;
    let paths: Vec<_> = mount_points.iter().map(|p| p.to_string_lossy()).collect();
    let mut arguments = vec!["-e", script];
    arguments.extend(paths.iter().map(AsRef::as_ref));
    run("perl", &arguments).map(drop)
}
