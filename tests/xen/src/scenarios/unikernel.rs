//! What only concerns the guest without an operating system.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::echo_guest::connected;
use super::hostile::{busy_shutdown, hostile_clients};
use super::{
    HALF_A_MINUTE, OfGuest, expect_answer, expect_refusal, node_cli, through_the_echo, vchan_peer,
};
use crate::guests::{Guest, Kind, Which};
use crate::program::Program;
use crate::{program, store};

pub(super) const SCENARIOS: &[OfGuest] = &[
    ("created-again", 60, created_again),
    ("console", 30, console),
    ("gnu-ld", 60, gnu_ld),
    ("smallest-memory", 300, smallest_memory),
    ("idle", 150, idle),
    ("suspend-refused", 60, suspend_refused),
    ("xl-save-refused", 240, xl_save_refused),
    ("xl-shutdown", 60, xl_shutdown),
    ("xl-shutdown-computing", 150, xl_shutdown_computing),
    ("xl-reboot", 180, xl_reboot),
    ("ring-orders", 300, ring_orders),
    ("sizes", 300, |which| {
        echoed(which, &[4 << 10, 64 << 10, 1 << 20, 4 << 20])
    }),
    ("out-of-memory", 60, out_of_memory),
    ("memory-used-up", 240, memory_used_up),
    ("pages-kept", 90, pages_kept),
    ("hostile-clients", 300, hostile_clients),
    ("busy-shutdown", 150, busy_shutdown),
    ("crashes", 120, crashes),
    ("100-ports", 240, many_ports),
    ("guest-to-guest", 240, guest_to_guest),
    ("server-destroyed", 240, server_destroyed),
];

/// The domain before was destroyed with a client connected; nothing of it is in the way.
fn created_again(which: Which) -> Result<()> {
    let guest = which.running()?;
    for _ in 0..3 {
        let ended = node_cli(&[&guest.domid], b"hello from dom0\n", HALF_A_MINUTE)?;
        expect_answer(ended, "HELLO FROM DOM0\n")?;
    }
    Ok(())
}

/// What the golden session shows on the server's console.
fn console(which: Which) -> Result<()> {
    which.running()?.wait_for_words(
        "Initializing Server domid=0 xs_path=data/vchan\n\
         Server: right_order = 13, left_order = 13\n\
         allocate_buffer_locations: gntref = 9\n\
         allocate_buffer_locations: gntref = 10\n\
         allocate_buffer_locations: gntref = 11\n\
         allocate_buffer_locations: gntref = 12\n\
         Writing config into the XenStore\n\
         Shared page is:\n\
         \n    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00\n    \
         0d 00 0d 00 02 01 01 00 09 00 00 00 0a 00 00 00\n    \
         0b 00 00 00 0c 00 00 00\n\
         Initialization done!\n",
        HALF_A_MINUTE,
    )
}

/// `xl save` and `xl migrate` ask for it so.
fn suspend_refused(which: Which) -> Result<()> {
    let guest = which.running()?;
    let key = format!("/local/domain/{}/control/shutdown", guest.domid);
    let ask = |wish| program::run(&["xenstore-write", &key, wish], &[], HALF_A_MINUTE);
    ask("suspend")?.successful("xenstore-write")?;
    guest.wait_for_words(REFUSED, HALF_A_MINUTE)?;
    // It goes on as before, and the toolstack takes its wish back.
    let ended = node_cli(&[&guest.domid], b"hello from dom0\n", HALF_A_MINUTE)?;
    expect_answer(ended, "HELLO FROM DOM0\n")?;
    ask("")?.successful("xenstore-write")?;
    let ended = node_cli(&[&guest.domid], b"hello again\n", HALF_A_MINUTE)?;
    expect_answer(ended, "HELLO AGAIN\n")
}

const SAVED: &str = "/tmp/saved-unikernel";

/// With a client connected, which notices nothing.
///
/// xl asks a PVH guest, which refuses, and would wait a minute for it to change its mind: an operator
/// need not. Of a PV guest it wants the list of its frames first, which this one does not give.
fn xl_save_refused(which: Which) -> Result<()> {
    if which.kind == Kind::Pv {
        return xl_save_gives_up(Kind::Pv);
    }
    let guest = unsaved(Kind::Pvh)?;
    let mut client = connected(&guest)?;
    let mut save = Command::new("xl");
    save.args(["save", &guest.domid, SAVED]);
    let save = Program::start(save)?;
    guest.wait_for_words(REFUSED, HALF_A_MINUTE)?;
    client.send(b"still there\n")?;
    client.expect_output("STILL THERE\n", HALF_A_MINUTE)?;
    save.kill()?;
    goes_on_unsaved(guest, client)
}

