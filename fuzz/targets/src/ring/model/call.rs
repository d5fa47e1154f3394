//! What a channel's user can do, and how it can end.

use arbitrary::Arbitrary;
use vchan::{Error, PeerFault};

/// What the channel's user does.
#[derive(Arbitrary, Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::ring) enum Call {
    DataReady,
    BufferSpace,
    State,
    Read(u16),
    Write(u16),
    Recv(u16),
    Send(u16),
    Drain,
    Probe,
    Shutdown,
    ReadVectored(u16),
    WriteVectored(u16),
    RecvInPlace(u16),
    SendInPlace(u16),
}

impl Call {
    /// The call that must do the same, which is the one that the model knows.
    pub(in crate::ring) fn plain(self) -> Call {
        match self {
            Call::ReadVectored(len) => Call::Read(len),
            Call::WriteVectored(len) => Call::Write(len),
            Call::RecvInPlace(len) => Call::Recv(len),
            Call::SendInPlace(len) => Call::Send(len),
            plain => plain,
        }
    }

    /// The same with at most half as many bytes again as the rings have.
    pub(in crate::ring) fn within(self, read_size: usize, write_size: usize) -> Call {
        let fit = |len: u16, size: usize| {
            u16::try_from(usize::from(len) % (size + size / 2)).unwrap_or(len)
        };
        match self {
            Call::Read(len) => Call::Read(fit(len, read_size)),
            Call::Recv(len) => Call::Recv(fit(len, read_size)),
            Call::Write(len) => Call::Write(fit(len, write_size)),
            Call::Send(len) => Call::Send(fit(len, write_size)),
            Call::ReadVectored(len) => Call::ReadVectored(fit(len, read_size)),
            Call::RecvInPlace(len) => Call::RecvInPlace(fit(len, read_size)),
            Call::WriteVectored(len) => Call::WriteVectored(fit(len, write_size)),
            Call::SendInPlace(len) => Call::SendInPlace(fit(len, write_size)),
            other => other,
        }
    }

    /// How many bytes are to be read or written.
    pub(in crate::ring) fn len(self) -> usize {
        match self.plain() {
            Call::Read(len) | Call::Write(len) | Call::Recv(len) | Call::Send(len) => len.into(),
            _ => 0,
        }
    }
}

/// How a call ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::ring) enum Outcome {
    /// With this number: of bytes, or of the state.
    Done(usize),
    WouldBlock,
    TimedOut,
    TooLarge(usize, usize),
    Closed,
    EndOfStream(usize, usize),
    PeerDied,
    Fault(PeerFault),
    Unexpected(String),
}

impl From<Result<usize, Error>> for Outcome {
    fn from(result: Result<usize, Error>) -> Outcome {
        match result {
            Ok(count) => Outcome::Done(count),
            Err(Error::WouldBlock) => Outcome::WouldBlock,
            Err(Error::TimedOut { .. }) => Outcome::TimedOut,
            Err(Error::TooLarge { size, max }) => Outcome::TooLarge(size, max),
            Err(Error::Closed) => Outcome::Closed,
            Err(Error::EndOfStream { buffered, wanted }) => Outcome::EndOfStream(buffered, wanted),
            Err(Error::PeerDied) => Outcome::PeerDied,
            Err(Error::PeerFault(fault)) => Outcome::Fault(fault),
            Err(other) => Outcome::Unexpected(other.to_string()),
        }
    }
}
