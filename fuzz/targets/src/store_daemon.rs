//! The emulated host's XenStore, and a guest that sends it what it likes.

use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use rustix::net::SendFlags;
use vchan::host::{NodeAccess, Permissions, Store};
use vchan::xenstore::Client;
use vchan::xenstore::codec::{Decoder, Kind, Message};
use vchan::{DomId, StorePath};
use vchan_emulator::Emulator;

use crate::machine::lock;

/// The most requests of one run.
const MOST: usize = 64;

/// What nobody but dom0 may know.
const SECRET: &[u8] = b"a secret of dom0: 0c9f41d7a5";

/// No answer takes so long, however busy the machine is.
const HANG: Duration = Duration::from_secs(60);

/// The daemon drops a guest that lets twice as much wait.
const MUCH: usize = 1 << 19;

/// One request.
#[derive(Arbitrary, Debug)]
struct Request {
    kind: u8,
    request_id: u8,
    transaction_id: u8,
    payload: Payload,
}

#[derive(Arbitrary, Debug)]
enum Payload {
    Bytes(Vec<u8>),
    Path(Path),
    /// A path and more strings.
    Strings(Path, Vec<String>),
    /// A path and a value.
    Value(Path, Vec<u8>),
    Long(Path, u16),
}

#[derive(Arbitrary, Debug)]
enum Path {
    Any(String),
    /// Below the guest's own directory.
    Own(u8),
    Other(u8),
}

/// The bytes are requests, and after them perhaps bytes that are none.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let mut stream = Vec::new();
    let mut requests = Vec::new();
    while requests.len() < MOST && bool::arbitrary(&mut input).unwrap_or(false) {
        let Ok(request) = Request::arbitrary(&mut input) else {
            break;
        };
        if let Ok(encoded) = request.message().encode() {
            stream.extend(encoded);
            requests.push(request.message());
        }
    }
    let rest = input.take_rest();
    stream.extend(rest);
    send(&stream, &requests, rest.is_empty());
}

/// One host for all runs; each has a guest of its own.
struct Bench {
    emulator: Emulator,
    dom0: Client,
    secret: StorePath,
}

fn bench() -> &'static Mutex<Bench> {
    static BENCH: OnceLock<Mutex<Bench>> = OnceLock::new();
    BENCH.get_or_init(|| {
        let emulator = Emulator::start().expect("an emulated host");
        emulator.add_domain(DomId::DOM0).expect("dom0");
        let socket = emulator.domain_directory(DomId::DOM0).join("xenstored");
        let dom0 = Client::open_at(socket).expect("its XenStore");
        let secret: StorePath = "/tool/secret".parse().expect("a path");
        Mutex::new(Bench {
            emulator,
            dom0,
            secret,
        })
    })
}