/// The same until xl has ended by itself, after more than a minute with a PVH guest.
pub(super) fn xl_save_gives_up(kind: Kind) -> Result<()> {
    let guest = unsaved(kind)?;
    let client = connected(&guest)?;
    let save = ["xl", "save", &guest.domid, SAVED];
    let ended = program::run(&save, &[], Duration::from_secs(180))?;
    expect_refusal(&ended, &["failed to save domain"])?;
    if kind == Kind::Pvh {
        guest.wait_for_words(REFUSED, HALF_A_MINUTE)?;
    }
    goes_on_unsaved(guest, client)
}

const REFUSED: &str = "suspend is asked for and refused";

fn unsaved(kind: Kind) -> Result<Guest> {
    let guest = Guest::unikernel(&format!("unsaved-{kind}"), kind, "echo-guest", 4, "")?;
    guest.wait_for_server()?;
    Ok(guest)
}

fn goes_on_unsaved(guest: Guest, mut client: Program) -> Result<()> {
    // There may be a part of it.
    let _ = std::fs::remove_file(SAVED);
    client.send(b"as before\n")?;
    client.expect_output("AS BEFORE\n", HALF_A_MINUTE)?;
    client.finish(HALF_A_MINUTE)?.successful("node-cli")?;
    guest.destroy()
}

/// With a client connected: the guest closes the channel before it ends.
fn xl_shutdown(which: Which) -> Result<()> {
    let guest = which.running()?;
    let mut client = connected(&guest)?;
    guest.xl(&["shutdown", "-w"], &[])?;
    let ended = client
        .wait(HALF_A_MINUTE)?
        .successful("node-cli, whose server has closed")?;
    ensure!(
        !ended.stderr_text().contains("gone"),
        "the guest died instead of closing the channel:\n{}",
        ended.stderr_text()
    );
    store::wait_for_keys(&guest.path("vchan"), false, HALF_A_MINUTE)
}

/// A program that never waits hears it as well, as it asks for that.
fn xl_shutdown_computing(which: Which) -> Result<()> {
    let name = format!("computing-{}", which.kind);
    let guest = Guest::unikernel(&name, which.kind, "faulty", 4, "do=compute")?;
    guest.wait_for_words("about to compute", HALF_A_MINUTE)?;
    guest.xl(&["shutdown", "-w"], &[])
}

/// Rings of every size, from a part of the control page to 1 MiB, each in one of the directions.
fn ring_orders(which: Which) -> Result<()> {
    for order in [10, 12, 14, 15, 17, 19] {
        let (read, write) = (1 << order, 1 << (30 - order));
        let extra = format!("read-size={read} write-size={write}");
        let guest = Guest::unikernel("rings", which.kind, "echo-guest", 8, &extra)?;
        guest.wait_for_server()?;
        echo_of_both_libraries(&guest).context(extra)?;
        guest.destroy()?;
    }
    Ok(())
}

/// A server that waits for a client, and a client that waits for a key: both sleep, for seconds.
fn idle(which: Which) -> Result<()> {
    for (program, waits) in [
        ("echo-guest", "Initialization done!"),
        ("echo-client", "waiting for the server's domid"),
    ] {
        let name = format!("idle-{program}-{}", which.kind);
        let guest = Guest::unikernel(&name, which.kind, program, 4, "")?;
        guest.wait_for_words(waits, HALF_A_MINUTE)?;
        // An event of the store that is not for who waits: no wish at all.
        let key = format!("/local/domain/{}/control/shutdown", guest.domid);
        program::run(&["xenstore-write", &key, ""], &[], HALF_A_MINUTE)?
            .successful("xenstore-write")?;
        let (before, began) = (guest.processor_time()?, Instant::now());
        sleeps(&guest).context(program)?;
        let (used, time) = (guest.processor_time()? - before, began.elapsed());
        println!("note: {program}: {used:.1?} of processor time in {time:.1?}");
        guest.destroy()?;
    }
    Ok(())
}

/// How long a guest must be seen asleep at a time, and in how many looks at least: a machine that was
/// stopped between two of them has shown nothing.
const ASLEEP: Duration = Duration::from_secs(6);
const LOOKS: u32 = 4;

