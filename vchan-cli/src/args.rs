//! The command line.

use std::time::Duration;

use clap::Parser;
use vchan::layout::Order;
use vchan::{DomId, StorePath};

use crate::generated::Generated;

const LONG_ABOUT: &str = "Talk to another Xen domain over vchan

Standard input goes to the other domain as it is; what the other domain writes is printed as it \
is, at once. Standard output carries nothing else: everything that node-cli itself has to say goes \
to standard error.";

const AFTER: &str = "\
How a session ends:
  In a terminal, with Ctrl-C, or when the other side closes the channel.
  After the end of standard input (or Ctrl-D): node-cli first waits until the other side has read
  everything. Then it ends as soon as as many bytes have come back as were sent, or when nothing
  has arrived for 2 seconds, or when the other side closes. With --linger, the number of bytes
  does not count, and the time is the given one. A server that had nothing to send stays until
  its client closes, unless --linger is given.
  A server (-s) serves one client and then ends.

Exit codes:
  0  done, or standard output was closed
  1  the connection failed or broke: the other side closed before it had read everything, its
     domain is gone, it broke the protocol, or a device or XenStore refused
  2  the command line cannot be used
  3  timed out: nobody to connect to within --timeout
  4  neither a Xen host nor an emulated one can be used here

Examples:
  node-cli 2                          connect to the server in domain 2
  printf 'hello\\n' | node-cli 2       ask one thing, print the answer
  node-cli -s 0 -n data/mine          serve domain 0, in data/mine of the own domain

Without Xen: VCHAN_EMULATED_DOMAIN names a domain of an emulated host (see cargo xtask demo).";

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "node-cli",
    version,
    about = "Talk to another Xen domain over vchan",
    long_about = LONG_ABOUT,
    after_help = AFTER,
    override_usage = "node-cli [OPTIONS] <DOMID>"
)]
pub struct Args {
    /// The number of the other domain, as `xl list` shows it
    #[arg(
        allow_negative_numbers = true,
        required_unless_present_any = ["completions", "man"],
        value_name = "DOMID"
    )]
    pub domid: Option<DomId>,

    /// Be the server: publish a vchan for domain DOMID and wait for its client
    #[arg(short, long)]
    pub server: bool,

    /// Where in XenStore the vchan is found; by default `/local/domain/<DOMID>/data/vchan`, as
    /// server `data/vchan` of the own domain. A path without a leading slash lies below the
    /// server's domain
    #[arg(short, long, value_name = "PATH", allow_hyphen_values = true)]
    pub nodepath: Option<StorePath>,

    /// Least size of the ring that the server reads, 0 to 1048576. The server chooses: a client
    /// takes what it finds
    #[arg(
        long,
        value_name = "BYTES",
        default_value = "5000",
        value_parser = ring_size,
        allow_negative_numbers = true
    )]
    pub read_size: usize,

    /// Least size of the ring that the server writes, likewise
    #[arg(
        long,
        value_name = "BYTES",
        default_value = "5000",
        value_parser = ring_size,
        allow_negative_numbers = true
    )]
    pub write_size: usize,

    /// How long to wait for the other side to be there, fractions allowed; for ever by default
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds,
        allow_negative_numbers = true
    )]
    pub timeout: Option<Duration>,

    /// After the end of standard input, end when nothing has arrived for so long, however much
    /// came back before
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds,
        allow_negative_numbers = true
    )]
    pub linger: Option<Duration>,

    /// Say nothing but errors
    #[arg(short, long)]
    pub quiet: bool,

    /// What is asked for instead of a session.
    #[command(flatten)]
    pub generated: Generated,
}

fn ring_size(text: &str) -> Result<usize, String> {
    let most = Order::MAX.bytes() as usize;
    text.parse()
        .ok()
        .filter(|&size| size <= most)
        .ok_or_else(|| {
            format!("the size of a vchan ring is a whole number of bytes from 0 to {most} (1 MiB)")
        })
}

/// A year. Who wants to wait longer wants to wait for ever.
const MOST_SECONDS: f64 = 31_536_000.0;

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        // NaN is in no range.
        .filter(|seconds| (0.0..=MOST_SECONDS).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| {
            format!("a time is a number of seconds from 0 to {MOST_SECONDS}, such as 10 or 0.5")
        })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn times() {
        assert_eq!(seconds("10"), Ok(Duration::from_secs(10)));
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(seconds("-0"), Ok(Duration::ZERO));
        for bad in ["", "-1", "NaN", "inf", "1e300", "31536001", "10s", "soon"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(ring_size("0"), Ok(0));
        assert_eq!(ring_size("1048576"), Ok(1_048_576));
        for bad in ["", "-1", "1048577", "99999999999999999999", "4k"] {
            assert!(ring_size(bad).is_err(), "{bad}");
        }
    }
}
