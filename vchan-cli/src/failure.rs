//! Why node-cli did not succeed, and its exit codes.

use std::io;
use std::process::ExitCode;

use vchan::{Error, InvalidPath, StorePath};

/// Why node-cli did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no host to talk through: no Xen, no access to it, or no emulated host.
    #[error(
        "neither a Xen host nor an emulated one can be used here: {0}\n\
         Run node-cli in a Xen domain as root, or on an emulated host: `cargo xtask demo` starts \
         one, and VCHAN_EMULATED_DOMAIN names a domain of one that runs."
    )]
    NoHost(String),
    /// The path can be no vchan's.
    #[error("the node path {path} cannot be used: {why}")]
    NodePath {
        /// The path as it was given.
        path: StorePath,
        /// Why not.
        why: InvalidPath,
    },
    /// The channel could not be set up, or broke.
    #[error(transparent)]
    Vchan(#[from] Error),
    /// The channel is at its end, and not everything was delivered.
    #[error("{why}; {undelivered}")]
    Undelivered {
        /// Why there is no more to deliver to.
        why: Error,
        /// What was not delivered.
        undelivered: Undelivered,
    },
    /// Standard input, standard output or a thread failed.
    #[error("cannot {doing}: {why}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        why: io::Error,
    },
}

/// Bytes that the other side did not take, or did not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Undelivered {
    /// How many bytes were there to send.
    pub taken: u64,
    /// How many of them were accepted: they went into the ring.
    pub accepted: u64,
    /// How many of these are still in the ring.
    pub unread: u64,
}

impl std::fmt::Display for Undelivered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} bytes were accepted", self.accepted, self.taken)?;
        if self.unread > 0 {
            write!(f, ", the last {} of them were never read", self.unread)?;
        }
        Ok(())
    }
}

impl Failure {
    /// The exit code, as `--help` documents it.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::NoHost(_) => 4,
            Failure::Vchan(Error::TimedOut { .. }) => 3,
            Failure::NodePath { .. } | Failure::Vchan(Error::OwnDomain(_)) => 2,
            Failure::Vchan(_) | Failure::Undelivered { .. } | Failure::Io { .. } => 1,
        })
    }
}