/// Waits until the guest has slept for [`ASLEEP`] without a wake-up between. Xen counts the nanoseconds
/// that it runs: where the count stands still, it has not run at all. So it does not matter how busy
/// the machine is, and how much time a wake-up takes.
fn sleeps(guest: &Guest) -> Result<()> {
    let until = program::latest(Duration::from_secs(60));
    let mut wake_ups = 0;
    loop {
        let (used, since) = (guest.processor_time()?, Instant::now());
        for look in 1.. {
            std::thread::sleep(Duration::from_millis(500));
            if guest.processor_time()? != used {
                break;
            }
            if look >= LOOKS && since.elapsed() >= ASLEEP {
                return Ok(());
            }
        }
        wake_ups += 1;
        ensure!(
            Instant::now() < until,
            "it never slept for {ASLEEP:?}, and was seen to have woken up {wake_ups} times"
        );
    }
}

/// The memory with which the echo is promised to run: both clients, and rings of every order, the
/// same in both directions, up to the first that does not fit. That one the guest refuses by name.
fn smallest_memory(which: Which) -> Result<()> {
    let memory = match which.kind {
        Kind::Pv => 4,
        Kind::Pvh => 2,
    };
    let name = format!("smallest-{}", which.kind);
    let mut fit = Vec::new();
    for order in 10..=20 {
        let size = 1 << order;
        let extra = format!("read-size={size} write-size={size}");
        let guest = Guest::unikernel(&name, which.kind, "echo-guest", memory, &extra)?;
        let has = guest.memory()?;
        ensure!(has <= memory, "xl list says {has} MiB");
        let serves = guest.wait_for_server_or("error: cannot share ", HALF_A_MINUTE)?;
        if serves {
            echo_of_both_libraries(&guest).context(extra)?;
            fit.push(order);
        } else {
            guest.wait_for_words("memory=", HALF_A_MINUTE)?;
        }
        guest.destroy()?;
        if !serves {
            break;
        }
    }
    println!("note: with {memory} MiB there is room for two rings of the orders {fit:?}");
    // The echo's own is 13.
    ensure!(fit.last() >= Some(&13), "only the orders {fit:?} fit");
    Ok(())
}

/// The same program, linked by GNU ld, which has its own way with the linker script.
fn gnu_ld(which: Which) -> Result<()> {
    let name = format!("gnu-ld-{}", which.kind);
    let guest = Guest::unikernel(&name, which.kind, "echo-guest-gnu-ld", 4, "")?;
    guest.wait_for_server()?;
    echo_of_both_libraries(&guest)?;
    guest.xl(&["shutdown", "-w"], &[])
}

/// A C client with streams, then the session.
fn echo_of_both_libraries(guest: &Guest) -> Result<()> {
    let path = guest.path("vchan");
    let arguments = ["bulk", "client", &guest.domid, &path, "-n", "100000"];
    vchan_peer(&arguments, &[], Duration::from_secs(60))?.successful("the C client")?;
    let ended = node_cli(&[&guest.domid], b"hello from dom0\n", HALF_A_MINUTE)?;
    expect_answer(ended, "HELLO FROM DOM0\n")
}

/// So many bytes there and back, through rings of the greatest size.
pub(super) fn echoed(which: Which, sizes: &[usize]) -> Result<()> {
    let name = format!("large-{}", which.kind);
    let extra = "read-size=1048576 write-size=1048576";
    let guest = Guest::unikernel(&name, which.kind, "echo-guest", 8, extra)?;
    guest.wait_for_server()?;
    for &size in sizes {
        let began = Instant::now();
        through_the_echo(&[&guest.domid], size, Duration::from_secs(280))
            .with_context(|| format!("{size} bytes"))?;
        println!(
            "note: {size} bytes came back in {:.1} s",
            began.elapsed().as_secs_f64()
        );
    }
    guest.destroy()
}

/// Rings that do not fit in the memory: the guest says so, and its domain ends.
fn out_of_memory(which: Which) -> Result<()> {
    let extra = "ports=8 ring-size=1048576";
    let guest = Guest::unikernel("small", which.kind, "echo-many", 8, extra)?;
    guest.wait_for_words("error: cannot share 256 pages", HALF_A_MINUTE)?;
    guest.wait_for_words("memory=", HALF_A_MINUTE)?;
    guest.destroy()
}

