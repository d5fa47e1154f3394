//! C9 and C10: the own domain that becomes another, and the own process that forks.

use std::io::{ErrorKind, Read, Write};
use std::thread;

use rustix::process::{Pid, WaitOptions};
use vchan::{DomId, Error, ReadHalf, Server, State, WriteHalf};

use crate::SHORT;
use crate::common::process::{self, Reaped};
use crate::common::steps::NOTICED;
use crate::common::{LONG, World, bounded, guest};

#[expect(dead_code, reason = "only kept")]
enum Half {
    Reading(ReadHalf),
    Writing(WriteHalf),
}

/// As after a restore or a migration: the domain that made a channel is another one now.
#[test]
fn fault_c09_what_was_made_before_the_own_domain_changed_is_an_error() {
    bounded(|| {
        let world = World::new();
        let (server, mut client) = world.pair(1024, 1024);
        let (mut reading, mut writing) = server.into_split();
        writing.write_all(&vec![0; writing.ring_size()]).unwrap();
        let waits = [
            thread::spawn(move || (reading.read(&mut [0]).unwrap_err(), Half::Reading(reading))),
            thread::spawn(move || (writing.write(&[0]).unwrap_err(), Half::Writing(writing))),
        ];
        let mut offering = world
            .server()
            .path("data/other".parse().unwrap())
            .bind()
            .unwrap();
        thread::sleep(SHORT);
        world.emulator.destroy_domain(guest()).unwrap();
        world.emulator.add_domain(guest()).unwrap();
        // The halves stay: a domain that is gone cannot close.
        let halves = waits.map(|wait| {
            let (error, half) = wait.join().unwrap();
            assert!(matches!(error, Error::Host(_)), "{error}");
            half
        });
        // The old handle's offer is over and not published again, and it makes no new one.
        let error = offering.accept_timeout(NOTICED).unwrap_err();
        assert!(matches!(error, Error::Host(_)), "{error}");
        drop(offering);
        let error = world.server().bind().unwrap_err();
        assert!(matches!(error, Error::Host(_) | Error::Store(_)), "{error}");
        client.set_read_timeout(Some(NOTICED));
        let mut all = Vec::new();
        let error = client.read_to_end(&mut all).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(all.len(), client.ring_sizes().0);
        // A handle that is made anew works.
        let host = world.emulator.host(guest()).unwrap();
        let server = Server::builder(&host, DomId::DOM0).bind().unwrap();
        drop((world.client(), server, client, host, halves));
        world.assert_clean();
    });
}

#[test]
fn fault_c10_no_descriptor_reaches_a_program_that_is_started() {
    process::alone(
        "own_side::fault_c10_no_descriptor_reaches_a_program_that_is_started",
        LONG,
        || {
            let before = process::descriptors();
            let world = World::new();
            let (server, mut client) = world.pair(5000, 5000);
            let watch = world
                .dom0
                .store()
                .watch(&"/local".parse().unwrap())
                .unwrap();
            let opened: Vec<u32> = process::descriptors()
                .into_iter()
                .filter(|descriptor| !before.contains(descriptor))
                .collect();
            assert!(opened.len() > 10, "{opened:?}");
            for descriptor in opened {
                // The descriptor that listed the directory is gone.
                let info = format!("/proc/self/fdinfo/{descriptor}");
                let Ok(info) = std::fs::read_to_string(info) else {
                    continue;
                };
                let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
                let flags = u32::from_str_radix(flags.unwrap().trim(), 8).unwrap();
                let place = std::fs::read_link(format!("/proc/self/fd/{descriptor}"));
                assert!(flags & 0o2_000_000 != 0, "{place:?} is inherited");
            }
            // So a program that outlives the channel does not keep it open.
            let sleeper = std::process::Command::new("sleep").arg("60").spawn();
            let sleeper = Reaped(sleeper.unwrap());
            drop((server, watch));
            client.set_read_timeout(Some(NOTICED));
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
            drop(client);
            world.emulator.assert_clean();
            drop(sleeper);
        },
    );
}

#[test]
fn fault_c10_the_end_of_a_forked_child_does_not_close_the_channel() {
    // UNSAFETY: a child that was forked, not started, has no safe way to come about.
    // SAFETY: the types are those of POSIX: `pid_t` is an `int` on Linux, and `_exit` takes an `int`
    // and does not return.
    #[allow(unsafe_code, reason = "the standard library has no fork")]
    unsafe extern "C" {
        fn fork() -> i32;
        fn _exit(status: i32) -> !;
    }
    process::alone(
        "own_side::fault_c10_the_end_of_a_forked_child_does_not_close_the_channel",
        LONG,
        || {
            let world = World::new();
            let (mut server, mut client) = world.pair(5000, 5000);
            client.write_all(b"before").unwrap();
            // SAFETY: after a fork of a program with threads the child may only make
            // async-signal-safe calls (POSIX, fork); it makes one, `_exit`.
            #[allow(unsafe_code, reason = "see above")]
            let child = unsafe { fork() };
            if child == 0 {
                // SAFETY: it is async-signal-safe, has no precondition and takes any status.
                #[allow(unsafe_code, reason = "see above")]
                unsafe {
                    _exit(0)
                }
            }
            let child = Pid::from_raw(child).unwrap();
            let ended = rustix::process::waitpid(Some(child), WaitOptions::empty());
            assert!(ended.unwrap().unwrap().1.exited());
            client.write_all(b" and after").unwrap();
            let mut text = [0; 16];
            server.read_exact(&mut text).unwrap();
            assert_eq!(&text, b"before and after");
            assert_eq!(client.probe().unwrap(), State::Connected);
            drop((client, server));
            world.assert_clean();
        },
    );
}
