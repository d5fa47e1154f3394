//! What the kernel has for moving bytes between two threads or processes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use rustix::event::{EventfdFlags, eventfd};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use vsock::{VMADDR_CID_LOCAL, VsockListener, VsockStream};

use crate::{Failure, Peer, Transport};

/// `VMADDR_PORT_ANY`: the system chooses.
const ANY_PORT: u32 = u32::MAX;

/// What is read at one end and written at another.
#[derive(Debug)]
pub struct Ends<R, W> {
    reader: R,
    writer: W,
}

impl<R: Read + Send, W: Write + Send> Peer for Ends<R, W> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes)
    }

    #[inline]
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.reader.read(to)
    }
}

/// Two pipes, as large as asked for where the system allows it.
#[derive(Clone, Copy, Debug)]
pub struct Pipe;

impl Transport for Pipe {
    type Peer = Ends<File, File>;

    fn name(&self) -> String {
        "pipe".to_owned()
    }

    fn connect(&self, capacity: usize) -> Result<(Self::Peer, Self::Peer), Failure> {
        let pipe = || -> io::Result<(File, File)> {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            // At least a page; an unprivileged user may have reached a limit.
            let _ = fcntl_setpipe_size(&writer, capacity);
            Ok((reader.into(), writer.into()))
        };
        let (there, back) = (pipe()?, pipe()?);
        let left = Ends {
            reader: back.0,
            writer: there.1,
        };
        let right = Ends {
            reader: there.0,
            writer: back.1,
        };
        Ok((left, right))
    }
}

/// A pair of Unix stream sockets. Their buffers are the system's choice.
#[derive(Clone, Copy, Debug)]
pub struct UnixSocket;

impl Transport for UnixSocket {
    type Peer = Ends<UnixStream, UnixStream>;

    fn name(&self) -> String {
        "Unix socket".to_owned()
    }

    fn connect(&self, _capacity: usize) -> Result<(Self::Peer, Self::Peer), Failure> {
        let (left, right) = UnixStream::pair()?;
        let ends = |socket: UnixStream| -> io::Result<Self::Peer> {
            Ok(Ends {
                reader: socket.try_clone()?,
                writer: socket,
            })
        };
        Ok((ends(left)?, ends(right)?))
    }
}

/// AF_VSOCK within this machine, where the kernel has its loopback.
#[derive(Clone, Copy, Debug)]
pub struct Vsock;

impl Transport for Vsock {
    type Peer = Ends<VsockStream, VsockStream>;

    fn name(&self) -> String {
        "AF_VSOCK loopback".to_owned()
    }

    fn connect(&self, _capacity: usize) -> Result<(Self::Peer, Self::Peer), Failure> {
        let missing = |error| Failure::Missing(format!("no loopback of AF_VSOCK: {error}"));
        let listener =
            VsockListener::bind_with_cid_port(VMADDR_CID_LOCAL, ANY_PORT).map_err(missing)?;
        let address = listener.local_addr().map_err(missing)?;
        let left = VsockStream::connect(&address).map_err(missing)?;
        let (right, _) = listener.accept()?;
        let ends = |socket: VsockStream| -> io::Result<Self::Peer> {
            Ok(Ends {
                reader: socket.try_clone()?,
                writer: socket,
            })
        };
        Ok((ends(left)?, ends(right)?))
    }
}

/// Two event counters and no bytes: what it costs to wake a thread. Messages have 8 bytes at most,
/// whatever they hold; one that is longer is cut.
#[derive(Clone, Copy, Debug)]
pub struct Eventfd;

impl Transport for Eventfd {
    type Peer = Ends<File, File>;

    fn name(&self) -> String {
        "eventfd".to_owned()
    }

    fn connect(&self, _capacity: usize) -> Result<(Self::Peer, Self::Peer), Failure> {
        let counter = || -> io::Result<File> { Ok(eventfd(0, EventfdFlags::CLOEXEC)?.into()) };
        let (there, back) = (counter()?, counter()?);
        let left = Ends {
            reader: back.try_clone()?,
            writer: there.try_clone()?,
        };
        let right = Ends {
            reader: there,
            writer: back,
        };
        Ok((left, right))
    }
}