/// As many large rings as fit in the memory. The guest says that there is no more, and those that it
/// has are whole: each echoes, every byte compared, while the others stay as they are.
fn memory_used_up(which: Which) -> Result<()> {
    let name = format!("full-{}", which.kind);
    let extra = "ports=50 ring-size=262144 more=no";
    let guest = Guest::unikernel(&name, which.kind, "echo-many", 8, extra)?;
    guest.wait_for_words("no more: cannot share ", HALF_A_MINUTE)?;
    guest.wait_for_words(" ports are served", HALF_A_MINUTE)?;
    let console = guest.console()?;
    let served = (console.lines())
        .find_map(|line| line.trim().strip_suffix(" ports are served"))
        .context("it does not say how many ports it serves")?;
    let served: u32 = served.parse()?;
    ensure!((2..50).contains(&served), "it serves {served} ports");
    for port in 0..served {
        let path = guest.path(&format!("vchan/0/p{port}"));
        let arguments = ["bulk", "client", &guest.domid, &path, "-n", "600000"];
        vchan_peer(&arguments, &[], Duration::from_secs(60))?
            .successful("the C client")
            .with_context(|| format!("port {port} of {served}"))?;
    }
    println!("note: {served} ports with two rings of 256 KiB each had room");
    no_memory_for_a_while(&guest, "vchan/0/p0", "p0: ")
        .context("the pages of a client that is gone")?;
    guest.xl(&["shutdown", "-w"], &[])
}

/// The same of the echo guest, which has memory for one client at a time here.
fn pages_kept(which: Which) -> Result<()> {
    let name = format!("kept-{}", which.kind);
    let extra = "read-size=1048576 write-size=1048576";
    let guest = Guest::unikernel(&name, which.kind, "echo-guest", 4, extra)?;
    guest.wait_for_server()?;
    for _ in 0..2 {
        no_memory_for_a_while(&guest, "vchan", "")?;
    }
    guest.xl(&["shutdown", "-w"], &[])
}

/// A client that has closed keeps its pages mapped, and there is no memory for the port's next offer.
/// The guest says so once, with the port's name. When the client lets go, the port is offered again.
fn no_memory_for_a_while(guest: &Guest, path: &str, name: &str) -> Result<()> {
    let (host, path) = (vchan::xen::host()?, guest.path(path));
    let client = vchan::Client::builder(&host, guest.domid.parse()?)
        .path(path.parse()?)
        .timeout(HALF_A_MINUTE);
    let mut channel = client.clone().connect()?;
    channel.send(b"here")?;
    let mut answer = [0; 4];
    channel.recv(&mut answer)?;
    ensure!(&answer == b"HERE", "it answers {answer:?}");
    // An earlier client may have let go a little late as well.
    let refused = format!("{name}cannot share ");
    let again = format!("{name}on offer again");
    let before = (said(guest, &refused)?, said(guest, &again)?);
    channel.shutdown();
    wait_until_said(guest, &refused, before.0 + 1)?;
    // It tries again, and says nothing more of it.
    std::thread::sleep(Duration::from_secs(3));
    drop(channel);
    wait_until_said(guest, &again, before.1 + 1)?;
    let complaints = said(guest, &refused)? - before.0;
    ensure!(complaints == 1, "it complains {complaints} times");
    drop(client.connect()?);
    Ok(())
}

/// How often these words are on the guest's console.
fn said(guest: &Guest, words: &str) -> Result<usize> {
    Ok(guest.console()?.matches(words).count())
}

