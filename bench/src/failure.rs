//! Why there is no result.

use std::io;

use crate::payload::Corrupt;

/// Why a measurement has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// What arrived is not what was sent.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The transport failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The vchan could not be set up.
    #[error(transparent)]
    Vchan(#[from] vchan::Error),
    /// The emulated host failed.
    #[error(transparent)]
    Host(#[from] vchan::HostError),
    /// A thread of the measurement ended without a result.
    #[error("a thread of the measurement panicked")]
    Panic,
    /// This machine cannot do what is to be measured.
    #[error("not on this machine: {0}")]
    Missing(String),
}