fn send(stream: &[u8], requests: &[Message], is_sound: bool) {
    let bench = lock(bench());
    let guest = DomId::new(2).expect("a domid");
    let private = Permissions {
        owner: DomId::DOM0,
        default: NodeAccess::None,
        domains: Vec::new(),
    };
    let (dom0, secret) = (&bench.dom0, &bench.secret);
    dom0.write(secret, SECRET).expect("dom0 may");
    dom0.set_permissions(secret, &private).expect("dom0 may");
    bench.emulator.add_domain(guest).expect("a guest");

    let socket = bench.emulator.domain_directory(guest).join("xenstored");
    let socket = UnixStream::connect(socket).expect("XenStore");
    let replies = exchange(&socket, stream, requests.len());
    check(&replies, requests, is_sound);

    // Others are served as before, and find nothing changed.
    assert_eq!(dom0.read(secret).expect("dom0 may"), SECRET);
    assert_eq!(dom0.permissions(secret).expect("dom0 may"), private);
    let found = replies.windows(SECRET.len()).any(|part| part == SECRET);
    let sent = stream.windows(SECRET.len()).any(|part| part == SECRET);
    assert!(!found || sent, "it was told the secret");
    bench.emulator.destroy_domain(guest).expect("it is there");
    dom0.remove(secret).expect("dom0 may");
    drop(socket);
    let begin = Instant::now();
    while !bench.emulator.leftovers().is_empty() {
        assert!(begin.elapsed() < HANG, "{:?}", bench.emulator.leftovers());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends it all, and reads until there are so many replies or the daemon hangs up, and then what
/// else there is.
fn exchange(socket: &UnixStream, stream: &[u8], count: usize) -> Vec<u8> {
    let mut socket = socket;
    (socket.set_read_timeout(Some(HANG))).expect("a time limit");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for part in stream.chunks(4096) {
                // It may hang up before it has read everything.
                if rustix::net::send(socket, part, SendFlags::NOSIGNAL).is_err() {
                    return;
                }
            }
        });
        let mut replies = Vec::new();
        let mut decoder = Decoder::new();
        let (mut seen, mut bytes) = (0, vec![0; 1 << 16]);
        while seen < count {
            match socket.read(&mut bytes) {
                Ok(0) => break,
                Ok(read) => {
                    replies.extend(&bytes[..read]);
                    decoder.push(&bytes[..read]);
                }
                // It has hung up, and not read everything.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                // libFuzzer's clock ticks.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("no answer in time: {error}"),
            }
            while let Some(reply) = decoder.next_message().expect("it speaks well") {
                seen += usize::from(reply.kind != Kind::WATCH_EVENT);
            }
        }
        _ = socket.shutdown(Shutdown::Write);
        _ = socket.read_to_end(&mut replies);
        replies
    })
}

/// Replies come in the order of the requests, one each, with watch events in between. A guest that
/// then breaks the protocol, or does not read, may get no more of them.
fn check(replies: &[u8], requests: &[Message], is_sound: bool) {
    let mut decoder = Decoder::new();
    decoder.push(replies);
    let mut requests = requests.iter();
    while let Some(reply) = decoder.next_message().expect("the daemon speaks well") {
        if reply.kind == Kind::WATCH_EVENT {
            continue;
        }
        let Some(request) = requests.next() else {
            // What came after the requests may have been some, too.
            return;
        };
        assert_eq!(reply.request_id, request.request_id);
        assert_eq!(reply.transaction_id, request.transaction_id);
        assert!(reply.kind == request.kind || reply.kind == Kind::ERROR);
    }
    if !is_sound || replies.len() > MUCH {
        return;
    }
    assert!(!decoder.is_mid_message());
    assert!(requests.next().is_none(), "some requests have no reply");
}

impl Request {
    fn message(&self) -> Message {
        Message {
            kind: Kind(u32::from(self.kind % 24)),
            request_id: self.request_id.into(),
            transaction_id: u32::from(self.transaction_id % 4),
            payload: self.payload.bytes(),
        }
    }
}

impl Payload {
    fn bytes(&self) -> Vec<u8> {
        let (path, rest) = match self {
            Payload::Bytes(bytes) => return bytes.clone(),
            Payload::Path(path) => (path, Vec::new()),
            Payload::Strings(path, strings) => {
                (path, vchan::xenstore::codec::join_strings(strings))
            }
            Payload::Value(path, value) => (path, value.clone()),
            Payload::Long(path, len) => (path, vec![b'x'; usize::from(len % 4000)]),
        };
        let mut bytes = path.text().into_bytes();
        bytes.push(0);
        bytes.extend(rest);
        bytes
    }
}

impl Path {
    fn text(&self) -> String {
        let own = [
            "data",
            "data/a",
            "data/a/b",
            "data/a/b/c",
            "domid",
            "name",
            "/local/domain/2/data/z",
        ];
        let others = [
            "/",
            "/tool/secret",
            "/tool",
            "/local/domain/0/data",
            "@releaseDomain",
            "@introduceDomain",
            "2",
            "0",
            "T",
            "F",
            "",
            "/local",
        ];
        match self {
            Path::Any(text) => text.clone(),
            Path::Own(which) => own[usize::from(*which) % own.len()].to_owned(),
            Path::Other(which) => others[usize::from(*which) % others.len()].to_owned(),
        }
    }
}