fn wait_until_said(guest: &Guest, words: &str, times: usize) -> Result<()> {
    let until = program::latest(HALF_A_MINUTE);
    while said(guest, words)? < times {
        ensure!(Instant::now() < until, "it does not say {words:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// What must not go on in silence ends the domain, as crashed.
fn crashes(which: Which) -> Result<()> {
    // When a PV guest's stack has overflowed it has none to say so with; Xen's log has the rest.
    let overflowed = match which.kind {
        Kind::Pv => "",
        Kind::Pvh => "the stack has overflowed: ",
    };
    for (what, words) in [
        ("overflow", overflowed),
        ("follow-zero", "nothing is at address 0x8: "),
        ("panic", "asked for a panic"),
        ("panic-in-a-line", "asked for a panic in a line"),
        ("fail", "error: asked for an error"),
    ] {
        let name = format!("faulty-{what}-{}", which.kind);
        let extra = format!("do={what}");
        let guest = Guest::unikernel(&name, which.kind, "faulty", 4, &extra)?;
        guest.wait_for_words(&format!("about to {what}"), HALF_A_MINUTE)?;
        guest.wait_for_crash(HALF_A_MINUTE)?;
        guest.wait_for_words(words, HALF_A_MINUTE)?;
        guest.destroy()?;
    }
    Ok(())
}

/// Many channels in one guest, whose memory and grant table are more than it was started with.
fn many_ports(which: Which) -> Result<()> {
    let guest = Guest::unikernel(
        "many",
        which.kind,
        "echo-many",
        64,
        "ports=100 ring-size=65536",
    )?;
    guest.wait_for_words("100 ports are served", Duration::from_secs(60))?;
    let clients = ["p0", "p1", "p50", "p99"].map(|port| {
        let path = guest.path(&format!("vchan/0/{port}"));
        let mut command = std::process::Command::new("node-cli");
        command.args([guest.domid.as_str(), "--nodepath", &path]);
        Program::start(command)
    });
    let mut open = Vec::new();
    for client in clients {
        open.push(client?);
    }
    // All of them at once, one after the other and back.
    for line in ["one", "two"] {
        for client in &mut open {
            client.send(format!("{line}\n").as_bytes())?;
        }
        for client in open.iter_mut().rev() {
            client.expect_output(&format!("{}\n", line.to_uppercase()), HALF_A_MINUTE)?;
        }
    }
    for client in open {
        client.finish(HALF_A_MINUTE)?.successful("node-cli")?;
    }
    guest.xl(&["shutdown", "-w"], &[])
}

/// A server and a client, neither of them with an operating system, in each mode.
fn guest_to_guest(which: Which) -> Result<()> {
    for server_kind in [Kind::Pv, Kind::Pvh] {
        let pair = format!("a {} client of a {server_kind} server", which.kind);
        linked(which.kind, server_kind).context(pair)?;
    }
    Ok(())
}

fn linked(client_kind: Kind, server_kind: Kind) -> Result<()> {
    let (client, server) = pair(client_kind, server_kind, "bytes=1000000")?;
    let all = "1000000 bytes came back as they should\n";
    client.wait_for_words(all, Duration::from_secs(60))?;
    server.wait_for_words("has closed the channel", HALF_A_MINUTE)?;
    server.destroy()
}

/// A client in a guest asks Xen for the state of its port, so it learns that its server's domain is
/// gone, though it maps its pages; XenStore tells it nothing.
fn server_destroyed(which: Which) -> Result<()> {
    for server_kind in [Kind::Pv, Kind::Pvh] {
        let (client, server) = pair(which.kind, server_kind, "stays=1")?;
        client.wait_for_words("waiting for the server's end\n", HALF_A_MINUTE)?;
        server.destroy()?;
        client.wait_for_words(
            "the server has ended: the peer's domain is gone",
            HALF_A_MINUTE,
        )?;
    }
    Ok(())
}

/// A client, and a server that has answered it.
fn pair(client_kind: Kind, server_kind: Kind, extra: &str) -> Result<(Guest, Guest)> {
    let name = |what| format!("{what}-{client_kind}-{server_kind}");
    let client = Guest::unikernel(&name("client"), client_kind, "echo-client", 4, extra)?;
    let extra = format!("client={}", client.domid);
    let server = Guest::unikernel(&name("server"), server_kind, "echo-guest", 4, &extra)?;
    let key = client.path("server");
    program::run(&["xenstore-write", &key, &server.domid], &[], HALF_A_MINUTE)?
        .successful("xenstore-write")?;
    let hello = format!("HELLO FROM DOMAIN {}\n", client.domid);
    client.wait_for_words(&hello, HALF_A_MINUTE)?;
    Ok((client, server))
}

/// The domain that comes after it is another one, and serves.
fn xl_reboot(which: Which) -> Result<()> {
    let mut guest = Guest::unikernel("again", which.kind, "echo-guest", 4, "")?;
    guest.wait_for_server()?;
    guest.xl(&["reboot"], &[])?;
    guest.wait_for_successor(Duration::from_secs(60))?;
    guest.wait_for_server()?;
    let ended = node_cli(&[&guest.domid], b"hello from dom0\n", HALF_A_MINUTE)?;
    expect_answer(ended, "HELLO FROM DOM0\n")?;
    guest.destroy()
}
